"""How a table's columns leave the database: SQL that gives a row as JSON, as CSV, and its ETag."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg2 import sql

from shared.dictionary import Column, Table


def name(table: Table) -> sql.Composable:
    """The qualified table."""
    return sql.Identifier(table.schema, table.key)


def key(table: Table) -> sql.Composable:
    """The primary key's column, of the table's row ``t``."""
    return sql.Identifier("t", table.primary_key)


def shown(column: Column) -> sql.Composable:
    """What a client sees of ``column`` of the row ``t``: PostgreSQL's own JSON, but for times, which end in Z."""
    value = sql.Identifier("t", column.name)
    if column.kind != "timestamptz":
        return value
    # RFC 3339; PostgreSQL's text has as many digits of a second as are there. Infinity stays a word.
    return sql.SQL(
        "case when isfinite({0}) then replace(({0} at time zone 'UTC')::text, ' ', 'T') || 'Z' else {0}::text end"
    ).format(value)


def as_json(table: Table, columns: Sequence[Column] | None = None) -> sql.Composable:
    """The text of one JSON object: the row ``t`` under the dictionary's names, all columns or those given."""
    wanted = sql.SQL(", ").join(
        sql.SQL("{} as {}").format(shown(column), sql.Identifier(column.name)) for column in columns or table.columns
    )
    return sql.SQL('(select row_to_json("#row")::text from (select {}) "#row")').format(wanted)


def etag() -> sql.Composable:
    """The digest of the whole row ``t`` that its strong ETag holds: another text is another row."""
    return sql.SQL("md5(t::text)")
