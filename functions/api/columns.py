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


def value(column: Column, placeholder: str) -> sql.Composable:
    """The value that a statement is given for ``column``, of its type. A numeric is not rounded: it was judged."""
    # Not ::, which binds closer than the minus of the smallest bigint. The kinds are a closed set of names.
    return sql.SQL("cast({} as {})").format(sql.Placeholder(placeholder), sql.SQL(column.kind))


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
    return sql.SQL("(select row_to_json(r.*)::text from (select {}) r)").format(wanted)


def as_csv(wanted: Sequence[Column]) -> sql.Composable:
    """The row ``t`` as a record of RFC 4180 without its end: quotes where they are needed, nothing where nothing is.

    An empty text is ``""``, as in PostgreSQL's COPY; so is nothing where it is alone: an empty line is no record.
    """
    fields = [_field(column) for column in wanted]
    if len(fields) == 1:
        return sql.SQL("""coalesce(nullif({}, ''), '""')""").format(fields[0])
    return sql.SQL("concat_ws(',', {})").format(sql.SQL(", ").join(fields))


def _field(column: Column) -> sql.Composable:
    text = sql.SQL("({})::text").format(shown(column))
    if column.kind not in ("text", "jsonb"):
        return sql.SQL("coalesce({}, '')").format(text)
    quoted = sql.SQL("""'"' || replace({0}, '"', '""') || '"'""").format(text)
    return sql.SQL(r"""coalesce(case when {0} ~ '[",\r\n]' or {0} = '' then {1} else {0} end, '')""").format(
        text, quoted
    )


def etag() -> sql.Composable:
    """The digest of the whole row ``t`` that its strong ETag holds: another text is another row."""
    return sql.SQL("md5((t.*)::text)")  # not t: a column may be called that
