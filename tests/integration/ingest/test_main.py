"""What the function answers over HTTP: the platform decides by it whether an event comes again."""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import functions_framework
import jwt
import psycopg2
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from functions.ingest import services, work
from local_emulator.children import Child, free_port
from local_emulator.issuer import Issuer
from shared import events, outbound, postgres
from tests.integration.ingest.conftest import Dock

ROOT = Path(__file__).resolve().parents[3]
MAIN = ROOT / "functions/ingest/main.py"
PROBLEM = "application/problem+json"
AUDIENCE, TRIGGER = "https://ingest.test", "trigger@rowdock.test"
EMPLOYEES = b"1,Anna Secret,2021-07-27T16:02:08Z,1,1\n"
Start = Callable[..., "Function"]


@dataclass
class Function:
    """The function as functions-framework serves it, and what it printed."""

    client: FlaskClient
    dock: Dock
    printed: Callable[[], list[dict[str, Any]]]

    def deliver(self, name: str, **headers: str) -> TestResponse:
        described, body = events.binary(self.dock.finalized(name))
        return self.client.post("/", headers=described | headers, data=body)


@pytest.fixture
def start(dock: Dock, database: Any, any_store: Any, monkeypatch: Any, capsys: Any) -> Iterator[Start]:
    """Serve the function under the settings of production but for what the test says."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level

    def begin(**changed: str) -> Function:
        environment = {
            "ROWDOCK_ENVIRONMENT": "emulator",
            "CALLER_AUTH": "off",
            "DATABASE_URL": database.url_for("ingest"),
            "STORAGE_URL": any_store.url,
            "UPLOAD_BUCKET": dock.bucket,
        }
        for name, value in (environment | changed).items():
            monkeypatch.setenv(name, value)
        client = functions_framework.create_app("ingest", str(MAIN), "http").test_client()
        return Function(client, dock, lambda: [json.loads(line) for line in capsys.readouterr().out.splitlines()])

    services.production.cache_clear()
    postgres.database.cache_clear()
    yield begin
    services.production.cache_clear()
    if postgres.database.cache_info().currsize:
        postgres.database().close()
    postgres.database.cache_clear()
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def function(start: Start) -> Function:
    started = start()
    started.dock.parents()
    return started


def problem(answer: TestResponse, status: int, code: str) -> str:
    """The detail of the problem document that ``answer`` must be."""
    assert (answer.status_code, answer.content_type) == (status, PROBLEM)
    document = json.loads(answer.data)
    assert (document["status"], document["code"]) == (status, code)
    assert document.keys() == {"status", "code", "title", "detail"}
    return str(document["detail"])


def states(dock: Dock) -> list[str]:
    return [load["state"] for load in dock.history() if "employees" in load["object_name"]]


def test_a_load_and_the_same_event_again_are_acknowledged(function: Function) -> None:
    """204 with nothing in it, and one line each that says what happened."""
    function.dock.put("employees.csv", EMPLOYEES)
    answers = [function.deliver("employees.csv") for _ in range(2)]
    assert [(answer.status_code, answer.data) for answer in answers] == [(204, b"")] * 2
    assert [line["state"] for line in function.printed()] == ["loaded", "duplicate"]
    assert len(function.dock.employees()) == 1


def test_bad_data_are_acknowledged_and_recorded(function: Function) -> None:
    """Neither a bad row nor a file that cannot be read comes again."""
    function.dock.put("employees bad.csv", b"1,,2021-07-27T16:02:08Z,1,1\n")
    function.dock.put("employees none.csv", b"id,name\n1,Anna\n")
    assert function.deliver("employees bad.csv").status_code == 204
    assert function.deliver("employees none.csv").status_code == 204
    assert [(reasons, raw) for _, reasons, raw in function.dock.rejects()] == [
        (["employee_name.missing"], "1,,2021-07-27T16:02:08Z,1,1")
    ]
    assert states(function.dock) == ["loaded", "refused"]
    assert "Anna" not in json.dumps(function.printed())


def test_an_object_that_another_delivery_holds_comes_again_later(function: Function) -> None:
    """503 with Retry-After, no history; as soon as it is free the same event loads it."""
    dock = function.dock
    dock.put("employees.csv", EMPLOYEES)
    with closing(dock.connect("ingest")) as holder, holder.cursor() as cursor:
        name = f"object:{dock.bucket}/employees.csv"
        cursor.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", (name,))
        refused = function.deliver("employees.csv")
    assert "again after 5 seconds" in problem(refused, 503, "database.busy")
    assert refused.headers["Retry-After"] == "5"
    assert states(dock) == []
    assert function.deliver("employees.csv").status_code == 204
    assert states(dock) == ["loaded"]


def test_a_database_that_is_down_leaves_the_event_to_come_again(function: Function, database: Any) -> None:
    """503 with Retry-After, and nothing of the database's address or words; up again, the same event loads."""
    function.dock.put("employees.csv", EMPLOYEES)
    function.printed()
    with closing(psycopg2.connect(database.server.url())) as server, server.cursor() as cursor:
        server.autocommit = True
        cursor.execute(f"alter database {database.name} allow_connections false")
        refused = function.deliver("employees.csv")
        cursor.execute(f"alter database {database.name} allow_connections true")
    detail = problem(refused, 503, "database.unavailable")
    assert refused.headers["Retry-After"] == "5"
    assert database.name not in detail + json.dumps(function.printed())
    assert states(function.dock) == []
    assert function.deliver("employees.csv").status_code == 204
    assert states(function.dock) == ["loaded"]


def test_a_missing_migration_is_ours_to_mend(start: Start, empty_database: Any) -> None:
    """500, so that the event is not lost, and an error in the log; not one word of the database reaches the caller."""
    function = start(DATABASE_URL=empty_database.owner_url)
    function.dock.put("employees.csv", EMPLOYEES)
    detail = problem(function.deliver("employees.csv"), 500, "database.misuse")
    assert "its log says why" in detail
    assert "ingest_status" not in detail
    (line,) = function.printed()
    assert (line["severity"], line["error_message"]) == ("ERROR", "PostgreSQL answered SQLSTATE 42P01")


def test_a_store_that_refuses_us_is_ours_to_mend(start: Start, any_store: Any) -> None:
    """500, and the log says what to look at, without the secret."""
    function = start(STORAGE_URL=any_store.url.replace(any_store.secret, "not-the-secret"))
    function.dock.put("employees.csv", EMPLOYEES)
    answer = function.deliver("employees.csv")
    problem(answer, 500, "object.refused")
    (line,) = function.printed()
    assert line["severity"] == "ERROR"
    assert line["error_message"].endswith("check the credentials and what they may do")
    assert "not-the-secret" not in json.dumps(line) + answer.text


def test_a_bucket_that_the_store_does_not_have_is_ours_to_mend(start: Start) -> None:
    """500: under a wrong STORAGE_URL every file looks as if it were gone, and none may be taken for done."""
    function = start()
    described, body = events.binary(function.dock.finalized("employees.csv", bucket="rowdock-nowhere"))
    problem(function.client.post("/", headers=described, data=body), 500, "object.refused")
    assert states(function.dock) == []
    (line,) = function.printed()
    assert (line["severity"], "create the bucket" in line["error_message"]) == ("ERROR", True)


NO_EVENTS: list[tuple[dict[str, str], bytes, str]] = [
    ({}, b"", "0 bytes of the event are not JSON"),
    ({"content-type": "application/json"}, b'{"a": 1}', "the request is no event"),
    ({"ce-specversion": "1.0", "ce-id": "1"}, b"{}", "lacks source, type"),
    ({"ce-specversion": "1.0", "ce-id": "1", "ce-source": "x", "ce-type": "other"}, b"{}", "event type 'other'"),
    *(
        (
            {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "x", "ce-type": events.RECONCILE},
            b'{"min_age_s": %b}' % age,
            "min_age_s takes a number of seconds",
        )
        for age in (b"1e300", b"NaN", b"-Infinity", b"true", b'"1"')
    ),
    *(
        (
            {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "x", "ce-type": type_},
            json.dumps({"bucket": "b", "name": "employees.csv", "generation": "1"} | odd).encode(),
            "hold NUL or half a character",
        )
        for type_ in (events.OBJECT_FINALIZED, events.LOAD)
        for odd in ({"name": "employees\0.csv"}, {"name": "employees\ud800.csv"}, {"generation": "1\0"})
    ),
]


def test_a_body_that_is_no_event_is_refused_for_good(start: Start) -> None:
    """400 says what is missing; the log has the code alone, for the message quotes a stranger."""
    function = start()
    for headers, body, said in NO_EVENTS:
        assert said in problem(function.client.post("/", headers=headers, data=body), 400, "event")
        (line,) = function.printed()
        assert (line["severity"], line["error_code"], "error_message" in line) == ("WARNING", "event", False)


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[Issuer]:
    """One whose public keys can be fetched."""
    published = tmp_path / "published"
    published.mkdir()
    serve = functools.partial(SimpleHTTPRequestHandler, directory=published)
    with ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        made = Issuer(tmp_path / "issuer.pem", f"http://127.0.0.1:{server.server_port}")
        (published / "keys").write_bytes(made.key_set())
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield made
        server.shutdown()


@pytest.fixture
def guarded(start: Start, issuer: Issuer) -> Function:
    """The function under CALLER_AUTH=oidc, as on a platform that checks nothing itself."""
    started = start(
        ROWDOCK_ENVIRONMENT="production",
        CALLER_AUTH="oidc",
        CALLER_ISSUER=issuer.url,
        CALLER_JWKS_URL=f"{issuer.url}/keys",
        CALLER_AUDIENCE=AUDIENCE,
        CALLER_IDENTITIES=TRIGGER,
    )
    started.dock.parents()
    started.dock.put("employees.csv", EMPLOYEES)
    return started


def expired(issuer: Issuer, folder: Path) -> str:
    key: Any = load_pem_private_key((folder / "issuer.pem").read_bytes(), None)
    claims = {"iss": issuer.url, "aud": AUDIENCE, "email": TRIGGER, "iat": 1_700_000_000, "exp": 1_700_000_900}
    key_id = json.loads(issuer.key_set())["keys"][0]["kid"]
    return jwt.encode(claims, key, algorithm="RS256", headers={"kid": key_id})


TOKENS: list[tuple[Callable[[Issuer, Path], str | None], str]] = [
    (lambda _issuer, _folder: None, "carries no identity token"),
    (lambda i, folder: Issuer(folder / "other.pem", i.url).token(TRIGGER, AUDIENCE), "does not publish"),
    (expired, "ExpiredSignatureError"),
    (lambda i, _folder: i.token(TRIGGER, "https://api.test"), "InvalidAudienceError"),
    (lambda i, _folder: i.token("mallory@rowdock.test", AUDIENCE), "not one that may call"),
]


def test_a_caller_that_proves_nothing_is_refused(guarded: Function, issuer: Issuer, tmp_path: Path) -> None:
    """403, a warning that says why, and nothing is loaded."""
    guarded.printed()
    for token, why in TOKENS:
        signed = token(issuer, tmp_path)
        answer = guarded.deliver("employees.csv", **({"authorization": f"Bearer {signed}"} if signed else {}))
        assert why in problem(answer, 403, "caller")
        (line,) = guarded.printed()
        assert (line["severity"], line["error_code"]) == ("WARNING", "caller")
        assert why in line["error_message"]
    assert states(guarded.dock) == []


def test_the_triggers_own_token_is_taken(guarded: Function, issuer: Issuer) -> None:
    """Proof that the refusals above are for their tokens alone."""
    signed = f"Bearer {issuer.token(TRIGGER, AUDIENCE)}"
    assert guarded.deliver("employees.csv", authorization=signed).status_code == 204
    assert states(guarded.dock) == ["loaded"]


def test_health_and_readiness_are_open_and_say_nothing_else(guarded: Function) -> None:
    """200 without a token where every other call needs one; a probe every few seconds writes no line."""
    guarded.printed()
    for path in ("/health", "/ready"):
        answer = guarded.client.get(path)
        assert (answer.status_code, json.loads(answer.data)) == (200, {"status": "ok"})
        assert guarded.client.head(path).status_code == 200
    assert guarded.printed() == []


def test_a_database_without_this_versions_migrations_is_not_ready(start: Start, empty_database: Any) -> None:
    """503, alive all the same; which are missing is for the log."""
    function = start(DATABASE_URL=empty_database.owner_url)
    refused = function.client.get("/ready")
    assert "migrat" not in problem(refused, 503, "not_ready")
    assert refused.headers["Retry-After"] == "5"
    (line,) = function.printed()
    assert (line["message"], line["severity"]) == ("ingest.not_ready", "ERROR")
    assert line["error_message"].startswith("the database lacks 0001_roles_and_schemas, ")
    assert function.client.get("/health").status_code == 200


def test_a_database_that_does_not_answer_is_not_ready(start: Start) -> None:
    function = start(DATABASE_URL=f"host=127.0.0.1 port={free_port()[0]} user=nobody password=secret")
    problem(function.client.get("/ready"), 503, "not_ready")
    assert "secret" not in json.dumps(function.printed())


def test_a_database_that_a_later_version_has_migrated_is_ready(function: Function, database: Any) -> None:
    """Migrations come before the version that needs them: until that serves, this one does."""
    database.query("insert into rowdock.migrations (version, name, sha256) values (9999, 'later', '')")
    assert function.client.get("/ready").status_code == 200


def test_what_is_neither_event_nor_probe_is_refused(start: Start) -> None:
    """405, and what is taken instead."""
    function = start()
    for method, path in [("GET", "/"), ("GET", "/metrics"), ("PUT", "/"), ("DELETE", "/ready"), ("PATCH", "/")]:
        answer = function.client.open(path, method=method)
        problem(answer, 405, "method")
        assert answer.headers["Allow"] == "POST"


def test_a_defect_is_a_problem_document_too(function: Function, monkeypatch: pytest.MonkeyPatch) -> None:
    """500 and nothing of the exception; the log has its class and the calls that led to it."""
    monkeypatch.setitem(work.WORK_BY_TYPE, events.SWEEP, lambda _services, _event: int("private"))
    headers, body = events.binary(events.make(events.SWEEP, {}))
    function.printed()
    answer = function.client.post("/", headers=headers, data=body)
    problem(answer, 500, "defect")
    (line,) = function.printed()
    assert (line["severity"], line["error_code"]) == ("ERROR", "defect")
    assert line["calls"]
    assert "private" not in answer.text + json.dumps(line)


def test_a_setting_that_cannot_be_used_reaches_the_operator_and_nobody_else() -> None:
    """A process under functions-framework lives on, is not ready, and its log names the variable and what it takes."""
    lines: list[str] = []
    port = free_port()[0]
    environment = {
        "PATH": os.environ["PATH"],
        "FUNCTION_SOURCE": str(MAIN),
        "FUNCTION_TARGET": "ingest",
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "PYTHONUNBUFFERED": "1",
        "CALLER_AUTH": "nonsense",
    }
    child = Child(
        "ingest", [sys.executable, "-m", "functions_framework"], env=environment, cwd=ROOT, on_line=lines.append
    )
    try:
        url = f"http://127.0.0.1:{port}"
        child.wait_ready(lambda: healthy(url), 60)
        assert outbound.exchange("GET", f"{url}/ready", timeout_s=10)[0] == 503
        status, body = outbound.exchange("POST", url, body=b"{}", timeout_s=10)
    finally:
        child.stop()
    assert (status, json.loads(body)["code"]) == (500, "settings")
    assert b"CALLER_AUTH" not in body
    printed = [json.loads(line) for line in lines if line.startswith("{")]
    assert [(line["message"], line["severity"], line["error_message"]) for line in printed] == [
        ("ingest.not_ready", "ERROR", "CALLER_AUTH takes oidc, platform or off"),
        ("ingest.finished", "ERROR", "CALLER_AUTH takes oidc, platform or off"),
    ]


def healthy(url: str) -> bool:
    try:
        return outbound.exchange("GET", f"{url}/health", timeout_s=2)[0] == 200
    except outbound.ServiceUnavailable:
        return False
