"""The emulator's durable queue: an event is on disk before its sender is told so, and every delivery is written down.

One row of ``deliveries`` is one event on its way to one function. States: ``pending`` (due at ``due_at``),
``delivering``, ``done``, ``dead`` (given up, may be replayed), ``failed`` (a scheduled call that is not tried again).
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shared.events import Event

FINISHED_KEPT = 20_000  # a sweep a minute is 1,440 a day
SCHEMA = """
create table if not exists events (
  seq integer primary key autoincrement, source text not null, id text not null, type text not null, subject text,
  event text not null, received_at real not null, unique (source, id));
create table if not exists deliveries (
  id integer primary key autoincrement, seq integer not null references events, trigger text not null,
  function text not null, state text not null default 'pending', attempts integer not null default 0,
  due_at real not null, last_status integer, last_error text, finished_at real, unique (seq, trigger));
create index if not exists deliveries_due on deliveries (due_at) where state = 'pending';
create index if not exists deliveries_state on deliveries (state, id);
create table if not exists attempts (
  delivery integer not null references deliveries on delete cascade, number integer not null, started_at real not null,
  duration_s real, status integer, error text, answer text);
create index if not exists attempts_delivery on attempts (delivery);
create table if not exists ledger (
  bucket text not null, name text not null, version text not null, seen_at real not null,
  primary key (bucket, name)) without rowid;
create table if not exists schedule_runs (name text primary key, last_run_at real not null) without rowid;
"""
LISTING = """
select d.id, e.id as event_id, e.source, e.type, e.subject, e.received_at, d.trigger, d.function, d.state, d.attempts,
       d.due_at, d.last_status, d.last_error, d.finished_at
from events e left join deliveries d on d.seq = e.seq
"""


class EventQueue:
    """Events, their deliveries, what was seen in the buckets and when each schedule last ran.

    One process writes; others (the listing commands) may read, and ask for a replay, at the same time.
    """

    def __init__(self, path: Path, *, now: Callable[[], float] = time.time) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._now = now
        self._db = sqlite3.connect(path, timeout=10.0, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma synchronous = full")  # "on disk" means that it survives the power going off
        self._db.execute("pragma foreign_keys = on")
        self._db.executescript(SCHEMA)
        if "answer" not in {row["name"] for row in self._db.execute("pragma table_info (attempts)")}:
            self._db.execute("alter table attempts add column answer text")  # a state folder of before

    def close(self) -> None:
        """Close the file; the queue cannot be used any more."""
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("begin immediate")
        try:
            yield
        except BaseException:
            self._db.execute("rollback")
            raise
        self._db.execute("commit")

    # In

    def put(self, event: Event, routes: list[tuple[str, str]], *, seen: tuple[str, str, str] | None = None) -> bool:
        """Store ``event`` with one delivery for each route (trigger, function); on return it is on disk.

        Args:
            event: what happened; the same source and id a second time changes nothing.
            routes: where it goes; an event without any is kept and goes nowhere.
            seen: bucket, name and version that the ledger takes up in the same transaction.

        Returns:
            Whether the event is new.
        """
        with self._transaction():
            if seen is not None:
                self._db.execute("insert or replace into ledger values (?, ?, ?, ?)", (*seen, self._now()))
            added = self._db.execute(
                "insert or ignore into events (source, id, type, subject, event, received_at) "
                "values (?, ?, ?, ?, ?, ?)",
                (event.source, event.id, event.type, event.subject, json.dumps(asdict(event)), self._now()),
            )
            if added.rowcount != 1:
                return False
            for trigger, function in routes:
                self._db.execute(
                    "insert into deliveries (seq, trigger, function, due_at) values (?, ?, ?, ?)",
                    (added.lastrowid, trigger, function, self._now()),
                )
        return True

    # Out

    def recover(self) -> int:
        """Make due again what was being delivered when the last process ended; return how many there were."""
        again = self._db.execute(
            "update deliveries set state = 'pending', due_at = ? where state = 'delivering'", (0.0,)
        )
        return again.rowcount

    def take(self, function: str, most: int) -> list[tuple[int, str, int, Event]]:
        """Take up to ``most`` due deliveries to ``function``; each is (delivery, trigger, attempt number, event)."""
        with self._transaction():
            due = self._db.execute(
                "select d.id, d.trigger, d.attempts + 1 as number, e.event from deliveries d join events e using (seq) "
                "where d.state = 'pending' and d.function = ? and d.due_at <= ? order by d.due_at, d.id limit ?",
                (function, self._now(), most),
            ).fetchall()
            for row in due:
                self._db.execute(
                    "update deliveries set state = 'delivering', attempts = ? where id = ?", (row["number"], row["id"])
                )
                self._db.execute(
                    "insert into attempts (delivery, number, started_at) values (?, ?, ?)",
                    (row["id"], row["number"], self._now()),
                )
        return [(row["id"], row["trigger"], row["number"], Event(**json.loads(row["event"]))) for row in due]

    def next_due_at(self, function: str) -> float | None:
        """Return when the next delivery to ``function`` is due, in seconds of the epoch, or None."""
        query = "select min(due_at) from deliveries where state = 'pending' and function = ?"
        due_at: float | None = self._db.execute(query, (function,)).fetchone()[0]
        return due_at

    def done(self, delivery: int, status: int, answer: str = "") -> None:
        """The function took it, and said ``answer``."""
        self._end(delivery, "done", self._now(), status, None, answer)

    def retry(self, delivery: int, status: int | None, error: str, *, pause_s: float) -> None:
        """It failed and is due again in ``pause_s``."""
        self._end(delivery, "pending", self._now() + pause_s, status, error)

    def give_up(self, delivery: int, status: int | None, error: str, *, state: str = "dead") -> None:
        """It failed for the last time."""
        self._end(delivery, state, self._now(), status, error)

    def _end(
        self, delivery: int, state: str, due_at: float, status: int | None, error: str | None, answer: str = ""
    ) -> None:
        now = self._now()
        with self._transaction():
            self._db.execute(
                "update deliveries set state = ?, due_at = ?, last_status = ?, last_error = ?, finished_at = ? "
                "where id = ?",
                (state, due_at, status, error, None if state == "pending" else now, delivery),
            )
            self._db.execute(
                "update attempts set duration_s = ? - started_at, status = ?, error = ?, answer = ? "
                "where delivery = ? and duration_s is null",
                (now, status, error, answer, delivery),
            )

    # Looking and replaying

    def listing(self, *, state: str | None = None, type_: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """Return the newest events and deliveries, newest first; an event that goes nowhere has no delivery."""
        query = (
            f"{LISTING} where (?1 is null or d.state = ?1) and (?2 is null or e.type = ?2) order by e.seq desc limit ?3"
        )
        return [dict(row) for row in self._db.execute(query, (state, type_, limit))]

    def show(self, delivery: int) -> dict[str, Any] | None:
        """Return one delivery with its event and all its attempts, or None if there is no such delivery."""
        row = self._db.execute(f"{LISTING} where d.id = ?", (delivery,)).fetchone()
        if row is None:
            return None
        event = self._db.execute("select event from events e join deliveries d using (seq) where d.id = ?", (delivery,))
        attempts = self._db.execute(
            "select number, started_at, duration_s, status, error, answer from attempts where delivery = ? "
            "order by started_at",
            (delivery,),
        )
        return dict(row) | {"event": json.loads(event.fetchone()[0]), "tries": [dict(attempt) for attempt in attempts]}

    def delivery_of(self, event: Event, trigger: str) -> int:
        """Return the delivery of a stored event by ``trigger``."""
        query = "select d.id from deliveries d join events e using (seq) where (e.source, e.id, d.trigger) = (?, ?, ?)"
        found: int = self._db.execute(query, (event.source, event.id, trigger)).fetchone()[0]
        return found

    def replay(self, delivery: int | None = None) -> int:
        """Make one delivery, or every dead one, due now with a fresh count of attempts; return how many."""
        which, arguments = ("state = 'dead'", ()) if delivery is None else ("id = ?", (delivery,))
        update = "update deliveries set state = 'pending', attempts = 0, due_at = ?, finished_at = null where "
        return self._db.execute(f"{update} state <> 'delivering' and {which}", (self._now(), *arguments)).rowcount

    def counts(self) -> dict[str, int]:
        """Return how many deliveries are in each state."""
        rows = self._db.execute("select state, count(*) from deliveries group by state")
        return dict(rows.fetchall())

    def unfinished(self, trigger: str) -> bool:
        """Return whether a delivery of ``trigger`` is still under way."""
        query = "select 1 from deliveries where trigger = ? and state in ('pending', 'delivering') limit 1"
        return self._db.execute(query, (trigger,)).fetchone() is not None

    def forget_old(self, keep: int = FINISHED_KEPT) -> None:
        """Forget all but the newest ``keep`` events, of what has ended well; dead letters stay."""
        with self._transaction():
            self._db.execute(
                "create temp table old as select seq from events "
                "where seq <= (select coalesce(max(seq), 0) - ? from events) "
                "and seq not in (select seq from deliveries where state not in ('done', 'failed'))",
                (keep,),
            )
            self._db.execute("delete from deliveries where seq in (select seq from old)")
            self._db.execute("delete from events where seq in (select seq from old)")
            self._db.execute("drop table old")

    # What was seen in the buckets, and when schedules ran

    def seen(self, bucket: str) -> dict[str, str]:
        """Return the version that the ledger holds of each object of ``bucket``."""
        return dict(self._db.execute("select name, version from ledger where bucket = ?", (bucket,)).fetchall())

    def forget_objects(self, bucket: str, names: list[str]) -> None:
        """Take objects that are gone out of the ledger."""
        with self._transaction():
            self._db.executemany("delete from ledger where bucket = ? and name = ?", [(bucket, name) for name in names])

    def last_run_at(self, schedule: str) -> float | None:
        """Return when ``schedule`` last ran, in seconds of the epoch, or None."""
        row = self._db.execute("select last_run_at from schedule_runs where name = ?", (schedule,)).fetchone()
        return None if row is None else row[0]

    def ran(self, schedule: str, moment: float) -> None:
        """Note that ``schedule`` ran at ``moment``, in seconds of the epoch."""
        self._db.execute("insert or replace into schedule_runs values (?, ?)", (schedule, moment))
