"""The sweep, on a schedule: the net below every wake-up, the end of waiting, and the end of keeping."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from psycopg2 import sql

from functions.ingest import parked, retention
from functions.ingest.drain import drain
from shared import logs, rollup
from shared.errors import TransientError

if TYPE_CHECKING:
    from psycopg2.extensions import connection

    from functions.ingest.services import Services
    from shared.dictionary import Table

BATCH_ROWS = 10_000
FOLDED_DELTAS = 500_000
SOFT_STOP = 0.8  # of a step's time: no batch begins later
LOCK_WAIT_S = 20.0

# A row that a drain holds is left to it. Rows of one table, oldest first.
OVERDUE = sql.SQL(
    "(p.load_id, p.record_number) in (select load_id, record_number from ingest_status.pending"
    " where table_name = %(table)s and parked_at < now() - make_interval(days => %(days)s)"
    " order by parked_at limit %(limit)s for update skip locked)"
)


class SweepFailed(TransientError):
    """Steps of a sweep failed, the others were run; ``fields`` says which, and what the others did."""

    code = "sweep"

    def __init__(self, steps: Mapping[str, Exception], fields: Mapping[str, Any]) -> None:
        super().__init__(f"failed: {', '.join(steps)}; the next sweep does it again")
        self.fields = {**fields, "steps_failed": {name: logs.described(error) for name, error in steps.items()}}


def sweep(services: Services) -> dict[str, Any]:
    """Fold the roll-up, drain what can go in, reject what waited too long, forget what was kept long enough.

    Each step has an equal share of the time that is left, works in batches that are transactions of their own, and
    leaves to the next sweep what it has no time for. One that fails keeps no other from its work.

    Returns:
        Fields for the log line; ``unfinished`` if a step had not enough time.

    Raises:
        SweepFailed: after all steps were run, if one of them failed.
    """
    ends_s = time.monotonic() + services.settings.deadline_s
    fields: dict[str, Any] = {}
    failed: dict[str, Exception] = {}
    for steps_before, (name, step) in enumerate(STEPS.items()):
        share_s = (ends_s - time.monotonic()) / (len(STEPS) - steps_before)
        try:
            fields |= step(_within(services, share_s))
        except Exception as error:  # noqa: BLE001  # whatever it is, it is raised when the other steps are done
            failed[name] = error
    if failed:
        raise SweepFailed(failed, fields) from ExceptionGroup("steps of the sweep", list(failed.values()))
    return fields


def _within(services: Services, share_s: float) -> Services:
    """The same services for an invocation that has ``share_s`` seconds."""
    return replace(services, settings=replace(services.settings, deadline_s=share_s))


def _in_batches(services: Services, batch: Callable[[connection], Counter[str]]) -> dict[str, Any]:
    """Call ``batch``, each time in a transaction, until there is nothing left or no time; returns the sums."""
    started_s, deadline_s = time.monotonic(), services.settings.deadline_s
    total: Counter[str] = Counter()
    while True:
        left_s = started_s + deadline_s - time.monotonic()
        with services.database.transaction(deadline_s=left_s, lock_wait_s=LOCK_WAIT_S) as conn:
            done = batch(conn)
        total.update(done)
        if not any(done.values()):
            return dict(total)
        if time.monotonic() > started_s + deadline_s * SOFT_STOP:
            return {**total, "unfinished": True}


def _fold(services: Services) -> dict[str, Any]:
    return _in_batches(services, lambda conn: Counter(deltas_folded=rollup.fold(conn, at_most=FOLDED_DELTAS) or 0))


def _expire(services: Services) -> dict[str, Any]:
    return _in_batches(
        services,
        lambda conn: Counter(rows_expired=sum(_expire_some(conn, t) for t in services.dictionary.tables.values())),
    )


def _expire_some(conn: connection, table: Table) -> int:
    return parked.end_waiting(
        conn,
        sql.SQL("p.waits_on || '.expired'"),
        OVERDUE,
        {"table": table.key, "days": table.pending_days, "limit": BATCH_ROWS},
        {"why": "expired"},
    )


def _forget_loads(services: Services) -> dict[str, Any]:
    return _in_batches(services, lambda conn: retention.forget_loads(conn, services.dictionary))


def _forget_attempts(services: Services) -> dict[str, Any]:
    return _in_batches(services, retention.forget_attempts)


def _forget_dead_letters(services: Services) -> dict[str, Any]:
    return _in_batches(services, retention.forget_dead_letters)


def _forget_answers(services: Services) -> dict[str, Any]:
    return _in_batches(services, retention.forget_answers)


# The roll-up first: what the metrics read should not wait for a long drain.
STEPS: dict[str, Callable[[Services], dict[str, Any]]] = {
    "fold": _fold,
    "drain": drain,
    "expire": _expire,
    "forget_loads": _forget_loads,
    "forget_attempts": _forget_attempts,
    "forget_dead_letters": _forget_dead_letters,
    "forget_answers": _forget_answers,
}
