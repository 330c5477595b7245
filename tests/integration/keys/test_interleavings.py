"""Two sessions, one on the child and one on the parent, in every order of their steps: no order leaves an orphan.

``begin`` takes the snapshot where the isolation level keeps one. Letters: c is the child's session, p the parent's.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

import pytest

from tests.integration.keys.sessions import DONE, ORPHANS, Copy, Session, Step, interleavings, opened, play

LEVELS = ("read committed", "repeatable read", "serializable")
EXPECTED = {DONE, "23503", "40001", "40P01", "0A000"}
ROWS = """
    begin;
    delete from hired_employees.hired_employees;
    delete from hired_employees.departments;
    insert into hired_employees.departments values (1, 'Wanted'), (2, 'Other'), (3, 'In use');
    insert into hired_employees.hired_employees values (10, 'Ada', '2021-02-03T04:05:06Z', 3, 1);
    commit
"""
EMPLOYEE = "(20, 'Eve', '2021-11-12T13:14:15Z', 1, 1)"
CHILD: dict[str, Step] = {
    "insert": f"insert into hired_employees values {EMPLOYEE}",
    "insert many": "insert into hired_employees select 20 + i, 'Eve', '2021-11-12Z', i % 2 + 1, 1"
    " from generate_series(1, 4) i",
    "upsert that inserts": f"insert into hired_employees values {EMPLOYEE} on conflict (id) do nothing",
    "upsert that moves": f"insert into hired_employees values {EMPLOYEE.replace('20', '10', 1)}"
    " on conflict (id) do update set department_id = excluded.department_id",
    "move": "update hired_employees set department_id = 1 where id = 10",
    "copy": Copy("hired_employees.hired_employees", "20,Eve,2021-11-12T13:14:15Z,1,1\n"),
    "merge": "merge into hired_employees e using (values (10), (20)) v (id) on e.id = v.id when matched then"
    " update set department_id = 1 when not matched then insert values (v.id, 'Mo', '2021-11-12Z', 1, 1)",
}
PARENT: dict[str, Step] = {
    "delete": "delete from departments where id = 1",
    "renumber": "update departments set id = 9 where id = 1",
    "delete and insert": "delete from departments where id = 1; insert into departments values (1, 'Again')",
    "replace": "with d as (delete from departments where id = 1 returning *) insert into departments select * from d",
}
PAIRS = [
    *itertools.product(CHILD, PARENT),
    # Beside the wanted key: another parent's number is taken over, and a child that leaves while its parent does.
    ("insert", "hand over"),
    ("leave", "delete in use"),
    ("leave by moving", "delete in use"),
]
CHILD |= {
    "leave": "delete from hired_employees where id = 10",
    "leave by moving": "update hired_employees set department_id = 2 where id = 10",
}
PARENT |= {
    "hand over": "update departments set id = 8 where id = 1; update departments set id = 1 where id = 2",
    "delete in use": "delete from departments where id = 3",
}
ORDERS = interleavings({"c": 3, "p": 3})


class Run(NamedTuple):
    """What the two sessions do, at which level, and in which order."""

    child: str
    parent: str
    levels: tuple[str, str]
    order: str


class Result(NamedTuple):
    """The SQLSTATEs of the three steps of each session; whether one waited; how many orphans are left."""

    child: list[str]
    parent: list[str]
    waited: bool
    orphans: int


RUNS = [
    Run(child, parent, levels, order)
    for (child, parent), levels, order in itertools.product(PAIRS, itertools.product(LEVELS, repeat=2), ORDERS)
]


class Trial:
    """The two sessions, and a third that lays the rows out and looks."""

    def __init__(self, child: Session, parent: Session, watcher: Any) -> None:
        self._sessions = {"c": child, "p": parent}
        self._watcher = watcher

    def run(self, run: Run) -> Result:
        with self._watcher.cursor() as cursor:
            cursor.execute(ROWS)
            steps = {
                "c": _transaction(run.levels[0], CHILD[run.child]),
                "p": _transaction(run.levels[1], PARENT[run.parent]),
            }
            outcomes, waited = play(self._sessions, steps, run.order, self._watcher)
            cursor.execute(ORPHANS)
            return Result(outcomes["c"], outcomes["p"], waited, cursor.fetchone()[0])


def _transaction(level: str, operation: Step) -> Sequence[Step]:
    return f"begin isolation level {level}; select 1 from jobs", operation, "commit"


@contextmanager
def trial_in(database: Any) -> Iterator[Trial]:
    """Both sessions are the API's, which may change parents and children."""
    database.query(f"alter database {database.name} set search_path = hired_employees")
    database.query("insert into jobs values (1, 'Engineer') on conflict do nothing")
    with (
        opened(database.connect("api"), database.connect("api")) as (child, parent),
        closing(database.connect("superuser")) as watcher,
    ):
        watcher.autocommit = True
        yield Trial(child, parent, watcher)


@pytest.fixture(scope="module")
def trial(module_database: Any) -> Iterator[Trial]:
    with trial_in(module_database) as made:
        yield made


def assert_sound(run: Run, result: Result) -> None:
    """No orphan, no error but the expected; between two sessions at READ COMMITTED at most one of them fails."""
    assert result.orphans == 0, (run, result)
    assert {*result.child, *result.parent} <= EXPECTED, (run, result)
    if set(run.levels) == {"read committed"}:
        assert result.child == [DONE] * 3 or result.parent == [DONE] * 3, (run, result)


def test_a_sample_of_the_interleavings_leaves_no_orphan(trial: Trial) -> None:
    """Sixty of them, always the same ones."""
    for run in random.Random(20210211).sample(RUNS, 60):
        assert_sound(run, trial.run(run))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_interleaving_leaves_an_orphan(trial: Trial) -> None:
    """All of them; waits and every expected error but a deadlock happen on the way."""
    seen: Counter[str] = Counter()
    for run in RUNS:
        result = trial.run(run)
        assert_sound(run, result)
        seen.update({*result.child, *result.parent, *(["waited"] if result.waited else [])})
    assert len(RUNS) == 5580
    assert {"waited", DONE, "23503", "40001", "0A000"} <= seen.keys()
    assert min(seen.values()) > 50, seen


@pytest.mark.parametrize(("child", "parent"), [p for p in PAIRS if p[1] in ("delete", "renumber")])
def test_who_comes_first_wins(trial: Trial, child: str, parent: str) -> None:
    """At READ COMMITTED, one after the other: a parent in use stays, a parent that is gone is missed."""
    committed = ("read committed", "read committed")
    assert trial.run(Run(child, parent, committed, "cccppp")).parent == [DONE, "23503", DONE]
    assert trial.run(Run(child, parent, committed, "pppccc")).child == [DONE, "23503", DONE]


@pytest.mark.parametrize(("child", "parent"), [p for p in PAIRS if p[1] in ("delete", "renumber")])
def test_who_comes_second_waits_for_the_first(trial: Trial, child: str, parent: str) -> None:
    """The key is locked from the statement to the commit, on either side."""
    committed = ("read committed", "read committed")
    after_child = trial.run(Run(child, parent, committed, "cpcpcp"))
    assert (after_child.waited, after_child.parent) == (True, [DONE, "23503", DONE])
    after_parent = trial.run(Run(child, parent, committed, "pcpcpc"))
    assert (after_parent.waited, after_parent.child) == (True, [DONE, "23503", DONE])


@pytest.mark.parametrize("change", ["rename", "insert"])
@pytest.mark.parametrize("order", ORDERS)
def test_a_load_never_waits_for_a_parent_that_keeps_its_key(trial: Trial, order: str, change: str) -> None:
    """Renaming a department, or adding one, beside a load: neither waits, neither fails."""
    PARENT["rename"] = "update departments set departments = 'Renamed' where id = 1"
    PARENT["insert"] = "insert into departments values (4, 'New')"
    result = trial.run(Run("insert", change, ("read committed", "read committed"), order))
    assert result == Result([DONE] * 3, [DONE] * 3, False, 0)


ORPHANED = Run("insert", "delete", ("read committed", "repeatable read"), "pcccpp")


def test_an_older_snapshot_of_the_parents_session_is_refused(trial: Trial) -> None:
    """It does not see the child that was committed after it was taken."""
    assert trial.run(ORPHANED) == Result([DONE] * 3, [DONE, "0A000", DONE], False, 0)


MUTANTS = {
    "the refusal of older snapshots": (
        "delete_hired_employees_departments",
        "current_setting('transaction_isolation') not in",
        "'read committed' not in",
        ORPHANED,
    ),
    "the lock on the parents": (
        "insert_hired_employees_hired_employees",
        "for key share",
        "",
        Run("insert", "delete", ("read committed", "read committed"), "cpcpcp"),
    ),
    "the look at the children": (
        "delete_hired_employees_departments",
        "if found then",
        "if false then",
        Run("insert", "delete", ("read committed", "read committed"), "cccppp"),
    ),
    "the look at the parents": (
        "insert_hired_employees_hired_employees",
        "if guard.present <> cardinality(guard.k1)",
        "if false",
        Run("insert", "delete", ("read committed", "read committed"), "pppccc"),
    ),
}


@pytest.mark.parametrize(("function", "part", "instead", "run"), MUTANTS.values(), ids=MUTANTS)
def test_without_a_part_of_the_guard_an_orphan_is_left(
    database: Any, function: str, part: str, instead: str, run: Run
) -> None:
    """These trials can fail: each part of the guard is needed, and its lack is found."""
    with trial_in(database) as trial:
        assert trial.run(run).orphans == 0
        source = database.query("select pg_get_functiondef(%s::regproc)", f"rowdock.{function}")[0][0]
        assert part in source
        database.query(source.replace(part, instead))
        assert trial.run(run).orphans == 1
