"""Drain: parked rows whose parent has come go in, in bounded batches, each a transaction of its own."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from psycopg2 import sql

from functions.ingest import history, parked, replay
from functions.ingest.history import Load
from functions.ingest.meanwhile import busy_if_written
from functions.ingest.replay import Origin, Record
from functions.ingest.statements import Statements
from shared import events

if TYPE_CHECKING:
    from psycopg2.extensions import connection

    from functions.ingest.services import Services
    from shared.dictionary import Column, Table

BATCH_ROWS = 20_000
KEYS_AT_ONCE = 1_000
LOCK_WAIT_S = 60.0


def drain(services: Services) -> dict[str, Any]:
    """Bring in every parked row that can go in now; what the deadline leaves over is asked for again by an event.

    Returns:
        Fields for the log line: batches, rows that went in, that were rejected, that wait on.

    Raises:
        TransientError: another drain held the lock too long, or the database failed; the wake-ups stay.
    """
    ends_s = time.monotonic() + services.settings.deadline_s * 0.8
    total: dict[str, Any] = {"batches": 0, "rows_loaded": 0, "rows_rejected": 0, "rows_pending": 0}
    stuck = Stuck()
    with services.database.connection() as side:
        while _has_wakeups(side):
            if time.monotonic() > ends_s:
                return total | {"unfinished": True} | _ask_again(services, stuck, total)
            _drain_batch(services, side, stuck, total)
    return total | stuck.as_fields()


@dataclass(slots=True)
class Stuck:
    """Keys whose parent seemed to be there, but not when the rows were judged: they are left alone until one comes.

    A parent removed in between does that, and so would a defect of ours, which must not judge the same rows for ever.

    Attributes:
        keys: by (table, column), as ``pending.waits_for`` has them.
        own: ids of the wake-ups that this drain left itself; any other tells that something came.
    """

    keys: dict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    own: set[int] = field(default_factory=set)

    def take(self, wakeups: set[int]) -> None:
        """Forget all keys if one of ``wakeups`` is somebody else's."""
        if wakeups - self.own:
            self.keys.clear()

    def as_fields(self) -> dict[str, int]:
        """For the log line, where there is something to tell."""
        count = sum(map(len, self.keys.values()))
        return {"keys_stuck": count} if count else {}


def _ask_again(services: Services, stuck: Stuck, total: dict[str, Any]) -> dict[str, int]:
    """Send the event that goes on with the drain, unless all its batches changed nothing: then the sweep does."""
    if total["batches"] or not stuck.keys:
        services.send(events.make(events.PENDING_DRAIN, {}))
    return stuck.as_fields()


def _has_wakeups(side: connection) -> bool:
    with side.cursor() as cursor:
        cursor.execute("select exists (select from ingest_status.wakeups)")
        return bool(cursor.fetchone()[0])  # type: ignore[index]  # a select exists gives one row


def _drain_batch(services: Services, side: connection, stuck: Stuck, total: dict[str, Any]) -> None:
    """One transaction: take the wake-ups, bring in one batch, leave a wake-up again if there may be more.

    There is an end to it: a batch loads, rejects or moves rows, or its keys are ``stuck``.

    The wake-ups are taken with the rows that they lead to, so that a crash leaves both. Drains go one after the other;
    one that parks a row anew, for another parent, leaves a wake-up as every parking does.
    """
    deadline_s = services.settings.deadline_s
    with (
        busy_if_written(),
        services.database.transaction(deadline_s=deadline_s, lock_wait_s=LOCK_WAIT_S) as conn,
        conn.cursor() as cursor,
    ):
        cursor.execute("select pg_advisory_xact_lock(hashtextextended('drain', 0))")
        cursor.execute("delete from ingest_status.wakeups returning id")
        stuck.take({wakeup for (wakeup,) in cursor.fetchall()})
        for table in services.dictionary.tables.values():
            for column in table.columns:
                ready = column.references and _ready_keys(cursor, services, table, column, stuck)
                if not ready:
                    continue
                _bring_in(services, side, conn, table, column, ready, stuck, total)
                stuck.own.update(parked.leave_wakeups(cursor, Statements(table)))
                return


def _ready_keys(cursor: Any, services: Services, table: Table, column: Column, stuck: Stuck) -> list[str]:
    """Keys that rows of ``table`` wait for in ``column`` and that have a parent row now, a bounded number of them.

    The distinct keys are stepped through in the index on (table_name, waits_on, waits_for), however many rows wait.
    """
    parent = Statements(services.dictionary.tables[str(column.references)])
    cursor.execute(
        sql.SQL(
            """
            with recursive waited (key) as (
              (select waits_for from ingest_status.pending where table_name = %(table)s and waits_on = %(column)s
               order by waits_for limit 1)
              union all
              select (select p.waits_for from ingest_status.pending p where p.table_name = %(table)s
                      and p.waits_on = %(column)s and p.waits_for > w.key order by p.waits_for limit 1)
              from waited w where w.key is not null)
            select key from waited where key is not null and key <> all(%(stuck)s)
              and exists (select from {parent} where {id} = key::{type}) limit %(limit)s
            """
        ).format(parent=parent.name, id=parent.key, type=parent.key_type),
        {
            "table": table.key,
            "column": column.name,
            "limit": KEYS_AT_ONCE,
            "stuck": list(stuck.keys[table.key, column.name]),
        },
    )
    return [key for (key,) in cursor.fetchall()]


def _bring_in(
    services: Services,
    side: connection,
    conn: connection,
    table: Table,
    column: Column,
    keys: list[str],
    stuck: Stuck,
    total: dict[str, Any],
) -> None:
    """Judge and merge up to ``BATCH_ROWS`` rows of the oldest load that waits for one of ``keys``."""
    with conn.cursor() as cursor:
        waits = {"table": table.key, "column": column.name, "keys": keys, "limit": BATCH_ROWS}
        cursor.execute(
            "select load_id, record_number from ingest_status.pending where table_name = %(table)s"
            " and waits_on = %(column)s and waits_for = any(%(keys)s) order by load_id, record_number limit %(limit)s"
            " for update",
            waits,
        )
        found = cursor.fetchall()
        if not found:
            return  # a newer load took them away since their keys were looked at
        load_id = found[0][0]
        numbers = [number for load, number in found if load == load_id]
        source = replay.origin(services, conn, load_id)
        if source is None:
            raise RuntimeError(f"load {load_id} has parked rows of {table.key} but no history to read them by")
        load = Load(kind="re-drive", table_name=table.key, details={"of_load": load_id, "why": "parent arrived"})
        load.id = history.next_load_id(conn)
        load.counts.read = len(numbers)
        load.counts.rejected = _reject_superseded(cursor, source, numbers)
        load.counts.reasons.update({"record.superseded": load.counts.rejected} if load.counts.rejected else {})
        moved, still = _judge_rest(services, side, cursor, source, numbers, load, column)
        stuck.keys[table.key, column.name].update(still)
        if not moved and load.counts.pending == load.counts.read:
            return  # nothing changed: no history
        history.record(conn, load)
    total["batches"] += 1
    total["rows_loaded"] += load.counts.inserted + load.counts.updated
    total["rows_rejected"] += load.counts.rejected
    total["rows_pending"] += load.counts.pending


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


def _judge_rest(
    services: Services, side: connection, cursor: Any, source: Origin, numbers: list[int], load: Load, column: Column
) -> tuple[int, list[str]]:
    """Judge and merge; returns how many rows wait for another key now, and which of ``column`` are still waited for."""
    cursor.execute(
        "select record_number, line_number, byte_offset, byte_length, raw, live_hash is not null"
        " from ingest_status.pending where load_id = %s and record_number = any(%s) order by record_number",
        (source.load_id, numbers),
    )
    found = cursor.fetchall()
    records = [Record(n, line, offset, length, raw.encode()) for n, line, offset, length, raw, _ in found]
    live = {number for number, *_, is_live in found if is_live}
    if not records:
        return 0, []
    judged = replay.judge(services, side, source, records)
    replay.bring_in(cursor, source, judged, load.counts, live)
    replay.note_rejected(cursor, source, judged, load.counts)
    waiting = replay.waiting_into(cursor, source, judged, load.counts)
    moved, stuck = _move(cursor, column) if len(waiting) else (0, [])
    still = set(judged.record_numbers[waiting].tolist())
    cursor.execute(
        "delete from ingest_status.pending where load_id = %s and record_number = any(%s)",
        (source.load_id, [r.record_number for r in records if r.record_number not in still]),
    )
    return moved, stuck


def _move(cursor: Any, column: Column) -> tuple[int, list[str]]:
    """Let the rows of ``pg_temp.waiting`` wait for the key that they lack now; the rest as ``_judge_rest``."""
    cursor.execute(
        "update ingest_status.pending p set waits_on = w.waits_on, waits_for = w.waits_for from pg_temp.waiting w"
        " where p.load_id = w.load_id and p.record_number = w.record_number"
        " and (p.waits_on, p.waits_for) <> (w.waits_on, w.waits_for)"
    )
    moved = int(cursor.rowcount)
    cursor.execute("select distinct waits_for from pg_temp.waiting where waits_on = %s", (column.name,))
    return moved, [key for (key,) in cursor.fetchall()]
