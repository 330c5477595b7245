"""rowdock rollup: a wrong count is found, counted anew while writers work, and folding changes no answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest

from shared import cli, rollup
from tests.integration.keys.sessions import DONE, interleavings, opened, play

CELLS = "select year, quarter, department_id, job_id, hired from metrics.hires_by_quarter order by 1, 2, 3, 4"
INSERT = "insert into hired_employees.hired_employees values ({}, 'N', '2021-05-01T00:00:00Z', 1, 1)"


def staff(database: Any) -> Any:
    """100 employees, half of them folded."""
    database.query(
        "insert into hired_employees.departments select i, 'D' from generate_series(1, 3) i;"
        "insert into hired_employees.jobs select i, 'J' from generate_series(1, 3) i"
    )
    for first in (1, 51):
        database.query("select metrics.fold()")
        database.query(
            "insert into hired_employees.hired_employees"
            " select i, 'E', timestamptz '2020-11-01Z' + i * interval '9 days', mod(i, 3) + 1, mod(i, 2) + 1"
            " from generate_series(%s, %s) i",
            first,
            first + 49,
        )
    return database


@pytest.fixture
def staffed(database: Any) -> Any:
    return staff(database)


@pytest.fixture(scope="module")
def counted_database(make_database: Any) -> Iterator[Any]:
    """For the trials that commit, one after the other."""
    with make_database() as made:
        yield made


@pytest.fixture
def staffed_anew(counted_database: Any) -> Any:
    counted_database.query(  # the roll-up is emptied by the trigger
        "truncate hired_employees.hired_employees, hired_employees.departments, hired_employees.jobs"
    )
    return staff(counted_database)


def run(database: Any, capsys: pytest.CaptureFixture[str], *command: str) -> tuple[int, Any]:
    status = cli.main(["--database-url", database.owner_url, "rollup", *command, "--json"])
    return status, json.loads(capsys.readouterr().out)


def verified(database: Any) -> list[dict[str, Any]]:
    with closing(database.connect()) as conn:
        return rollup.verify(conn)


def test_a_roll_up_that_is_right_is_told_so(staffed: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(staffed, capsys, "verify") == (0, [])


@pytest.mark.parametrize(
    ("damage", "rolled_up", "counted"),
    [
        ("update metrics.hires set q2 = q2 + 5 where (year, department_id, job_id) = (2021, 2, 1)", 5, 0),
        ("insert into metrics.hires_deltas values (2021, 2, 2, 1, 5)", 5, 0),
        ("insert into metrics.hires_deltas values (2021, 2, 2, 1, -2)", -2, 0),
        ("insert into metrics.hires values (2021, 9, 9, 0, 5, 0, 0)", 5, 0),
    ],
)
def test_a_wrong_cell_is_named_and_repaired(
    staffed: Any, capsys: pytest.CaptureFixture[str], damage: str, rolled_up: int, counted: int
) -> None:
    """verify ends with 1 and names cell and counts; after rebuild it ends with 0."""
    staffed.query(damage)
    status, (cell,) = run(staffed, capsys, "verify")
    assert (status, cell["year"], cell["quarter"]) == (1, 2021, 2)
    assert cell["rolled_up"] - cell["counted"] == rolled_up - counted
    status, done = run(staffed, capsys, "rebuild")
    assert status == 0
    assert staffed.query("select count(*) from metrics.hires") == [(done["cells"],)]
    assert run(staffed, capsys, "verify") == (0, [])


def test_rows_that_came_while_the_trigger_was_off_are_found(staffed: Any) -> None:
    staffed.query(f"alter table hired_employees.hired_employees disable trigger rowdock_insert; {INSERT.format(500)}")
    (cell,) = verified(staffed)
    assert cell["counted"] == cell["rolled_up"] + 1


def test_a_fold_of_some_of_the_deltas_changes_no_answer(staffed: Any) -> None:
    """Piece by piece, as the sweep takes them: each read between gives the same counts, until nothing is left."""
    before = staffed.query(CELLS)
    ((deltas,),) = staffed.query("select count(*) from metrics.hires_deltas")
    folded = []
    with closing(staffed.connect("ingest")) as conn:
        while not folded or folded[-1]:
            with conn:
                folded.append(rollup.fold(conn, at_most=4))
            assert staffed.query(CELLS) == before
    assert max(folded) == 4
    assert sum(folded) == deltas > 4


def test_only_so_many_differences_are_listed(staffed: Any) -> None:
    staffed.query("delete from metrics.hires; delete from metrics.hires_deltas")
    with closing(staffed.connect()) as conn:
        assert len(rollup.verify(conn, limit=7)) == 7


def test_folding_changes_no_answer(staffed: Any, capsys: pytest.CaptureFixture[str]) -> None:
    before = staffed.query(CELLS)
    status, folded = run(staffed, capsys, "fold")
    assert (status, folded["folded"] > 0) == (0, True)
    assert staffed.query(CELLS) == before
    assert run(staffed, capsys, "fold") == (0, {"folded": 0})


@pytest.mark.parametrize("role", ["ingest", "backup", "restore"])
def test_only_the_owner_and_the_api_count_anew(staffed: Any, role: str) -> None:
    """The API for its admins; it can write neither table of the roll-up itself."""
    with closing(staffed.connect(role)) as conn, pytest.raises(psycopg2.errors.InsufficientPrivilege):
        rollup.rebuild(conn)


@pytest.mark.parametrize("order", interleavings({"b": 3, "w": 3}))
@pytest.mark.parametrize(
    "write",
    [
        INSERT.format(500),
        "update hired_employees.hired_employees set hired_date = hired_date + interval '3 months'",
        "delete from hired_employees.hired_employees where id > 20",
    ],
    ids=["insert", "update", "delete"],
)
def test_counting_anew_beside_a_writer_is_right(staffed_anew: Any, order: str, write: str) -> None:
    """Whoever comes second waits for the first, whatever stood in the roll-up before."""
    staffed_anew.query("update metrics.hires set q1 = q1 + 3")
    steps = {"b": ("begin", "select metrics.rebuild()", "commit"), "w": ("begin", write, "commit")}
    with (
        opened(staffed_anew.connect("owner"), staffed_anew.connect("api")) as (building, writing),
        closing(staffed_anew.connect("superuser")) as watcher,
    ):
        watcher.autocommit = True
        outcomes, _ = play({"b": building, "w": writing}, steps, order, watcher)
    assert outcomes == {"b": [DONE] * 3, "w": [DONE] * 3}
    assert verified(staffed_anew) == []
