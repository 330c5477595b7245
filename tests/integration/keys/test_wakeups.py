"""Wake-ups: one for each statement that brings parents, and none is lost between parking and the parent's coming."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from functions.ingest import history, load, parked
from functions.ingest.drain import drain
from functions.ingest.services import Services
from functions.ingest.statements import Statements
from shared import dictionary, objectstore, settings
from shared.postgres import Database
from tests.integration.keys.sessions import DONE, Call, Copy, Step, execute, interleavings, opened, play

STATEMENTS: list[tuple[str, Step, list[str]]] = [
    ("insert", "insert into departments values (10, 'a')", ["departments"]),
    ("insert of many", "insert into departments select i, 'x' from generate_series(10, 500) i", ["departments"]),
    ("insert without id", "insert into jobs (job) values ('a')", ["jobs"]),
    ("copy", Copy("hired_employees.jobs", "10,a\n11,b\n"), ["jobs"]),
    ("upsert that inserts", "insert into departments values (10, 'a') on conflict (id) do nothing", ["departments"]),
    ("upsert of both kinds", "insert into departments values (1, 'a'), (10, 'b') on conflict (id)"
     " do update set departments = excluded.departments", ["departments"]),
    ("merge that inserts", "merge into jobs j using (values (1), (10)) v (id) on j.id = v.id when matched then"
     " update set job = 'm' when not matched then insert values (v.id, 'n')", ["jobs"]),
    ("renumber", "update departments set id = 30 where id = 3", ["departments"]),
    ("renumber all", "update departments set id = id + 100", ["departments"]),
    ("two tables", "with d as (insert into departments values (10, 'a')) insert into jobs values (10, 'b')",
     ["departments", "jobs"]),
    ("two statements", "insert into departments values (10, 'a'); insert into departments values (11, 'a')",
     ["departments", "departments"]),
    ("leave and come again", "with d as (delete from departments where id = 3 returning *)"
     " insert into departments select * from d", ["departments"]),
    ("insert of nothing", "insert into departments select 1, 'x' where false", []),
    ("copy of nothing", Copy("hired_employees.departments", ""), []),
    ("upsert that does nothing", "insert into departments values (1, 'a') on conflict do nothing", []),
    ("upsert that renames", "insert into departments values (1, 'a') on conflict (id)"
     " do update set departments = 'b'", []),
    ("merge that renames", "merge into jobs j using (values (1)) v (id) on j.id = v.id when matched then"
     " update set job = 'm'", []),
    ("rename", "update departments set departments = upper(departments)", []),
    ("same number", "update departments set id = id", []),
    ("update of nothing", "update departments set id = 77 where false", []),
    ("delete", "delete from departments where id = 3", []),
    ("truncate", "truncate departments, jobs, hired_employees", []),
    ("a child", "insert into hired_employees values (1, 'E', '2021-01-01Z', 1, 1)", []),
    ("rolled back", "begin; insert into departments values (10, 'a'); rollback", []),
]  # fmt: skip


@pytest.fixture
def parents(module_database: Any) -> Any:
    module_database.query(
        f"alter database {module_database.name} set search_path = hired_employees;"
        "set search_path = hired_employees; truncate departments, jobs, hired_employees;"
        "insert into departments values (1, 'a'), (2, 'b'), (3, 'c'); insert into jobs values (1, 'a'), (2, 'b');"
        "truncate ingest_status.wakeups, ingest_status.pending"
    )
    return module_database


def wakeups(database: Any) -> list[str]:
    return [name for (name,) in database.query("select parent_table from ingest_status.wakeups order by 1")]


@pytest.mark.parametrize(("step", "expected"), [s[1:] for s in STATEMENTS], ids=[s[0] for s in STATEMENTS])
def test_a_statement_that_brings_parents_leaves_one_wakeup(parents: Any, step: Step, expected: list[str]) -> None:
    """Whoever runs it: the owner here, the functions below."""
    with closing(parents.connect()) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            execute(cursor, step)
    assert wakeups(parents) == expected


@pytest.mark.parametrize("role", ["ingest", "api", "restore", "superuser"])
def test_every_role_that_brings_a_parent_leaves_a_wakeup(parents: Any, role: str) -> None:
    parents.query("insert into departments values (10, 'a')", role=role)
    assert wakeups(parents) == ["departments"]


def test_a_parent_that_comes_under_the_replica_role_leaves_a_wakeup(parents: Any) -> None:
    parents.query("set session_replication_role = replica; insert into jobs values (10, 'a')", role="superuser")
    assert wakeups(parents) == ["jobs"]


EMPLOYEES = dictionary.load().tables["hired_employees"]
DEPARTMENT = EMPLOYEES.by_name["department_id"]
COMING = ("begin", "insert into departments values (10, 'a')", "commit")
PARK_A_ROW = """
    insert into ingest_status.pending (load_id, record_number, line_number, byte_offset, byte_length, table_name,
      row_key, waits_on, waits_for, raw)
    values (%s, 1, 1, 0, 30, 'hired_employees', '1', 'department_id', '10', '1,Eve,2021-11-12T13:14:15Z,10,1')
"""


class EarlyRow:
    """Employee 1 of department 10, taken in as a load does it: its parent looked up, then parked or inserted."""

    def __init__(self, side: Any, *, leave_wakeup: bool = True) -> None:
        self._side, self._leave_wakeup = side, leave_wakeup
        self.steps: tuple[Step, ...] = ("begin", Call(self._look), Call(self._put), "commit")

    def _look(self, _connection: Any) -> None:
        present = load.parent_lookup(self._side, dictionary.load())
        self._waits = 10 not in present(DEPARTMENT, [10])

    def _put(self, connection: Any) -> None:
        if self._waits:
            self._park(connection)
        else:
            connection.cursor().execute("insert into hired_employees values (1, 'Eve', '2021-11-12T13:14:15Z', 10, 1)")

    def _park(self, connection: Any) -> None:
        names = [column.name for column in EMPLOYEES.columns]
        loaded = history.Load(kind="file", table_name=EMPLOYEES.key, columns=names, delimiter=",")
        loaded.id = history.next_load_id(connection)
        loaded.counts.read = loaded.counts.pending = 1
        connection.cursor().execute(PARK_A_ROW, (loaded.id,))
        if self._leave_wakeup:
            parked.after_parking(connection, Statements(EMPLOYEES), loaded.id)
        history.record(connection, loaded)


@contextmanager
def drains(database: Any) -> Iterator[Callable[[], None]]:
    """Gives the ingest function's own drain."""
    pool = Database(database.url_for("ingest"), application_name="drain", pool_size=4)
    services = Services(
        settings=settings.load({"ROWDOCK_ENVIRONMENT": "emulator", "CALLER_AUTH": "off"}),
        dictionary=dictionary.load(),
        database=pool,
        store=objectstore.connect("s3+http://none:none@127.0.0.1:1"),
        send=pytest.fail,
    )
    try:
        yield lambda: drain(services) and None
    finally:
        pool.close()


def waiting(database: Any) -> int:
    return int(database.query("select count(*) from ingest_status.pending")[0][0])


@pytest.mark.slow
@pytest.mark.parametrize("order", interleavings({"k": 4, "p": len(COMING)}))
def test_no_order_of_parking_and_coming_loses_a_wakeup(parents: Any, order: str) -> None:
    """A drain after any one step takes the wake-ups that it sees; one more, after both commits, finds what is left."""
    with (
        opened(parents.connect("ingest"), parents.connect("api")) as (parking, coming),
        closing(parents.connect("ingest")) as side,
        closing(parents.connect("superuser")) as watcher,
        drains(parents) as drain_all,
    ):
        side.autocommit = watcher.autocommit = True
        for drained in range(len(order)):
            steps = {"k": list(EarlyRow(side).steps), "p": list(COMING)}
            before, after = order[:drained], order[drained:]
            first, _ = play({"k": parking, "p": coming}, steps, before, watcher)
            drain_all()
            rest = {name: left[before.count(name) :] for name, left in steps.items()}
            second, waited = play({"k": parking, "p": coming}, rest, after, watcher)
            assert {*first["k"], *first["p"], *second["k"], *second["p"], waited} == {DONE, False}
            drain_all()
            assert waiting(parents) == 0
            assert parents.query("select id, department_id from hired_employees") == [(1, 10)]
            parents.query("delete from hired_employees; delete from departments where id = 10")
            assert wakeups(parents) == []


@pytest.mark.parametrize("forgets", ["the parent", "the parking"])
def test_without_either_wakeup_a_row_would_wait_for_ever(database: Any, forgets: str) -> None:
    """These trials can fail: of the two that leave a wake-up, the one that commits last is the one that counts."""
    database.query(f"alter database {database.name} set search_path = hired_employees")
    database.query("insert into hired_employees.jobs values (1, 'a'); truncate ingest_status.wakeups")
    if forgets == "the parent":
        database.query("alter table hired_employees.departments disable trigger rowdock_insert")
    with (
        closing(database.connect("ingest")) as parking,
        closing(database.connect("api")) as coming,
        closing(database.connect("ingest")) as side,
        drains(database) as drain_all,
    ):
        side.autocommit = True
        row = EarlyRow(side, leave_wakeup=forgets != "the parking")
        row._look(parking)
        row._put(parking)
        coming.cursor().execute("set search_path = hired_employees;" + COMING[1])
        for session in (parking, coming) if forgets == "the parent" else (coming, parking):
            session.commit()
            drain_all()
    assert wakeups(database) == []
    assert waiting(database) == 1
