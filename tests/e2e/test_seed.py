"""The calls of the system that Rowdock re-invents, as they were: same paths, same bodies, over HTTP to the emulator."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from local_emulator import demo
from local_emulator.state import StateFolder

ROOT = Path(__file__).resolve().parents[2]
ABOVE_THE_MEAN = {
    "Support": 216,
    "Engineering": 205,
    "Human Resources": 201,
    "Services": 200,
    "Business Development": 185,
    "Research and Development": 148,
    "Marketing": 142,
}
Ask = Callable[..., Any]
pytestmark = pytest.mark.slow


@pytest.fixture
def state() -> Iterator[Path]:
    """The folder of a fresh emulator."""
    with tempfile.TemporaryDirectory(prefix="rowdock-seed-", ignore_cleanup_errors=True) as name:
        folder = Path(name) / "state"
        with demo.emulator(folder, print, "--deploy", str(ROOT / "deploy.yaml")):
            yield folder


@pytest.fixture
def ask(state: Path) -> Ask:
    """Ask the emulator's address; a body goes as JSON. What is not 2xx raises."""
    running = StateFolder(state).running()
    assert running is not None

    def asked(method: str, path: str, body: Any = None, **headers: str) -> Any:
        sent = None if body is None else json.dumps(body).encode()
        told = {"Content-Type": "application/json"} if sent else {}
        request = Request(f"{running.url}{path}", sent, told | headers, method=method)  # noqa: S310  # our own, http
        with urlopen(request, timeout=30) as answer:  # noqa: S310  # as above
            return json.load(answer)

    return asked


def rows_of(ask: Ask, resource: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = ask("GET", f"/api/{resource}")["data"]
    return rows


def test_rows_are_created_read_updated_and_deleted(ask: Ask) -> None:
    """``{"data": [...]}`` in and out, in every resource; metrics follow each step."""
    department, job = {"id": 1, "departments": "Supply Chain"}, {"id": 1, "job": "Recruiter"}
    employee = {
        "id": 1,
        "employee_name": "Harold Vogt",
        "hired_date": "2021-11-07T02:48:42Z",
        "department_id": 1,
        "job_id": 1,
    }
    quarter = {"departments": "Supply Chain", "job": "Recruiter", "Q1": 0, "Q2": 0, "Q3": 0, "Q4": 1}
    created = {"departments": department, "jobs": job, "employees": employee}
    for resource, row in created.items():
        assert rows_of(ask, resource) == []
        assert ask("POST", f"/api/{resource}", {"data": [row]})["data"] == [row]
        assert rows_of(ask, resource) == [row]
    assert ask("GET", "/api/2021/quarters")["data"] == [quarter]
    changed = {
        "departments": department | {"departments": "Maintenance"},
        "jobs": job | {"job": "Staff Scientist"},
        "employees": employee | {"employee_name": "Ty Hofer", "hired_date": "2021-02-03T10:00:00Z"},
    }
    for resource, row in changed.items():
        assert ask("PUT", f"/api/{resource}", {"data": [row]})["counts"]["updated"] == 1
        assert rows_of(ask, resource) == [row]
    moved = {"departments": "Maintenance", "job": "Staff Scientist", "Q1": 1, "Q2": 0, "Q3": 0, "Q4": 0}
    assert ask("GET", "/api/2021/quarters")["data"] == [moved]
    assert ask("GET", "/api/2021/departments")["data"] == []  # the only one is at the mean, and not above it
    for resource in ("employees", "jobs", "departments"):
        assert ask("DELETE", f"/api/{resource}", {"data": [{"id": 1}]})["counts"]["deleted"] == 1
        assert rows_of(ask, resource) == []
    assert ask("GET", "/api/2021/quarters")["data"] == []


def test_the_real_files_give_the_known_metrics(ask: Ask, state: Path, challenge_data: Path) -> None:
    """1643 hires of 2021 by quarter, department and job, after the files went through the bucket."""
    files = [str(challenge_data / f"{name}.csv") for name in ("departments", "jobs", "hired_employees")]
    upload = [sys.executable, "-m", "local_emulator", "upload", *files, "--wait", "--state", str(state)]
    subprocess.run(upload, cwd=ROOT, check=True, capture_output=True, timeout=120)
    assert ask("GET", "/api/employees?page_size=1", Prefer="count=exact")["count"] == 1929

    quarters = ask("GET", "/api/2021/quarters")["data"]
    assert [sum(row[quarter] for row in quarters) for quarter in ("Q1", "Q2", "Q3", "Q4")] == [249, 454, 453, 487]
    assert len({(row["departments"], row["job"]) for row in quarters}) == len(quarters) == 933
    assert quarters == sorted(quarters, key=lambda row: (row["departments"], row["job"]))

    above = ask("GET", "/api/2021/departments")
    assert above["mean"] == 136.9167
    assert [(row["departments"], row["hired"]) for row in above["data"]] == list(ABOVE_THE_MEAN.items())
    assert {row["departments"]: row["id"] for row in rows_of(ask, "departments")}.items() >= {
        (row["departments"], row["department_id"]) for row in above["data"]
    }
