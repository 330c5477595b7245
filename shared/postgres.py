"""PostgreSQL: a small pool for each process, deadlines kept by the server, and one map from SQLSTATE to our errors."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import psycopg2
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, TRANSACTION_STATUS_INERROR

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
    from psycopg2.extensions import connection as Connection  # noqa: N812  # Database.connection has the plain name

OLDEST_SERVER = 180000
CONNECT_TIMEOUT_S = 5
LIFETIME_S = 1800.0  # a rotated password or a moved server is noticed within this time
TRUSTED_IDLE_S = 30.0  # after longer, a firewall may have dropped the connection without a word: ask it
KEEPALIVE: dict[str, Any] = {"keepalives": 1, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
# After this long without an acknowledgement of what we sent the connection is lost; keepalives are silent meanwhile.
UNACKNOWLEDGED_MS = 60_000
LONGEST_TIMEOUT_MS = 2**31 - 1  # PostgreSQL's timeouts are integers

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
# Without a SQLSTATE the server did not speak: these the driver raises for a lost connection, all others for misuse.
LOST_WITHOUT_SQLSTATE = (psycopg2.OperationalError, psycopg2.DatabaseError, psycopg2.InterfaceError)


def translate(error: psycopg2.Error) -> RowdockError:
    """Our error for one of the driver's: it names the SQLSTATE and the constraint, never the server's text."""
    sqlstate = error.pgcode
    if sqlstate is None:
        if type(error) in LOST_WITHOUT_SQLSTATE:
            return DatabaseUnavailable("the database cannot be reached, or the connection to it was lost")
        return DatabaseMisuse(f"the driver refused the call: {type(error).__name__}")
    kind = next((ERROR_BY_SQLSTATE[sqlstate[:n]] for n in (5, 3, 2) if sqlstate[:n] in ERROR_BY_SQLSTATE), None)
    if kind is ConstraintViolation:
        constraint = error.diag.constraint_name
        return ConstraintViolation(
            f"PostgreSQL refused a row: SQLSTATE {sqlstate}, constraint {constraint or 'without name'}",
            sqlstate=sqlstate,
            constraint=constraint,
        )
    return (kind or DatabaseMisuse)(f"PostgreSQL answered SQLSTATE {sqlstate}")


def why_not_reached(error: RowdockError) -> str:
    """What libpq says of a server that it did not get into: host, port and reason, for the eyes of an operator alone.

    Empty for all else. Other sentences of libpq may quote a misread part of a URL, be it the password.
    """
    said = str(error.__cause__).strip() if isinstance(error.__cause__, psycopg2.OperationalError) else ""
    return f": {said.splitlines()[0]}" if said.startswith("connection to server at ") else ""


def require_server(conn: Connection) -> None:
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

    connection: Connection
    made_s: float
    used_s: float

    def is_usable(self) -> bool:
        """Whether it lives: an idle healthy socket is never readable; readable means EOF or the server's farewell."""
        now = time.monotonic()
        if self.connection.closed or now - self.made_s > LIFETIME_S:
            return False
        try:
            return not _is_readable(self.connection) and (now - self.used_s <= TRUSTED_IDLE_S or self._answers())
        except (psycopg2.Error, OSError):
            return False

    def _answers(self) -> bool:
        with self.connection.cursor() as cursor:
            cursor.execute("select 1")
        return True

    def is_clean(self) -> bool:
        """Roll back what is open; whether nothing is left behind, such as a COPY or a BEGIN sent by hand."""
        with contextlib.suppress(psycopg2.Error):
            self.connection.rollback()
            self.connection.autocommit = True
        return not self.connection.closed and self.connection.info.transaction_status == TRANSACTION_STATUS_IDLE


def _is_readable(conn: Connection) -> bool:
    poll = select.poll()  # select.select() cannot watch descriptors above 1023
    poll.register(conn.fileno(), select.POLLIN)
    return bool(poll.poll(0))


@dataclass(slots=True)
class _ProcessPool:
    """The connections of one process. A forked child never touches its parent's, nor lets the collector close them."""

    free: threading.BoundedSemaphore
    pid: int = field(default_factory=os.getpid)
    lock: threading.Lock = field(default_factory=threading.Lock)
    idle: list[_Pooled] = field(default_factory=list)
    lent: dict[int, _Pooled] = field(default_factory=dict)  # by id(): a thread that the fork did not copy drops nothing
    closed: bool = False

    def pop_idle(self) -> _Pooled | None:
        """The connection used last, so that the others grow old and go."""
        with self.lock:
            return self.idle.pop() if self.idle else None

    def give_back(self, pooled: _Pooled) -> None:
        """Take ``pooled`` back if it can serve again, else close it."""
        if self.pid != os.getpid():
            return  # a fork happened while it was lent: the socket is the parent's
        clean = pooled.is_clean()
        pooled.used_s = time.monotonic()
        with self.lock:
            del self.lent[id(pooled)]
            kept = clean and not self.closed
            if kept:
                self.idle.append(pooled)
        if not kept:
            pooled.connection.close()
        self.free.release()

    def close(self) -> None:
        """Close what is idle now, and what is lent when it comes back."""
        with self.lock:
            self.closed = True
            idle, self.idle = self.idle, []
        for pooled in idle:
            pooled.connection.close()


class Database:
    """A pool of at most ``pool_size`` connections for each process that uses it; nothing connects before first use.

    Limits are set with SET LOCAL and no session state is kept, so that PgBouncer may stand between in transaction
    mode; it must be told ``ignore_startup_parameters = options`` then, and the role must have ``timezone = 'UTC'``, and
    ``statement_timeout`` and ``lock_timeout`` of its own, for those of autocommit get lost with the options.

    Args:
        url: libpq connection string.
        application_name: what ``pg_stat_activity`` shows.
        wait_s: seconds to wait for a free connection.
        statement_timeout_s: for statements in autocommit, kept by the server; None for what the role's settings say.
        lock_timeout_s: likewise, for one lock.
    """

    def __init__(
        self,
        url: str,
        *,
        application_name: str,
        pool_size: int = 8,
        wait_s: float = 5.0,
        statement_timeout_s: float | None = None,
        lock_timeout_s: float | None = None,
    ) -> None:
        self._url = url
        self._options = "-c timezone=UTC -c datestyle=ISO"
        for name, limit_s in (("statement_timeout", statement_timeout_s), ("lock_timeout", lock_timeout_s)):
            if limit_s is not None:
                self._options += f" -c {name}={max(1, min(int(limit_s * 1000), LONGEST_TIMEOUT_MS))}"
        self._application_name = application_name
        self._pool_size = pool_size
        self._wait_s = wait_s
        self._pools: dict[int, _ProcessPool] = {}  # by process id: a fork finds none of its own, and makes one

    @contextlib.contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection in autocommit, for single statements; ``statement_timeout_s`` limits their time.

        Raises:
            RowdockError: what went wrong, by ``translate``; DatabaseUnavailable if none came free in time.
        """
        with self._borrowed() as conn:
            yield conn

    @contextlib.contextmanager
    def transaction(
        self, *, deadline_s: float, lock_wait_s: float = 5.0, isolation: Isolation = "read committed"
    ) -> Iterator[Connection]:
        """A connection in a transaction: committed at the end, rolled back by any exception.

        The server itself ends the transaction ``deadline_s`` seconds after its start, and waits for one lock no longer
        than ``lock_wait_s``: a process that hangs, or was given up by its platform, holds nothing for ever.
        After a ``commit()`` or ``rollback()`` inside the body these limits are gone with the transaction.

        Raises:
            DatabaseMisuse: the body ended well although a statement of it had failed: nothing was committed.
            RowdockError: what went wrong, by ``translate``; DatabaseUnavailable if none came free in time.
        """
        deadline_ms = min(int(deadline_s * 1000), LONGEST_TIMEOUT_MS)
        if deadline_ms < 1:  # to PostgreSQL 0 means: no limit
            raise DeadlineExceeded(f"no time is left for a transaction: its deadline is {deadline_s:g} s")
        with self._borrowed() as conn:
            conn.autocommit = False
            with _deadline_told_by_clock(deadline_ms / 1000):
                _begin(conn, deadline_ms, max(1, int(lock_wait_s * 1000)), isolation)
                yield conn
                if conn.info.transaction_status == TRANSACTION_STATUS_INERROR:  # COMMIT would roll back without a word
                    raise DatabaseMisuse("a statement of the transaction failed and its error was not raised")
                conn.commit()

    def close(self) -> None:
        """Close what is idle now, and what is in use when it comes back; the next use begins anew."""
        pool = self._pools.pop(os.getpid(), None)
        if pool is not None:
            pool.close()

    @contextlib.contextmanager
    def _borrowed(self) -> Iterator[Connection]:
        pool = self._pool()
        try:
            pooled = self._take(pool)
            try:
                yield pooled.connection
            finally:
                pool.give_back(pooled)
        except psycopg2.Error as error:
            raise translate(error) from error

    def _pool(self) -> _ProcessPool:
        made = self._pools.get(os.getpid())
        if made is None:  # two threads may both make one: setdefault keeps one of them, and neither has connected
            made = self._pools.setdefault(os.getpid(), _ProcessPool(threading.BoundedSemaphore(self._pool_size)))
        return made

    def _take(self, pool: _ProcessPool) -> _Pooled:
        if not pool.free.acquire(timeout=self._wait_s):
            raise DatabaseUnavailable(
                f"none of this process's {self._pool_size} database connections came free in {self._wait_s:g} s"
            )
        try:
            pooled = _usable(pool) or self._connect()
        except BaseException:
            pool.free.release()
            raise
        with pool.lock:
            pool.lent[id(pooled)] = pooled
        return pooled

    def _connect(self) -> _Pooled:
        if not self._url:
            raise DatabaseUnavailable("DATABASE_URL is not set: say where the database is")
        conn = psycopg2.connect(
            self._url,
            application_name=self._application_name,
            connect_timeout=CONNECT_TIMEOUT_S,
            tcp_user_timeout=UNACKNOWLEDGED_MS,
            options=self._options,
            **KEEPALIVE,
        )
        require_server(conn)
        conn.autocommit = True
        now = time.monotonic()
        return _Pooled(conn, now, now)


def _usable(pool: _ProcessPool) -> _Pooled | None:
    while (pooled := pool.pop_idle()) is not None:
        if pooled.is_usable():
            return pooled
        pooled.connection.close()
    return None


def _begin(conn: Connection, deadline_ms: int, lock_wait_ms: int, isolation: Isolation) -> None:
    """Set a new transaction's limits, in one round trip; SET LOCAL ends with it."""
    with conn.cursor() as cursor:
        cursor.execute(
            f"set transaction isolation level {isolation};"  # a closed set of literals
            " set local transaction_timeout = %(deadline)s;"
            " set local statement_timeout = %(deadline)s;"
            " set local idle_in_transaction_session_timeout = %(deadline)s;"
            " set local lock_timeout = %(lock_wait)s",
            {"deadline": deadline_ms, "lock_wait": lock_wait_ms},
        )


@contextlib.contextmanager
def _deadline_told_by_clock(deadline_s: float) -> Iterator[None]:
    """The server ends the whole session at a transaction's deadline: its last words, the SQLSTATE, may be lost."""
    started_s = time.monotonic()
    try:
        yield
    except psycopg2.Error as error:
        if error.pgcode is None and time.monotonic() - started_s >= deadline_s:
            raise DeadlineExceeded(f"the transaction did not end within its {deadline_s:g} s") from error
        raise


@cache
def database() -> Database:
    """The process's database, as the settings describe it."""
    current = settings.load()
    return Database(current.database_url, application_name="rowdock", pool_size=current.pool_size)
