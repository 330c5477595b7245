"""A live table and a relation loaded for it, as a restore has them, without a backup."""

from __future__ import annotations

from typing import Any

from shared.backups.difference import Difference, Matched, Mode

EMPLOYEES = {
    "id": "integer",
    "employee_name": "text",
    "hired_date": "timestamp with time zone",
    "department_id": "integer",
    "job_id": "integer",
}
TABLES = {
    "departments": {"id": "integer", "departments": "text"},
    "jobs": {"id": "integer", "job": "text"},
    "hired_employees": EMPLOYEES,
}


def difference(
    table: str,
    number: int = 0,
    mode: Mode = "replace",
    *,
    columns: dict[str, str] | None = None,
    key: tuple[str, ...] = ("id",),
    rewrite: bool = False,
) -> Difference:
    """Of a table in the schema ``hired_employees``."""
    matched = tuple(Matched(name, name, kind) for name, kind in (columns or TABLES[table]).items())
    return Difference(number, "hired_employees", table, key, matched, mode, rewrite)


def load(conn: Any, found: Difference, *rows: str) -> None:
    """Fill the loaded relation with ``rows``, each the text of a row's values in SQL; the live table's for none."""
    with conn.cursor() as cursor:
        cursor.execute(
            f"create temporary table loaded_{found.number} on commit drop as select * from {live(found)}"
            + (" where false" if rows else "")
        )
        for row in rows:
            cursor.execute(f"insert into pg_temp.loaded_{found.number} values ({row})")


def execute(conn: Any, statement: str) -> list[tuple[Any, ...]]:
    with conn.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


def live(found: Difference) -> str:
    return f"{found.schema}.{found.name}"


def content(conn: Any, found: Difference) -> list[tuple[Any, ...]]:
    return execute(conn, f"select t::text from {live(found)} t order by 1")


def loaded(conn: Any, found: Difference) -> list[tuple[Any, ...]]:
    return execute(conn, f"select t::text from pg_temp.loaded_{found.number} t order by 1")
