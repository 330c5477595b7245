"""What the restore function answers over HTTP, as functions-framework serves it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import functions_framework
import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from functions.restore import calls
from shared import postgres
from shared.backups import services
from shared.errors import DatabaseBusy
from tests.integration.backups.conftest import Vault

pytestmark = pytest.mark.slow  # each test takes backups of its own

MAIN = Path(__file__).resolve().parents[3] / "functions/restore/main.py"
PROBLEM = "application/problem+json"
EMPLOYEES = "hired_employees.hired_employees"


@dataclass
class Function:
    """The function as functions-framework serves it, and what it printed."""

    client: FlaskClient
    vault: Vault
    printed: Callable[[], list[dict[str, Any]]]

    def post(self, path: str = "/", **body: Any) -> TestResponse:
        return self.client.post(path, data=json.dumps(body))

    def restored(self, table: str = "employees", **body: Any) -> dict[str, Any]:
        answer = self.post(table=table, **body)
        assert answer.status_code == 200, answer.text
        data: dict[str, Any] = answer.get_json()["data"]
        return data

    def rows(self) -> int:
        ((count,),) = self.vault.query(f"select count(*) from {EMPLOYEES}")
        return int(count)


@pytest.fixture
def function(vault: Vault, monkeypatch: Any, capsys: Any) -> Iterator[Function]:
    """Under the settings of production, as its own role."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    environment = {
        "ROWDOCK_ENVIRONMENT": "emulator",
        "CALLER_AUTH": "off",
        "DATABASE_URL": vault.database.url_for("restore"),
        "STORAGE_URL": vault.store_server.url,
        "BACKUP_BUCKET": vault.services.bucket,
        "POOL_SIZE": "4",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    services.production.cache_clear()
    postgres.database.cache_clear()
    client = functions_framework.create_app("restore", str(MAIN), "http").test_client()
    yield Function(client, vault, lambda: [json.loads(line) for line in capsys.readouterr().out.splitlines()])
    services.production.cache_clear()
    if postgres.database.cache_info().currsize:
        postgres.database().close()
    postgres.database.cache_clear()
    root.handlers[:], root.level = handlers, level


def problem(answer: TestResponse, status: int, code: str) -> str:
    """The detail of the problem document that ``answer`` must be."""
    assert (answer.status_code, answer.content_type) == (status, PROBLEM), answer.text
    document = answer.get_json(force=True)
    assert (document["status"], document["code"]) == (status, code)
    return str(document["detail"])


def test_without_confirmation_nothing_is_changed_and_the_answer_says_so(function: Function, people: int) -> None:
    """With the table's name it is done; dry_run is stronger than that."""
    function.vault.take()
    function.vault.query(f"delete from {EMPLOYEES} where id <= 10")
    for body in ({}, {"confirm": "employees", "dry_run": True}):
        told = function.restored(**body)
        assert (told["dry_run"], told["tables"][0]["inserted"]) == (True, 10)
        assert told["message"].startswith("Nothing was changed")
        assert function.rows() == people - 10
    told = function.restored(confirm="employees")
    assert (told["dry_run"], told["roll_up_verified"], told["message"]) == (False, True, "Restored.")
    assert function.rows() == people


def test_one_line_of_the_log_says_what_was_done(function: Function, people: int) -> None:
    """Which backup, which table, how many rows."""
    manifest = function.vault.take()
    function.vault.query(f"delete from {EMPLOYEES} where id <= 10")
    function.printed()
    told = function.restored(confirm="employees")
    (line,) = (line for line in function.printed() if line["message"] == "restore.finished")
    assert (line["outcome"], line["backup_id"], line["table"]) == ("ok", manifest.backup_id, "employees")
    assert (line["rows_inserted"], line["rows_deleted"]) == (10, 0)
    assert line["undo_backup_id"] == told["undo_backup_id"]


def test_files_that_the_restore_undid_come_with_the_command_that_brings_them_back(
    function: Function, people: int
) -> None:
    """Whatever the object is called."""
    function.vault.take()
    function.vault.query(
        "insert into ingest_status.ingest_status (kind, state, bucket, object_name, generation, table_name, started_at)"
        " values ('file', 'loaded', 'up', 'of may.csv', '7', 'hired_employees', now())"
    )
    (file,) = function.restored()["files_loaded_later"]
    assert (file["bucket"], file["object"], file["generation"]) == ("up", "of may.csv", "7")
    assert file["command"] == "rowdock load 'of may.csv' --bucket up --force"


NO_REQUESTS = [
    {},
    {"table": 5},
    {"table": "employees", "backup": 5},
    {"table": "employees", "tables": "*"},
    {"table": "employees", "mode": "truncate"},
    {"table": "employees", "dry_run": "yes"},
    {"table": "employees", "as_of": "2026-11-25"},
    {"table": "employees", "as_of": "2026-11-25T00:00:00Z", "backup": "20261125T000000Z"},
    {"table": "employees", "file": "x.avro", "backup": "20261125T000000Z"},
]


@pytest.mark.parametrize("body", NO_REQUESTS, ids=str)
def test_what_is_no_request_is_refused(function: Function, body: dict[str, Any]) -> None:
    """400, and what is taken instead."""
    problem(function.post(**body), 400, "request")


def test_what_is_not_there_is_not_found(function: Function, people: int) -> None:
    """404: the table, the backup, one that old, the file."""
    function.vault.take()
    problem(function.post(table="nothing"), 404, "table.not_found")
    problem(function.post(table="employees", backup="20200101T000000Z"), 404, "backup.not_found")
    problem(function.post(table="employees", as_of="2020-01-01T00:00:00Z"), 404, "backup.not_found")
    problem(function.post(table="jobs", file="nothing.avro"), 404, "backup.not_found")
    problem(function.post("/nothing"), 404, "path")


def test_what_does_not_fit_is_a_conflict(function: Function, people: int) -> None:
    """409: another table is confirmed, a parent is in use."""
    function.vault.take()
    function.vault.query(
        f"insert into hired_employees.jobs values (3, 'x'); update {EMPLOYEES} set job_id = 3 where id <= 4"
    )
    assert "another table" in problem(function.post(table="jobs", confirm="employees"), 409, "restore.refused")
    assert "4 rows" in problem(function.post(table="jobs", confirm="jobs"), 409, "restore.refused")


def test_a_damaged_backup_is_told_as_such(function: Function, people: int) -> None:
    """422: the fault is neither the request's nor the table's; the drill says the same, and writes it down."""
    manifest = function.vault.take()
    held = manifest.table("jobs")
    assert held is not None
    function.vault.services.store.delete(function.vault.services.bucket, held.parts[0].object)
    assert problem(function.post(table="jobs"), 422, "object.not_found")
    assert held.parts[0].object in problem(function.post("/drill"), 422, "backup.damaged")
    assert any("-restore-failed.json" in name for name in function.vault.objects())
    (line,) = (line for line in function.printed() if line["message"] == "drill.finished")
    assert (line["severity"], line["ok"]) == ("ERROR", False)


def test_a_drill_restores_every_table_and_changes_none(function: Function, people: int) -> None:
    """Written beside the backup, and into history, as a verification of the greatest depth; nothing is left of it."""
    manifest = function.vault.take()
    function.vault.query(f"delete from {EMPLOYEES} where id <= 10")
    answer = function.post("/drill")
    assert answer.status_code == 200, answer.text
    told = answer.get_json()["data"]
    assert (told["backup_id"], told["depth"], told["ok"]) == (manifest.backup_id, "restore", True)
    assert told["rows"] == sum(table.rows for table in manifest.tables)
    assert function.rows() == people - 10
    assert any(name.endswith("-restore-ok.json") for name in function.vault.objects())
    assert {row["verified_depth"] for row in function.vault.history()} == {"restore"}
    problem(function.post("/drill", backup="20200101T000000Z"), 404, "backup.not_found")


def test_a_busy_table_is_told_with_when_to_come_back(
    function: Function, people: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503: somebody writes for longer than a restore waits."""
    monkeypatch.setattr("shared.backups.restore.LOCK_WAIT_S", 0.2)
    function.vault.take()
    function.vault.query(f"delete from {EMPLOYEES} where id <= 10")
    writer = function.vault.database.connect()
    with writer.cursor() as cursor:
        cursor.execute("update hired_employees.hired_employees set employee_name = 'Mine' where id = 11")
        answer = function.post(table="employees", confirm="employees")
    writer.close()
    problem(answer, 503, DatabaseBusy.code)
    assert answer.headers["Retry-After"] == "5"


def test_probes_and_other_methods(function: Function) -> None:
    """200 for probes, 405 for what is neither, 500 with nothing of the exception in it for a defect."""
    for path in ("/health", "/ready"):
        assert (function.client.get(path).status_code, function.client.head(path).status_code) == (200, 200)
    for method, path in (("GET", "/"), ("PUT", "/"), ("DELETE", "/drill")):
        problem(function.client.open(path, method=method), 405, "method")


def test_a_defect_is_a_problem_document_too(function: Function, monkeypatch: pytest.MonkeyPatch) -> None:
    """500 and nothing of the exception."""
    monkeypatch.setitem(
        calls.CALLS, "/drill", ("drill", lambda _services, _headers, _body, _line: {"n": int("private")})
    )
    assert "private" not in problem(function.post("/drill"), 500, "defect")


def test_a_caller_that_proves_nothing_is_refused(function: Function, monkeypatch: pytest.MonkeyPatch) -> None:
    """403, before anything is looked at."""
    for name, value in {
        "ROWDOCK_ENVIRONMENT": "production",
        "CALLER_AUTH": "oidc",
        "CALLER_AUDIENCE": "https://restore.test",
        "CALLER_IDENTITIES": "trigger@rowdock.test",
    }.items():
        monkeypatch.setenv(name, value)
    problem(function.post(table="*", confirm="*"), 403, "caller")
    problem(function.post("/drill"), 403, "caller")
