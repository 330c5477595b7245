"""History: one row per load that ended, written in the load's own transaction, and the attempts beside it."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from psycopg2.extras import Json

from shared.errors import DatabaseBusy

if TYPE_CHECKING:
    from psycopg2.extensions import connection

PROGRESS_EVERY_S = 2.0


@dataclass(slots=True)
class Counts:
    """How the rows of a load ended; every row read ends in exactly one way."""

    read: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    rejected: int = 0
    pending: int = 0
    rolled_back: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def check(self) -> None:
        """Raise RuntimeError unless the ends add up to the rows read: a defect of ours, never of the file."""
        ends = self.inserted + self.updated + self.unchanged + self.rejected + self.pending + self.rolled_back
        if ends != self.read or min(self.inserted, self.updated, self.unchanged, self.rejected, self.pending) < 0:
            raise RuntimeError(f"rows do not add up: {self}")

    def as_fields(self) -> dict[str, int]:
        """The counts under the names that history and log lines use."""
        return {
            f"rows_{name}": getattr(self, name)
            for name in ("read", "inserted", "updated", "unchanged", "rejected", "pending", "rolled_back")
        }


@dataclass(slots=True)
class Load:
    """One row of ``ingest_status.ingest_status`` in the making; attributes are its columns."""

    kind: str
    state: str = "loaded"
    table_name: str | None = None
    bucket: str | None = None
    object_name: str | None = None
    generation: str | None = None
    run: int = 1
    file_size: int | None = None
    etag: str | None = None
    crc32c: str | None = None
    reason_code: str | None = None
    reason: str | None = None
    forced: bool = False
    columns: list[str | None] | None = None
    delimiter: str | None = None
    last_id: int | None = None
    event_id: str | None = None
    event_source: str | None = None
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    details: dict[str, Any] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    id: int | None = None

    def as_fields(self) -> dict[str, Any]:
        """What the canonical log line says: where, how it ended, counts; never a value from a row."""
        named = {
            "load_id": self.id,
            "bucket": self.bucket,
            "object": self.object_name,
            "generation": self.generation,
            "table": self.table_name,
            "state": self.state,
            "reason_code": self.reason_code,
        }
        return {k: v for k, v in named.items() if v is not None} | self.counts.as_fields()


def next_load_id(conn: connection) -> int:
    """Reserve the id of a load, for its rejects to carry."""
    with conn.cursor() as cursor:
        cursor.execute("select nextval(pg_get_serial_sequence('ingest_status.ingest_status', 'id'))")
        return int(cursor.fetchone()[0])  # type: ignore[index]  # nextval gives one row


def record(conn: connection, load: Load) -> None:
    """Write the load's row; its counts must add up. ``load.id`` is set if it was None."""
    load.counts.check()
    if load.id is None:
        load.id = next_load_id(conn)
    values: dict[str, Any] = {
        "id": load.id,
        "file_name": load.object_name,
        "rejects_by_reason": Json(dict(load.counts.reasons)),
        "details": Json(load.details),
    } | load.counts.as_fields()
    for name in Load.__slots__:
        if name not in ("counts", "details", "id"):
            values[name] = getattr(load, name)
    # Both lists come from the dataclass's own field names, never from input.
    columns, places = ", ".join(values), ", ".join(f"%({name})s" for name in values)
    with conn.cursor() as cursor:
        cursor.execute(
            f"insert into ingest_status.ingest_status ({columns}) overriding system value values ({places})",  # noqa: S608
            values,
        )


def claim(conn: connection, bucket: str, name: str) -> None:
    """Hold the object for this transaction, so that twins and generations of one object go one after the other.

    Raises:
        DatabaseBusy: another transaction holds it; never acknowledged, for that one may still fail.
    """
    with conn.cursor() as cursor:
        cursor.execute("select pg_try_advisory_xact_lock(hashtextextended(%s, 0))", (f"object:{bucket}/{name}",))
        if not cursor.fetchone()[0]:  # type: ignore[index]  # a function call gives one row
            raise DatabaseBusy(f"another delivery is loading {bucket}/{name}; this one is tried again later")


def last_run(conn: connection, bucket: str, name: str, generation: str) -> tuple[int, str, int] | None:
    """(run, state, load id) of the latest load of this generation, or None."""
    with conn.cursor() as cursor:
        cursor.execute(
            "select run, state, id from ingest_status.ingest_status"
            " where bucket = %s and object_name = %s and generation = %s order by run desc limit 1",
            (bucket, name, generation),
        )
        found: tuple[int, str, int] | None = cursor.fetchone()
        return found


class Attempt:
    """Progress of one try, for people who watch; on a connection of its own, in autocommit. It decides nothing."""

    def __init__(self, side: connection, bucket: str, name: str, generation: str, event_id: str) -> None:
        self._side = side
        self._next_s = time.monotonic() + PROGRESS_EVERY_S
        with side.cursor() as cursor:
            cursor.execute(
                "insert into ingest_status.attempts (bucket, object_name, generation, event_id)"
                " values (%s, %s, %s, %s) returning id",
                (bucket, name, generation, event_id),
            )
            self._id = cursor.fetchone()[0]  # type: ignore[index]  # returning gives one row

    def progress(self, rows_read: int, bytes_read: int) -> None:
        """Write how far the load is, at most every ``PROGRESS_EVERY_S`` seconds."""
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + PROGRESS_EVERY_S
            self._write("rows_read = %s, bytes_read = %s", rows_read, bytes_read)

    def finish(self, outcome: str, error_code: str | None = None) -> None:
        """Write how the try ended: the load's state, ``duplicate`` or ``failed``."""
        self._write("finished_at = clock_timestamp(), outcome = %s, error_code = %s", outcome, error_code)

    def _write(self, assignments: str, *values: object) -> None:
        with self._side.cursor() as cursor:
            cursor.execute(
                f"update ingest_status.attempts set updated_at = clock_timestamp(), {assignments} where id = %s",  # noqa: S608
                (*values, self._id),
            )
