"""What a request may rely on when the database is slow, gone, or goes in the middle of it."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from shared.postgres import Database
from tests.integration.api.conftest import ADA, Api
from tests.integration.api.test_batches import at_once, employee, open_transaction
from tests.proxy import CuttingProxy

KEY = "8e03978e-40d5-43dd-bc93-6894a57f9324"
WAITING = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
HELD = "lock table hired_employees.jobs in access exclusive mode"


@contextmanager
def over(api: Api, url: str, **limits: Any) -> Iterator[Api]:
    """The same API over a pool of other limits, or another way to the database."""
    pool = Database(url, application_name="api-test", **limits)
    yield dataclasses.replace(api, services=dataclasses.replace(api.services, database=pool))
    pool.close()


@pytest.fixture
def through_a_line(parents: Api, database: Any) -> Iterator[tuple[Api, CuttingProxy]]:
    """The API whose line to the database can be cut."""
    port = urlsplit(database.url_for("api")).port
    with CuttingProxy(port) as line, over(parents, database.url_for("api").replace(f":{port}", f":{line.port}")) as api:
        yield api, line


def test_a_request_waits_no_longer_for_a_connection_than_it_may(parents: Api, database: Any) -> None:
    """503 with Retry-After while others hold them all; and all is well once they are done."""
    with over(parents, database.url_for("api"), pool_size=2, wait_s=0.2) as api:
        held = [threading.Thread(target=api.get, args=("/api/jobs",)) for _ in range(2)]
        with open_transaction(parents, HELD):
            for thread in held:
                thread.start()
            while database.query(WAITING, role="superuser") != [(2,)]:
                pass
            for answer in (api.get("/api/departments"), api.post("/api/employees", [ADA]), api.get("/ready")):
                assert (answer.status, answer.json["code"]) == (503, "unavailable")
                assert answer.headers["retry-after"] == "5"
            assert api.get("/health").status == 200
        for thread in held:
            thread.join()
        assert {answer.status for answer in at_once(*[lambda: api.get("/api/jobs")] * 8)} == {200}


THOUSAND = [{**ADA, "id": n} for n in range(2, 1002)]


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("POST", "/api/employees", THOUSAND),
        ("PUT", "/api/employees", THOUSAND),
        ("POST", "/api/employees", [ADA, {**ADA, "id": 0}, {**ADA, "id": 3, "job_id": 99}]),
        ("POST", "/api/batch", {"departments": [{"departments": "New"}], "jobs": [{"job": "New"}]}),
        ("DELETE", "/api/employees", [1, 2]),
        ("GET", "/api/employees?job_id=eq.1&sort=-hired_date", None),
        ("GET", "/api/jobs/1", None),
        ("PUT", "/api/jobs/7", {"job": "Glazier"}),
        ("PATCH", "/api/jobs/1", {"job": "Glazier"}),
        ("DELETE", "/api/jobs/2", None),
        ("GET", "/api/2021/quarters", None),
        ("GET", "/api/2021/departments", None),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_request_goes_to_the_database_once(
    through_a_line: tuple[Api, CuttingProxy], method: str, target: str, body: Any
) -> None:
    """A batch of a thousand rows too, with rejects and history."""
    api, line = through_a_line
    assert api.get("/ready").status == 200  # the connection is made
    line.round_trips = 0
    assert api.call(method, target, body).status < 300
    assert line.round_trips == 1


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("GET", "/api/jobs?sort=-job", None),
        ("GET", "/api/2021/quarters", None),
        ("POST", "/api/jobs", [{"id": 9, "job": "x"}]),
        ("PUT", "/api/jobs/9", {"job": "x"}),
        ("DELETE", "/api/jobs/1", None),
    ],
)
def test_a_statement_beyond_its_time_is_a_504_and_its_connection_serves_on(
    parents: Api, database: Any, method: str, target: str, body: Any
) -> None:
    """The server itself ends it; nothing of it stays behind in the pool's one connection."""
    with over(parents, database.url_for("api"), pool_size=1, wait_s=0.2, statement_timeout_s=0.2) as api:
        with open_transaction(parents, HELD):
            answer = api.call(method, target, body)
        assert (answer.status, answer.json["code"]) == (504, "deadline")
        assert api.get("/api/jobs").status == 200
    assert parents.query("select count(*) from hired_employees.jobs") == [(2,)]
    assert parents.history() == []


WRITES: list[tuple[str, str, Any, bytes]] = [
    ("POST", "/api/employees", [ADA], b"with recursive"),
    ("PUT", "/api/employees", [ADA], b"with recursive"),
    ("PUT", "/api/employees/1", ADA, b"with looked"),
]


@pytest.mark.parametrize(("method", "target", "body", "statement"), WRITES)
def test_a_write_whose_answer_was_lost_is_not_said_to_be_undone(
    through_a_line: tuple[Api, CuttingProxy], method: str, target: str, body: Any, statement: bytes
) -> None:
    """It was done, and nobody could tell: a client that believes it was not would add the row twice."""
    api, line = through_a_line
    line.mute = statement
    answer = api.call(method, target, body)
    assert (answer.status, answer.json["code"], line.faults) == (503, "unavailable", 1)
    assert api.employees() == [(1, "Ada")]
    assert "nothing was changed" not in answer.json["detail"].lower()
    assert "Idempotency-Key" in answer.json["detail"]
    assert api.call(method, target, body).status in (200, 201)


@pytest.mark.parametrize("statement", [b"set transaction", b"pg_try_advisory", b"select fingerprint", b"with recursive",
                                       b"insert into api_access", b"COMMIT"])  # fmt: skip
def test_a_key_makes_a_batch_safe_wherever_the_line_breaks(
    through_a_line: tuple[Api, CuttingProxy], statement: bytes
) -> None:
    """Before its commit it is done by the next request; after it that one is answered as the first would have been."""
    api, line = through_a_line
    line.mute = statement
    rows = [{"employee_name": "New", **{name: ADA[name] for name in ("hired_date", "department_id", "job_id")}}]
    assert api.post("/api/employees", rows, idempotency_key=KEY).status == 503
    assert line.faults == 1
    answer = api.post("/api/employees", rows, idempotency_key=KEY)
    assert (answer.status, len(answer.data)) == (201, 1)
    assert (answer.headers.get("idempotency-replayed") == "true") == (statement == b"COMMIT")
    assert [row[0] for row in api.employees()] == [answer.data[0]["id"]]
    assert len(api.history()) == 1
    assert api.rollup_is_right()


@pytest.mark.slow
def test_connections_that_are_killed_over_and_over_cost_their_requests_alone(parents: Api, database: Any) -> None:
    """Each answer is done, or a clean 503; with a key each batch is in once, whatever came in between."""
    done = threading.Event()

    def kill() -> None:
        conn = database.connect("superuser")
        conn.autocommit = True
        with conn.cursor() as cursor:
            while not done.wait(0.02):
                cursor.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where datname = current_database() and application_name = 'api-test' and state <> 'idle' limit 1"
                )
        conn.close()

    def write(hand: int) -> set[int]:
        statuses = set()
        for turn in range(25):
            rows = [employee(1000 * hand + 10 * turn + n) for n in range(5)]
            while (answer := parents.post("/api/employees", rows, idempotency_key=f"{hand}-{turn}")).status >= 409:
                statuses.add(answer.status)
            assert answer.status == 201
        return statuses

    killer = threading.Thread(target=kill)
    killer.start()
    writers: list[Callable[[], Any]] = [lambda hand=hand: write(hand) for hand in range(1, 5)]
    seen = set().union(*at_once(*writers))
    done.set()
    killer.join()
    assert seen <= {503, 409}
    assert len(parents.employees()) == 500
    assert len(parents.history()) == 100
    assert parents.rollup_is_right()
