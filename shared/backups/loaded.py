"""The rows of a backup in a table beside the live one, known to be those that were backed up, or not there at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from psycopg2 import sql

from shared.avro.table_in import copy_in
from shared.avro.table_out import read_back
from shared.backups import checksum
from shared.backups.verify import part_to_read
from shared.errors import BackupDamaged, RestoreRefused

if TYPE_CHECKING:
    from psycopg2.extensions import connection

    from shared.backups.manifest import Column, TableBackup
    from shared.backups.services import Services

# The server's own words for a type, so that none of the manifest's gets into a statement; null for a type it lacks.
TYPES = """
    select t, case when format_type(to_regtype(t), to_regtypemod(t)) = t then t end from unnest(%s) t
"""

Progress = Callable[[int], None]


def require_parts(services: Services, tables: Sequence[TableBackup]) -> None:
    """Ask the store for every part: that it is there, as it was written.

    Raises:
        BackupDamaged: one has another size, generation or checksum.
        ObjectNotFound: one is gone.
        StoreUnavailable, StoreRefused: from the store.
    """
    for part in (part for table in tables for part in table.parts):
        info = services.store.stat(services.bucket, part.object, part.generation)
        if info.size != part.bytes or info.crc32c not in (None, part.crc32c):
            raise BackupDamaged(
                f"{part.object}: the store has {info.size:,} bytes with CRC32C {info.crc32c},"
                f" the backup says {part.bytes:,} with {part.crc32c}: take another backup"
            )


def create(conn: connection, table: sql.Composable, columns: Sequence[Column], *, temporary: bool = True) -> None:
    """Make a table of these columns, without those that are generated; a temporary one ends with the transaction.

    Raises:
        RestoreRefused: the server has no such type.
        psycopg2.Error: from the database.
    """
    kept = [column for column in columns if not column.generated]
    with conn.cursor() as cursor:
        cursor.execute(TYPES, ([column.type for column in kept],))
        known = dict(cursor.fetchall())
        if lacking := [column for column in kept if known[column.type] is None]:
            raise RestoreRefused(f"{lacking[0].name}: this server has no type {lacking[0].type}")
        cursor.execute(
            sql.SQL("create {} table {} ({}){}").format(
                sql.SQL("temporary" if temporary else ""),
                table,
                sql.SQL(", ").join(_definition(column, known[column.type]) for column in kept),
                sql.SQL(" on commit drop" if temporary else ""),
            )
        )


def _definition(column: Column, type_: str) -> sql.Composed:
    not_null = " not null" if column.not_null else ""
    return sql.SQL("{} {}{}").format(sql.Identifier(column.name), sql.SQL(type_), sql.SQL(not_null))


def load(
    services: Services,
    conn: connection,
    held: TableBackup,
    target: sql.Composable,
    on_progress: Progress = lambda _rows: None,
    *,
    statement_bytes: int | None = None,
) -> None:
    """Copy the parts of one table into ``target``, which is empty, and compare what has come with the manifest.

    Args:
        statement_bytes: as ``copy_in`` takes it.

    Raises:
        BackupDamaged: it is not what was backed up; the transaction must end.
        ObjectNotFound, StoreUnavailable, StoreRefused: from the store.
        psycopg2.Error: from the database.
    """
    parts = [part_to_read(services, part) for part in held.parts]
    rows = copy_in(conn, target, held.fields, parts, on_progress, statement_bytes=statement_bytes)
    if rows != held.rows:
        raise BackupDamaged(f"{held.full_name}: {rows} rows came, the backup says {held.rows}: take another backup")
    require_content(conn, held, target)


def require_content(conn: connection, held: TableBackup, relation: sql.Composable) -> None:
    """Compare what ``relation`` holds with what was backed up.

    By the checksum in SQL; where another server made it, whose hash functions may differ, by the datums: the rows are
    read back in their order and encoded again, so that ``relation`` must be as ``load`` filled it.

    Raises:
        BackupDamaged: it differs.
        psycopg2.Error: from the database.
    """
    said = held.checksum
    if is_comparable(conn, held):
        found = checksum.of(conn, relation, held.fields)
        if found != (held.rows, said.value):
            raise BackupDamaged(
                f"{held.full_name}: what was loaded is not what was backed up ({found[0]} rows, checksum {found[1]};"
                f" the backup says {held.rows} and {said.value}): take another backup"
            )
        return
    columns = sql.SQL(", ").join(field.expression() for field in held.fields)
    query = sql.SQL("select {} from {}").format(columns, relation)
    sums = read_back(conn, query, held.fields, [part.rows for part in held.parts])
    if sums != [part.datums_sha256 for part in held.parts]:
        raise BackupDamaged(f"{held.full_name}: what was loaded is not what was backed up: take another backup")


def is_comparable(conn: connection, held: TableBackup) -> bool:
    """Whether this server gives the same rows the same checksum as the one that was backed up."""
    made = (held.checksum.algorithm, held.checksum.server_major)
    return made == (checksum.ALGORITHM, conn.server_version // 10000)
