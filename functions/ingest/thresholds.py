"""Thresholds: a load that looks wrong as a whole is rolled back, and only its rejects are kept, with the reason."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from psycopg2 import sql

from functions.ingest import history
from functions.ingest.judge import REJECTED
from functions.ingest.parked import close_earlier_generations
from functions.ingest.statements import REJECT_COLUMNS

if TYPE_CHECKING:
    from psycopg2.extensions import connection

    from functions.ingest.history import Counts, Load
    from functions.ingest.services import Services
    from functions.ingest.statements import Statements
    from shared.dictionary import Table


class Reached(Exception):  # a decision about the file, not an error of ours
    """A threshold of the dictionary was reached; the message names it with its value."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Limits:
    """The thresholds in force for one load; None where there is none (see ``shared.dictionary.Table``)."""

    max_errors: int | None = None
    max_error_ratio: float | None = None
    max_leading_errors: int | None = None
    max_update_ratio: float | None = None

    @classmethod
    def of(cls, table: Table, *, forced: bool) -> Limits:
        """Those of ``table``, or none at all for a forced load."""
        if forced:
            return cls()
        return cls(table.max_errors, table.max_error_ratio, table.max_leading_errors, table.max_update_ratio)


def rows_before(conn: connection, statements: Statements, limits: Limits) -> int | None:
    """Rows of the table before the load, counted only where a threshold asks for it."""
    if limits.max_update_ratio is None:
        return None
    with conn.cursor() as cursor:
        cursor.execute(sql.SQL("select count(*) from {}").format(statements.name))
        return int(cursor.fetchone()[0])  # type: ignore[index]  # count gives one row


def check_block(limits: Limits, counts: Counts, status: NDArray[np.uint8]) -> None:
    """Called after each block, whose ``status`` ``counts`` includes.

    Raises:
        Reached: too many rows were rejected so far, or all of the first ones.
    """
    _check_errors(limits, counts)
    leading = limits.max_leading_errors
    before = counts.read - len(status)
    if leading is None or before >= leading or counts.read < leading:
        return
    rejected_before = counts.rejected - int((status == REJECTED).sum())
    if rejected_before == before and (status[: leading - before] == REJECTED).all():
        raise Reached("threshold.max_leading_errors", f"the first {leading} rows were all rejected")


def _check_errors(limits: Limits, counts: Counts) -> None:
    if limits.max_errors is not None and counts.rejected > limits.max_errors:
        raise Reached("threshold.max_errors", f"more than {limits.max_errors} rows were rejected")


def check_all(limits: Limits, counts: Counts) -> None:
    """Called when every row has its end, doubles too: raise Reached if too many rows were rejected."""
    _check_errors(limits, counts)
    if limits.max_error_ratio is not None and counts.rejected > limits.max_error_ratio * counts.read:
        raise Reached(
            "threshold.max_error_ratio",
            f"{counts.rejected} of {counts.read} rows were rejected, more than {limits.max_error_ratio:.0%}",
        )


def check_updates(limits: Limits, updated: int, before: int | None) -> None:
    """Raise Reached if the load changes too large a share of the rows that the table had."""
    if limits.max_update_ratio is not None and before and updated > limits.max_update_ratio * before:
        raise Reached(
            "threshold.max_update_ratio",
            f"the file changes {updated} of {before} rows, more than {limits.max_update_ratio:.0%}: "
            "is it under the right name? Force it if it is",
        )


def keep_rejects(services: Services, conn: connection, load: Load, reached: Reached) -> None:
    """Copy the load's rejects into a second transaction with its history, and roll the first one back.

    The first one ends before earlier generations are closed, for it may hold parked rows of theirs; the second takes
    the object over from it. ``load`` becomes the row that history has: state ``rolled_back``, and an id of its own,
    since the first transaction still holds the keys of its rejects while they are copied.

    Raises:
        DatabaseBusy: a twin took the object meanwhile, and comes to the same end.
    """
    doomed_id, counts = load.id, load.counts
    load.state, load.reason_code, load.reason = "rolled_back", reached.code, str(reached)
    with services.database.transaction(deadline_s=services.settings.deadline_s, lock_wait_s=20) as second:
        load.id = history.next_load_id(second)
        rejected = _copy_rejects(conn, second, int(doomed_id or 0), load.id)
        load.counts = replace(
            history.Counts(reasons=counts.reasons),
            read=counts.read,
            rejected=rejected,
            rolled_back=counts.read - rejected,
        )
        conn.rollback()
        history.claim(second, str(load.bucket), str(load.object_name))
        history.record(second, load)
        close_earlier_generations(second, load)


def _copy_rejects(doomed: connection, second: connection, doomed_id: int, load_id: int) -> int:
    """Stream the rejects of ``doomed_id`` from one connection into the other under ``load_id``; returns how many."""
    read_end, write_end = os.pipe()
    failures: list[BaseException] = []

    def feed() -> None:
        try:
            with os.fdopen(write_end, "wb") as out, doomed.cursor() as cursor:
                cursor.copy_expert(
                    sql.SQL(
                        "copy (select {new}, record_number, line_number, byte_offset, byte_length, reasons, raw"
                        " from ingest_status.rejects where load_id = {old}) to stdout (format binary)"
                    ).format(new=sql.SQL("{}::bigint").format(sql.Literal(load_id)), old=sql.Literal(doomed_id)),
                    out,
                )
        except BaseException as error:  # noqa: BLE001  # raised below, in the caller's thread
            failures.append(error)

    feeder = threading.Thread(target=feed, name="keep-rejects", daemon=True)
    feeder.start()
    copied = sql.SQL("copy ingest_status.rejects ({}) from stdin (format binary)").format(REJECT_COLUMNS)
    try:
        with os.fdopen(read_end, "rb") as source, second.cursor() as cursor:
            cursor.copy_expert(copied, source, 1 << 20)
            rejected = cursor.rowcount
    finally:
        feeder.join()  # closing the pipe ended it: nobody else may use its connection before that
    if failures:
        raise failures[0]
    return rejected
