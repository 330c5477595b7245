"""One connection, one COPY at a time: rows, rejects and the rest of a load go into their tables as they are judged.

A COPY stays open while its kind has data; the sender changes to another table when that kind has enough waiting, so
that one connection and one transaction serve all kinds.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg2 import sql

from shared.copy_binary import COPY_HEADER, COPY_TRAILER

if TYPE_CHECKING:
    from psycopg2.extensions import connection

SWITCH_BYTES = 8 << 20  # a kind that has this much waiting gets the next COPY
WAITING_BYTES = 20 << 20  # in all; then the judge is held up, which bounds memory when PostgreSQL is slow
# A COPY ends after so much, and its triggers run while the next rows are judged. Each appends a delta for every cell of
# the roll-up that it met: longer ones append fewer (docs/decisions/0002).
STATEMENT_BYTES = 128 << 20
READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Target:
    """Where one kind of tuple goes.

    Attributes:
        copy_sql: ``COPY table (columns) FROM STDIN (FORMAT binary)``.
        create_sql: run once before the first COPY (a temporary table), or None.
    """

    copy_sql: sql.Composable
    create_sql: sql.Composable | None = None


def copy_in(cursor: Any, copy_sql: sql.Composable, tuples: bytes) -> None:
    """One COPY of whole binary tuples."""
    cursor.copy_expert(copy_sql, io.BytesIO(COPY_HEADER + tuples + COPY_TRAILER), READ_BYTES)


class SenderAborted(Exception):  # never leaves this module: it ends a COPY on purpose
    """The load was given up while a COPY was open."""


class Sender:
    """Feeds COPY from a thread of its own; ``put`` from the judging thread.

    Args:
        connection: in a transaction; nobody else may use it until ``finish`` or ``abort`` has returned.
        targets: kind → where it goes; the first kind is the one a clean file consists of.
    """

    def __init__(self, connection: connection, targets: Mapping[str, Target]) -> None:
        self._connection = connection
        self._targets = targets
        self._ready: set[str] = set()
        self._changed = threading.Condition()  # guards what follows
        self._waiting: dict[str, list[bytes]] = {kind: [] for kind in targets}
        self._waiting_bytes: dict[str, int] = dict.fromkeys(targets, 0)
        self._error: BaseException | None = None
        self._ended = self._aborted = False
        self._thread = threading.Thread(target=self._run, name="copy-sender", daemon=True)
        self._thread.start()

    def put(self, kind: str, data: bytes) -> None:
        """Hand over whole COPY BINARY tuples of ``kind``; waits while ``WAITING_BYTES`` are waiting.

        Raises:
            psycopg2.Error: what ended the COPY.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or not self._is_full())
            if self._error is not None:
                raise self._error
            self._waiting[kind].append(data)
            self._waiting_bytes[kind] += len(data)
            self._changed.notify_all()

    def finish(self) -> None:
        """Send what waits, end the last COPY, and give the connection back.

        Raises:
            psycopg2.Error: what ended a COPY.
        """
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def abort(self) -> None:
        """Give the load up: the open COPY fails, and the transaction with it. Safe to call at any time."""
        with self._changed:
            self._aborted = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._connection.cancel()  # a COPY that waits for a lock inside the server reads nothing more
        self._thread.join()

    def _is_full(self) -> bool:
        return sum(self._waiting_bytes.values()) >= WAITING_BYTES

    def _run(self) -> None:
        try:
            kind: str | None = next(iter(self._targets))
            while kind is not None:
                if self._has_some(kind):
                    self._copy(kind)
                kind = self._fullest()
        except BaseException as error:  # noqa: BLE001  # handed to the judging thread, which raises it
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _fullest(self) -> str | None:
        """The kind that has most waiting, the first one if none has; None at the end."""
        with self._changed:
            if self._ended and not any(self._waiting_bytes.values()):
                return None
            return max(self._waiting_bytes, key=self._waiting_bytes.__getitem__)

    def _has_some(self, kind: str) -> bool:
        """Wait until ``kind`` has something, another kind has enough, memory is full, or the end; has it some?"""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._aborted
                    or self._ended
                    or self._waiting[kind]
                    or max(self._waiting_bytes.values()) >= SWITCH_BYTES
                    or self._is_full()
                )
            )
            if self._aborted:
                raise SenderAborted
            return bool(self._waiting[kind])

    def _copy(self, kind: str) -> None:
        target = self._targets[kind]
        with self._connection.cursor() as cursor:
            if kind not in self._ready and target.create_sql is not None:
                cursor.execute(target.create_sql)
            self._ready.add(kind)
            cursor.copy_expert(target.copy_sql, _CopyInput(self, kind), READ_BYTES)

    def _next(self, kind: str) -> bytes | None:
        """The next bytes of ``kind``, or None when its COPY should end."""
        if not self._has_some(kind):
            return None
        with self._changed:
            data = self._waiting[kind].pop(0)
            self._waiting_bytes[kind] -= len(data)
            self._changed.notify_all()
        return data


class _CopyInput:
    """The file that psycopg2 reads: header, tuples of one kind, trailer. It returns what it is given, however long."""

    def __init__(self, sender: Sender, kind: str) -> None:
        self._sender = sender
        self._kind = kind
        self._sent = 0
        self._state = "header"

    def readline(self, _size: int = -1) -> bytes:
        """Never called: psycopg2 asks for it when it copies text out of a file by lines, which we do not do."""
        raise NotImplementedError

    def read(self, _size: int = -1) -> bytes:
        """The next piece of the stream; empty at its end."""
        if self._state == "header":
            self._state = "tuples"
            return COPY_HEADER
        if self._state == "tuples":
            data = self._sender._next(self._kind) if self._sent < STATEMENT_BYTES else None
            if data is not None:
                self._sent += len(data)
                return data
            self._state = "end"
            return COPY_TRAILER
        return b""
