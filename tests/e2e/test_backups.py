"""Back up and restore as people do it: schedules, commands and calls of the functions, on the whole emulator."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg2
import pytest

from local_emulator import demo, samples
from local_emulator.samples import Plan
from local_emulator.state import Running, StateFolder
from shared import outbound
from shared.events import OBJECT_FINALIZED

ROOT = Path(__file__).resolve().parents[2]
EMPLOYEES = 2000
pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class System:
    """A running emulator, its three tables loaded."""

    state: Path
    running: Running

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run one of the emulator's commands."""
        return subprocess.run(
            [sys.executable, "-m", "local_emulator", words[0], "--state", str(self.state), *words[1:]],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def told(self, *words: str) -> Any:
        """Run a command that must end well, and return the JSON that it prints."""
        done = self.call(*words, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def query(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with closing(psycopg2.connect(self.running.environment["DATABASE_URL"])) as conn, conn, conn.cursor() as cursor:
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def announced(self) -> int:
        """How many files were announced, by whomever, reconcile included."""
        return sum(event["type"] == OBJECT_FINALIZED for event in self.told("events", "ls", "--limit", "1000"))

    def let_deliveries_end(self) -> None:
        deadline = time.monotonic() + 60
        while {"pending", "delivering"} & self.told("status")["deliveries"].keys():
            assert time.monotonic() < deadline, "deliveries go on and on"

    def post(self, function: str, path: str, body: object, *, signed: bool = True) -> tuple[int, Any]:
        """Post to a function, with the operator's identity token unless told otherwise."""
        url = f"{self.running.url}/functions/{function}"
        signature = {"authorization": f"Bearer {self.token(url)}"} if signed else {}
        headers = {"content-type": "application/json", **signature}
        content = json.dumps(body).encode()
        status, answer = outbound.exchange("POST", url + path, headers=headers, body=content, timeout_s=60)
        return status, json.loads(answer)

    def token(self, audience: str) -> str:
        """The operator's identity token, as the platform gives it out."""
        url = f"{self.running.environment['IDENTITY_TOKEN_URL']}?audience={quote(audience, safe='')}"
        status, token = outbound.exchange("GET", url, headers={"metadata-flavor": "Google"}, timeout_s=10)
        assert status == 200
        return token.decode()


def running_at(state: Path) -> Running:
    running = StateFolder(state).running()
    assert running is not None
    return running


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with tempfile.TemporaryDirectory(prefix="rowdock-backups-", ignore_cleanup_errors=True) as name:
        state, files = Path(name) / "state", Path(name) / "files"
        samples.write(files, Plan(EMPLOYEES))
        with demo.emulator(state, print, "--deploy", str(ROOT / "deploy.yaml")):
            made = System(state, running_at(state))
            names = ("departments.csv", "jobs.csv", "hired_employees.csv")
            assert made.call("upload", *(str(files / name) for name in names), "--wait").returncode == 0
            yield made


def test_a_scheduled_call_makes_one_backup_of_its_instant(system: System) -> None:
    """Twice, as of a scheduler that saw no answer: one backup, one answer. The status names it once it is verified."""
    first, again = (system.told("run", "backup", "--at", "2026-01-05T03:15:00Z") for _ in range(2))
    assert first["answer"] == again["answer"]
    assert (first["status"], first["answer"]["data"]["backup_id"]) == (200, "20260105T031500Z")
    listed = system.told("backups", "ls")
    assert [backup["backup"] for backup in listed] == ["20260105T031500Z"]
    assert system.told("run", "verify")["answer"]["data"][0]["ok"] is True
    assert system.told("status")["newest_verified_backup"]["backup"] == "20260105T031500Z"


def test_functions_take_calls_of_the_platform_and_of_an_operator_alone(system: System) -> None:
    """Without a signature: 403, and nothing was done."""
    before = len(system.told("backups"))
    assert system.post("backup", "/", {"tables": ["jobs"]}, signed=False)[0] == 403
    assert len(system.told("backups")) == before
    status, answer = system.post("backup", "/", {"tables": ["jobs"]})
    assert (status, answer["data"]["tables"][0]["table"]) == (200, "jobs")


CONTENT = "select count(*), sum(hashtextextended(e::text, 0)) from hired_employees.hired_employees e"
DAMAGE = """
    delete from hired_employees.hired_employees where id % 10 = 3;
    update hired_employees.hired_employees set employee_name = 'Overwritten' where id % 10 = 7
"""


@pytest.mark.parametrize("way", ["command", "function"])
def test_a_damaged_table_comes_back(system: System, way: str) -> None:
    """By command and by a signed call of the function: first said, then done, with the same figures, and undoable."""
    backup_id = system.told("backup", "hired_employees")["backup"]
    content = system.query(CONTENT)
    system.query(DAMAGE)
    damaged = system.query(CONTENT)

    def restored(which: str, *, do: bool) -> dict[str, Any]:
        if way == "command":
            option = "--yes" if do else "--dry-run"
            told: dict[str, Any] = system.told("restore", "hired_employees", "--backup", which, option)
            return told
        body = {"table": "hired_employees", "backup": which, **({"confirm": "hired_employees"} if do else {})}
        status, answer = system.post("restore", "/", body)
        assert status == 200, answer
        return dict(answer["data"])

    plan = restored(backup_id, do=False)
    assert system.query(CONTENT) == damaged
    outcome = restored(backup_id, do=True)
    assert system.query(CONTENT) == content
    counts = [(t["inserted"], t["updated"], t["deleted"]) for told in (plan, outcome) for t in told["tables"]]
    assert counts == [(EMPLOYEES // 10, EMPLOYEES // 10, 0)] * 2
    assert system.call("rollup", "verify").returncode == 0
    restored(outcome["undo_backup_id"], do=True)
    assert system.query(CONTENT) == damaged
    restored(backup_id, do=True)


def test_a_restore_takes_signed_calls_alone(system: System) -> None:
    """Whoever else can reach it changes nothing, and learns nothing."""
    assert system.post("restore", "/", {"table": "jobs"}, signed=False)[0] == 403


def test_after_the_loss_of_the_database_all_is_as_it_was(system: System) -> None:
    """An empty database, migrated and restored whole: tables, history and API keys; reconcile finds nothing to load."""
    key = system.call("api-keys", "new", "drill").stdout.strip()
    system.told("backup")
    tables = "select json_agg(j order by j::text)::text from {} j"
    kept = ("hired_employees.jobs", "ingest_status.ingest_status", "api_access.keys")
    before = [system.query(CONTENT), *(system.query(tables.format(name)) for name in kept)]
    assert system.call("stop").returncode == 0
    shutil.rmtree(system.state / "postgres")
    up = system.call("up", "--detach", "--port", "0")
    assert up.returncode == 0, up.stdout + up.stderr
    try:
        again = System(system.state, running_at(system.state))
        assert again.query(CONTENT)[0][0] == 0
        again.told("restore", "*", "--yes")
        assert [again.query(CONTENT), *(again.query(tables.format(name)) for name in kept)] == before
        announced = again.announced()
        assert again.call("reconcile", "--min-age", "0").returncode == 0
        again.let_deliveries_end()
        assert again.announced() == announced
        assert again.query(tables.format("ingest_status.ingest_status")) == before[2]
        assert again.call("check").returncode == 0
        assert key.split("_")[1] in {key["id"] for key in again.told("api-keys", "ls")}
    finally:
        again.call("stop")
