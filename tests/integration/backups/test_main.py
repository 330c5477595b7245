"""What the backup function answers over HTTP, as functions-framework serves it."""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import functions_framework
import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from local_emulator.children import Child, free_port
from shared import postgres
from shared.backups import services
from shared.backups.manifest import folder, manifest_name
from tests.integration.backups.conftest import Vault

pytestmark = pytest.mark.slow  # each test takes backups of its own

ROOT = Path(__file__).resolve().parents[3]
MAIN = ROOT / "functions/backup/main.py"
DYING = Path(__file__).with_name("dying_main.py")
PROBLEM = "application/problem+json"
AT = "2026-11-25T03:15:00Z"
PING = {"ce-type": "dev.knative.sources.ping", "ce-id": "1", "ce-source": "/x", "ce-specversion": "1.0"}
Start = Callable[..., "Function"]


@dataclass
class Function:
    """The function as functions-framework serves it, and what it printed."""

    client: FlaskClient
    vault: Vault
    printed: Callable[[], list[dict[str, Any]]]

    def post(self, path: str = "/", body: Any = None, **headers: str) -> TestResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(path, data=b"" if body is None else json.dumps(body), headers=named)

    def backed_up(self, body: Any = None, **headers: str) -> dict[str, Any]:
        answer = self.post("/", body, **headers)
        assert answer.status_code == 200, answer.text
        data: dict[str, Any] = answer.get_json()["data"]
        return data


def environment(vault: Vault) -> dict[str, str]:
    return {
        "ROWDOCK_ENVIRONMENT": "emulator",
        "CALLER_AUTH": "off",
        "DATABASE_URL": vault.database.url_for("backup"),
        "STORAGE_URL": vault.store_server.url,
        "BACKUP_BUCKET": vault.services.bucket,
    }


@pytest.fixture
def start(vault: Vault, monkeypatch: Any, capsys: Any) -> Iterator[Start]:
    """Serve the function under the settings of production but for what the test says."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level

    def begin(**changed: str) -> Function:
        for name, value in (environment(vault) | changed).items():
            monkeypatch.setenv(name, value)
        client = functions_framework.create_app("backup", str(MAIN), "http").test_client()
        return Function(client, vault, lambda: [json.loads(line) for line in capsys.readouterr().out.splitlines()])

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
    return start()


def problem(answer: TestResponse, status: int, code: str) -> str:
    """The detail of the problem document that ``answer`` must be."""
    assert (answer.status_code, answer.content_type) == (status, PROBLEM), answer.text
    document = answer.get_json(force=True)
    assert (document["status"], document["code"]) == (status, code)
    return str(document["detail"])


def test_a_backup_of_now_is_told_with_what_it_holds(function: Function, people: int) -> None:
    """And one line of the log says it too."""
    told = function.backed_up({"tables": "*"})
    assert told["kind"] == "now"
    assert {table["table"]: table["rows"] for table in told["tables"]}["hired_employees"] == people
    assert function.vault.catalogue.read(told["backup_id"]).whole
    (line,) = function.printed()
    assert (line["message"], line["outcome"], line["backup_id"]) == ("backup.finished", "ok", told["backup_id"])
    assert line["rows"] == told["rows"]


SCHEDULED = {
    "Cloud Scheduler": {"X_CloudScheduler_ScheduleTime": AT},
    "Knative": {**PING, "ce-time": "2026-11-25T03:15:01.204Z"},
    "both, as the emulator": {**PING, "ce-time": AT, "X_CloudScheduler_ScheduleTime": AT},
}


@pytest.mark.parametrize("headers", SCHEDULED.values(), ids=SCHEDULED)
def test_a_retry_is_answered_as_the_first_call_was(
    function: Function, people: int, headers: dict[str, str], monkeypatch: Any
) -> None:
    """The instant that the run was due makes the backup, not the time of day."""
    monkeypatch.setattr("functions.backup.calls.CLOCKS_APART", timedelta(days=36_500))
    first = function.backed_up({"tables": "*"}, **headers)
    assert (first["backup_id"], first["kind"], first["scheduled_at"]) == (
        "20261125T031500Z",
        "scheduled",
        "2026-11-25T03:15:00+00:00",
    )
    assert function.backed_up({"tables": "*"}, **headers) == first
    assert function.backed_up({"at": "2026-11-24T22:15:00-05:00"}) == first


def test_an_instant_in_the_future_is_refused(function: Function) -> None:
    """The run that is due then would find its backup done, and keep what is old by then."""
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    assert "future" in problem(function.post("/", {"at": later}), 400, "request")
    assert function.vault.objects() == []


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("/", {"table": "jobs"}, "tables, at"),
        ("/", {"tables": []}, "list of names"),
        ("/", {"tables": [7]}, "list of names"),
        ("/", {"at": "yesterday"}, "with its zone"),
        ("/", {"at": "2026-11-25T03:15:00"}, "with its zone"),
        ("/", [], "JSON object"),
        ("/verify", {"depth": "restore"}, "manifest, bytes, decode"),
        ("/verify", {"backup": 7}, "takes a text"),
        ("/verify", {"id": "latest"}, "backup, depth"),
        ("/expire", {"dry_run": "no"}, "true or false"),
        ("/expire", {"policy": {"hourly": 1}}, "days, daily, weekly, monthly, yearly, least"),
        ("/expire", {"policy": {"daily": -1}}, "from 0"),
    ],
)
def test_what_is_not_understood_is_told_with_what_is(function: Function, path: str, body: Any, told: str) -> None:
    assert told in problem(function.post(path, body), 400, "request")


def test_a_body_that_is_no_json_is_refused(function: Function) -> None:
    assert "no JSON" in problem(function.client.post("/", data=b"{"), 400, "request")


def test_what_is_not_there_is_told_with_what_is(function: Function) -> None:
    """A table, a backup, a path, a method."""
    assert "departments" in problem(function.post("/", {"tables": ["salaries"]}), 404, "table.not_found")
    assert "list them" in problem(function.post("/verify", {"backup": "20200101T000000Z"}), 404, "backup.not_found")
    assert "POST /verify" in problem(function.post("/backup"), 404, "path")
    assert "POST /verify" in problem(function.client.put("/"), 405, "method")
    assert function.client.get("/").status_code == 405


def test_probes_are_answered_to_everybody(function: Function, start: Start, empty_database: Any) -> None:
    assert function.client.get("/health").get_json() == {"status": "ok"}
    assert function.client.get("/ready").status_code == 200
    postgres.database.cache_clear()
    lacking = start(DATABASE_URL=empty_database.owner_url)
    assert problem(lacking.client.get("/ready"), 503, "not_ready")


@pytest.mark.parametrize("path", ["/", "/verify", "/expire"])
def test_a_caller_that_proves_nothing_is_refused(start: Start, path: str) -> None:
    """Before anything is read."""
    function = start(
        CALLER_AUTH="oidc", CALLER_AUDIENCE="https://backup.test", CALLER_IDENTITIES="trigger@rowdock.test"
    )
    problem(function.post(path, {}), 403, "caller")
    assert function.vault.objects() == []


def test_a_second_backup_at_the_same_time_is_told_when_to_come_back(function: Function, people: int) -> None:
    """503 with Retry-After; when the first one has ended it goes well."""
    conn = function.vault.database.connect("backup")
    with conn.cursor() as cursor:
        cursor.execute("select pg_advisory_xact_lock(hashtextextended('rowdock.backup', 0))")
        answer = function.post("/", {"tables": "*"})
        assert "Another backup" in problem(answer, 503, "backup.running")
        assert answer.headers["Retry-After"] == "30"
    conn.rollback()
    assert function.backed_up()["rows"] > people
    conn.close()


def test_verifications_are_told_one_by_one_and_a_damaged_backup_is_an_error(function: Function, people: int) -> None:
    """409, and an error in the log that names it: the schedule's own monitoring sees it."""
    good, bad = (function.backed_up({"tables": ["jobs", "employees"]}) for _ in range(2))
    function.printed()
    answer = function.post("/verify", {"backup": "all-unverified", "depth": "manifest"})
    assert [(v["backup_id"], v["ok"]) for v in answer.get_json()["data"]] == [
        (bad["backup_id"], True),
        (good["backup_id"], True),
    ]
    store, bucket = function.vault.services.store, function.vault.services.bucket
    store.delete(bucket, function.vault.catalogue.read(bad["backup_id"]).parts[0].object)
    function.printed()
    refused = function.post("/verify", {"backup": "all-unverified"})
    assert bad["backup_id"] in problem(refused, 409, "backup.damaged")
    (line,) = function.printed()
    assert (line["message"], line["severity"], line["failed"]) == ("verify.finished", "ERROR", [bad["backup_id"]])
    assert bad["backup_id"] in line["to_mend"]
    assert function.post("/verify", {"backup": good["backup_id"]}).status_code == 200


def test_expiry_removes_nothing_unless_it_is_told_to(function: Function, people: int) -> None:
    """A policy of the request's own is tried out dry; then it is done."""
    policy = {"days": 0, "daily": 0, "weekly": 0, "monthly": 0, "yearly": 0, "least": 1}
    old, new = function.backed_up(), function.backed_up()
    assert function.post("/verify", {"backup": "all-unverified", "depth": "bytes"}).status_code == 200
    assert function.post("/expire", {}).get_json()["data"]["remove"] == []
    dry = function.post("/expire", {"policy": policy}).get_json()["data"]
    assert (dry["dry_run"], dry["remove"]) == (True, [old["backup_id"]])
    assert manifest_name(old["backup_id"]) in function.vault.objects()
    done = function.post("/expire", {"dry_run": False, "policy": policy}).get_json()["data"]
    assert (done["dry_run"], done["remove"]) == (False, [old["backup_id"]])
    assert function.vault.objects(folder(old["backup_id"])) == []
    assert "newest of hired_employees.jobs" in done["keep"][new["backup_id"]]
    assert function.printed()[-1]["message"] == "expire.finished"


def test_a_missing_right_is_ours_to_mend_and_no_word_of_the_database_gets_out(function: Function) -> None:
    function.vault.query("revoke select on hired_employees.jobs from rowdock_backup")
    assert "jobs" not in problem(function.post(), 500, "database.misuse")


# --- A process of its own that dies

POINTS = [
    "after the snapshot",
    "after the first part",
    "in the middle of the second table",
    "after the last part",
    "before the manifest",
    "after the manifest, before the answer",
]


@dataclass
class Process:
    """functions-framework with the function in it, on a port."""

    child: Child
    port: int

    def post(self, body: Any) -> tuple[int, Any]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("POST", "/", json.dumps(body))
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def is_ready(self) -> bool:
        try:
            connection = HTTPConnection("127.0.0.1", self.port, timeout=2)
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False


@pytest.fixture
def serve(vault: Vault) -> Iterator[Callable[[str], Process]]:
    children: list[Child] = []

    def begin(die_at: str) -> Process:
        port = free_port()[0]
        told = {"FUNCTION_SOURCE": str(DYING), "FUNCTION_TARGET": "backup", "PORT": str(port), "HOST": "127.0.0.1"}
        env = {**os.environ, **environment(vault), **told, "ROWDOCK_DIE_AT": die_at, "WORKERS": "1", "THREADS": "1"}
        child = Child("backup", [os.sys.executable, "-m", "functions_framework"], env=env, cwd=ROOT)  # type: ignore[attr-defined]
        children.append(child)
        process = Process(child, port)
        child.wait_ready(process.is_ready, 60)
        return process

    yield begin
    for child in children:
        child.stop(signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_a_function_that_is_killed_publishes_nothing_and_the_retry_does(
    vault: Vault, people: int, serve: Callable[[str], Process], point: str
) -> None:
    """kill -9 at named points: no manifest but where it was written, no lock that stays, no part in the way."""
    at = "2026-11-01T03:15:00Z"
    with pytest.raises(OSError):  # whatever a connection says that ends without an answer
        serve(point).post({"at": at, "tables": ["jobs", "employees"]})
    published = manifest_name("20261101T031500Z") in vault.objects()
    assert published is (point == "after the manifest, before the answer")
    left = set(vault.objects())
    assert serve("").post({"at": at, "tables": ["jobs", "employees"]})[0] == 200
    manifest = vault.catalogue.read("20261101T031500Z")
    assert published or not left & {part.object for part in manifest.parts}
    assert len(vault.rows(manifest, "hired_employees")) == people
    assert {(row["state"], row["error_code"]) for row in vault.history()} == {("done", None)}
