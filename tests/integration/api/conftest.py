"""The API's own code on a fresh database, as its production role; what a test asks it, and how it answers."""

from __future__ import annotations

import itertools
import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest

from functions.api import app
from functions.api.messages import Request, Response
from functions.api.services import Services
from local_emulator import manifest
from local_emulator.functions import FunctionServer, Surroundings
from shared import dictionary, migrate, settings
from shared.dictionary import Dictionary
from shared.events import Event
from shared.postgres import Database
from tests.integration.api import things as fourth

ROOT = Path(__file__).resolve().parents[3]
DEPARTMENTS = [(1, "Engineering"), (2, "Sales"), (3, "Support")]
JOBS = [(1, "Engineer"), (2, "Seller")]
ADA = {"id": 1, "employee_name": "Ada", "hired_date": "2021-02-03T04:05:06Z", "department_id": 1, "job_id": 1}


@dataclass(frozen=True)
class Answer:
    """A response, read."""

    response: Response

    @property
    def status(self) -> int:
        return self.response.status

    @property
    def headers(self) -> Mapping[str, str]:
        return {name.lower(): value for name, value in self.response.headers.items()}

    @property
    def text(self) -> str:
        if self.response.chunks is not None:
            self.response.body, self.response.chunks = b"".join(self.response.chunks), None
        return self.response.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.response.body)

    @property
    def data(self) -> Any:
        return self.json["data"]


@dataclass
class Api:
    """What a test calls; ``sent`` are the events that the API sent."""

    services: Services
    connect: Callable[[str], Any]
    sent: list[Event] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=lambda: {"host": "localhost:8887"})
    _ids: Iterator[int] = field(default_factory=itertools.count)

    def call(self, method: str, target: str, body: Any = None, **headers: str) -> Answer:
        """Send a request; a body that is no bytes goes as JSON. ``if_match=…`` is the header If-Match."""
        given = {name.replace("_", "-").lower(): value for name, value in headers.items()}
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        if body is not None:
            given.setdefault("content-type", "application/json")
        parts = urlsplit(target)
        query = tuple(parse_qsl(parts.query, keep_blank_values=True))
        path = unquote(parts.path)
        request = Request(method, path, query, self.headers | given, body or b"", id=f"request-{next(self._ids)}")
        return Answer(app.handle(request, lambda: self.services))

    def get(self, target: str, **headers: str) -> Answer:
        return self.call("GET", target, **headers)

    def post(self, target: str, body: Any, **headers: str) -> Answer:
        return self.call("POST", target, body, **headers)

    def put(self, target: str, body: Any, **headers: str) -> Answer:
        return self.call("PUT", target, body, **headers)

    def patch(self, target: str, body: Any, **headers: str) -> Answer:
        return self.call("PATCH", target, body, **headers)

    def delete(self, target: str, body: Any = None, **headers: str) -> Answer:
        return self.call("DELETE", target, body, **headers)

    def query(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """What the owner of the database sees."""
        conn = self.connect("owner")
        try:
            with conn, conn.cursor() as cursor:
                cursor.execute(statement, values or None)
                return cursor.fetchall() if cursor.description else []
        finally:
            conn.close()

    def employees(self) -> list[tuple[Any, ...]]:
        return self.query("select id, employee_name from hired_employees.hired_employees order by id")

    def history(self) -> list[dict[str, Any]]:
        return [row for (row,) in self.query("select row_to_json(l) from ingest_status.ingest_status l order by id")]

    def rollup_is_right(self) -> bool:
        """Whether the roll-up equals a recount."""
        return self.query(
            "select count(*) from metrics.hires_by_quarter r full join metrics.hires_recounted c"
            " using (year, quarter, department_id, job_id) where r.hired is distinct from c.hired"
        ) == [(0,)]

    def with_settings(self, **changes: Any) -> Api:
        """The same database under other settings."""
        return replace(self, services=replace(self.services, settings=replace(self.services.settings, **changes)))


@pytest.fixture
def make_api(database: Any) -> Iterator[Callable[..., Api]]:
    """APIs over the test's database, open as under the emulator; a dictionary may be given."""
    pools: list[Database] = []

    def make(tables: Dictionary | None = None, **environment: str) -> Api:
        current = settings.load(
            {"ROWDOCK_ENVIRONMENT": "emulator", "API_AUTH": "off", "DEADLINE_S": "20", **environment}
        )
        pool = Database(
            database.url_for("api"), application_name="api-test", pool_size=8, statement_timeout_s=20, lock_timeout_s=5
        )
        pools.append(pool)
        sent: list[Event] = []
        return Api(Services(current, tables or dictionary.load(), pool, sent.append), database.connect, sent)

    yield make
    for pool in pools:
        pool.close()


@pytest.fixture
def api(make_api: Callable[..., Api]) -> Api:
    return make_api()


@pytest.fixture
def parents(api: Api) -> Api:
    """The API with three departments and two jobs."""
    for table, rows in (("departments", DEPARTMENTS), ("jobs", JOBS)):
        for row in rows:
            api.query(f"insert into hired_employees.{table} values (%s, %s)", *row)
    return api


@pytest.fixture
def things(make_api: Callable[..., Api], database: Any, tmp_path: Path) -> Api:
    """The API with two tables more, made by a dictionary entry and a migration each."""
    (tmp_path / "9001_things.sql").write_text(fourth.MIGRATION)
    migrate.migrate(database.owner_url, [migrate.MIGRATIONS, tmp_path])
    return make_api(dictionary.parse(tomllib.loads(dictionary.DICTIONARY_PATH.read_text() + fourth.ENTRY)))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., FunctionServer]]:
    """Starts the function as deploy.yaml describes it, under further settings."""
    servers: list[FunctionServer] = []

    def begin(database_url: str, **settings: str) -> FunctionServer:
        given = {"DATABASE_URL": database_url, "ROWDOCK_ENVIRONMENT": "emulator", "API_AUTH": "off", **settings}
        surroundings = Surroundings(ROOT, tmp_path / f"run{len(servers)}", given)
        function = manifest.load(ROOT / "deploy.yaml").functions["api"]
        server = FunctionServer(function, surroundings, lambda _line: None)
        servers.append(server)
        server.start()
        return server

    yield begin
    for server in servers:
        server.stop()
