"""The roll-up of hires: compare it with a recount, repair it, fold its deltas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psycopg2.extensions import connection

# One row of each means: a year, quarter, department and job, and how many were hired in it.
RECOUNT = """
    select metrics.quarter_number(hired_date) / 4 as year, mod(metrics.quarter_number(hired_date), 4) + 1 as quarter,
           department_id, job_id, count(*) as hired
    from hired_employees.hired_employees group by 1, 2, 3, 4
"""
DIFFERENCE = f"""
    select year, quarter, department_id, job_id, coalesce(r.hired, 0) as rolled_up, coalesce(c.hired, 0) as counted
    from metrics.hires_by_quarter r full join ({RECOUNT}) c using (year, quarter, department_id, job_id)
    where r.hired is distinct from c.hired order by 1, 2, 3, 4
"""  # noqa: S608  # constants


def verify(conn: connection, *, limit: int = 20) -> list[dict[str, Any]]:
    """Cells in which the roll-up and a recount differ, at most ``limit``; empty if it is right.

    One statement, so one snapshot: writers at work make no difference.
    """
    with conn.cursor() as cursor:
        cursor.execute(f"{DIFFERENCE} limit %s", (limit,))
        names = [column.name for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def rebuild(conn: connection) -> int:
    """Count anew, in the caller's transaction; returns the number of cells.

    Takes SHARE on the employees, so that writers wait until the transaction ends; readers do not.
    The caller needs the owner's rights.
    """
    with conn.cursor() as cursor:
        cursor.execute("lock table hired_employees.hired_employees in share mode")
        cursor.execute("select metrics.forget()")
        cursor.execute(
            f"""
            insert into metrics.hires (year, department_id, job_id, q1, q2, q3, q4)
            select year, department_id, job_id,
                   coalesce(sum(hired) filter (where quarter = 1), 0),
                   coalesce(sum(hired) filter (where quarter = 2), 0),
                   coalesce(sum(hired) filter (where quarter = 3), 0),
                   coalesce(sum(hired) filter (where quarter = 4), 0)
            from ({RECOUNT}) c group by 1, 2, 3
            """  # noqa: S608  # a constant
        )
        return int(cursor.rowcount)


def fold(conn: connection) -> int | None:
    """Take the committed deltas into the roll-up; returns how many, None if another fold is at work."""
    with conn.cursor() as cursor:
        cursor.execute("select metrics.fold()")
        folded: int | None = cursor.fetchone()[0]  # type: ignore[index]  # a function call gives one row
        return folded
