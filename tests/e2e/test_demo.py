"""``make demo`` from start to end, on generated files and on the real ones."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from local_emulator import demo, samples
from local_emulator.samples import BAD_KINDS, Expected, Plan, spread

pytestmark = pytest.mark.slow
Play = Callable[[Path, tuple[Expected, Expected, Expected]], tuple[int, str]]


def processes_that_name(folder: Path) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in command:
            found.append(command)
    return found


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not tmp_path: pytest closes its folder to other accounts, and as root PostgreSQL runs as another account."""
    with tempfile.TemporaryDirectory(prefix="rowdock-test-") as name:
        yield Path(name)


@pytest.fixture
def play(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Run the demo; its exit status and what it said. Nothing of it may be left afterwards."""

    def run(files: Path, expected: tuple[Expected, Expected, Expected]) -> tuple[int, str]:
        said: list[str] = []
        with monkeypatch.context() as patched:
            patched.setattr(tempfile, "tempdir", str(folder))
            status = demo.run(files, expected, said.append)
        assert processes_that_name(folder) == []
        assert list(folder.iterdir()) == []
        return status, "\n".join(said)

    return run


def test_every_number_is_the_expected_one(play: Play, tmp_path: Path) -> None:
    """Children first, parents, the same again, mended rejects; some rows wait for a parent that never comes."""
    expected = samples.write(tmp_path / "files", Plan(600, seed=3, bad=spread(0.2, tuple(BAD_KINDS))))
    assert expected[2].pending
    status, said = play(tmp_path / "files", expected)
    assert "NOT AS EXPECTED" not in said
    assert status == 0, said
    assert f"{expected[2].rejects:,} bad ones are logged" in said


def test_a_number_that_is_not_the_expected_one_fails(play: Play, tmp_path: Path) -> None:
    """The demo is no show: one row too few in what must come, and it says so and ends with 1."""
    departments, jobs, employees = samples.write(tmp_path / "files", Plan(50))
    wrong = dataclasses.replace(employees, loaded=employees.loaded - 1)
    status, said = play(tmp_path / "files", (departments, jobs, wrong))
    assert status == 1
    assert "NOT AS EXPECTED  employees in the table: expected 49, found 50" in said


def test_the_real_files_give_the_known_numbers(play: Play, tmp_path: Path, challenge_data: Path) -> None:
    """12 departments, 183 jobs, 1999 employees: 1929 go in, 70 are rejected, each with the one thing it lacks."""
    files = tmp_path / "files"
    shutil.copytree(challenge_data, files, copy_function=shutil.copyfile)
    missing = {
        "employee_name.missing": 19,
        "hired_date.missing": 14,
        "department_id.missing": 21,
        "job_id.missing": 16,
    }
    expected = (
        Expected("departments.csv", "departments", 0, 12, 12),
        Expected("jobs.csv", "jobs", 0, 183, 183),
        Expected("hired_employees.csv", "hired_employees", 0, 1999, 1929, missing),
    )
    status, said = play(files, expected)
    assert "NOT AS EXPECTED" not in said
    assert status == 0, said
