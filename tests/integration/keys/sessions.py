"""Steps of a trial, and two sessions that take them in a given order, blocked or not."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from typing import Any

import psycopg2

DEADLINE_S = 30.0
POLL_S = 0.001
DONE = ""
ORPHANS = """
    select count(*) from hired_employees.hired_employees e
    where not exists (select from hired_employees.departments d where d.id = e.department_id)
       or not exists (select from hired_employees.jobs j where j.id = e.job_id)
"""


@dataclass(frozen=True)
class Copy:
    """COPY … FROM STDIN of CSV lines."""

    into: str
    lines: str

    def __str__(self) -> str:
        return f"copy {self.into} from stdin (format csv)"


@dataclass(frozen=True)
class Call:
    """A step that the product's own code takes on the session's connection."""

    run: Callable[[Any], None]


Step = str | Copy | Call


def execute(cursor: Any, step: Step) -> None:
    if isinstance(step, Copy):
        cursor.copy_expert(str(step), StringIO(step.lines))
    elif isinstance(step, Call):
        step.run(cursor.connection)
    else:
        cursor.execute(step)


def sqlstate(connection: Any, step: Step) -> str:
    """SQLSTATE of the error that ``step`` ends in, or ``DONE``."""
    try:
        with connection.cursor() as cursor:
            execute(cursor, step)
    except psycopg2.Error as error:
        return str(error.pgcode)
    return DONE


class Session:
    """A connection with a thread of its own, so that one step may wait for a lock while the trial goes on."""

    def __init__(self, connection: Any) -> None:
        connection.autocommit = True
        self.connection = connection
        self.pid = connection.info.backend_pid
        self.outcomes: list[str] = []
        self._thread = ThreadPoolExecutor(1)
        self._running: Future[str] | None = None

    @property
    def blocked(self) -> bool:
        return self._running is not None

    def start(self, step: Step) -> None:
        self._running = self._thread.submit(sqlstate, self.connection, step)

    def settle(self, watcher: Any) -> None:
        """Wait until the step has ended, or waits for a lock that another session holds.

        Raises:
            TimeoutError: neither within the deadline.
        """
        ends_s = time.monotonic() + DEADLINE_S
        while self._running is not None:
            try:
                self.outcomes.append(self._running.result(timeout=POLL_S))
                self._running = None
            except NotYet:
                if self._waits_for_a_lock(watcher):
                    return
                if time.monotonic() > ends_s:
                    raise TimeoutError(f"session {self.pid} neither ended its step nor waits for a lock") from None

    def close(self) -> None:
        self._thread.shutdown()
        self.connection.close()

    def _waits_for_a_lock(self, watcher: Any) -> bool:
        with watcher.cursor() as cursor:
            cursor.execute(
                "select wait_event_type = 'Lock' and cardinality(pg_blocking_pids(pid)) > 0"
                " from pg_stat_activity where pid = %s",
                (self.pid,),
            )
            return bool(cursor.fetchone()[0])


@contextmanager
def opened(*connections: Any) -> Iterator[list[Session]]:
    sessions = [Session(connection) for connection in connections]
    try:
        yield sessions
    finally:
        for session in sessions:
            session.close()


def interleavings(steps: Mapping[str, int]) -> list[str]:
    """Every order of the named sessions' steps: {"c": 1, "p": 1} → ["cp", "pc"]."""
    letters = "".join(name * count for name, count in steps.items())
    return sorted(set(map("".join, itertools.permutations(letters))))


def play(
    sessions: Mapping[str, Session], steps: Mapping[str, Sequence[Step]], order: str, watcher: Any
) -> tuple[dict[str, list[str]], bool]:
    """Take the sessions' steps in ``order``; a session that waits for a lock takes its next ones as soon as it goes on.

    Returns:
        The SQLSTATE (or ``DONE``) of every step, and whether any step had to wait.
    """
    due: dict[str, list[Step]] = {name: [] for name in sessions}
    left = {name: list(steps[name]) for name in sessions}
    waited = False
    for session in sessions.values():
        session.outcomes = []
    for name in order:
        due[name].append(left[name].pop(0))
        waited |= _advance(sessions, due, watcher)
    while any(due.values()) or any(s.blocked for s in sessions.values()):
        _advance(sessions, due, watcher)
    return {name: session.outcomes for name, session in sessions.items()}, waited


def _advance(sessions: Mapping[str, Session], due: Mapping[str, list[Step]], watcher: Any) -> bool:
    """Let every session take the steps that are due, until each has none left or waits; says whether one waits."""
    moved = True
    while moved:
        moved = False
        for name, session in sessions.items():
            session.settle(watcher)
            if due[name] and not session.blocked:
                session.start(due[name].pop(0))
                session.settle(watcher)
                moved = True
    return any(session.blocked for session in sessions.values())
