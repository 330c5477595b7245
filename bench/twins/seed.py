"""The seed's way: Flask's own server, and for each row of a request a connection, a statement and a commit.

``python -m bench.twins.seed PORT``, with ``DATABASE_URL``. Without rules, rejects, history and roll-up.
"""

from __future__ import annotations

import os
import sys
from contextlib import closing
from typing import Any

import psycopg2
from flask import Flask, jsonify, request

app = Flask(__name__)
COLUMNS = ("id", "employee_name", "hired_date", "department_id", "job_id")


def execute(statement: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """Run one statement on a connection of its own."""
    with closing(psycopg2.connect(os.environ["DATABASE_URL"])) as conn, conn, conn.cursor() as cursor:
        cursor.execute(statement, values)
        return cursor.fetchall() if cursor.description else []


@app.get("/api/employees/<int:key>")
def read(key: int) -> Any:
    """One row by its id."""
    rows = execute(f"select {', '.join(COLUMNS)} from twin.employees where id = %s", (key,))
    return jsonify({"data": dict(zip(COLUMNS, rows[0], strict=True))}) if rows else (jsonify({"data": None}), 404)


@app.post("/api/employees")
def add() -> Any:
    """Add the listed rows, one by one."""
    rows = request.get_json()["data"]
    for row in rows:
        execute("insert into twin.employees values (%s, %s, %s, %s, %s)", tuple(row[name] for name in COLUMNS))
    return jsonify({"inserted": len(rows)}), 201


if __name__ == "__main__":
    app.run("127.0.0.1", int(sys.argv[1]), threaded=True)
