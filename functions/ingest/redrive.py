"""Re-drive: rejects of one load are judged again, as they are, under the rules of today."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from functions.ingest import history, parked, replay
from functions.ingest.history import Load
from functions.ingest.judge import REJECTED, Judged
from functions.ingest.replay import Origin, Record
from shared import events
from shared.errors import EventRefused, ObjectNotFound

if TYPE_CHECKING:
    from psycopg2.extensions import connection

    from functions.ingest.services import Services

BATCH_ROWS = 20_000
RAW_CHARACTERS = 8192  # what a reject keeps of its record
# Judged alone, these would pass and overwrite the row that won: they are judged again only when named one by one.
LOST_TO_ANOTHER = ("duplicate", "superseded")


def redrive(services: Services, load_id: int, records: list[int] | None) -> dict[str, Any]:
    """Judge the open rejects of ``load_id`` again; those that pass go in, the others get today's reasons.

    Args:
        records: record numbers, or None for every open reject but those that lost to another row of their key.

    Returns:
        Fields for the log line.

    Raises:
        EventRefused: no such load, or its table has left the dictionary.
        TransientError: tried again, from where it stopped: what is closed is not judged twice.
    """
    total = {"load_id": load_id, "rows_read": 0, "rows_loaded": 0, "rows_rejected": 0, "rows_pending": 0, "cut": 0}
    after = 0
    with services.database.connection() as side:
        while True:
            with services.database.transaction(deadline_s=services.settings.deadline_s, lock_wait_s=20) as conn:
                source = replay.origin(services, conn, load_id)
                if source is None:
                    raise EventRefused(f"load {load_id} has no rows that could be judged again; see rowdock loads")
                batch = _open_rejects(conn, load_id, records, after)
                if not batch:
                    break
                after = batch[-1].record_number
                whole = [r for r in (_whole(services, conn, source, r) for r in batch) if r is not None]
                total["cut"] += len(batch) - len(whole)
                if whole:
                    _redrive_batch(services, side, conn, source, whole, total)
    if total["rows_pending"] or total["rows_loaded"]:
        services.send(events.make(events.PENDING_DRAIN, {}))
    return total


def _open_rejects(conn: connection, load_id: int, records: list[int] | None, after: int) -> list[Record]:
    with conn.cursor() as cursor:
        cursor.execute(
            "select record_number, line_number, byte_offset, byte_length, raw from ingest_status.rejects"
            " where load_id = %(load)s and record_number > %(after)s and closed_as is null"
            " and (record_number = any(%(records)s) or (%(records)s::bigint[] is null and not exists"
            "  (select from unnest(reasons) r where split_part(r, '.', 2) = any(%(lost)s))))"
            " order by record_number limit %(limit)s for update",
            {"load": load_id, "after": after, "records": records, "lost": list(LOST_TO_ANOTHER), "limit": BATCH_ROWS},
        )
        return [Record(n, line, offset, length, raw.encode()) for n, line, offset, length, raw in cursor.fetchall()]


def _whole(services: Services, conn: connection, source: Origin, record: Record) -> Record | None:
    """The record as the file has it: one whose raw text is not exact is read from its object; None if that is gone."""
    text = record.raw.decode()
    if len(text) < RAW_CHARACTERS and "\ufffd" not in text:
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


def _redrive_batch(
    services: Services,
    side: connection,
    conn: connection,
    source: Origin,
    records: list[Record],
    total: dict[str, Any],
) -> None:
    load = Load(kind="re-drive", table_name=source.statements.table.key)
    load.details = {"of_load": source.load_id, "why": "re-driven"}
    load.id = history.next_load_id(conn)
    load.counts.read = len(records)
    judged = replay.judge(services, side, source, records)
    replay.reject_repeated(judged, source.statements.table.primary_key)
    with conn.cursor() as cursor:
        _reject_superseded(cursor, source, judged)
        accepted = replay.bring_in(cursor, source, judged, load.counts)
        cursor.execute(
            "update ingest_status.rejects set closed_as = 're-driven', closed_at = clock_timestamp(),"
            " closed_by_load = %s where load_id = %s and record_number = any(%s)",
            (load.id, source.load_id, judged.record_numbers[accepted].tolist()),
        )
        replay.note_rejected(cursor, source, judged, load.counts)
        waiting = replay.waiting_into(cursor, source, judged, load.counts)
        if len(waiting):
            _park(cursor, conn, source, judged.record_numbers[waiting].tolist())
    history.record(conn, load)
    total["rows_read"] += load.counts.read
    total["rows_loaded"] += load.counts.inserted + load.counts.updated
    total["rows_rejected"] += load.counts.rejected
    total["rows_pending"] += load.counts.pending


def _park(cursor: Any, conn: connection, source: Origin, numbers: list[int]) -> None:
    """Rejects that wait for a parent now stop being rejects."""
    cursor.execute("alter table pg_temp.waiting alter parked_at set default now()")
    cursor.execute("update pg_temp.waiting set parked_at = now()")
    cursor.execute("insert into ingest_status.pending select * from pg_temp.waiting")
    cursor.execute(
        "delete from ingest_status.rejects where load_id = %s and record_number = any(%s)", (source.load_id, numbers)
    )
    parked.after_parking(conn, source.statements, source.load_id, numbers)


def _reject_superseded(cursor: Any, source: Origin, judged: Judged) -> None:
    """Reject what something newer came for: since it was parked, if it ever was, or that waits now."""
    usable = np.flatnonzero(judged.status != REJECTED)
    keys = [str(key) for key in judged.keys(usable)]
    cursor.execute(source.statements.lock_live_rows(), {"keys": keys})
    cursor.execute(
        source.statements.superseded_rejects(),
        {
            "numbers": judged.record_numbers[usable].tolist(),
            "keys": keys,
            "load_id": source.load_id,
            "table": source.statements.table.key,
        },
    )
    superseded = np.array([number for (number,) in cursor.fetchall()], np.int64)
    judged.reject(np.flatnonzero(np.isin(judged.record_numbers, superseded)), "record.superseded")
