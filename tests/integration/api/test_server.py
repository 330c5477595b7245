"""The API as production runs it: a functions-framework process of its own, spoken to over a socket."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from functions.api.messages import LONGEST_BODY
from local_emulator.children import ChildFailed
from local_emulator.functions import FunctionServer
from local_emulator.postgresql import TEST_SETTINGS, PostgresServer
from shared.migrate import migrate

pytestmark = pytest.mark.slow  # each test starts the function as a process of its own

# What was committed has to be there after a crash: without this the migrations of a moment ago are gone with it, and
# /ready rightly answers 503 for ever.
DURABLE = {**TEST_SETTINGS, "synchronous_commit": "on"}


def ask(server: FunctionServer, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)) as connection:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def test_it_answers_over_http_as_the_contract_says(start: Callable[..., FunctionServer], database: Any) -> None:
    """GET, HEAD without a body, OPTIONS, methods that nobody knows, and paths that are none."""
    server = start(database.url_for("api"))
    assert ask(server, "GET", "/ready")[0] == 200
    status, headers, body = ask(server, "HEAD", "/health")
    assert (status, body, headers["content-length"]) == (200, b"", "16")
    assert ask(server, "OPTIONS", "/health")[0] == 204
    for method in ("TRACE", "FOO", "DELETE"):
        status, headers, body = ask(server, method, "/health")
        assert (status, headers["allow"], json.loads(body)["code"]) == (405, "GET, HEAD, OPTIONS", "request.method")
    status, headers, _ = ask(server, "GET", "/x%2Fy/../%00?a=%ff")
    assert (status, headers["content-type"]) == (404, "application/problem+json")


def test_a_request_keeps_the_id_that_its_caller_gave_where_a_log_can_take_it(
    start: Callable[..., FunctionServer], database: Any
) -> None:
    """Any other, and none, gets one of its own."""
    server = start(database.url_for("api"))
    assert ask(server, "GET", "/health", **{"X-Request-Id": "order-7.A~1"})[1]["x-request-id"] == "order-7.A~1"
    for given in ({"X-Request-Id": "a b"}, {"X-Request-Id": '"}'}, {"X-Request-Id": "x" * 65}, {}):
        assert re.fullmatch("[0-9a-f]{32}", ask(server, "GET", "/health", **given)[1]["x-request-id"])


def test_a_path_or_query_that_is_no_utf_8_is_refused(start: Callable[..., FunctionServer], database: Any) -> None:
    """400: an escape that stays one, or a character in its place, would find rows that nobody asked for."""
    server = start(database.url_for("api"))
    escaped = ("/api/jobs?job=eq.%FF", "/api/jobs?%C3=1", "/api/jobs?job=eq.%ED%A0%80", "/api/jobs/%FF", "/health?%FF")
    for path in escaped:
        status, headers, body = ask(server, "GET", path)
        assert (status, headers["content-type"]) == (400, "application/problem+json"), path
        assert json.loads(body)["code"] == "request.malformed"
    assert ask(server, "GET", "/api/jobs?job=eq.%F0%9F%98%80%EF%BF%BD&id=eq.1")[0] == 200


def test_a_body_in_chunks_is_taken_whole_up_to_the_limit(start: Callable[..., FunctionServer], database: Any) -> None:
    """Of one that is too long by a line no part goes in."""
    server = start(database.url_for("api"))
    line = b'{"id": %07d, "job": "' + b"x" * 8000 + b'"}\n'
    whole = LONGEST_BODY // len(line % 1)
    for lines, expected in ((whole, 201), (whole + 1, 413)):
        body = iter([line % (lines * 10_000 + number) for number in range(lines)])
        status, _, answer = ask(server, "POST", "/api/jobs", body, **{"Content-Type": "application/x-ndjson"})
        assert status == expected, answer[:300]
    assert database.query("select count(*) from hired_employees.jobs") == [(whole,)]


@pytest.mark.parametrize("how", ["with a length", "in chunks"])
def test_a_body_that_is_too_large_is_a_413(start: Callable[..., FunctionServer], database: Any, how: str) -> None:
    """A problem document, whether its length is told or not, and the server goes on."""
    server = start(database.url_for("api"))
    piece = b"x" * (1 << 20)

    def chunks() -> Iterator[bytes]:
        for _ in range(LONGEST_BODY // len(piece) + 1):
            yield piece

    body = piece * (LONGEST_BODY // len(piece) + 1) if how == "with a length" else chunks()
    status, headers, answer = ask(server, "POST", "/api/jobs", body, **{"Content-Type": "application/x-ndjson"})
    assert (status, headers["content-type"]) == (413, "application/problem+json")
    assert json.loads(answer)["code"] == "request.too_large"
    assert ask(server, "GET", "/health")[0] == 200


def test_open_to_everybody_it_starts_on_a_laptop_alone(start: Callable[..., FunctionServer], database: Any) -> None:
    """Anywhere else the process ends at its start, saying which setting and what to do."""
    with pytest.raises(ChildFailed, match="API_AUTH=off is for the emulator alone"):
        start(database.url_for("api"), ROWDOCK_ENVIRONMENT="production")


def test_half_a_configuration_of_tokens_is_refused_at_the_start(
    start: Callable[..., FunctionServer], database: Any
) -> None:
    """Naming what is missing."""
    with pytest.raises(ChildFailed, match="set API_JWT_AUDIENCE and API_JWT_JWKS_URL too"):
        start(database.url_for("api"), API_JWT_ISSUER="https://issuer.test")


def test_a_request_cut_off_in_its_body_harms_nobody(start: Callable[..., FunctionServer], database: Any) -> None:
    """The caller went away: no row that had come whole goes in, and the next caller is answered."""
    server = start(database.url_for("api"))
    head = b"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
    row = b'{"id": 1, "job": "Half"}\n'
    for rest in (
        b"Content-Length: 1000\r\n\r\n" + row,
        b"Transfer-Encoding: chunked\r\n\r\n19\r\n" + row + b"\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nfff\r\n" + row,
    ) * 6:  # more than there are threads
        with closing(socket.create_connection(("127.0.0.1", server.port), timeout=10)) as cut:
            cut.sendall(head + rest)
            cut.shutdown(socket.SHUT_WR)
            assert b" 201 " not in cut.recv(100)
    assert ask(server, "GET", "/health")[0] == 200
    assert database.query("select * from hired_employees.jobs") == []


@pytest.mark.timeout(90)
def test_clients_that_fall_silent_in_their_body_hold_no_thread_for_ever(
    start: Callable[..., FunctionServer], database: Any
) -> None:
    """More of them than there are threads: each is answered after a while, and others are served then."""
    server = start(database.url_for("api"))
    head = b"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    with ExitStack() as stack:
        silent = [
            stack.enter_context(closing(socket.create_connection(("127.0.0.1", server.port), timeout=60)))
            for _ in range(24)
        ]
        for number, line in enumerate(silent):
            line.sendall(head % (LONGEST_BODY * 10 if number % 2 else 1000) + b'[{"id": 1')
        assert [line.recv(12) for line in silent] == [b"HTTP/1.1 400", b"HTTP/1.1 413"] * 12
        assert ask(server, "GET", "/ready")[0] == 200
    assert database.query("select * from hired_employees.jobs") == []


@pytest.mark.timeout(90)
def test_while_the_database_restarts_fifty_clients_see_503_and_then_all_is_well(
    start: Callable[..., FunctionServer], server_dir: Path
) -> None:
    """Only 200 and clean 503s with Retry-After; the function is not restarted."""
    first = PostgresServer(server_dir, settings=DURABLE)
    done, restarted = threading.Event(), threading.Event()
    met = {200: threading.Event(), 503: threading.Event()}
    try:
        migrate(first.url())
        server = start(first.url())
        seen: list[tuple[int, str | None]] = []

        def keep_asking() -> None:
            while not done.is_set():
                status, headers, _ = ask(server, "GET", "/ready")
                seen.append((status, headers["retry-after"]))
                if status in met:
                    met[status].set()
                if status == 200 and restarted.is_set():
                    return

        clients = [threading.Thread(target=keep_asking) for _ in range(50)]
        for client in clients:
            client.start()
        assert met[200].wait(30), "nobody was answered before the restart"
        first.kill()
        assert met[503].wait(30), "nobody met the database while it was down"
        second = PostgresServer(server_dir, port=first.port, settings=DURABLE)
        try:
            restarted.set()
            for client in clients:
                client.join(60)
            alive = [client for client in clients if client.is_alive()]
            done.set()
            assert not alive, "some never got an answer again"
            assert {status for status, _ in seen} == {200, 503}
            assert all(retry == "5" for status, retry in seen if status == 503)
        finally:
            second.kill()
    finally:
        done.set()
        first.kill()


@pytest.mark.parametrize(
    "path", ["/health%0A", "/api/jobs/a%0Ab", "/static/app.js", "/static/../main.py", "/favicon.ico", "/robots.txt"]
)
def test_a_path_that_the_server_keeps_to_itself_is_answered_by_the_api(
    start: Callable[..., FunctionServer], database: Any, path: str
) -> None:
    """A problem with the strict headers, as for every path; functions-framework has a page of its own for some."""
    server = start(database.url_for("api"))
    status, headers, body = ask(server, "GET", path)
    assert (status, headers["content-type"]) == (404, "application/problem+json")
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert json.loads(body)["code"] in ("route.not_found", "row.not_found")
