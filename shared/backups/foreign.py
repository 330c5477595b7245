"""A bare AVRO file, without manifest, such as the seed's: ``id`` and ``job`` and no more. Nothing vouches for its rows.

So its schema must be the dictionary's, and each row is judged by the dictionary's rules, as if it came in a CSV file.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING, Any

from psycopg2 import sql

from shared import rules
from shared.avro.container import Reader
from shared.backups.manifest import Checksum, TableBackup
from shared.backups.tables import describe
from shared.errors import NoSuchBackup, NoSuchTable, ObjectNotFound, RestoreRefused

if TYPE_CHECKING:
    from psycopg2.extensions import connection

    from shared.backups.services import Services
    from shared.backups.tables import TableName
    from shared.dictionary import Column, Table
    from shared.objectstore import ObjectInfo

MOST_BYTES = 1 << 30  # of a file as it is stored: each row is judged by itself, some 87,000 of five columns a second
ROWS_AT_ONCE = 1_000
FIRST_BAD_ROWS = 10  # named in the refusal; the others are only counted
MOST_SCALE = 1_000  # PostgreSQL's own, of a declared numeric
COPY_ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LONGEST_VARINT = 10
# By AVRO type, with its logical type if that has a meaning here: the kinds of column that may be made of it.
KINDS: dict[str, tuple[str, ...]] = {
    "int": ("integer", "bigint", "numeric"),
    "long": ("integer", "bigint", "numeric"),
    "boolean": ("boolean",),
    "string": ("integer", "bigint", "text", "timestamptz", "date", "numeric", "boolean", "uuid", "jsonb"),
    "date": ("date",),
    "timestamp-millis": ("timestamptz",),
    "timestamp-micros": ("timestamptz",),
    "decimal": ("numeric",),
    "uuid": ("uuid", "text"),
}

# Of each logical type that has a meaning here: the type that it annotates.
PLAIN = {"date": "int", "timestamp-millis": "long", "timestamp-micros": "long", "decimal": "bytes", "uuid": "string"}


@dataclass(slots=True)
class _Judged:
    """How many rows were judged, how many broke a rule, and the first of these: never with a value."""

    rows: int = 0
    bad: int = 0
    first: list[str] = field(default_factory=list)

    def refuse(self, reasons: Sequence[str]) -> None:
        """Count the row that was judged last as bad."""
        self.bad += 1
        if len(self.first) < FIRST_BAD_ROWS:
            self.first.append(f"record {self.rows}: {', '.join(reasons)}")


class _Cut(Exception):  # never leaves this module: the reader says where in the file it is
    """A datum ends beyond its block, or is none."""


def described(services: Services, table: TableName) -> TableBackup:
    """``table`` as if it were one of a backup: the dictionary's columns, as the database has them.

    Raises:
        NoSuchTable: it is none of the dictionary.
        RowdockError: from the database.
    """
    known = services.dictionary.tables.get(table.dictionary_key or "")
    if known is None:
        raise NoSuchTable(f"{table.full_name} is no table of the dictionary, which says what a file must be")
    with services.database.connection() as conn:
        live = describe(conn, table)
    return TableBackup(
        schema=table.schema,
        name=table.name,
        dictionary_key=table.dictionary_key,
        columns=tuple(column for column in live.columns if column.name in known.by_name),
        primary_key=live.primary_key,
        constraints=(),
        sequences=(),
        avro_schema={},
        avro_schema_sha256="",
        rows=0,
        key_max=None,
        checksum=Checksum("", 0, "0"),
        has_infinity=(),
        parts=(),
    )


def load(services: Services, conn: connection, held: TableBackup, target: sql.Identifier, name: str) -> ObjectInfo:
    """Load the rows of the object ``name`` into ``target``; returns which generation of it was read.

    Raises:
        NoSuchBackup: the backup bucket has no such object.
        BackupDamaged: it is no AVRO file, or is cut.
        RestoreRefused: it is too large, its fields are not the table's, a row breaks a rule, or a key stands twice.
        StoreUnavailable, StoreRefused, psycopg2.Error: from store and database.
    """
    table = services.dictionary.tables[held.name]
    try:
        info = services.store.stat(services.bucket, name)
        if info.size > MOST_BYTES:
            raise RestoreRefused(f"the file has {info.size:,} bytes, and may have at most {MOST_BYTES:,}: divide it")
        with services.store.open_read(services.bucket, name, info.generation) as stream:
            reader = Reader(stream.read, name)
            _load(conn, target, table, reader, _columns(table, reader))
    except ObjectNotFound:
        raise NoSuchBackup(f"the backup bucket has no object {name!r}") from None
    return info


def _load(conn: connection, target: sql.Identifier, table: Table, reader: Reader, columns: list[Column]) -> None:
    judged = _Judged()
    rows = _good_rows(_records(reader), columns, judged)
    names = sql.SQL(", ").join(sql.Identifier(column.name) for column in columns)
    statement = sql.SQL("copy {} ({}) from stdin (encoding 'UTF8')").format(target, names)
    with conn.cursor() as cursor:
        while batch := "".join(map(_copy_line, islice(rows, ROWS_AT_ONCE))):
            cursor.copy_expert(statement, io.BytesIO(batch.encode()))
        if judged.bad:
            raise RestoreRefused(
                f"{judged.bad} of {judged.rows} rows break the rules of {table.key} ({'; '.join(judged.first)}"
                f"{'; …' if judged.bad > len(judged.first) else ''}): nothing was changed"
            )
        key = sql.Identifier(table.primary_key)
        cursor.execute(sql.SQL("select count(*) - count(distinct {}) from {}").format(key, target))
        doubles = cursor.fetchall()[0][0]
    if doubles:
        raise RestoreRefused(f"{doubles} rows of the file have a key that another one has: nothing was changed")


def _copy_line(row: list[str | None]) -> str:
    """A row in COPY's text format."""
    return "\t".join(r"\N" if text is None else text.translate(COPY_ESCAPES) for text in row) + "\n"


# --- Its schema


def _columns(table: Table, reader: Reader) -> list[Column]:
    """The column that each field is, in the order of the fields.

    Raises:
        RestoreRefused: the fields are not those of the table; the message says what is different.
    """
    fields = reader.schema.get("fields") if reader.schema.get("type") == "record" else None
    if not isinstance(fields, list) or not all(isinstance(field, dict) for field in fields):
        raise _foreign(table, ["its schema is no record"])
    by_name = {name: column for column in table.columns for name in (*column.aliases, column.name)}
    found = [by_name.get(str(field.get("name")).lower()) for field in fields]
    unknown = [
        f"unknown field {field.get('name')!r}" for field, column in zip(fields, found, strict=True) if not column
    ]
    columns = [column for column in found if column]
    doubles = [f"{column.name} stands twice" for column in columns if columns.count(column) > 1]
    missing = [f"{c.name} is missing" for c in table.columns if c not in columns]
    types = [
        f"{column.name} is {column.kind} and cannot be made of {field.get('type')!r}"
        for field, column in zip(fields, found, strict=True)
        if column and not _fits(field.get("type"), column)
    ]
    if differences := unknown + sorted(set(doubles)) + missing + types:
        raise _foreign(table, differences)
    return columns


def _foreign(table: Table, differences: list[str]) -> RestoreRefused:
    return RestoreRefused(f"the file is not one of {table.key}: {'; '.join(differences)}")


def _fits(schema: Any, column: Column) -> bool:
    branches = schema if isinstance(schema, list) else [schema]
    named = [_name(branch) for branch in branches if branch != "null"]
    kinds_fit = all(column.kind in KINDS.get(name, ()) for name in named)
    return bool(named) and kinds_fit and all(_has_scale(branch) for branch in branches if _name(branch) == "decimal")


def _has_scale(decimal: Any) -> bool:
    scale = decimal.get("scale", 0)
    return type(scale) is int and 0 <= scale <= MOST_SCALE  # a boolean is an int to isinstance


def _name(schema: Any) -> str:
    """The logical type where it has a meaning here, else the type."""
    if isinstance(schema, dict):
        logical, plain = schema.get("logicalType"), schema.get("type")
        return str(logical if plain == PLAIN.get(str(logical)) else plain)
    return str(schema)


# --- Its rows


def _good_rows(records: Iterator[list[Any]], columns: list[Column], judged: _Judged) -> Iterator[list[str | None]]:
    """Rows that keep the rules, as texts that PostgreSQL reads, up to the first that does not; ``judged`` has all."""
    for record in records:
        judged.rows += 1
        row, broken = _judge(record, columns)
        if broken:
            judged.refuse(broken)
        if not judged.bad:
            yield row


def _judge(record: list[Any], columns: list[Column]) -> tuple[list[str | None], list[str]]:
    """The row's values as texts, and which rules it breaks, as reasons."""
    row: list[str | None] = []
    broken: list[str] = []
    for column, value in zip(columns, record, strict=True):
        judged, code = rules.judge(column, "" if value is None else rules.canonical(value))
        if code is not None:
            broken.append(f"{column.name}.{code}")
        row.append(None if judged is None else rules.canonical(judged))
    return row, broken


def _records(reader: Reader) -> Iterator[list[Any]]:
    """Every record as its values.

    Raises:
        BackupDamaged: a block is cut, or has more in it than its records.
    """
    read = [_reading(field["type"]) for field in reader.schema["fields"]]
    for block in reader.blocks():
        datums = _Datums(block.data)
        try:
            for _ in range(block.rows):
                yield [take(datums) for take in read]
        except (_Cut, ValueError, OverflowError, ArithmeticError) as error:
            raise reader.damaged("a record of the block is cut, or has a value that is none") from error
        if datums.place != len(block.data):
            raise reader.damaged("a block holds more than its records")


class _Datums:
    """The bytes of a block, read from their beginning."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.place = 0

    def take(self, size: int) -> bytes:
        """The next bytes."""
        if not 0 <= size <= len(self.data) - self.place:
            raise _Cut
        self.place += size
        return self.data[self.place - size : self.place]

    def number(self) -> int:
        """A zigzag varint."""
        code = 0
        for byte in range(LONGEST_VARINT):
            (seven,) = self.take(1)
            code |= (seven & 0x7F) << (7 * byte)
            if seven < 0x80:
                return (code >> 1) ^ -(code & 1)
        raise _Cut

    def bytes(self) -> bytes:
        """Bytes with their length before them."""
        return self.take(self.number())


def _reading(schema: Any) -> Callable[[_Datums], Any]:
    """How a value of ``schema`` is read."""
    if isinstance(schema, list):
        return _one_of([_reading(branch) for branch in schema])
    if _name(schema) == "decimal":
        scale = schema.get("scale", 0)
        return lambda d: Decimal(int.from_bytes(d.bytes(), "big", signed=True)).scaleb(-scale)
    return READERS[_name(schema)]


def _one_of(branches: list[Callable[[_Datums], Any]]) -> Callable[[_Datums], Any]:
    def read(datums: _Datums) -> Any:
        number = datums.number()
        if not 0 <= number < len(branches):
            raise _Cut
        return branches[number](datums)

    return read


READERS: dict[str, Callable[[_Datums], Any]] = {
    "null": lambda _: None,
    "boolean": lambda d: bool(struct.unpack("?", d.take(1))[0]),
    "int": _Datums.number,
    "long": _Datums.number,
    "string": lambda d: d.bytes().decode(),
    "uuid": lambda d: d.bytes().decode(),
    "date": lambda d: date(1970, 1, 1) + timedelta(days=d.number()),
    "timestamp-millis": lambda d: EPOCH + timedelta(milliseconds=d.number()),
    "timestamp-micros": lambda d: EPOCH + timedelta(microseconds=d.number()),
}
