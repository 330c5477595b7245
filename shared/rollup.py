"""The roll-up of hires: compare it with a recount, repair it, fold its deltas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psycopg2.extensions import connection

# A row means: a year, quarter, department and job, and how many were hired in it.
DIFFERENCE = """
    select year, quarter, department_id, job_id, coalesce(r.hired, 0) as rolled_up, coalesce(c.hired, 0) as counted
    from metrics.hires_by_quarter r full join metrics.hires_recounted c using (year, quarter, department_id, job_id)
    where r.hired is distinct from c.hired order by 1, 2, 3, 4 limit %s
"""


def verify(conn: connection, *, limit: int = 20) -> list[dict[str, Any]]:
    """Cells in which the roll-up and a recount differ, at most ``limit``; empty if it is right.

    One statement, so one snapshot: writers at work make no difference.
    """
    with conn.cursor() as cursor:
        cursor.execute(DIFFERENCE, (limit,))
        names = [column.name for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def rebuild(conn: connection) -> int:
    """Count anew, in the caller's transaction, which is READ COMMITTED; returns the number of cells by year.

    Writers of the employees wait until the transaction ends; readers do not. The caller is the owner or the API.
    """
    with conn.cursor() as cursor:
        cursor.execute("select metrics.rebuild()")
        return int(cursor.fetchone()[0])  # type: ignore[index]  # a function call gives one row


def fold(conn: connection, *, at_most: int | None = None) -> int | None:
    """Take committed deltas, all or ``at_most``, into the roll-up; returns how many, None if another is at work."""
    with conn.cursor() as cursor:
        cursor.execute("select metrics.fold(%s)", (at_most,))
        folded: int | None = cursor.fetchone()[0]  # type: ignore[index]  # a function call gives one row
        return folded
