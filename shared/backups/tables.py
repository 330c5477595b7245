"""Which tables a backup holds, and what each of them is like, as the database says it at that moment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg2 import sql

from shared.avro.schema import Field, avro_name
from shared.backups.manifest import Column, Sequence
from shared.errors import NoSuchTable

if TYPE_CHECKING:
    from psycopg2.extensions import connection

    from shared.dictionary import Dictionary

# What Rowdock keeps about its own work, parents before children; roll-ups are not in it, for they follow from the rows.
BOOKKEEPING = (
    ("ingest_status", "ingest_status"),
    ("ingest_status", "parts"),
    ("ingest_status", "attempts"),
    ("ingest_status", "rejects"),
    ("ingest_status", "pending"),
    ("ingest_status", "wakeups"),
    ("ingest_status", "dead_letters"),
    ("api_access", "keys"),
    ("api_access", "idempotency"),
    ("backup_status", "backup_status"),
    ("backup_status", "restores"),
)
INTEGERS = ("smallint", "integer", "bigint")

COLUMNS = """
    select a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid),
           a.attidentity::text, a.attgenerated <> ''
    from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where a.attrelid = %s::regclass and a.attnum > 0 and not a.attisdropped order by a.attnum
"""
PRIMARY_KEY = """
    select a.attname from pg_constraint c, unnest(c.conkey) with ordinality k (attnum, position), pg_attribute a
    where c.conrelid = %s::regclass and c.contype = 'p' and a.attrelid = c.conrelid and a.attnum = k.attnum
    order by k.position
"""
# NOT NULL, which is a constraint by name too since PostgreSQL 18, stands with the columns.
CONSTRAINTS = """
    select pg_get_constraintdef(oid) from pg_constraint where conrelid = %s::regclass and contype <> 'n'
    order by contype, conname
"""
SEQUENCES = """
    select a.attname, n.nspname, s.relname
    from pg_attribute a
    join pg_class s on s.oid = pg_get_serial_sequence(a.attrelid::regclass::text, a.attname)::regclass
    join pg_namespace n on n.oid = s.relnamespace
    where a.attrelid = %s::regclass and a.attnum > 0 and not a.attisdropped order by a.attnum
"""


@dataclass(frozen=True, slots=True)
class TableName:
    """A table that can be backed up.

    Attributes:
        dictionary_key: its name in the dictionary, None for the bookkeeping.
    """

    schema: str
    name: str
    dictionary_key: str | None = None

    @property
    def full_name(self) -> str:
        """``schema.name``, for people and folders."""
        return f"{self.schema}.{self.name}"

    @property
    def relation(self) -> sql.Identifier:
        """For statements."""
        return sql.Identifier(self.schema, self.name)


@dataclass(frozen=True, slots=True)
class Definition:
    """A table as the database has it now."""

    table: TableName
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...]
    constraints: tuple[str, ...]
    sequences: tuple[Sequence, ...]

    @property
    def fields(self) -> tuple[Field, ...]:
        """The columns that rows consist of; what is generated follows from them."""
        return tuple(column.field for column in self.columns if not column.generated)

    @property
    def integer_key(self) -> str | None:
        """The primary key, where it is one integer."""
        if len(self.primary_key) != 1:
            return None
        types = {column.name: column.type for column in self.columns}
        return self.primary_key[0] if types[self.primary_key[0]] in INTEGERS else None

    @property
    def rows_query(self) -> sql.Composable:
        """What COPY reads."""
        columns = sql.SQL(", ").join(field.expression() for field in self.fields)
        return sql.SQL("select {} from {}").format(columns, self.table.relation)


def every(dictionary: Dictionary) -> tuple[TableName, ...]:
    """All tables of a whole backup: those of the dictionary, parents first, and the bookkeeping."""
    own = tuple(TableName(table.schema, key, key) for key, table in dictionary.tables.items())
    return own + tuple(TableName(schema, name) for schema, name in BOOKKEEPING)


def choose(dictionary: Dictionary, names: Iterable[str] | None) -> tuple[TableName, ...]:
    """The tables of these names, in the order of ``every``; all of them for None.

    A table's name is its key in the dictionary, its resource in the API, or ``schema.name``.

    Raises:
        NoSuchTable: a name that is none; the message lists those that are.
    """
    tables = every(dictionary)
    if names is None:
        return tables
    by_name = {name: table for table in tables for name in _names(dictionary, table)}
    wanted = list(names)
    if unknown := [name for name in wanted if name not in by_name]:
        known = ", ".join(table.dictionary_key or table.full_name for table in tables)
        raise NoSuchTable(f"there is no table {unknown[0]!r}; there are {known}")
    chosen = {by_name[name] for name in wanted}
    return tuple(table for table in tables if table in chosen)


def _names(dictionary: Dictionary, table: TableName) -> Iterator[str]:
    yield table.full_name
    if table.dictionary_key is not None:
        yield dictionary.tables[table.dictionary_key].api_name
        yield table.dictionary_key


def describe(conn: connection, table: TableName) -> Definition:
    """What ``table`` is like; who holds a lock on it sees no other one afterwards.

    Raises:
        psycopg2.Error: there is no such table, or no right to look at it.
    """
    regclass = table.relation.as_string(conn)
    return Definition(
        table,
        columns=_columns(_rows(conn, COLUMNS, regclass)),
        primary_key=tuple(name for (name,) in _rows(conn, PRIMARY_KEY, regclass)),
        constraints=tuple(text for (text,) in _rows(conn, CONSTRAINTS, regclass)),
        sequences=tuple(
            _sequence(conn, column, sql.Identifier(schema, name))
            for column, schema, name in _rows(conn, SEQUENCES, regclass)
        ),
    )


def _columns(found: Iterable[tuple[Any, ...]]) -> tuple[Column, ...]:
    taken: set[str] = set()
    columns = []
    for name, type_, not_null, default, identity, generated in found:
        escaped = avro_name(name, taken)
        taken.add(escaped)
        columns.append(Column(name, type_, not_null, default, identity, generated, escaped))
    return tuple(columns)


def _sequence(conn: connection, column: str, sequence: sql.Identifier) -> Sequence:
    ((last_value, is_called),) = _rows(conn, sql.SQL("select last_value, is_called from {}").format(sequence))
    return Sequence(column, last_value, is_called)


def _rows(conn: connection, statement: str | sql.Composable, *values: object) -> list[tuple[Any, ...]]:
    with conn.cursor() as cursor:
        cursor.execute(statement, values or None)
        return cursor.fetchall()
