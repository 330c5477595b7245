"""``upload``: put files into the bucket, and follow them until they are rows, rejects and history."""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2.extras import RealDictCursor

from local_emulator.event_queue import EventQueue
from local_emulator.lifecycle import CommandFailed, require
from local_emulator.looking import ask, print_table
from local_emulator.state import Running, StateFolder
from shared import objectstore
from shared.errors import ObjectExists, RowdockError
from shared.events import object_event_id
from shared.objectstore import PART_BYTES, ObjectInfo, ObjectStore

if TYPE_CHECKING:
    from psycopg2.extensions import connection

ONE_REQUEST_BYTES = 64 * 1024 * 1024
POLL_S = 0.02
PROGRESS_S = 2.0
OUTCOME = """
select state, reason_code, reason, rows_read, rows_inserted + rows_updated as rows_loaded, rows_unchanged,
       rows_rejected, rows_pending, rows_rolled_back, rejects_by_reason
from ingest_status.ingest_status
where bucket = %s and object_name = %s and generation = %s order by run desc limit 1
"""
PROGRESS = """
select rows_read from ingest_status.attempts
where bucket = %s and object_name = %s and finished_at is null order by id desc limit 1
"""
COLUMNS = ("file", "state", "read", "loaded", "unchanged", "rejected", "pending", "seconds", "note")


def run(given: argparse.Namespace) -> int:
    """Upload the files; with ``--wait`` 0 only if every one of them was committed."""
    if given.name and len(given.files) > 1:
        raise CommandFailed("--as names one object; give one file", 2)
    running = require(given.state)
    store = objectstore.connect(running.environment["STORAGE_URL"])
    began = time.monotonic()
    uploaded = [_put(running, store, path, given.name or path.name) for path in given.files]
    if not given.wait:
        rows = [{"file": info.name, "bytes": info.size, "generation": info.generation} for info in uploaded]
        print(json.dumps(rows, indent=2)) if given.json else print_table(rows, ("file", "bytes", "generation"))
        return 0
    ends = _ends(running, given, uploaded, began)
    print(json.dumps(ends, indent=2)) if given.json else print_table(ends, COLUMNS)
    return 0 if all(end["state"] == "loaded" for end in ends) else 1


def _put(running: Running, store: ObjectStore, path: Path, name: str) -> ObjectInfo:
    """Write the file into the bucket and have the emulator look at it at once, whatever the store announces."""
    bucket = running.environment["UPLOAD_BUCKET"]
    try:
        if path.stat().st_size <= ONE_REQUEST_BYTES:
            info = store.put(bucket, name, path.read_bytes(), content_type="text/csv")
        else:
            info = _stream(store, bucket, name, path)
    except (OSError, RowdockError) as error:
        raise CommandFailed(f"{path} was not uploaded: {error}") from error
    ask(running, "POST", "/_emulator/announce", {"bucket": bucket, "name": name, "generation": info.generation})
    return info


def _stream(store: ObjectStore, bucket: str, name: str, path: Path) -> ObjectInfo:
    """Write a large file in parts. A streamed write only creates, so what is there is deleted first."""
    try:
        return _create(store, bucket, name, path)
    except ObjectExists:
        store.delete(bucket, name)
        return _create(store, bucket, name, path)


def _create(store: ObjectStore, bucket: str, name: str, path: Path) -> ObjectInfo:
    with path.open("rb") as file, store.create(bucket, name, content_type="text/csv") as writer:
        while part := file.read(PART_BYTES):
            writer.write(part)
    return store.stat(bucket, name)


def _ends(
    running: Running, given: argparse.Namespace, uploaded: list[ObjectInfo], began: float
) -> list[dict[str, Any]]:
    """Follow each object to its end."""
    url = running.environment["DATABASE_URL"]
    try:
        with closing(psycopg2.connect(url, application_name="rowdock-upload")) as conn:
            conn.autocommit = True
            return [_follow(conn, given, info, began) for info in uploaded]
    except psycopg2.Error as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise CommandFailed(f"history cannot be read ({why}), but the files are in the bucket: see status") from error


def _follow(conn: connection, given: argparse.Namespace, info: ObjectInfo, began: float) -> dict[str, Any]:
    """Wait until history has the object's generation, or its delivery is given up."""
    deadline, say_at = began + given.timeout, time.monotonic() + PROGRESS_S
    with (
        closing(EventQueue(StateFolder(given.state).queue)) as queue,
        conn.cursor(cursor_factory=RealDictCursor) as cursor,
    ):
        while True:
            cursor.execute(OUTCOME, (info.bucket, info.name, info.generation))
            if row := cursor.fetchone():
                return _end(info, dict(row), began)
            if dead := _dead(queue, info):
                return _not_loaded(info, "dead letter", f"delivery {dead['id']}: {dead['last_error']}", began)
            if time.monotonic() > deadline:
                return _not_loaded(info, "unknown", f"no end after {given.timeout:g} s", began)
            if time.monotonic() > say_at:
                say_at += PROGRESS_S
                cursor.execute(PROGRESS, (info.bucket, info.name))
                read = cursor.fetchone()
                print(f"{info.name}: {read['rows_read'] if read else 0:,} rows read", file=sys.stderr)
            time.sleep(POLL_S)


def _dead(queue: EventQueue, info: ObjectInfo) -> dict[str, Any] | None:
    event_id = object_event_id(info.bucket, info.name, info.generation)
    return next((row for row in queue.listing(state="dead", limit=1000) if row["event_id"] == event_id), None)


def _end(info: ObjectInfo, row: dict[str, Any], began: float) -> dict[str, Any]:
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(row["rejects_by_reason"].items()))
    return {
        "file": info.name,
        "state": row["state"],
        **{name: row[f"rows_{name}"] for name in ("read", "loaded", "unchanged", "rejected", "pending", "rolled_back")},
        "seconds": round(time.monotonic() - began, 3),
        "note": row["reason"] or reasons,
        "reason_code": row["reason_code"],
        "rejects_by_reason": row["rejects_by_reason"],
    }


def _not_loaded(info: ObjectInfo, state: str, note: str, began: float) -> dict[str, Any]:
    numbers = dict.fromkeys(("read", "loaded", "unchanged", "rejected", "pending"))
    return {"file": info.name, "state": state, **numbers, "seconds": round(time.monotonic() - began, 3), "note": note}
