"""A table to one AVRO object as anyone would write it: a server-side cursor, a dict for each row, fastavro's writer.

``python -m bench.twins.fastavro_out OBJECT ROWS``, told the rest by DATABASE_URL, STORAGE_URL and BACKUP_BUCKET. It
prints the seconds that it took without Python's own start.
"""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import fastavro
import psycopg2
from psycopg2.extras import RealDictCursor

from shared import objectstore
from shared.objectstore import ObjectWriter

BATCH_ROWS = 10_000
SCHEMA = {
    "type": "record",
    "name": "hired_employees",
    "fields": [
        {"name": "id", "type": "int"},
        {"name": "employee_name", "type": "string"},
        {"name": "hired_date", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "department_id", "type": "int"},
        {"name": "job_id", "type": "int"},
    ],
}


class Stream(io.RawIOBase):
    """A writer of the store as the file that fastavro wants: it asks whether it can be sought."""

    def __init__(self, out: ObjectWriter) -> None:
        self.write = out.write  # type: ignore[method-assign,assignment]


def rows(limit: int) -> Iterator[dict[str, Any]]:
    """The table's first rows as dicts."""
    with (
        closing(psycopg2.connect(os.environ["DATABASE_URL"])) as conn,
        conn.cursor("rows", cursor_factory=RealDictCursor) as cursor,
    ):
        cursor.itersize = BATCH_ROWS
        cursor.execute("select * from hired_employees.hired_employees limit %s", (limit,))
        yield from cursor


def main(name: str, limit: int) -> None:
    """Write the object."""
    started = time.perf_counter()
    store = objectstore.connect(os.environ["STORAGE_URL"])
    with store.create(os.environ["BACKUP_BUCKET"], name) as out:
        fastavro.writer(Stream(out), SCHEMA, rows(limit), codec="deflate")
    print(time.perf_counter() - started)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
