"""Whatever comes in whatever order: a row is never older than what was accepted for it, and history adds up."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import psycopg2
import pytest

from shared import events
from tests.integration.ingest.conftest import Dock
from tests.integration.ingest.test_rejects import relaxed, with_rules

OBJECTS = ("a-employees.csv", "b-employees.csv", "c-employees.csv", "in/d-employees.csv")
IDS, DEPARTMENTS = range(1, 3), range(1, 5)
MOMENT = "2021-11-07T02:48:42Z"
TOLD_FROM_PENDING = ("parent arrived", "expired", "superseded")


@dataclass
class World:
    """A dock, and what was said to it: each name stands for one row of content, its stamp for when it was last said.

    Attributes:
        said: name → the step that said it last.
        accepted: id → the newest stamp that was in the table.
        stands: object → content of its current generation.
    """

    dock: Dock
    chance: random.Random
    step: int = 0
    said: dict[str, int] = field(default_factory=dict)
    accepted: dict[int, int] = field(default_factory=dict)
    stands: dict[str, bytes] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)

    def live(self) -> dict[int, tuple[str, int]]:
        return {row[0]: (row[1], row[3]) for row in self.dock.employees()}

    def new_name(self, mark: str = "") -> str:
        name = f"v{len(self.said)}{mark}"
        self.said[name] = self.step
        return name

    def say_again(self, text: str) -> None:
        for name in self.said:
            if f",{name}," in text:
                self.said[name] = self.step

    def file(self) -> bytes:
        """A few rows: new ones, some without a time, some as they are in the table; ids may come twice."""
        live, rows = self.live(), []
        for _ in range(self.chance.randint(1, 3)):
            key, department = self.chance.choice(IDS), self.chance.choice(DEPARTMENTS)
            kind = self.chance.random()
            if kind < 0.4 and key in live:
                name, department = live[key]
                rows.append(f"{key},{name},{MOMENT},{department},1\n")
            elif kind < 0.6:
                rows.append(f"{key},{self.new_name('d')},2021-11-07,{department},1\n")
            else:
                rows.append(f"{key},{self.new_name()},{MOMENT},{department},1\n")
        return "".join(rows).encode()

    def drop(self) -> None:
        name = self.chance.choice(OBJECTS)
        content = self.chance.choices([self.file(), b"", b"id,employee_name,wage\n1,a,2\n"], [18, 1, 1])[0]
        self.stands[name] = content
        self.say_again(content.decode())
        self.dock.drop(name, content)

    def drop_out_of_order(self) -> None:
        name = self.chance.choice(OBJECTS)
        older, newer = self.file(), self.file()
        first, second = self.dock.put(name, older), self.dock.put(name, newer)
        self.stands[name] = newer
        self.say_again(newer.decode())
        self.dock.deliver(name, second)
        assert self.dock.deliver(name, first)["state"] == "superseded"

    def force(self) -> None:
        if self.stands:
            name = self.chance.choice(sorted(self.stands))
            self.say_again(self.stands[name].decode())
            self.dock.force(name)

    def write(self) -> None:
        """As the API does: the row is there when the call is answered."""
        present = self.dock.query("select id from hired_employees.departments")
        if present:
            key, (department,) = self.chance.choice(IDS), self.chance.choice(present)
            self.dock.query(
                "insert into hired_employees.hired_employees values (%s, %s, %s, %s, 1) on conflict (id) do update"
                " set employee_name = excluded.employee_name, department_id = excluded.department_id",
                *(key, self.new_name(), MOMENT, department),
            )

    def bring_parent(self) -> None:
        """One that is waited for, if any is; then it is often drained at once."""
        waited = self.dock.query("select distinct waits_for::int from ingest_status.pending")
        self.dock.query(
            "insert into hired_employees.departments values (%s, 'D') on conflict do nothing",
            self.chance.choice(sorted(key for (key,) in waited) or DEPARTMENTS),
        )
        if self.chance.random() < 0.7:
            self.drain()

    def remove_parent(self) -> None:
        with contextlib.suppress(psycopg2.errors.ForeignKeyViolation):  # it has children: the guard keeps it
            self.dock.query("delete from hired_employees.departments where id = %s", self.chance.choice(DEPARTMENTS))

    def redrive(self) -> None:
        """A row that never waited goes in because somebody says so now; one that did is as old as it was."""
        loads = self.dock.query("select distinct load_id from ingest_status.rejects where closed_as is null")
        if not loads:
            return
        (load_id,) = self.chance.choice(sorted(loads))
        rules = with_rules(self.dock, relaxed(date_alone="midnight")) if self.chance.random() < 0.8 else self.dock
        if rules is not self.dock:
            for (raw,) in self.dock.query(
                "select raw from ingest_status.rejects where load_id = %s and live_hash is null"
                " and reasons = '{hired_date.no_time}'",
                load_id,
            ):
                self.say_again(raw)
        rules.ask(events.REDRIVE, {"load_id": load_id, "records": None})

    def drain(self) -> None:
        with_rules(self.dock, relaxed(date_alone="midnight")).ask(events.PENDING_DRAIN)

    def sweep(self) -> None:
        with_rules(self.dock, relaxed(date_alone="midnight")).ask(events.SWEEP)

    def expire(self) -> None:
        self.dock.query("update ingest_status.pending set parked_at = now() - interval '99 days' where random() < 0.5")
        self.sweep()

    def act(self) -> None:
        self.step += 1
        does: dict[Callable[[], None], int] = {
            self.drop: 16,
            self.drop_out_of_order: 1,
            self.force: 1,
            self.write: 8,
            self.bring_parent: 10,
            self.remove_parent: 12,
            self.redrive: 10,
            self.drain: 2,
            self.sweep: 1,
            self.expire: 3,
        }
        (chosen,) = self.chance.choices(list(does), list(does.values()))
        self.steps.append(chosen.__name__)
        chosen()
        self.check()

    def check(self) -> None:
        for key, (name, _) in self.live().items():
            stamp = self.said[name]
            assert stamp >= self.accepted.get(key, 0), f"{key} fell back to {name}, said in step {stamp}: {self.steps}"
            self.accepted[key] = stamp
        assert self.dock.query(NOT_ACCOUNTED_FOR, list(TOLD_FROM_PENDING)) == [], self.steps


# Loads whose waiting rows, or open rejects, are not those that history leaves over.
NOT_ACCOUNTED_FOR = """
    with told as (
      select case kind when 'file' then id else (details ->> 'of_load')::bigint end as load_id,
             rows_pending - case when details ->> 'why' = any(%s) then rows_read else 0 end as pending,
             rows_rejected - case when details ->> 'why' = 're-driven' then rows_read else 0 end as rejected
      from ingest_status.ingest_status
    ), expected as (select load_id, sum(pending) as pending, sum(rejected) as rejected from told group by load_id)
    select e.*, p.count, r.count from expected e,
      lateral (select count(*) from ingest_status.pending p where p.load_id = e.load_id) p,
      lateral (select count(*) from ingest_status.rejects r where r.load_id = e.load_id and closed_as is null) r
    where (e.pending, e.rejected) <> (p.count, r.count)
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 3])
def test_no_row_is_ever_older_than_what_was_accepted_for_its_id(dock: Dock, seed: int) -> None:
    """100 random steps: files and their generations, writers, parents that come and go, re-drives, drains, sweeps."""
    dock.drop("jobs.csv", b"1,Engineer\n")
    world = World(dock, random.Random(seed))
    for _ in range(100):
        world.act()
    for department in DEPARTMENTS:
        dock.query("insert into hired_employees.departments values (%s, 'D') on conflict do nothing", department)
    world.drain()
    world.check()
    assert dock.pending() == []
    assert dock.rollup_is_right()
