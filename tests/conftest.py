"""What every test may use: a real PostgreSQL, a fresh migrated database for each test, the real files if present."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from local_emulator.postgresql import TEST_SETTINGS, PostgresServer
from shared.migrate import migrate
from tests.recording import http_server

__all__ = ["http_server"]  # a fixture that lives beside its server
ROOT = Path(__file__).resolve().parent.parent
CHALLENGE = ROOT.parent / "shared" / "data" / "challenge"
ROOM_BYTES = 4 << 30  # in memory, for the servers of all workers
OWNER = "rowdock"
LOGINS = {"ingest": "rowdock_ingest", "api": "rowdock_api", "backup": "rowdock_backup", "restore": "rowdock_restore"}
_numbers = itertools.count()


@dataclass(frozen=True)
class TestDatabase:
    """One database of its own."""

    __test__ = False
    server: PostgresServer
    name: str

    @property
    def owner_url(self) -> str:
        return self.url_for("owner")

    def url_for(self, role: str) -> str:
        """For ``owner``, ``superuser``, or a function's login: ingest, api, backup, restore."""
        return self.server.url(self.name, {"owner": OWNER, "superuser": "postgres"}.get(role, role))

    def connect(self, role: str = "owner") -> Any:
        return psycopg2.connect(self.url_for(role))

    def query(self, statement: str, *values: object, role: str = "owner") -> list[tuple[Any, ...]]:
        conn = self.connect(role)
        try:
            with conn, conn.cursor() as cursor:
                cursor.execute(statement, values or None)
                return cursor.fetchall() if cursor.description else []
        finally:
            conn.close()


def _execute(url: str, *statements: str) -> None:
    conn = psycopg2.connect(url)
    conn.autocommit = True
    try:
        with conn.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
    finally:
        conn.close()


def _memory_or_disk() -> str | None:
    """Where the data of a test's server lies: in memory if there is room; None for where ``tempfile`` puts things.

    A clone of the template is 350 files: 8 ms in memory, 35 to 350 on a disk.
    """
    memory = Path("/dev/shm")  # noqa: S108  # of everybody, as /tmp is: each server has a directory of its own there
    return str(memory) if memory.is_dir() and shutil.disk_usage(memory).free > ROOM_BYTES else None


@pytest.fixture
def server_dir() -> Iterator[Path]:
    """A directory for a server of the test's own.

    As root the server runs as another account, and ``tmp_path`` will not do: each start of pytest closes the
    directory above all of them, those of the sessions that run already included.
    """
    where = _memory_or_disk()
    with tempfile.TemporaryDirectory(prefix="rowdock-pg-", dir=where, ignore_cleanup_errors=True) as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server for the session (for each worker, under xdist); nothing it holds survives."""
    where = _memory_or_disk()
    with tempfile.TemporaryDirectory(prefix="rowdock-pg-", dir=where, ignore_cleanup_errors=True) as directory:
        server = PostgresServer(Path(directory), settings={**TEST_SETTINGS, "max_connections": "200"})
        try:
            _execute(
                server.url(),
                f"create role {OWNER} login createrole password '{server.password}'",
            )
            yield server
        finally:
            server.kill()


@pytest.fixture(scope="session")
def template_database(postgres_server: PostgresServer) -> str:
    """A migrated database that tests are cloned from."""
    name = "rowdock_template"
    _execute(postgres_server.url(), f"create database {name} owner {OWNER}")
    migrate(postgres_server.url(name, OWNER))
    for login, role in LOGINS.items():
        _execute(
            postgres_server.url(name, OWNER),
            f"create role {login} login password '{postgres_server.password}' in role {role}",
        )
    return name


@pytest.fixture(scope="session")
def make_database(
    postgres_server: PostgresServer, template_database: str
) -> Callable[[], AbstractContextManager[TestDatabase]]:
    """Fresh databases, migrated, empty, each for as long as its context."""

    @contextmanager
    def make() -> Iterator[TestDatabase]:
        name = f"test_{os.getpid()}_{next(_numbers)}"
        _execute(
            postgres_server.url(),
            f"create database {name} owner {OWNER} template {template_database} strategy file_copy",
        )
        yield TestDatabase(postgres_server, name)
        _execute(postgres_server.url(), f"drop database {name} with (force)")

    return make


@pytest.fixture
def database(make_database: Callable[[], AbstractContextManager[TestDatabase]]) -> Iterator[TestDatabase]:
    """A fresh database, migrated, empty."""
    with make_database() as made:
        yield made


@pytest.fixture(scope="session")
def lent_database(make_database: Callable[[], AbstractContextManager[TestDatabase]]) -> Iterator[TestDatabase]:
    """One for all tests that leave it as they found it: what they do is refused or rolled back, or is temporary.

    To clone one for each costs more than such a test itself.
    """
    with make_database() as made:
        yield made


@pytest.fixture
def empty_database(postgres_server: PostgresServer) -> Iterator[TestDatabase]:
    """A fresh database without any migration, owned by ``rowdock``."""
    name = f"empty_{os.getpid()}_{next(_numbers)}"
    _execute(postgres_server.url(), f"create database {name} owner {OWNER}")
    yield TestDatabase(postgres_server, name)
    _execute(postgres_server.url(), f"drop database {name} with (force)")


@pytest.fixture(scope="session")
def challenge_data() -> Path:
    """The real files beside the checkout."""
    if not (CHALLENGE / "hired_employees.csv").exists():
        pytest.skip("the real files are not at ../shared/data/challenge")
    return CHALLENGE
