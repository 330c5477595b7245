"""Requests and answers as the API's own code sees them: whatever server carries them, and nothing of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from functions.api.statements import Statement

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812  # Call.connection has the plain name

    from functions.api.access import Principal
    from functions.api.services import Services
    from shared.dictionary import Table
    from shared.logs import CanonicalLine

JSON = "application/json"
LONGEST_BODY = 4 << 20  # bytes; a batch of 1000 employees has about 150,000


@dataclass(frozen=True, slots=True)
class Request:
    """One request; header names are lower case, the body is whole and within the limit.

    Attributes:
        path: decoded.
        query: decoded pairs, in order.
        remote: address of the peer.
        id: names the request in the log, in the answer and in problems.
        too_large: the body was longer than ``LONGEST_BODY`` and is not here.
        is_cut: the body ended before all of it had come.
        is_text: path and query are UTF-8; where not, the query is not here, and the path has U+FFFD in it.
    """

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    remote: str = "127.0.0.1"
    id: str = ""
    too_large: bool = False
    is_cut: bool = False
    is_text: bool = True

    @property
    def preferences(self) -> Mapping[str, str]:
        """The ``Prefer`` header (RFC 7240): lower-case name to value, empty where it has none; the first one counts."""
        found: dict[str, str] = {}
        for part in self.headers.get("prefer", "").split(","):
            name, _, value = part.partition(";")[0].partition("=")
            if name.strip():
                found.setdefault(name.strip().lower(), value.strip().strip('"').lower())
        return found


@dataclass(slots=True)
class Response:
    """One answer.

    Attributes:
        streamed: send the body without looking at the rest of the request, which functions-framework else reads whole.
        chunks: the body, piece by piece, in place of ``body``; an error on the way cuts it short for the client to see.
    """

    status: int = 200
    body: bytes = b""
    content_type: str = JSON
    headers: dict[str, str] = field(default_factory=dict)
    streamed: bool = False
    chunks: Iterator[bytes] | None = None


@dataclass(slots=True)
class Call:
    """One request on its way through the API.

    Attributes:
        parameters: what the route's pattern found in the path.
        principal: who calls.
        table: the table of a resource's route.
        database_s: seconds that the database took so far.
    """

    request: Request
    services: Services
    parameters: Mapping[str, Any]
    principal: Principal
    line: CanonicalLine
    table: Table | None = None
    database_s: float = 0.0

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection in autocommit: one statement is one transaction, within the pool's time limit."""
        with self._timed(), self.services.database.connection() as conn:
            yield conn

    @contextmanager
    def transaction(self, *, lock_wait_s: float = 5.0) -> Iterator[Connection]:
        """A connection in a transaction, within the function's deadline."""
        deadline_s = self.services.settings.deadline_s
        with self._timed(), self.services.database.transaction(deadline_s=deadline_s, lock_wait_s=lock_wait_s) as conn:
            yield conn

    def rows(self, statement: Any, parameters: Any = None) -> list[tuple[Any, ...]]:
        """What one statement in autocommit gives: one round trip."""
        with self.connection() as conn, conn.cursor() as cursor:
            cursor.execute(statement.text(conn) if isinstance(statement, Statement) else statement, parameters)
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def _timed(self) -> Iterator[None]:
        started_s = time.perf_counter()
        try:
            yield
        finally:
            self.database_s += time.perf_counter() - started_s
