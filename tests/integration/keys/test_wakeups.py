"""Wake-ups: one for each statement that brings parents, and none is lost between parking and the parent's coming."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

from tests.integration.keys.sessions import DONE, Copy, Step, execute, interleavings, opened, play

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


PARKING = (
    "begin",
    "select 1 from departments where id = 10",
    "insert into ingest_status.pending (load_id, record_number, line_number, byte_offset, byte_length, table_name,"
    " row_key, waits_on, waits_for, raw) select 1, 1, 1, 0, 9, 'hired_employees', '1', 'department_id', '10', 'x'"
    " where not exists (select from departments where id = 10);"
    "insert into ingest_status.wakeups (parent_table) values ('departments')",
    "commit",
)
COMING = ("begin", "insert into departments values (10, 'a')", "commit")
DRAIN = """
    with taken as (delete from ingest_status.wakeups returning id),
    gone as (delete from ingest_status.pending p using departments d where p.waits_for = d.id::text
             and exists (select from taken) returning 1)
    select count(*) from gone
"""


# ``make quick`` plays them at one level.
@pytest.mark.parametrize("level", ["read committed", pytest.param("repeatable read", marks=pytest.mark.slow)])
@pytest.mark.parametrize("order", interleavings({"k": len(PARKING), "p": len(COMING)}))
def test_no_order_of_parking_and_coming_loses_a_wakeup(parents: Any, order: str, level: str) -> None:
    """A drain after any one step takes the wake-ups that it sees; one more, after both commits, finds what is left."""
    with (
        opened(parents.connect("ingest"), parents.connect("api")) as (parking, coming),
        closing(parents.connect("ingest")) as draining,
        closing(parents.connect("superuser")) as watcher,
    ):
        draining.autocommit = watcher.autocommit = True
        for drained in range(len(order)):
            steps = {"k": [f"begin isolation level {level}", *PARKING[1:]], "p": list(COMING)}
            before, after = order[:drained], order[drained:]
            first, _ = play({"k": parking, "p": coming}, steps, before, watcher)
            draining.cursor().execute(DRAIN)
            rest = {name: left[before.count(name) :] for name, left in steps.items()}
            second, waited = play({"k": parking, "p": coming}, rest, after, watcher)
            assert {*first["k"], *first["p"], *second["k"], *second["p"], waited} == {DONE, False}
            assert wakeups(parents) != []
            draining.cursor().execute(DRAIN)
            assert parents.query("select count(*) from ingest_status.pending") == [(0,)]
            parents.query("delete from departments where id = 10; delete from ingest_status.wakeups")


def test_without_the_parents_wakeup_a_row_would_wait_for_ever(database: Any) -> None:
    """These trials can fail: parked and drained before the parent's commit, nothing would wake the row."""
    database.query(f"alter database {database.name} set search_path = hired_employees")
    database.query("alter table hired_employees.departments disable trigger rowdock_insert")
    database.query(";".join(PARKING))
    with closing(database.connect("api")) as coming:
        coming.cursor().execute(COMING[1])
        database.query(DRAIN, role="ingest")
        coming.commit()
    assert wakeups(database) == []
    assert database.query("select count(*) from ingest_status.pending") == [(1,)]
