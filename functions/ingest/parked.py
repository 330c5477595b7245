"""Rows that wait for a parent: what is noted when they are parked, and how they end without going in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg2 import sql

from functions.ingest.statements import REJECT_COLUMNS

if TYPE_CHECKING:
    from psycopg2.extensions import connection

    from functions.ingest.history import Load
    from functions.ingest.statements import Statements


def reject_parked(cursor: Any, reason: sql.Composable, where: str, parameters: dict[str, Any]) -> int:
    """Move parked rows ``p`` that fulfil ``where`` to the rejects of their own load; returns how many.

    Args:
        reason: SQL expression over ``p`` that gives the one reason.
        where: SQL condition over ``p``, a constant of ours.
    """
    cursor.execute(
        sql.SQL(
            "with gone as (delete from ingest_status.pending p where {where} returning load_id,"
            " record_number, line_number, byte_offset, byte_length, array[{reason}], left(raw, 8192))"
            " insert into ingest_status.rejects ({columns}) select * from gone"
        ).format(where=sql.SQL(where), reason=reason, columns=REJECT_COLUMNS),
        parameters,
    )
    return int(cursor.rowcount)


SUPERSEDED = sql.Literal("record.superseded")


def after_parking(conn: connection, statements: Statements, load_id: int) -> None:
    """Note the live rows, close older parked rows of the same keys, and leave a wake-up.

    The wake-up closes the race with a parent that commits meanwhile: whoever commits last leaves one that sees both.
    """
    parameters = {"load_id": load_id, "table": statements.table.key}
    with conn.cursor() as cursor:
        cursor.execute(statements.remember_live_rows(), parameters)
        reject_parked(
            cursor,
            SUPERSEDED,
            "p.table_name = %(table)s and p.load_id < %(load_id)s and exists (select from ingest_status.pending n"
            " where n.load_id = %(load_id)s and n.table_name = %(table)s and n.row_key = p.row_key)",
            parameters,
        )
        leave_wakeups(cursor, statements)


def leave_wakeups(cursor: Any, statements: Statements) -> set[int]:
    """One wake-up for each parent of the table: a drain that starts after this commit looks again; returns the ids."""
    parents = sorted({c.references for c in statements.table.columns if c.references})
    cursor.execute(
        "insert into ingest_status.wakeups (parent_table) select unnest(%s::text[]) returning id", (parents,)
    )
    return {wakeup for (wakeup,) in cursor.fetchall()}


def close_earlier_generations(conn: connection, load: Load) -> None:
    """Rows that still wait from earlier generations of the same object are superseded by this load."""
    with conn.cursor() as cursor:
        reject_parked(
            cursor,
            SUPERSEDED,
            "p.load_id in (select id from ingest_status.ingest_status where bucket = %(bucket)s"
            " and object_name = %(name)s and id <> %(load_id)s)",
            {"bucket": load.bucket, "name": load.object_name, "load_id": load.id},
        )
