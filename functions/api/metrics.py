"""Metrics of hires, from the roll-ups: the cost follows the pairs of department and job, not the employees.

Each answer is one statement and so one snapshot: what is folded and what is not yet are added up, neither twice nor not
at all. A read does not fold, which would be a write with a lock; the ingest function's sweep does, every minute.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from functions.api import pages, parameters, representations
from functions.api.messages import JSON, Response
from functions.api.problems import Problem
from functions.api.representations import CSV
from functions.api.routes import Route
from shared import rollup

if TYPE_CHECKING:
    from functions.api.messages import Call

YEAR = re.compile(r"(?!0000)[0-9]{4}\Z")
ZONE = "UTC"
LOCK_WAIT_S = 5.0  # of a rebuild, for the writers at work
MOST_CELLS = 100  # that verify lists; which ones does not matter once there are so many

# How a name leaves: made once for each department and job, not once for each pair.
NAME = {JSON: "to_json({})::text", CSV: """'"' || replace({}, '"', '""') || '"'"""}
BETWEEN = {JSON: ",", CSV: ""}

# A row means: the hires of a department in a job, one column a quarter. Years and quarters are UTC.
# Rows are pairs of ids: departments or jobs of one name stay apart.
QUARTERS = """
    with cells as (
      select department_id, job_id, q1, q2, q3, q4 from metrics.hires where year = %(year)s
      union all
      select department_id, job_id,
             case quarter when 1 then hired else 0 end, case quarter when 2 then hired else 0 end,
             case quarter when 3 then hired else 0 end, case quarter when 4 then hired else 0 end
      from metrics.hires_deltas where year = %(year)s
    ), pairs as (
      select department_id, job_id, sum(q1)::bigint as q1, sum(q2)::bigint as q2,
             sum(q3)::bigint as q3, sum(q4)::bigint as q4
      from cells group by department_id, job_id
    )
    select coalesce(string_agg({row}, %(between)s order by d.name, j.name, p.department_id, p.job_id), '')
    from pairs p
    join (select id, departments collate "C" as name, {department} as shown from hired_employees.departments) d
      on d.id = p.department_id
    join (select id, job collate "C" as name, {job} as shown from hired_employees.jobs) j on j.id = p.job_id
    where (p.q1, p.q2, p.q3, p.q4) <> (0, 0, 0, 0)
"""
QUARTERS_ROW = {
    JSON: """'{"departments":' || d.shown || ',"job":' || j.shown || ',"Q1":' || p.q1 || ',"Q2":' || p.q2
             || ',"Q3":' || p.q3 || ',"Q4":' || p.q4 || '}'""",
    CSV: """d.shown || ',' || j.shown || ',' || p.q1 || ',' || p.q2 || ',' || p.q3 || ',' || p.q4 || E'\\n'""",
}
QUARTERS_HEADER = "departments,job,Q1,Q2,Q3,Q4\n"

# A row means: a department and its hires of the year, where they are above the mean over all departments that there
# are; one without hires counts as 0.
DEPARTMENTS = """
    with cells as (
      select department_id, q1 + q2 + q3 + q4 as hired from metrics.hires where year = %(year)s
      union all
      select department_id, hired from metrics.hires_deltas where year = %(year)s
    ), hires as (
      select department_id, sum(hired)::bigint as hired from cells group by department_id
    ), counted as (
      select d.id, d.departments, coalesce(h.hired, 0) as hired
      from hired_employees.departments d left join hires h on h.department_id = d.id
    ), of_all as (
      select coalesce(avg(hired), 0) as mean from counted
    )
    select coalesce(string_agg({row}, %(between)s order by c.hired desc, c.id) filter (where c.hired > a.mean), ''),
           trim_scale(round(a.mean, 4))::text
    from of_all a left join (select id, hired, {department} as shown from counted) c on true
    group by a.mean
"""
DEPARTMENTS_ROW = {
    JSON: """'{"department_id":' || c.id || ',"departments":' || c.shown || ',"hired":' || c.hired || '}'""",
    CSV: """c.id || ',' || c.shown || ',' || c.hired || E'\\n'""",
}
DEPARTMENTS_HEADER = "department_id,departments,hired\n"


def quarters(call: Call) -> Response:
    """Hires of a year by department, job and quarter, in code-point order of both names.

    Raises:
        Problem: 404 when the path's year is none, 400 for a parameter, 406.
    """
    year, media_type = _asked(call)
    statement = _statement(QUARTERS, QUARTERS_ROW, media_type)
    ((rows,),) = call.rows(statement, {"year": year, "between": BETWEEN[media_type]})
    if media_type == CSV:
        return representations.revalidated(call.request, (QUARTERS_HEADER + rows).encode(), CSV)
    body = f'{{"data":[{rows}],"year":{year},"time_zone":"{ZONE}"}}'
    return representations.revalidated(call.request, body.encode(), JSON)


def departments(call: Call) -> Response:
    """Departments that hired more in a year than the mean of all departments; the mean has at most four decimals.

    Raises:
        Problem: as ``quarters``.
    """
    year, media_type = _asked(call)
    statement = _statement(DEPARTMENTS, DEPARTMENTS_ROW, media_type)
    ((rows, mean),) = call.rows(statement, {"year": year, "between": BETWEEN[media_type]})
    if media_type == CSV:  # whose body has no place for it
        body = (DEPARTMENTS_HEADER + rows).encode()
        return representations.revalidated(call.request, body, CSV, {"Rowdock-Mean": mean})
    body = f'{{"data":[{rows}],"mean":{mean},"year":{year},"time_zone":"{ZONE}"}}'.encode()
    return representations.revalidated(call.request, body, JSON)


def _asked(call: Call) -> tuple[int, str]:
    parameters.once(call.request.query, ())
    year = call.parameters["year"]
    if not YEAR.match(year):
        raise Problem(404, "route.not_found", "A year has four digits, 0001 to 9999.")
    return int(year), representations.choose(call.request, (JSON, CSV))


def _statement(template: str, row: dict[str, str], media_type: str) -> str:
    """``template`` for one form; all its parts are constants of this module."""
    name = NAME[media_type]
    return template.format(row=row[media_type], department=name.format("departments"), job=name.format("job"))


def verify(call: Call) -> Response:
    """Cells in which the roll-up differs from a recount, the first ``MOST_CELLS`` of them; it reads every employee.

    Raises:
        DeadlineExceeded: the recount took longer than a request may.
    """
    parameters.once(call.request.query, ())
    with call.connection() as conn:
        cells = rollup.verify(conn, limit=MOST_CELLS + 1)
    answer = {"data": cells[:MOST_CELLS], "equal": not cells, "more": len(cells) > MOST_CELLS}
    return Response(200, pages.as_json(answer))


def rebuild(call: Call) -> Response:
    """Count the roll-up anew; says of how many cells (year, department, job) it consists.

    Raises:
        DatabaseBusy: writers were at work for longer than a lock is waited for; nothing was changed.
        DeadlineExceeded: it took longer than a request may; nothing was changed.
    """
    parameters.once(call.request.query, ())
    with call.transaction(lock_wait_s=LOCK_WAIT_S) as conn:
        cells = rollup.rebuild(conn)
    return Response(200, pages.as_json({"data": {"cells": cells}}))


ROUTES = (
    Route("GET", "/api/<string(length=4):year>/quarters", "metrics.quarters", "read", quarters),
    Route("GET", "/api/<string(length=4):year>/departments", "metrics.departments", "read", departments),
    Route("GET", "/api/metrics/verify", "metrics.verify", "admin", verify),
    Route("POST", "/api/metrics/rebuild", "metrics.rebuild", "admin", rebuild),
)
