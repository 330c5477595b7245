"""The limit of a function that asks PostgreSQL once: a hello world and the one query, nothing else.

A connection for each thread, kept for ever: no pool, no route, no rights, no limits, no log, no header, no 404.
"""

from __future__ import annotations

import os
import threading

import flask
import functions_framework
import psycopg2

KEPT = threading.local()
ROW = """
select md5((t.*)::text), (select row_to_json(r.*)::text from (
  select id, employee_name, replace((hired_date at time zone 'UTC')::text, ' ', 'T') || 'Z' as hired_date,
         department_id, job_id) r)
from hired_employees.hired_employees t where id = %s
"""


@functions_framework.http
def api(request: flask.Request) -> flask.Response:
    """Answer with the row whose id ends the path."""
    if not hasattr(KEPT, "conn"):
        KEPT.conn = psycopg2.connect(os.environ["DATABASE_URL"])
        KEPT.conn.autocommit = True
    with KEPT.conn.cursor() as cursor:
        cursor.execute(ROW, (int(request.path.rpartition("/")[2]),))
        _, row = cursor.fetchone()
    return flask.Response(f'{{"data":{row}}}', content_type="application/json")
