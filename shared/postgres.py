"""PostgreSQL: a small pool for each process, deadlines kept by the server, and one map from SQLSTATE to our errors."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import psycopg2
from psycopg2 import extensions

from shared import settings
from shared.errors import (
    ConstraintViolation,
    DatabaseBusy,
    DatabaseMisuse,
    DatabaseUnavailable,
    DeadlineExceeded,
    RowdockError,
    ServerTooOld,
)

if TYPE_CHECKING:
    from psycopg2.extensions import connection

OLDEST_SERVER = 180000
CONNECT_TIMEOUT_S = 5
LIFETIME_S = 1800.0  # a rotated password or a moved server is noticed within this time
TRUSTED_IDLE_S = 30.0  # after longer, a firewall may have dropped the connection without a word: ask it
KEEPALIVE: dict[str, Any] = {"keepalives": 1, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}

Isolation = Literal["read committed", "repeatable read", "serializable"]

# PostgreSQL manual, appendix A: the longest prefix that matches decides.
ERROR_BY_SQLSTATE: dict[str, type[RowdockError]] = {
    "08": DatabaseUnavailable,
    "53": DatabaseUnavailable,
    "57P": DatabaseUnavailable,
    "40": DatabaseBusy,
    "55P03": DatabaseBusy,
    "55006": DatabaseBusy,
    "57014": DeadlineExceeded,
    "25P03": DeadlineExceeded,
    "25P04": DeadlineExceeded,
    "23": ConstraintViolation,
}


def translate(error: psycopg2.Error) -> RowdockError:
    """Our error for one of the driver's: it names the SQLSTATE and the constraint, never the server's text."""
    sqlstate = error.pgcode
    if sqlstate is None:
        lost = isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError | psycopg2.DatabaseError)
        return DatabaseUnavailable("the database cannot be reached") if lost else DatabaseMisuse("driver error")
    kind = next((ERROR_BY_SQLSTATE[sqlstate[:n]] for n in (5, 3, 2) if sqlstate[:n] in ERROR_BY_SQLSTATE), None)
    if kind is ConstraintViolation:
        constraint = error.diag.constraint_name
        return ConstraintViolation(
            f"PostgreSQL refused a row: SQLSTATE {sqlstate}, constraint {constraint or 'without name'}",
            sqlstate=sqlstate,
            constraint=constraint,
        )
    return (kind or DatabaseMisuse)(f"PostgreSQL answered SQLSTATE {sqlstate}")


def require_server(conn: connection) -> None:
    """Close ``conn`` and raise ServerTooOld unless the server is PostgreSQL 18 or later."""
    if conn.server_version < OLDEST_SERVER:
        version = conn.server_version // 10000
        conn.close()
        raise ServerTooOld(
            f"the server is PostgreSQL {version}; Rowdock needs 18 or later, for keys that are NOT ENFORCED: upgrade it"
        )


@dataclass(slots=True)
class _Pooled:
    """A connection and when it was made and last used, in seconds of the monotonic clock."""

    connection: connection
    made_s: float
    used_s: float

    def is_usable(self) -> bool:
        """Whether it lives: an idle healthy socket is never readable; readable means EOF or the server's farewell."""
        now = time.monotonic()
        if self.connection.closed or now - self.made_s > LIFETIME_S:
            return False
        try:
            if select.select([self.connection], [], [], 0)[0]:
                return False
            if now - self.used_s > TRUSTED_IDLE_S:
                with self.connection.cursor() as cursor:
                    cursor.execute("select 1")
        except (psycopg2.Error, OSError, ValueError):
            return False
        return True


class Database:
    """A pool of at most ``pool_size`` connections for each process that uses it; nothing connects before first use.

    Args:
        url: libpq connection string.
        application_name: what ``pg_stat_activity`` shows.
        wait_s: seconds to wait for a free connection.
    """

    def __init__(self, url: str, *, application_name: str, pool_size: int = 8, wait_s: float = 5.0) -> None:
        self._url = url
        self._application_name = application_name
        self._pool_size = pool_size
        self._wait_s = wait_s
        self._lock = threading.Lock()
        self._inherited: list[_Pooled] = []
        self._begin_process()

    def _begin_process(self) -> None:
        self._pid = os.getpid()
        self._idle: list[_Pooled] = []
        self._free = threading.BoundedSemaphore(self._pool_size)

    @contextlib.contextmanager
    def connection(self) -> Iterator[extensions.connection]:
        """A connection in autocommit, for single statements.

        Raises:
            RowdockError: what went wrong, by ``translate``; DatabaseUnavailable if none came free in time.
        """
        with self._borrowed() as conn:
            conn.autocommit = True
            yield conn

    @contextlib.contextmanager
    def transaction(
        self, *, deadline_s: float, lock_wait_s: float = 5.0, isolation: Isolation = "read committed"
    ) -> Iterator[extensions.connection]:
        """A connection in a transaction: committed at the end, rolled back by any exception.

        The server itself ends the transaction ``deadline_s`` seconds after its start, and waits for one lock no longer
        than ``lock_wait_s``: a process that hangs, or was given up by its platform, holds nothing for ever.

        Raises:
            RowdockError: what went wrong, by ``translate``; DatabaseUnavailable if none came free in time.
        """
        with self._borrowed() as conn:
            conn.autocommit = False
            with conn.cursor() as cursor:
                cursor.execute(f"set transaction isolation level {isolation}")  # a closed set of literals
                cursor.execute(
                    "select set_config('transaction_timeout', %(deadline)s, true),"
                    " set_config('statement_timeout', %(deadline)s, true),"
                    " set_config('idle_in_transaction_session_timeout', %(deadline)s, true),"
                    " set_config('lock_timeout', %(lock)s, true)",
                    {"deadline": f"{int(deadline_s * 1000)}ms", "lock": f"{int(lock_wait_s * 1000)}ms"},
                )
            yield conn
            conn.commit()

    def close(self) -> None:
        """Close what is idle; connections in use are closed when they come back."""
        with self._lock:
            idle, self._idle = self._idle, []
        for pooled in idle:
            pooled.connection.close()

    @contextlib.contextmanager
    def _borrowed(self) -> Iterator[extensions.connection]:
        pooled = self._take()
        try:
            yield pooled.connection
        except psycopg2.Error as error:
            raise translate(error) from error
        finally:
            self._give_back(pooled)

    def _take(self) -> _Pooled:
        with self._lock:
            if self._pid != os.getpid():
                self._inherited += self._idle  # the parent's sockets: kept, so that nothing closes them from here
                self._begin_process()
        free = self._free
        if not free.acquire(timeout=self._wait_s):
            raise DatabaseUnavailable(f"no database connection came free in {self._wait_s:g} s")
        try:
            return self._usable() or self._connect()
        except psycopg2.Error as error:
            free.release()
            raise translate(error) from error
        except BaseException:
            free.release()
            raise

    def _usable(self) -> _Pooled | None:
        while True:
            with self._lock:
                if not self._idle:
                    return None
                pooled = self._idle.pop()
            if pooled.is_usable():
                return pooled
            pooled.connection.close()

    def _connect(self) -> _Pooled:
        if not self._url:
            raise DatabaseUnavailable("DATABASE_URL is not set: say where the database is")
        conn = psycopg2.connect(
            self._url,
            application_name=self._application_name,
            connect_timeout=CONNECT_TIMEOUT_S,
            options="-c timezone=UTC -c datestyle=ISO",
            **KEEPALIVE,
        )
        require_server(conn)
        now = time.monotonic()
        return _Pooled(conn, now, now)

    def _give_back(self, pooled: _Pooled) -> None:
        conn = pooled.connection
        with contextlib.suppress(psycopg2.Error):  # whatever state it is in: clean, or dropped just below
            conn.rollback()
            conn.autocommit = True
        if not conn.closed and conn.status == extensions.STATUS_READY and self._pid == os.getpid():
            pooled.used_s = time.monotonic()
            with self._lock:
                self._idle.append(pooled)
        else:
            conn.close()
        self._free.release()


@cache
def database() -> Database:
    """The process's database, as the settings describe it."""
    current = settings.load()
    return Database(current.database_url, application_name="rowdock", pool_size=current.pool_size)
