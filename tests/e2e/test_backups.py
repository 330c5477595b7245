"""Back up and restore as people do it: schedules, commands and calls of the functions, on the whole emulator."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
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
            cursor.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

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


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with tempfile.TemporaryDirectory(prefix="rowdock-backups-", ignore_cleanup_errors=True) as name:
        state, files = Path(name) / "state", Path(name) / "files"
        samples.write(files, Plan(EMPLOYEES))
        with demo.emulator(state, print, "--deploy", str(ROOT / "deploy.yaml")):
            running = StateFolder(state).running()
            assert running is not None
            made = System(state, running)
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
