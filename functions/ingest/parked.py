"""Rows that wait for a parent: what is noted when they are parked, and how they end without going in."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from psycopg2 import sql

from functions.ingest import history
from functions.ingest.history import Counts, Load
from functions.ingest.statements import REJECT_COLUMNS

if TYPE_CHECKING:
    from psycopg2.extensions import connection

    from functions.ingest.statements import Statements
    from shared.dictionary import Table

SUPERSEDED = sql.Literal("record.superseded")
OLDER_WAIT = "select exists (select from ingest_status.pending where table_name = %(table)s and load_id < %(load_id)s)"


def reject_parked(
    cursor: Any, reason: sql.Composable, where: sql.Composable, parameters: dict[str, Any]
) -> list[tuple[int, str, str, int]]:
    """Move parked rows ``p`` that fulfil ``where`` to the rejects of their own load.

    Args:
        reason: SQL expression over ``p`` that gives the one reason.
        where: SQL condition over ``p``.

    Returns:
        Load id, table, reason and how many, for the history that tells of it.
    """
    cursor.execute(
        sql.SQL(
            "with gone as (delete from ingest_status.pending p where {where} returning p.*, {reason} as reason),"
            " kept as (insert into ingest_status.rejects ({columns}, live_hash)"
            "  select load_id, record_number, line_number, byte_offset, byte_length, array[reason], left(raw, 8192),"
            "  coalesce(live_hash, '') from gone)"
            " select load_id, table_name, reason, count(*) from gone group by 1, 2, 3 order by 1, 2, 3"
        ).format(where=where, reason=reason, columns=REJECT_COLUMNS),
        parameters,
    )
    ended: list[tuple[int, str, str, int]] = cursor.fetchall()
    return ended


def end_waiting(
    conn: connection,
    reason: sql.Composable,
    where: sql.Composable,
    parameters: dict[str, Any],
    details: dict[str, Any],
) -> int:
    """``reject_parked``, told in history as one re-drive for each load that the rows came from; returns how many.

    Args:
        details: what history says of it besides the load: why, and which load brought something newer.
    """
    with conn.cursor() as cursor:
        ended = reject_parked(cursor, reason, where, parameters)
    counts: dict[tuple[int, str], Counts] = defaultdict(Counts)
    for load_id, table, code, count in ended:
        of_load = counts[load_id, table]
        of_load.read += count
        of_load.rejected += count
        of_load.reasons[code] += count
    for (load_id, table), of_load in counts.items():
        told = {"of_load": load_id} | details
        history.record(conn, Load(kind="re-drive", table_name=table, details=told, counts=of_load))
    return sum(count for *_, count in ended)


def after_parking(conn: connection, statements: Statements, load_id: int, numbers: list[int] | None = None) -> None:
    """Note the live rows, close older parked rows of the same keys, and leave a wake-up.

    The wake-up closes the race with a parent that commits meanwhile: whoever commits last leaves one that sees both.

    Args:
        numbers: the records that were parked just now, where the load has others that wait already; None: all.
    """
    parameters = {"load_id": load_id, "table": statements.table.key, "numbers": numbers}
    with conn.cursor() as cursor:
        cursor.execute(statements.remember_live_rows(), parameters)
        cursor.execute(OLDER_WAIT, parameters)
        others_wait = cursor.fetchone()[0]  # type: ignore[index]  # a select exists gives one row
    if others_wait:  # else millions of rows would each look for an older one of their key
        end_waiting(
            conn,
            SUPERSEDED,
            sql.SQL(
                "p.table_name = %(table)s and p.load_id < %(load_id)s and exists (select from ingest_status.pending n"
                " where n.load_id = %(load_id)s and n.table_name = %(table)s and n.row_key = p.row_key"
                " and (%(numbers)s::bigint[] is null or n.record_number = any(%(numbers)s)))"
            ),
            parameters,
            superseded_by(load_id),
        )
    with conn.cursor() as cursor:
        leave_wakeups(cursor, statements.table)


def superseded_by(load_id: int | None) -> dict[str, Any]:
    """What history says of parked rows that ``load_id`` brought something newer than."""
    return {"why": "superseded", "by_load": load_id}


def leave_wakeups(cursor: Any, table: Table) -> set[int]:
    """One wake-up for each parent of the table: a drain that starts after this commit looks again; returns the ids."""
    parents = sorted({c.references for c in table.columns if c.references})
    cursor.execute(
        "insert into ingest_status.wakeups (parent_table) select unnest(%s::text[]) returning id", (parents,)
    )
    return {wakeup for (wakeup,) in cursor.fetchall()}


def supersede_older(
    conn: connection, statements: Statements, load_id: int, *, written: bool = False, staged: bool = False
) -> None:
    """Parked rows of earlier loads are over whose keys this load has met: written, or staged and perhaps unchanged.

    To be called before the stage is merged: a drain that is bringing such a row in is waited for here, and what it
    wrote is seen by the merge. Where nothing of the table waits it costs one look.
    """
    parameters = {"load_id": load_id, "table": statements.table.key}
    with conn.cursor() as cursor:
        cursor.execute(OLDER_WAIT, parameters)
        if not (written or staged) or not cursor.fetchone()[0]:  # type: ignore[index]  # a select exists gives one row
            return
        if staged:
            cursor.execute("analyze pg_temp.stage")
    met = statements.parked_keys_met(written=written, staged=staged)
    end_waiting(conn, SUPERSEDED, met, parameters, superseded_by(load_id))


def close_earlier_generations(conn: connection, load: Load) -> None:
    """Rows that still wait from earlier generations of the same object are superseded by this load.

    It is the current generation whatever came of it: loaded, empty, refused or rolled back. A load's id is taken while
    it holds the object, so that a lower one is of an earlier generation, or an earlier run.
    """
    end_waiting(
        conn,
        SUPERSEDED,
        sql.SQL(
            "p.load_id in (select id from ingest_status.ingest_status where bucket = %(bucket)s"
            " and object_name = %(name)s and id < %(load_id)s)"
        ),
        {"bucket": load.bucket, "name": load.object_name, "load_id": load.id},
        superseded_by(load.id),
    )
