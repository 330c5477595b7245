"""A table, a bucket of a real store, and a round trip between them."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from psycopg2 import sql

from local_emulator import stores
from shared import objectstore
from shared.avro.schema import Field, avro_name, record_schema
from shared.avro.table_in import PartToRead, copy_in
from shared.avro.table_out import WrittenPart, copy_out
from shared.objectstore import ObjectStore
from tests.conftest import TestDatabase

BUCKET = "rowdock-backups"


@dataclass(frozen=True)
class Shelf:
    """A bucket, and folders in it that nobody else uses."""

    store: ObjectStore

    def folder(self) -> Callable[[int], Any]:
        """What ``copy_out`` opens its parts by."""
        name = uuid.uuid4().hex
        return lambda number: self.store.create(BUCKET, f"{name}/{number:05}.avro")

    def bytes_of(self, part: WrittenPart) -> bytes:
        with self.store.open_read(BUCKET, part.info.name, part.info.generation) as reader:
            return reader.read()

    def to_read(self, part: WrittenPart, generation: str | None = None, name: str | None = None) -> PartToRead:
        return PartToRead(
            open=lambda: self.store.open_read(BUCKET, name or part.info.name, generation or part.info.generation),
            rows=part.rows,
            bytes=part.bytes,
            sha256=part.sha256,
            crc32c=part.crc32c,
            datums_sha256=part.datums_sha256,
            name=part.info.name,
        )

    def with_bytes(self, part: WrittenPart, content: bytes) -> PartToRead:
        """The part as if the store had other bytes."""
        name = f"{part.info.name}.{uuid.uuid4().hex}"
        return self.to_read(part, self.store.put(BUCKET, name, content).generation, name)


@pytest.fixture(scope="session")
def backup_store_url() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="rowdock-store-") as directory:
        server = stores.moto(Path(directory), [BUCKET])
        try:
            yield server.url
        finally:
            server.stop()


@pytest.fixture(scope="session")
def backup_store(backup_store_url: str) -> ObjectStore:
    return objectstore.connect(backup_store_url)


@pytest.fixture
def shelf(backup_store: ObjectStore) -> Shelf:
    return Shelf(backup_store)


def columns_of(conn: Any, table: str) -> list[Field]:
    """The table's columns from the catalogue."""
    with conn.cursor() as cursor:
        cursor.execute(
            "select attname, format_type(atttypid, atttypmod), not attnotnull from pg_attribute"
            " where attrelid = %s::regclass and attnum > 0 and not attisdropped order by attnum",
            (table,),
        )
        found: list[Field] = []
        for name, sql_type, nullable in cursor.fetchall():
            found.append(Field(name, avro_name(name, {f.avro_name for f in found}), sql_type, nullable))
    return found


@dataclass(frozen=True)
class Bench:
    """One connection in one transaction, and the shelf."""

    conn: Any
    shelf: Shelf

    def execute(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with self.conn.cursor() as cursor:
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def out(self, table: str, fields: Sequence[Field] | None = None, **options: Any) -> list[WrittenPart]:
        fields = columns_of(self.conn, table) if fields is None else fields
        selected = sql.SQL(", ").join(f.expression() for f in fields)
        query = sql.SQL("select {} from {}").format(selected, sql.SQL(table))
        schema = record_schema("public", table, fields)
        return copy_out(self.conn, query, fields, schema, self.shelf.folder(), **options)

    def into(self, table: str, parts: Sequence[WrittenPart | PartToRead], fields: Sequence[Field] | None = None) -> int:
        fields = columns_of(self.conn, table) if fields is None else fields
        to_read = [self.shelf.to_read(part) if isinstance(part, WrittenPart) else part for part in parts]
        return copy_in(self.conn, sql.SQL(table), fields, to_read)

    def differences(self, one: str, other: str) -> int:
        """Rows of each that the other lacks, by their text: NaN and -0.0 are told apart."""
        return self.execute(
            f"select count(*) from ((select t::text from {one} t except all select t::text from {other} t)"
            f" union all (select t::text from {other} t except all select t::text from {one} t)) d"
        )[0][0]


@pytest.fixture
def workbench(lent_database: TestDatabase, shelf: Shelf) -> Iterator[Bench]:
    """Everything that a test makes is rolled back."""
    conn = lent_database.connect()
    try:
        yield Bench(conn, shelf)
    finally:
        conn.close()
