"""The sample generator: what it says a load must give is what its bytes hold."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from datetime import datetime
from pathlib import Path

import pytest

from local_emulator import samples
from local_emulator.samples import BAD_KINDS, BLOCK_ROWS, REJECTED_KINDS, Plan, spread


def generate(directory: Path, **arguments: object) -> tuple[samples.Expected, list[str]]:
    expected = samples.write_employees(directory / "hired_employees.csv", Plan(**arguments))  # type: ignore[arg-type]
    return expected, (directory / "hired_employees.csv").read_text().split("\n")


def judge(line: str, seen: set[int], departments: int = 12, jobs: int = 183) -> str:
    """The outcome of one line, by rules written here a second time and as plainly as can be."""
    fields = line.split(",")
    if fields[1].startswith('"'):
        return "record.quote"
    if len(fields) != 5:
        return "record.column_count"
    for name, value in zip(("id", "employee_name", "hired_date", "department_id", "job_id"), fields, strict=True):
        if not value:
            return f"{name}.missing"
    if not fields[2].endswith("Z"):
        return "hired_date.no_zone"
    try:
        datetime.fromisoformat(fields[2])
    except ValueError:
        return "hired_date.not_timestamp"
    if not fields[3].isdigit():
        return "department_id.not_integer"
    if int(fields[0]) in seen:
        return "id.duplicate"
    if int(fields[3]) > departments:
        return "pending"
    assert 1 <= int(fields[4]) <= jobs
    seen.add(int(fields[0]))
    return "loaded"


@pytest.mark.parametrize("kind", BAD_KINDS)
def test_each_kind_of_bad_row_is_what_it_says_and_is_counted(tmp_path: Path, kind: str) -> None:
    """A file of which half the rows are of one kind holds as many of them as the expected result says."""
    expected, lines = generate(tmp_path, employees=400, bad={kind: 0.5})
    seen: set[int] = set()
    outcomes = Counter(judge(line, seen) for line in lines)
    assert 120 < outcomes[BAD_KINDS[kind].outcome] < 280
    assert outcomes == Counter({**expected.rejected, "pending": expected.pending, "loaded": expected.loaded})


@pytest.mark.parametrize("share", [0.01, 0.37, 1.0])
def test_rows_of_all_kinds_add_up_over_several_blocks(tmp_path: Path, share: float) -> None:
    """The outcomes of every line, judged one by one, are those of the expected result, whatever the share."""
    bad = spread(share, tuple(BAD_KINDS))
    expected, lines = generate(tmp_path, employees=2 * BLOCK_ROWS + 7, bad=bad, first_id=1000)
    seen: set[int] = set()
    outcomes = Counter(judge(line, seen) for line in lines)
    assert outcomes == Counter({**expected.rejected, "pending": expected.pending, "loaded": expected.loaded})
    assert expected.rows == len(lines) == expected.loaded + expected.rejects + expected.pending


def test_a_duplicate_repeats_the_id_of_a_good_row_before_it(tmp_path: Path) -> None:
    """The first row of an id wins, so a duplicate never stands before the good row it repeats, even across blocks."""
    _, lines = generate(tmp_path, employees=BLOCK_ROWS + 500, bad={"duplicate": 0.3, "bad_date": 0.6})
    good: set[str] = set()
    for line in lines:
        number, name, date = line.split(",")[:3]
        if name.endswith(" II"):
            assert number in good
        elif "-02-30T" not in date:
            good.add(number)


def test_the_same_arguments_give_the_same_bytes_everywhere(tmp_path: Path) -> None:
    """These digests were taken once; another machine, NumPy or Python gives the same, or figures cannot be compared."""
    plan = Plan(employees=40_000, departments=14, jobs=200, seed=7, bad=spread(0.2, tuple(BAD_KINDS)))
    samples.write(tmp_path, plan)
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in tmp_path.iterdir()}
    assert digests == {
        "departments.csv": "0b921ff35ec45fe6",
        "jobs.csv": "a9b0aee974b7ddd7",
        "hired_employees.csv": "7bfdfe2e92334b34",
    }


def test_another_seed_gives_another_file(tmp_path: Path) -> None:
    _, one = generate(tmp_path, employees=100, seed=1)
    _, two = generate(tmp_path, employees=100, seed=2)
    assert one != two


def test_a_longer_file_starts_with_the_shorter_one(tmp_path: Path) -> None:
    """The size of a block is no part of the result."""
    _, short = generate(tmp_path, employees=100, bad=spread(0.5))
    _, long = generate(tmp_path, employees=BLOCK_ROWS + 100, bad=spread(0.5))
    assert long[:100] == short


def test_files_look_like_the_real_ones(tmp_path: Path) -> None:
    """No header, five fields, no newline behind the last line; a header when one is asked for."""
    _, lines = generate(tmp_path, employees=3)
    assert [line.split(",")[0] for line in lines] == ["1", "2", "3"]
    samples.write(tmp_path, Plan(employees=0, header=True))
    assert (tmp_path / "hired_employees.csv").read_text() == "id,employee_name,hired_date,department_id,job_id"
    assert (tmp_path / "departments.csv").read_text().startswith("id,departments\n1,")


@pytest.mark.parametrize(("departments", "jobs"), [(1, 1), (12, 183), (500, 6000)])
def test_catalogues_hold_every_id_once_under_a_name_of_its_own(tmp_path: Path, departments: int, jobs: int) -> None:
    samples.write(tmp_path, Plan(employees=2000, departments=departments, jobs=jobs))
    for name, count in (("departments", departments), ("jobs", jobs)):
        rows = [line.split(",") for line in (tmp_path / f"{name}.csv").read_text().split("\n")]
        assert [int(number) for number, _ in rows] == list(range(1, count + 1))
        assert len({text for _, text in rows}) == count
    employees = [line.split(",") for line in (tmp_path / "hired_employees.csv").read_text().split("\n")]
    assert all(1 <= int(row[3]) <= departments and 1 <= int(row[4]) <= jobs for row in employees)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"employees": 1, "bad": {"late": 0.1}}, "unknown kind of bad row 'late'"),
        ({"employees": 1, "bad": {"no_zone": 0.6, "bad_date": 0.6}}, "at most 1 together"),
        ({"employees": 1, "first_id": 2**31}, "do not fit"),
        ({"employees": 1, "jobs": 0}, "1 or more"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Plan(**arguments)  # type: ignore[arg-type]


def test_the_command_prints_what_the_files_must_give(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(tmp_path), "--employees", "500", "--bad", "missing_job=0.2,unknown_parent=0.1", "--json"]
    assert samples.main(arguments) == 0
    employees = json.loads(capsys.readouterr().out)[2]
    assert employees["rejected"].keys() == {"job_id.missing"}
    assert (
        employees["rows"] == 500 == employees["loaded"] + employees["rejected"]["job_id.missing"] + employees["pending"]
    )


def test_the_default_shares_reject_and_never_wait() -> None:
    assert "unknown_parent" not in spread(0.1)
    assert sum(spread(0.1).values()) == pytest.approx(0.1)
    assert set(spread(0.1)) == set(REJECTED_KINDS)
