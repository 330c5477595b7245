"""Drain: parked rows whose parent has come go in, in bounded batches, each a transaction of its own."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from psycopg2 import sql

from functions.ingest import history, parked, replay
from functions.ingest.history import Load
from functions.ingest.meanwhile import busy_if_written
from functions.ingest.replay import Origin, Record
from functions.ingest.walk import Batch, Walk, Walks
from shared import events

if TYPE_CHECKING:
    from psycopg2.extensions import connection

    from functions.ingest.services import Services

LOCK_WAIT_S = 60.0


def drain(services: Services) -> dict[str, Any]:
    """Bring in every parked row that can go in now; what the deadline leaves over is asked for again by an event.

    Returns:
        Fields for the log line: batches, rows that went in, that were rejected, that wait on.

    Raises:
        TransientError: another drain held the lock too long, another writer changed what a batch relies on, or the
            database failed; the wake-ups stay.
    """
    ends_s = time.monotonic() + services.settings.deadline_s * 0.8
    with services.database.connection() as side:
        work = _Drain(services, side, Walks.of(services.dictionary))
        while _has_wakeups(side):
            if time.monotonic() > ends_s:
                work.ask_again()
                return work.as_fields() | {"unfinished": True}
            work.batch()
    return work.as_fields()


def _has_wakeups(side: connection) -> bool:
    with side.cursor() as cursor:
        cursor.execute("select exists (select from ingest_status.wakeups)")
        return bool(cursor.fetchone()[0])  # type: ignore[index]  # a select exists gives one row


@dataclass(slots=True)
class _Drain:
    """One invocation: what it works on, and what came of it so far."""

    services: Services
    side: connection
    walks: Walks
    total: dict[str, int] = field(
        default_factory=lambda: {"batches": 0, "rows_loaded": 0, "rows_rejected": 0, "rows_pending": 0}
    )
    without_history: set[int] = field(default_factory=set)

    def as_fields(self) -> dict[str, Any]:
        """For the log line; what there is nothing to tell of is left out."""
        fields: dict[str, Any] = dict(self.total)
        if self.walks.keys_stuck:
            fields["keys_stuck"] = self.walks.keys_stuck
        if self.without_history:
            fields["loads_without_history"] = sorted(self.without_history)
            fields["to_mend"] = "rows wait whose load's history is missing: restore it, or let them expire"
        return fields

    def ask_again(self) -> None:
        """Send the event that goes on with the drain, unless all its batches changed nothing: then the sweep does."""
        if self.total["batches"] or not (self.walks.keys_stuck or self.without_history):
            self.services.send(events.make(events.PENDING_DRAIN, {}))

    def batch(self) -> None:
        """One transaction: take the wake-ups, bring in one batch, leave a wake-up again if there may be more.

        There is an end to it: every batch is further on its way than the one before.

        The wake-ups are taken with the rows that they lead to, so that a crash leaves both. Drains go one after the
        other; one that parks a row anew, for another parent, leaves a wake-up as every parking does.
        """
        deadline_s = self.services.settings.deadline_s
        with (
            busy_if_written(),
            self.services.database.transaction(deadline_s=deadline_s, lock_wait_s=LOCK_WAIT_S) as conn,
            conn.cursor() as cursor,
        ):
            cursor.execute("select pg_advisory_xact_lock(hashtextextended('drain', 0))")
            cursor.execute("delete from ingest_status.wakeups returning id, parent_table")
            self.walks.take(dict(cursor.fetchall()))
            for walk in self.walks.walks:
                if batch := walk.next_batch(conn):
                    self._bring_in(conn, walk, batch)
                    self.walks.own |= parked.leave_wakeups(cursor, walk.table)
                    return

    def _bring_in(self, conn: connection, walk: Walk, batch: Batch) -> None:
        """Judge and merge one batch; history tells of it if it changed anything."""
        source = replay.origin(self.services, conn, batch.load_id)
        if source is None:  # a restore of the rows alone can bring that about: the other loads' go in
            self.without_history.add(batch.load_id)
            walk.pass_over(batch.load_id)
            return
        load = Load(kind="re-drive", table_name=walk.table.key)
        load.details = {"of_load": batch.load_id, "why": "parent arrived"}
        load.id = history.next_load_id(conn)
        load.counts.read = len(batch.record_numbers)
        with conn.cursor() as cursor:
            load.counts.rejected = _reject_superseded(cursor, source, batch.record_numbers)
            load.counts.reasons.update({"record.superseded": load.counts.rejected} if load.counts.rejected else {})
            moved = self._judge_rest(cursor, source, batch.record_numbers, load, walk)
        if not moved and load.counts.pending == load.counts.read:
            return  # nothing changed: no history
        history.record(conn, load)
        self.total["batches"] += 1
        self.total["rows_loaded"] += load.counts.inserted + load.counts.updated
        self.total["rows_rejected"] += load.counts.rejected
        self.total["rows_pending"] += load.counts.pending

    def _judge_rest(self, cursor: Any, source: Origin, numbers: list[int], load: Load, walk: Walk) -> int:
        """Judge and merge; returns how many rows wait for another key now. Keys still waited for are the walk's."""
        records, live = _parked_records(cursor, source.load_id, numbers)
        if not records:
            return 0
        judged = replay.judge(self.services, self.side, source, records)
        replay.bring_in(cursor, source, judged, load.counts, live)
        replay.note_rejected(cursor, source, judged, load.counts)
        waiting = replay.waiting_into(cursor, source, judged, load.counts)
        moved = _move(cursor, walk) if len(waiting) else 0
        still = set(judged.record_numbers[waiting].tolist())
        cursor.execute(
            "delete from ingest_status.pending where load_id = %s and record_number = any(%s)",
            (source.load_id, [r.record_number for r in records if r.record_number not in still]),
        )
        return moved


def _reject_superseded(cursor: Any, source: Origin, numbers: list[int]) -> int:
    """Reject those of ``numbers`` whose live row changed since they were parked, or that a later load parked again."""
    s = source.statements
    batch = {"load_id": source.load_id, "numbers": numbers, "table": s.table.key}
    cursor.execute(
        sql.SQL(
            "select from {name} t where t.{key} in (select row_key::{type} from ingest_status.pending"
            " where load_id = %(load_id)s and record_number = any(%(numbers)s)) order by t.{key} for no key update"
        ).format(name=s.name, key=s.key, type=s.key_type),
        batch,
    )
    changed_or_again = sql.SQL(
        "p.load_id = %(load_id)s and p.record_number = any(%(numbers)s)"
        " and ((select md5(t::text) from {name} t where t.{key} = p.row_key::{type}) is distinct from p.live_hash"
        "  or exists (select from ingest_status.pending n where n.table_name = %(table)s and n.row_key = p.row_key"
        "   and n.load_id > p.load_id))"
    ).format(name=s.name, key=s.key, type=s.key_type)
    ended = parked.reject_parked(cursor, parked.SUPERSEDED, changed_or_again, batch)
    return sum(count for *_, count in ended)


def _parked_records(cursor: Any, load_id: int, numbers: list[int]) -> tuple[list[Record], set[int]]:
    """The records, and the numbers of those whose live row is the one that they were parked over; it is held."""
    cursor.execute(
        "select record_number, line_number, byte_offset, byte_length, raw, live_hash is not null"
        " from ingest_status.pending where load_id = %s and record_number = any(%s) order by record_number",
        (load_id, numbers),
    )
    records, live = [], set()
    for number, line, offset, length, raw, is_live in cursor:
        records.append(Record(number, line, offset, length, raw.encode()))
        if is_live:
            live.add(number)
    return records, live


def _move(cursor: Any, walk: Walk) -> int:
    """Let the rows of ``pg_temp.waiting`` wait for the key that they lack now; returns how many lack another one."""
    cursor.execute(
        "update ingest_status.pending p set waits_on = w.waits_on, waits_for = w.waits_for from pg_temp.waiting w"
        " where p.load_id = w.load_id and p.record_number = w.record_number"
        " and (p.waits_on, p.waits_for) <> (w.waits_on, w.waits_for)"
    )
    moved = int(cursor.rowcount)
    cursor.execute("select distinct waits_for from pg_temp.waiting where waits_on = %s", (walk.column.name,))
    walk.stuck.update(key for (key,) in cursor.fetchall())
    return moved
