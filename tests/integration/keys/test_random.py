"""Sessions at random: loads, changes and removals at mixed isolation levels, folds between; all adds up."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from shared import rollup
from tests.integration.keys.sessions import DONE, ORPHANS, Copy, Step, sqlstate

LEVELS = ("read committed", "read committed", "repeatable read", "serializable")
EXPECTED = {DONE, "23503", "23505", "40001", "40P01", "0A000"}
KEYS, NUMBERS = 12, 200
Statements = Callable[[random.Random], Step]


def load(rng: random.Random) -> Step:
    """The ingest function's: COPY of new employees, single ones, upserts."""
    numbers = rng.sample(range(1, NUMBERS), rng.randint(1, 8))
    rows = [
        (n, f"20{rng.randint(19, 24)}-0{rng.randint(1, 9)}-01T00:00:00Z", key(rng), rng.randint(1, 3)) for n in numbers
    ]
    values = ", ".join(f"({n}, 'E', '{at}', {d}, {j})" for n, at, d, j in rows)
    if rng.random() < 0.3:
        return Copy("hired_employees.hired_employees", "".join(f"{n},E,{at},{d},{j}\n" for n, at, d, j in rows))
    upsert = "do update set department_id = excluded.department_id, hired_date = excluded.hired_date"
    return f"insert into hired_employees values {values} on conflict (id) {rng.choice(['do nothing', upsert])}"


def key(rng: random.Random) -> int:
    """Low ones more often, so that high ones are free now and then."""
    return min(rng.randint(1, KEYS), rng.randint(1, KEYS))


def change_parents(rng: random.Random) -> Step:
    one, other = rng.randint(1, KEYS), rng.randint(1, KEYS)
    return rng.choice(
        [
            f"delete from departments where id = {one}",
            f"delete from departments where id in ({one}, {other})",
            "delete from departments d where not exists (select from hired_employees e where e.department_id = d.id)",
            f"update departments set id = {other} where id = {one}",
            f"insert into departments select i, 'N' from generate_series({one}, {KEYS}) i on conflict do nothing",
            f"insert into departments select i, 'N' from generate_series(1, {KEYS}) i on conflict do nothing",
            f"with d as (delete from departments where id = {one} returning *) insert into departments select * from d",
            f"update departments set departments = 'R' where id = {one}",
        ]
    )


def change_children(rng: random.Random) -> Step:
    number, one, other = rng.randint(1, NUMBERS), key(rng), rng.randint(1, KEYS)
    return rng.choice(
        [
            f"delete from hired_employees where id % 10 = {number % 10}",
            f"delete from hired_employees where department_id = {other}",
            f"update hired_employees set department_id = {one} where id = {number}",
            f"update hired_employees set department_id = {one} where department_id = {other}",
            f"update hired_employees set hired_date = hired_date + interval '1 month' where id > {number}",
            f"with c as (delete from hired_employees where department_id = {other})"
            f" delete from departments where id = {other}",
            f"merge into hired_employees e using (values ({number}, {one})) v (id, d) on e.id = v.id when matched then"
            " update set department_id = v.d when not matched then insert values (v.id, 'M', '2022-02-02Z', v.d, 1)",
        ]
    )


def work(connection: Any, statements: Statements, rng: random.Random, ends_s: float) -> Counter[str]:
    """Transactions of one to three statements until the end; a failed one is rolled back."""
    outcomes: Counter[str] = Counter()
    connection.autocommit = True
    while time.monotonic() < ends_s:
        sqlstate(connection, f"begin isolation level {rng.choice(LEVELS)}")
        state = DONE
        for _ in range(rng.randint(1, 3)):
            state = state or sqlstate(connection, statements(rng))
        outcomes[state or sqlstate(connection, rng.choice(["commit", "commit", "commit", "rollback"]))] += 1
        sqlstate(connection, "rollback" if state else "select 1")
    return outcomes


def look(connection: Any, folding: Any, ends_s: float) -> int:
    """Fold, and look at snapshots in which all must add up; returns how many looks."""
    connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
    folding.autocommit = True
    looks = 0
    while time.monotonic() < ends_s or not looks:
        with connection, connection.cursor() as cursor:
            cursor.execute(ORPHANS)
            assert cursor.fetchone() == (0,)
            assert rollup.verify(connection) == []
        rollup.fold(folding)
        looks += 1
    return looks


def run(database: Any, seed: int, seconds: float) -> Counter[str]:
    """Three sessions at work and one that folds and looks; returns how the transactions ended."""
    database.query(f"alter database {database.name} set search_path = hired_employees")
    database.query(f"insert into departments select i, 'D' from generate_series(1, {KEYS}) i on conflict do nothing")
    database.query("insert into jobs select i, 'J' from generate_series(1, 3) i on conflict do nothing")
    ends_s = time.monotonic() + seconds
    with (
        closing(database.connect("ingest")) as loading,
        closing(database.connect("api")) as parents,
        closing(database.connect("api")) as children,
        closing(database.connect("backup")) as looking,
        closing(database.connect("ingest")) as folding,
        ThreadPoolExecutor(4) as pool,
    ):
        sessions = ((loading, load), (parents, change_parents), (children, change_children))
        tasks = [
            pool.submit(work, connection, statements, random.Random(f"{seed} {i}"), ends_s)
            for i, (connection, statements) in enumerate(sessions)
        ]
        looks = pool.submit(look, looking, folding, ends_s)
        outcomes = sum((task.result() for task in tasks), Counter[str]())
        assert looks.result() > 0
    with closing(database.connect()) as connection:
        assert database.query(ORPHANS) == [(0,)]
        assert rollup.verify(connection) == []
        rollup.fold(connection)
        assert rollup.verify(connection) == []
    return outcomes


def assert_lively(outcomes: Counter[str]) -> None:
    """Only the expected ends, and enough of both kinds that the run says something."""
    assert outcomes.keys() <= EXPECTED
    assert outcomes[DONE] > 100
    assert outcomes["23503"] > 20


@pytest.mark.slow
def test_random_sessions_leave_no_orphan_and_a_right_roll_up(module_database: Any) -> None:
    assert_lively(run(module_database, seed=1, seconds=3))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3, 4])
def test_more_random_sessions_leave_no_orphan_and_a_right_roll_up(module_database: Any, seed: int) -> None:
    assert_lively(run(module_database, seed=seed, seconds=5))
