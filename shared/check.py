"""Do dictionary and database agree? Every difference as a sentence that says what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from psycopg2 import sql

from shared import migrate
from shared.postgres import require_server

if TYPE_CHECKING:
    from psycopg2.extensions import connection

    from shared.dictionary import Column, Dictionary, Table

RIGHTS = {
    "rowdock_ingest": ("SELECT", "INSERT", "UPDATE"),
    "rowdock_api": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "rowdock_backup": ("SELECT",),
    "rowdock_restore": ("SELECT", "INSERT", "UPDATE", "DELETE"),
}
ALL_RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE")


def check(conn: connection, dictionary: Dictionary, migrations: Sequence[migrate.Migration] | None = None) -> list[str]:
    """Differences between the dictionary and the database, a sentence each; empty if they agree.

    Counts orphans too, which reads every child table once.

    Raises:
        ServerTooOld: the server is older than PostgreSQL 18.
    """
    require_server(conn)
    found = migrate.differences(conn, migrate.read() if migrations is None else migrations)
    if not migrate.applied(conn):
        return found
    for table in dictionary.tables.values():
        found += _table(conn, dictionary, table)
    return found + list(_unknown_tables(conn, dictionary)) + list(_stray_bookkeeping(conn))


def _rows(conn: connection, statement: str | sql.Composable, *values: object) -> list[tuple[Any, ...]]:
    with conn.cursor() as cursor:
        cursor.execute(statement, values or None)
        return cursor.fetchall()


def _table(conn: connection, dictionary: Dictionary, table: Table) -> list[str]:
    name = f"{table.schema}.{table.key}"
    if not _rows(conn, "select from (values (to_regclass(%s))) t (c) where c is not null", name):
        return [f"{name}: the dictionary has it, the database does not: add a migration"]
    return [
        f"{name}{difference}"
        for part in (_columns, _primary_key, _references, _guards, _rights)
        for difference in part(conn, dictionary, table)
    ]


def _columns(conn: connection, _dictionary: Dictionary, table: Table) -> Iterator[str]:
    live = {
        name: (type_, not_null)
        for name, type_, not_null in _rows(
            conn,
            "select attname, format_type(atttypid, atttypmod), attnotnull from pg_attribute"
            " where attrelid = %s::regclass and attnum > 0 and not attisdropped order by attnum",
            f"{table.schema}.{table.key}",
        )
    }
    for column in table.columns:
        if column.name not in live:
            yield f".{column.name}: the dictionary has it, the table does not: add it in a migration"
            continue
        type_, not_null = live.pop(column.name)
        if type_ != column.sql_type:
            yield f".{column.name}: is {type_} in the table and {column.sql_type} in the dictionary"
        if not_null != column.required:
            yield (
                f".{column.name}: {'is NOT NULL' if not_null else 'may be null'} in the table and "
                f"{'required' if column.required else 'not required'} in the dictionary"
            )
    for extra in live:
        yield f".{extra}: the table has it, the dictionary does not: describe it there, or drop it in a migration"


def _primary_key(conn: connection, _dictionary: Dictionary, table: Table) -> Iterator[str]:
    keys = _rows(
        conn,
        "select array_agg(a.attname::text) from pg_constraint c join pg_attribute a on a.attrelid = c.conrelid"
        " and a.attnum = any(c.conkey) where c.conrelid = %s::regclass and c.contype = 'p'",
        f"{table.schema}.{table.key}",
    )[0][0]
    if keys != [table.primary_key]:
        yield f": the primary key is {keys or 'missing'}, in the dictionary {table.primary_key!r}"
    if table.key_column.kind in ("integer", "bigint"):
        start = _rows(
            conn,
            "select seqstart from pg_sequence where seqrelid = pg_get_serial_sequence(%s, %s)::regclass",
            f"{table.schema}.{table.key}",
            table.primary_key,
        )
        if not start:
            yield f".{table.primary_key}: is no identity: rows posted without an id would have none"
        elif start[0][0] != table.identity_start:
            yield f".{table.primary_key}: its identity starts at {start[0][0]}, here at {table.identity_start}"


def _references(conn: connection, dictionary: Dictionary, table: Table) -> Iterator[str]:
    name = f"{table.schema}.{table.key}"
    declared = dict(
        _rows(
            conn,
            "select a.attname, n.nspname || '.' || r.relname from pg_constraint c"
            " join pg_attribute a on a.attrelid = c.conrelid and a.attnum = c.conkey[1]"
            " join pg_class r on r.oid = c.confrelid join pg_namespace n on n.oid = r.relnamespace"
            " where c.conrelid = %s::regclass and c.contype = 'f'",
            name,
        )
    )
    for column in table.columns:
        wanted = _parent_name(dictionary, column)
        found = declared.pop(column.name, None)
        if wanted != found:
            yield f".{column.name}: references {found or 'nothing'} in the database and {wanted or 'nothing'} here"
        elif wanted is not None:
            yield from _orphans(conn, dictionary, table, column)
    for column_name, parent in declared.items():
        yield f".{column_name}: references {parent} in the database, but is no column of the dictionary"


def _parent_name(dictionary: Dictionary, column: Column) -> str | None:
    if column.references is None:
        return None
    parent = dictionary.tables[column.references]
    return f"{parent.schema}.{parent.key}"


def count_orphans(conn: connection, dictionary: Dictionary, table: Table, column: Column) -> int:
    """Rows of ``table`` whose key in ``column`` has no parent row."""
    parent = dictionary.tables[str(column.references)]
    statement = sql.SQL(
        "select count(*) from {child} c where {key} is not null"
        " and not exists (select from {parent} p where p.{id} = c.{key})"
    ).format(
        child=sql.Identifier(table.schema, table.key),
        key=sql.Identifier(column.name),
        parent=sql.Identifier(parent.schema, parent.key),
        id=sql.Identifier(parent.primary_key),
    )
    return int(_rows(conn, statement)[0][0])


def _orphans(conn: connection, dictionary: Dictionary, table: Table, column: Column) -> Iterator[str]:
    if orphans := count_orphans(conn, dictionary, table, column):
        yield f".{column.name}: {orphans} rows have a key without parent: add the parents, or delete the rows"


def guard_states(conn: connection, table: Table) -> dict[str, str]:
    """Guard of the table → ``in place``, ``missing``, ``disabled``, ``not always``, ``stale`` or ``left over``."""
    return dict(_rows(conn, "select trigger_name, state from rowdock.guard_state(%s)", f"{table.schema}.{table.key}"))


def _guards(conn: connection, _dictionary: Dictionary, table: Table) -> Iterator[str]:
    for name, state in guard_states(conn, table).items():
        if state == "left over":
            yield f": the trigger {name} is no guard of this table: drop it"
        elif state != "in place":
            yield (
                f": the guard {name} is {state}: run select rowdock.guard('{table.schema}.{table.key}') as the owner, "
                "then rowdock check again"
            )


def _rights(conn: connection, _dictionary: Dictionary, table: Table) -> Iterator[str]:
    name = f"{table.schema}.{table.key}"
    there = {role for (role,) in _rows(conn, "select rolname from pg_roles where starts_with(rolname, 'rowdock_')")}
    for role in (r for r in RIGHTS if r not in there):
        yield f": the role {role} does not exist: make it, and run select rowdock.guard('{name}') as the owner"
    for role, wanted in ((r, w) for r, w in RIGHTS.items() if r in there):
        for right in ALL_RIGHTS:
            has = _rows(conn, "select has_table_privilege(%s, %s, %s)", role, name, right)[0][0]
            if has != (right in wanted):
                yield f": {role} {'has' if has else 'lacks'} {right}: {'revoke' if has else 'grant'} it in a migration"


def _unknown_tables(conn: connection, dictionary: Dictionary) -> Iterator[str]:
    for schema in sorted({table.schema for table in dictionary.tables.values()}):
        for (name,) in _rows(
            conn,
            "select relname from pg_class where relnamespace = %s::regnamespace and relkind in ('r', 'p') order by 1",
            schema,
        ):
            if name not in dictionary.tables:
                yield f"{schema}.{name}: the database has it, the dictionary does not: describe it there, or drop it"


def _stray_bookkeeping(conn: connection) -> Iterator[str]:
    for name in ("rejects", "pending"):
        statement = sql.SQL(
            "select count(*) from {} r where not exists"
            " (select from ingest_status.ingest_status l where l.id = r.load_id)"
        ).format(sql.Identifier("ingest_status", name))
        if stray := _rows(conn, statement)[0][0]:
            yield f"ingest_status.{name}: {stray} rows belong to no load"
