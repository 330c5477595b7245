"""The API and what it is compared with, each a process of its own on loopback, on one PostgreSQL."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection, HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg2

from bench import processes
from local_emulator import database, manifest, samples
from local_emulator.children import Child, free_port
from local_emulator.functions import READY_TIMEOUT_S, FunctionServer, Surroundings
from local_emulator.postgresql import PostgresServer
from shared import migrate

ROOT = Path(__file__).resolve().parent.parent
HERE = "127.0.0.1"
SMALL = "small"  # a second database, for what must not depend on the number of rows
# As anyone would set it up; the seed has no rule at all but its foreign keys.
TWIN = """
create schema twin;
create table twin.departments (id integer primary key, departments text not null);
create table twin.jobs (id integer primary key, job text not null);
create table twin.employees (
  id integer primary key, employee_name text not null, hired_date timestamptz not null,
  department_id integer not null references twin.departments, job_id integer not null references twin.jobs);
grant usage on schema twin to api;
grant select, insert on all tables in schema twin to api;
"""


@dataclass(slots=True)
class Site:
    """The database, and where servers put what they leave.

    Attributes:
        leaders: process ids of the servers that run, each the leader of its group.
    """

    server: PostgresServer = field(repr=False)
    folder: Path
    workers: int
    leaders: list[int] = field(default_factory=list)

    def cpu_s(self) -> float:
        """Processor time of all servers and of PostgreSQL so far; only those that are asked use any."""
        mine = [pid for leader in self.leaders for pid in processes.group(leader)]
        return processes.usage([*mine, self.server.pid, *processes.children(self.server.pid)]).cpu_s

    @contextmanager
    def _running(self, child: Child | None) -> Iterator[None]:
        assert child is not None
        self.leaders.append(child.pid)
        try:
            yield
        finally:
            self.leaders.remove(child.pid)

    def query(self, statement: str, *values: object, name: str = database.DATABASE) -> list[tuple[Any, ...]]:
        """Run ``statement`` as the superuser, in a transaction of its own."""
        with closing(psycopg2.connect(self.server.url(name))) as conn:
            conn.autocommit = True
            with conn.cursor() as cursor:
                cursor.execute(statement, values or None)
                return cursor.fetchall() if cursor.description else []

    def copy(self, table: str, path: Path, name: str = database.DATABASE) -> None:
        """COPY a file into ``table``."""
        with (
            path.open("rb") as file,
            closing(psycopg2.connect(self.server.url(name))) as conn,
            conn,
            conn.cursor() as cursor,
        ):
            cursor.copy_expert(f"copy {table} from stdin with (format csv)", file)

    @contextmanager
    def api(self, name: str = database.DATABASE, **settings: str) -> Iterator[int]:
        """The API under functions-framework as deploy.yaml has it; gives its port."""
        function = manifest.load(ROOT / "deploy.yaml").functions["api"]
        with self._function(function, name, settings) as port:
            yield port

    @contextmanager
    def hello(self) -> Iterator[int]:
        """A hello world in the API's place, under the API's settings."""
        with self._in_place("bench/twins/hello.py") as port:
            yield port

    @contextmanager
    def query_alone(self) -> Iterator[int]:
        """A hello world that asks PostgreSQL once."""
        with self._in_place("bench/twins/query.py") as port:
            yield port

    @contextmanager
    def _in_place(self, source: str) -> Iterator[int]:
        function = manifest.load(ROOT / "deploy.yaml").functions["api"]
        other = replace(function, environment={**function.environment, "FUNCTION_SOURCE": source})
        with self._function(other, database.DATABASE, {}) as port:
            yield port

    @contextmanager
    def _function(self, function: manifest.Function, name: str, settings: Mapping[str, str]) -> Iterator[int]:
        given = {
            "DATABASE_URL": self.server.url(name, "api"),
            "ROWDOCK_ENVIRONMENT": "emulator",
            "API_AUTH": "off",
            "CALLER_AUTH": "off",
            "EVENTS_URL": "",
            "WORKERS": str(self.workers),
            **settings,
        }
        started = FunctionServer(function, Surroundings(ROOT, self.folder / "run", given), lambda _line: None)
        try:
            started.start()
            with self._running(started.child):
                yield started.port
        finally:
            started.stop()

    @contextmanager
    def twin(self) -> Iterator[int]:
        """FastAPI and SQLModel under uvicorn, as many processes as the API has."""
        options = ["--workers", str(self.workers), "--no-access-log", "--log-level", "warning"]
        with self._child("uvicorn", ["-m", "uvicorn", "bench.twins.rows:app", *options, "--port"]) as port:
            yield port

    @contextmanager
    def seed(self) -> Iterator[int]:
        """The seed's way, under Flask's own server."""
        with self._child("seed", ["-m", "bench.twins.seed"]) as port:
            yield port

    @contextmanager
    def _child(self, name: str, arguments: list[str]) -> Iterator[int]:
        port = free_port()[0]
        env = {"PATH": os.environ["PATH"], "DATABASE_URL": self.server.url(database.DATABASE, "api")}
        child = Child(name, [sys.executable, *arguments, str(port)], env=env, cwd=ROOT)
        try:
            child.wait_ready(lambda: _answers(port), READY_TIMEOUT_S)
            with self._running(child):
                yield port
        finally:
            child.stop(signal.SIGTERM)


def has_twin() -> bool:
    """Whether FastAPI and SQLModel are installed (``make bench`` does it)."""
    return all(find_spec(name) for name in ("fastapi", "sqlmodel"))


def versions() -> str:
    """What the functions run under."""
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for name in ("functions-framework", "gunicorn", "gunicorn-h1c", "Flask", "fastapi", "sqlmodel", "uvicorn"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join(found)


def _answers(port: int) -> bool:
    connection = HTTPConnection(HERE, port, timeout=5)
    try:
        connection.request("GET", "/api/employees/0")
        return connection.getresponse().status < 500
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


@contextmanager
def running(folder: Path, workers: int, jobs: int) -> Iterator[Site]:
    """PostgreSQL with both databases, departments and ``jobs`` jobs in each table of parents; ends it by its id."""
    with ExitStack() as stack:
        data = database.embedded(folder / "postgres", lambda _line: None)
        assert data.server is not None
        stack.callback(data.server.stop)
        site = Site(data.server, folder, workers)
        site.query(f"create database {SMALL} owner {database.OWNER}")
        migrate.migrate(data.server.url(SMALL, database.OWNER))
        site.query(TWIN)
        samples.write(folder, samples.Plan(0, jobs=jobs))
        for table in ("departments", "jobs"):
            for name in (database.DATABASE, SMALL):
                site.copy(f"hired_employees.{table}", folder / f"{table}.csv", name)
            site.copy(f"twin.{table}", folder / f"{table}.csv")
        yield site
