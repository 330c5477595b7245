"""The same tables twice in one database: with our guards, and with keys that PostgreSQL enforces itself."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any

import psycopg2

from tests.integration.keys.sessions import Copy, Step, execute

GUARDED, NATIVE = "hired_employees", "native"
SCHEMAS = (GUARDED, NATIVE)
TABLES = ("departments", "jobs", "hired_employees", "zones", "places", "staff")

NATIVE_DATA = """
    create schema native;
    create table native.departments (like hired_employees.departments including all);
    create table native.jobs (like hired_employees.jobs including all);
    create table native.hired_employees (like hired_employees.hired_employees including all);
    alter table native.hired_employees
      add constraint hired_employees_department_id_fkey foreign key (department_id) references native.departments,
      add constraint hired_employees_job_id_fkey foreign key (job_id) references native.jobs;
"""
MORE_TABLES = """
    create table {s}.zones (id {parent_type} primary key, name text);
    create table {s}.places (id integer primary key, zone {child_type},
      constraint places_zone_fkey foreign key (zone) references {s}.zones {enforced});
    create table {s}.staff (id integer primary key, boss integer,
      constraint staff_boss_fkey foreign key (boss) references {s}.staff {enforced});
"""
ROWS = """
    insert into {s}.departments values (1, 'Engineering'), (2, 'Sales'), (3, 'Support');
    insert into {s}.jobs values (1, 'Engineer'), (2, 'Seller');
    insert into {s}.hired_employees values (10, 'Ada', '2021-02-03T04:05:06Z', 1, 1),
      (11, 'Bo', '2021-05-06T07:08:09Z', 1, 2), (12, 'Cy', '2022-08-09T10:11:12Z', 2, 1);
    insert into {s}.staff values (1, null), (2, 1), (3, 2);
"""
GRANTS = """
    grant usage on schema native to rowdock_ingest, rowdock_api;
    grant select, insert, update on all tables in schema native to rowdock_ingest;
    grant select, insert, update, delete on all tables in schema native to rowdock_api;
"""


GUARD_MORE = (
    "select rowdock.guard(t.name::regclass) from unnest(array['{s}.zones', '{s}.places', '{s}.staff']) t (name);"
)
# An ANALYZE of one side between the two runs would give it other plans, and what a plan allows (WHERE CURRENT OF), or
# the order in which it meets duplicates, may differ then, keys or no keys.
LEFT_ALONE = "".join(f"alter table {{s}}.{table} set (autovacuum_enabled = off);" for table in TABLES)
EMPTY = "truncate {s}.departments, {s}.jobs, {s}.hired_employees, {s}.zones, {s}.places, {s}.staff;"


def make(database: Any, *, parent_type: str = "integer", child_type: str | None = None) -> None:
    """Both sides, with the same rows."""
    types = {"parent_type": parent_type, "child_type": child_type or parent_type}
    database.query(
        MORE_TABLES.format(s=GUARDED, enforced="not enforced", **types)
        + GUARD_MORE.format(s=GUARDED)
        + NATIVE_DATA
        + MORE_TABLES.format(s=NATIVE, enforced="enforced", **types)
        + GRANTS
        + "".join(LEFT_ALONE.format(s=schema) for schema in SCHEMAS)
    )
    reset(database)


def reset(database: Any) -> None:
    """Both sides as ``make`` leaves them."""
    database.query("".join((EMPTY + ROWS).format(s=schema) for schema in SCHEMAS))


def run(database: Any, schema: str, steps: Sequence[Step], role: str = "owner") -> list[Any]:
    """Outcome of every step of one session: rows and row count, or SQLSTATE. ``{s}`` in a step is the schema."""
    with closing(database.connect(role)) as connection:
        connection.autocommit = True
        _attempt(connection, f"set search_path = {schema}")
        return [_attempt(connection, _in(schema, step)) for step in steps]


def _in(schema: str, step: Step) -> Step:
    if isinstance(step, Copy):
        return Copy(step.into.replace("{s}", schema), step.lines)
    return step.replace("{s}", schema)


def _attempt(connection: Any, step: Step) -> Any:
    with connection.cursor() as cursor:
        try:
            execute(cursor, step)
        except psycopg2.Error as error:
            return error.pgcode
        return cursor.rowcount, sorted(cursor.fetchall(), key=repr) if cursor.description else None


def errors(outcomes: Sequence[Any]) -> list[str]:
    return [outcome for outcome in outcomes if isinstance(outcome, str)]


def rows(connection: Any, schema: str) -> list[tuple[str, str]]:
    """(table, row as text) of every row."""
    with connection.cursor() as cursor:
        cursor.execute(
            " union all ".join(f"select '{t}' as name, t::text as row from {schema}.{t} t" for t in TABLES)
            + " order by 1, 2"
        )
        return list(cursor.fetchall())


def orphans(connection: Any, schema: str) -> int:
    """Rows with a key that has no parent, over every key of the schema's tables."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            select string_agg(
              format('select count(*) from %%s c where %%I is not null and not exists'
                     ' (select from %%s p where p.%%I = c.%%I)',
                     o.conrelid::regclass, a.attname, o.confrelid::regclass, b.attname, a.attname), ' union all ')
            from pg_constraint o join pg_attribute a on a.attrelid = o.conrelid and a.attnum = o.conkey[1]
            join pg_attribute b on b.attrelid = o.confrelid and b.attnum = o.confkey[1]
            where o.contype = 'f' and o.connamespace = %s::regnamespace
            """,
            (schema,),
        )
        cursor.execute(f"select sum(count) from ({cursor.fetchone()[0]}) o")
        return int(cursor.fetchone()[0])
