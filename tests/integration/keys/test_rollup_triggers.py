"""The roll-up equals a recount after every statement, before and after a fold, whoever writes."""

from __future__ import annotations

import random
from contextlib import closing
from typing import Any

import psycopg2
import pytest

from shared import rollup
from tests.integration.keys.sessions import DONE, Copy, Step, execute, interleavings, opened, play, sqlstate

COLUMNS = "hired_employees.hired_employees"
TRUNCATE = "truncate hired_employees.hired_employees"
FOLD = "select metrics.fold()"


@pytest.fixture
def staffed(module_database: Any) -> Any:
    module_database.query(
        f"alter database {module_database.name} set search_path = hired_employees;"
        "truncate hired_employees.departments, hired_employees.jobs, hired_employees.hired_employees;"
        "insert into hired_employees.departments select i, 'D' from generate_series(1, 4) i;"
        "insert into hired_employees.jobs select i, 'J' from generate_series(1, 3) i;"
        "insert into hired_employees.hired_employees"
        " select i, 'E', timestamptz '2020-12-01Z' + i * interval '17 days', i % 4 + 1, i % 3 + 1"
        " from generate_series(1, 100) i"
    )
    return module_database


def difference(database: Any) -> list[dict[str, Any]]:
    with closing(database.connect()) as connection:
        return rollup.verify(connection)


def hired(database: Any) -> int:
    return int(database.query("select coalesce(sum(hired), 0) from metrics.hires_by_quarter")[0][0])


STATEMENTS: list[tuple[str, Step, str]] = [
    ("insert", "insert into hired_employees select i, 'N', '2023-07-01Z', 1, 1 from generate_series(101, 120) i",
     "ingest"),
    ("insert of nothing", "insert into hired_employees select * from hired_employees where false", "ingest"),
    ("copy", Copy(COLUMNS, "200,C,2021-12-31T23:30:00-01:00,1,2\n201,C,2021-12-31T23:30:00+00:00,1,2\n"), "ingest"),
    ("move", "update hired_employees set department_id = 2", "ingest"),
    ("another job", "update hired_employees set job_id = job_id % 3 + 1 where id > 50", "api"),
    ("another quarter", "update hired_employees set hired_date = hired_date + interval '3 months'", "api"),
    ("another day of the quarter", "update hired_employees set hired_date = date_trunc('quarter', hired_date)", "api"),
    ("another name", "update hired_employees set employee_name = 'Nemo'", "api"),
    ("delete", "delete from hired_employees where id % 2 = 0", "api"),
    ("delete all", "delete from hired_employees", "api"),
    ("truncate", TRUNCATE, "owner"),
    ("truncate with parents", "truncate departments, jobs, hired_employees", "owner"),
    ("truncate and fill", f"begin; {TRUNCATE}; insert into hired_employees values (1, 'x', 'epoch', 1, 1); commit",
     "owner"),
    ("upsert", "insert into hired_employees select i, 'U', '1999-12-31T23:59:59.999999Z', 3, 3"
     " from generate_series(90, 110) i on conflict (id) do update set department_id = excluded.department_id,"
     " hired_date = excluded.hired_date", "ingest"),
    ("upsert that does nothing", "insert into hired_employees select i, 'U', now(), 3, 3"
     " from generate_series(90, 110) i on conflict (id) do nothing", "ingest"),
    ("merge", "merge into hired_employees e using generate_series(80, 120) i on e.id = i"
     " when matched and i < 90 then delete when matched then update set hired_date = 'epoch', job_id = 1"
     " when not matched then insert values (i, 'M', '2024-02-29T12:00:00Z', 4, 3)", "api"),
    ("several in one statement", "with d as (delete from hired_employees where id < 10), u as (update hired_employees"
     " set job_id = 3 where id between 10 and 20) insert into hired_employees values (300, 'x', now(), 1, 1)", "api"),
    ("rolled back", "begin; delete from hired_employees; rollback", "api"),
    ("rolled back to a savepoint", "begin; savepoint s; delete from hired_employees; rollback to s;"
     " delete from hired_employees where id = 1; commit", "api"),
]  # fmt: skip


@pytest.mark.parametrize(("step", "role"), [s[1:] for s in STATEMENTS], ids=[s[0] for s in STATEMENTS])
@pytest.mark.parametrize("folded", [False, True], ids=["deltas", "folded before"])
def test_a_statement_keeps_the_roll_up_right(staffed: Any, step: Step, role: str, folded: bool) -> None:
    if folded:
        staffed.query(FOLD)
    with closing(staffed.connect(role)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            execute(cursor, step)
    assert difference(staffed) == []
    (rows,) = staffed.query("select count(*) from hired_employees.hired_employees")[0]
    assert hired(staffed) == rows
    staffed.query(FOLD)
    assert difference(staffed) == []
    assert staffed.query("select count(*) from metrics.hires_deltas") == [(0,)]


@pytest.mark.parametrize(
    ("hired_at", "year", "quarter"),
    [
        ("2021-12-31T23:30:00-01:00", 2022, 1),
        ("2021-12-31T23:59:59.999999Z", 2021, 4),
        ("2022-01-01T00:00:00Z", 2022, 1),
        ("2022-01-01T00:30:00+01:00", 2021, 4),
        ("2021-03-31T23:59:59Z", 2021, 1),
        ("2021-04-01T00:00:00Z", 2021, 2),
        ("2021-07-01T00:00:00+00:00", 2021, 3),
        ("2021-10-01T05:29:59+05:30", 2021, 3),
        ("2021-10-01T05:30:00+05:30", 2021, 4),
        ("0001-01-01T00:00:00Z", 1, 1),
        ("9999-12-31T23:59:59Z", 9999, 4),
        ("1969-12-31T23:59:59Z", 1969, 4),
    ],
)
@pytest.mark.parametrize("zone", ["UTC", "America/Bogota", "Pacific/Kiritimati"])
def test_a_quarter_is_one_of_utc_whatever_the_session_is_set_to(
    staffed: Any, zone: str, hired_at: str, year: int, quarter: int
) -> None:
    staffed.query(
        f"{TRUNCATE}; set timezone = '{zone}'; insert into hired_employees values (1, 'E', '{hired_at}', 2, 3)"
    )
    assert staffed.query("select * from metrics.hires_by_quarter") == [(year, quarter, 2, 3, 1)]
    staffed.query(f"set timezone = '{zone}'; select metrics.fold()")
    assert staffed.query("select * from metrics.hires_by_quarter") == [(year, quarter, 2, 3, 1)]
    staffed.query(f"set timezone = '{zone}'; delete from hired_employees")
    assert hired(staffed) == 0


@pytest.mark.parametrize("hired_at", ["infinity", "-infinity", "0001-12-31T23:59:59Z BC"])
def test_a_date_without_a_quarter_is_refused_by_a_constraint_that_says_so(staffed: Any, hired_at: str) -> None:
    with pytest.raises(psycopg2.errors.CheckViolation, match="hired_date_is_finite_and_ad"):
        staffed.query("insert into hired_employees values (900, 'E', %s, 2, 3)", hired_at)


def test_a_statement_leaves_one_delta_for_each_cell(staffed: Any) -> None:
    """However many rows: what a fold has to take in stays small."""
    staffed.query(FOLD)
    staffed.query(
        "insert into hired_employees select i, 'N', '2023-07-01Z', i % 2 + 1, 1 from generate_series(1001, 3000) i"
    )
    deltas = staffed.query("select * from metrics.hires_deltas order by department_id")
    assert deltas == [(2023, 3, 1, 1, 1000), (2023, 3, 2, 1, 1000)]
    assert staffed.query(FOLD) == [(2,)]
    assert staffed.query(FOLD) == [(0,)]


@pytest.mark.parametrize(
    "change",
    ["set employee_name = 'Nemo'", "set hired_date = date_trunc('quarter', hired_date)", "set job_id = job_id"],
)
def test_an_update_that_moves_nothing_leaves_no_delta(staffed: Any, change: str) -> None:
    """Old and new rows are counted in one pass: only the difference is appended."""
    staffed.query(FOLD)
    staffed.query(f"update hired_employees {change}")
    assert staffed.query(FOLD) == [(0,)]


def test_a_cell_that_is_empty_again_goes(staffed: Any) -> None:
    staffed.query(FOLD)
    staffed.query("delete from hired_employees")
    staffed.query(FOLD)
    assert staffed.query("select count(*) from metrics.hires") == [(0,)]


def test_a_fold_makes_way_for_another(staffed: Any) -> None:
    """The second returns at once, with null."""
    with closing(staffed.connect("ingest")) as first, closing(staffed.connect("restore")) as second:
        assert rollup.fold(first)
        assert rollup.fold(second) is None
        first.commit()
        second.rollback()
        assert rollup.fold(second) == 0


RIVALS = {
    "fold": FOLD,
    "insert": "insert into hired_employees select i, 'N', '2023-07-01Z', 1, 1 from generate_series(101, 110) i",
    "delete": "delete from hired_employees where id <= 30",
}


@pytest.mark.parametrize("order", interleavings({"t": 3, "r": 3}))
@pytest.mark.parametrize("rival", ["fold", "insert", "delete"])
def test_truncating_beside_another_keeps_the_roll_up_right(staffed: Any, order: str, rival: str) -> None:
    """A fold that is at work, or a writer, ends before what it left is forgotten."""
    steps = {"t": ("begin", TRUNCATE, "commit"), "r": ("begin", RIVALS[rival], "commit")}
    with (
        opened(staffed.connect("owner"), staffed.connect("owner")) as (truncating, rivalling),
        closing(staffed.connect("superuser")) as watcher,
    ):
        watcher.autocommit = True
        outcomes, _ = play({"t": truncating, "r": rivalling}, steps, order, watcher)
    assert outcomes == {"t": [DONE] * 3, "r": [DONE] * 3}
    assert difference(staffed) == []


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_truncating_with_an_older_snapshot_forgets_what_it_does_not_see(staffed: Any, isolation: str) -> None:
    """TRUNCATE removes rows that the snapshot does not see, and their part of the roll-up with them."""
    with closing(staffed.connect("owner")) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(f"begin isolation level {isolation}")
        cursor.execute("select count(*) from metrics.hires_deltas")
        staffed.query("insert into hired_employees values (500, 'N', '2023-07-01Z', 1, 1)")
        staffed.query(FOLD)
        staffed.query("insert into hired_employees values (501, 'N', '2023-07-01Z', 1, 1)")
        assert sqlstate(connection, f"{TRUNCATE}; insert into hired_employees values (1, 'N', 'epoch', 1, 1)") == DONE
        cursor.execute("commit")
    assert difference(staffed) == []
    assert hired(staffed) == 1


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_counting_anew_with_an_older_snapshot_is_refused(staffed: Any, isolation: str) -> None:
    """It would not count what writers committed since."""
    with closing(staffed.connect("owner")) as connection:
        assert sqlstate(connection, f"set transaction isolation level {isolation}; select metrics.rebuild()") == "0A000"


@pytest.mark.parametrize("order", interleavings({"b": 3, "f": 3}))
def test_counting_anew_beside_a_fold_is_right(staffed: Any, order: str) -> None:
    staffed.query(
        f"{TRUNCATE}; insert into hired_employees values (1, 'N', '2023-01-01Z', 1, 1), (2, 'N', '2023-01-01Z', 1, 2)"
    )
    steps = {"b": ("begin", "select metrics.rebuild()", "commit"), "f": ("begin", FOLD, "commit")}
    with (
        opened(staffed.connect("owner"), staffed.connect("ingest")) as (building, folding),
        closing(staffed.connect("superuser")) as watcher,
    ):
        watcher.autocommit = True
        outcomes, _ = play({"b": building, "f": folding}, steps, order, watcher)
    assert outcomes == {"b": [DONE] * 3, "f": [DONE] * 3}
    assert difference(staffed) == []


@pytest.mark.parametrize("seed", range(3))
def test_random_statements_keep_the_roll_up_right(staffed: Any, seed: int) -> None:
    rng = random.Random(seed)
    plain = [
        step
        for name, step, _ in STATEMENTS
        if name in ("move", "another job", "another quarter", "delete", "upsert", "merge")
    ]
    with closing(staffed.connect("owner")) as connection:
        connection.autocommit = True
        for _ in range(40):
            assert sqlstate(connection, rng.choice([*plain, FOLD])) == DONE
            assert rollup.verify(connection) == []
