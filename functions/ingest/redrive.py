"""Re-drive: rejects of one load are judged again, as they are, under the rules of today."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from functions.ingest import history, parked, replay
from functions.ingest.history import Load
from functions.ingest.judged import REJECTED, Judged
from functions.ingest.meanwhile import busy_if_written
from functions.ingest.replay import Origin, Record
from shared import events
from shared.errors import EventRefused, ObjectNotFound

if TYPE_CHECKING:
    from psycopg2.extensions import connection

    from functions.ingest.services import Services

BATCH_ROWS = 20_000
BATCH_BYTES = 16 << 20  # of records: one may have 64 MiB, so a batch has one at least
FETCHED_ROWS = 1_000
SOFT_STOP = 0.8  # of the deadline: no batch begins later; the rest of the time is the last one's
LOCK_WAIT_S = 20.0
RAW_CHARACTERS = 8192  # what a reject keeps of its record
# Judged alone, these would pass and overwrite the row that won: they are judged again only when named one by one.
LOST_TO_ANOTHER = ("duplicate", "superseded")


def redrive(services: Services, load_id: int, records: list[int] | None, after: int = 0) -> dict[str, Any]:
    """Judge the open rejects of ``load_id`` again; those that pass go in, the others get today's reasons.

    It goes in batches, each a transaction of its own, and stops in time: an event then asks for the rest. The same
    event delivered again ends with the same tables: what went in is closed, what stays rejected is judged once more.

    Args:
        records: record numbers, or None for every open reject but those that lost to another row of their key.
        after: the record number that an invocation before ended with.

    Returns:
        Fields for the log line; ``unfinished`` if there is more to do.

    Raises:
        EventRefused: no such load, or its table has left the dictionary.
        TransientError: delivered again, it begins behind ``after``.
    """
    total = {"load_id": load_id, "rows_read": 0, "rows_loaded": 0, "rows_rejected": 0, "rows_pending": 0, "cut": 0}
    started_s = time.monotonic()
    with services.database.connection() as side:
        drive = _Redrive(services, side, load_id, records, started_s, total)
        last = drive.batch(after)
        while last is not None and time.monotonic() <= drive.stops_s:
            last = drive.batch(last)
    if last is not None:
        services.send(events.make(events.REDRIVE, {"load_id": load_id, "records": records, "after": last}))
    if total["rows_pending"] or total["rows_loaded"]:
        services.send(events.make(events.PENDING_DRAIN, {}))
    return total | ({"unfinished": True} if last is not None else {})


@dataclass(frozen=True, slots=True)
class _Redrive:
    """One invocation: what it works on, since when, and what came of it so far."""

    services: Services
    side: connection
    load_id: int
    records: list[int] | None
    started_s: float
    total: dict[str, int]

    @property
    def stops_s(self) -> float:
        return self.started_s + self.services.settings.deadline_s * SOFT_STOP

    def batch(self, after: int) -> int | None:
        """Judge the next batch behind ``after``; returns the number of its last record, None if there was none."""
        left_s = self.started_s + self.services.settings.deadline_s - time.monotonic()
        with (
            busy_if_written(),
            self.services.database.transaction(deadline_s=left_s, lock_wait_s=LOCK_WAIT_S) as conn,
        ):
            _hold(conn, self.load_id)
            source = replay.origin(self.services, conn, self.load_id)
            if source is None:
                raise EventRefused(f"load {self.load_id} has no rows that could be judged again; see rowdock loads")
            found = _open_rejects(conn, self.load_id, self.records, after)
            if not found:
                return None
            last, whole = self._read_whole(conn, source, found)
            if whole:
                self._judge(conn, source, whole)
        return last

    def _read_whole(self, conn: connection, source: Origin, found: list[Record]) -> tuple[int, list[Record]]:
        """The records as their file has them, for which there is time and room; the last one that was looked at."""
        whole, last, size = [], found[0].record_number, 0
        for number, record in enumerate(found):
            is_exact = _is_exact(record)
            size += len(record.raw) if is_exact else record.byte_length
            if number and (size > BATCH_BYTES or (not is_exact and time.monotonic() > self.stops_s)):
                break
            last = record.record_number
            if read := _whole(self.services, conn, source, record):
                whole.append(read)
            else:
                self.total["cut"] += 1
        return last, whole

    def _judge(self, conn: connection, source: Origin, found: list[Record]) -> None:
        load = Load(kind="re-drive", table_name=source.statements.table.key)
        load.details = {"of_load": source.load_id, "why": "re-driven"}
        load.id = history.next_load_id(conn)
        load.counts.read = len(found)
        judged = replay.judge(self.services, self.side, source, found)
        replay.reject_repeated(judged, source.statements.table.primary_key)
        with conn.cursor() as cursor:
            _reject_twins(cursor, source, judged, self.records)
            live = _reject_superseded(cursor, source, judged)
            accepted = replay.bring_in(cursor, source, judged, load.counts, live)
            _close(cursor, source, judged, accepted, load.id)
            replay.note_rejected(cursor, source, judged, load.counts)
            waiting = replay.waiting_into(cursor, source, judged, load.counts)
            if len(waiting):
                _park(cursor, conn, source, judged.record_numbers[waiting].tolist())
        history.record(conn, load)
        self.total["rows_read"] += load.counts.read
        self.total["rows_loaded"] += load.counts.inserted + load.counts.updated
        self.total["rows_rejected"] += load.counts.rejected
        self.total["rows_pending"] += load.counts.pending


def _hold(conn: connection, load_id: int) -> None:
    """Re-drives of one load go one after the other, and no sweep forgets it meanwhile."""
    with conn.cursor() as cursor:
        cursor.execute("select from ingest_status.ingest_status where id = %s for no key update", (load_id,))


def _open_rejects(conn: connection, load_id: int, records: list[int] | None, after: int) -> list[Record]:
    """The next ones, as much of each as the reject keeps: what is beyond ``BATCH_BYTES`` is not fetched."""
    found, size = [], 0
    with conn.cursor("open_rejects") as cursor:
        cursor.itersize = FETCHED_ROWS
        cursor.execute(
            "select record_number, line_number, byte_offset, byte_length, raw from ingest_status.rejects"
            " where load_id = %(load)s and record_number > %(after)s and closed_as is null"
            " and (record_number = any(%(records)s) or (%(records)s::bigint[] is null and not exists"
            "  (select from unnest(reasons) r where split_part(r, '.', 2) = any(%(lost)s))))"
            " order by record_number limit %(limit)s for update",
            {"load": load_id, "after": after, "records": records, "lost": list(LOST_TO_ANOTHER), "limit": BATCH_ROWS},
        )
        for number, line, offset, length, raw in cursor:
            found.append(Record(number, line, offset, length, raw.encode()))
            size += len(found[-1].raw)
            if size >= BATCH_BYTES:
                break
    return found


def _is_exact(record: Record) -> bool:
    """Whether the reject kept all of its record, with no character put in place of a byte."""
    text = record.raw.decode()
    return len(text) < RAW_CHARACTERS and "\ufffd" not in text


def _whole(services: Services, conn: connection, source: Origin, record: Record) -> Record | None:
    """The record as the file has it: one whose raw text is not exact is read from its object; None if that is gone."""
    if _is_exact(record):
        return record
    with conn.cursor() as cursor:
        cursor.execute(
            "select bucket, object_name, generation, details ? 'transformed',"
            " coalesce((details ->> 'skipped_bytes')::int, 0) from ingest_status.ingest_status where id = %s",
            (source.load_id,),
        )
        bucket, name, generation, transformed, skipped = cursor.fetchone()  # type: ignore[misc]  # origin() found the row
    if bucket is None or transformed:
        return None
    try:
        start = record.byte_offset + skipped
        with services.store.open_read(bucket, name, generation, start, start + record.byte_length) as reader:
            return replace(record, raw=reader.read(record.byte_length))
    except ObjectNotFound:
        return None


def _reject_twins(cursor: Any, source: Origin, judged: Judged, records: list[int] | None) -> None:
    """Of records of one key the first stands: one that a batch before brought in, or that waits, is never overwritten.

    A record that was named yields to named ones alone.
    """
    usable = np.flatnonzero(judged.status != REJECTED)
    keys = [str(key) for key in judged.keys(usable)]
    cursor.execute(
        "select row_key from ingest_status.rejects where load_id = %(load)s and row_key = any(%(keys)s)"
        " and (%(records)s::bigint[] is null or record_number = any(%(records)s))"
        " union select row_key from ingest_status.pending where table_name = %(table)s and row_key = any(%(keys)s)"
        " and load_id = %(load)s and (%(records)s::bigint[] is null or record_number = any(%(records)s))",
        {"load": source.load_id, "table": source.statements.table.key, "keys": keys, "records": records},
    )
    taken = {key for (key,) in cursor.fetchall()}
    twins = [row for row, key in zip(usable.tolist(), keys, strict=True) if key in taken]
    if twins:
        judged.reject(np.array(twins, np.int64), f"{source.statements.table.primary_key}.duplicate")


def _close(cursor: Any, source: Origin, judged: Judged, accepted: NDArray[np.int64], load_id: int) -> None:
    """The rejects that went in are closed, each with the key of the row that it became."""
    keys = [str(key) for key in judged.keys(accepted)]
    cursor.execute(
        "update ingest_status.rejects r set closed_as = 're-driven', closed_at = clock_timestamp(),"
        " closed_by_load = %s, row_key = n.row_key from unnest(%s::bigint[], %s::text[]) n (record_number, row_key)"
        " where r.load_id = %s and r.record_number = n.record_number",
        (load_id, judged.record_numbers[accepted].tolist(), keys, source.load_id),
    )


def _park(cursor: Any, conn: connection, source: Origin, numbers: list[int]) -> None:
    """Rejects that wait for a parent now stop being rejects."""
    cursor.execute("alter table pg_temp.waiting alter parked_at set default now()")
    cursor.execute("update pg_temp.waiting set parked_at = now()")
    cursor.execute("insert into ingest_status.pending select * from pg_temp.waiting")
    cursor.execute(
        "delete from ingest_status.rejects where load_id = %s and record_number = any(%s)", (source.load_id, numbers)
    )
    parked.after_parking(conn, source.statements, source.load_id, numbers)


def _reject_superseded(cursor: Any, source: Origin, judged: Judged) -> set[int]:
    """Reject what something newer came for: since it was parked, if it ever was, or that waits now.

    Returns:
        Numbers of the records whose key has a live row; these rows are held.
    """
    usable = np.flatnonzero(judged.status != REJECTED)
    named: dict[str, Any] = {
        "numbers": judged.record_numbers[usable].tolist(),
        "keys": [str(key) for key in judged.keys(usable)],
        "load_id": source.load_id,
        "table": source.statements.table.key,
    }
    cursor.execute(source.statements.lock_live_rows(), named)
    live = {number for (number,) in cursor.fetchall()}
    cursor.execute(source.statements.superseded_rejects(), named)
    superseded = np.array([number for (number,) in cursor.fetchall()], np.int64)
    judged.reject(np.flatnonzero(np.isin(judged.record_numbers, superseded)), "record.superseded")
    return live
