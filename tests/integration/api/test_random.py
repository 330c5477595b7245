"""Everything at once: files, batches, single rows, drains, re-drives, sweeps over the same few ids; all adds up."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from shared import events
from shared.errors import EventRefused, TransientError
from tests.integration.api.conftest import Api
from tests.integration.ingest.conftest import Dock, buckets, make_dock

__all__ = ["buckets", "make_dock"]  # fixtures: the ingest function's own code, and buckets for its files
SECONDS = 8
EMPLOYEES, PARENTS = 150, 9
DELIVERIES = 8  # as a platform would, before an event is given up
ORPHANS = """
    select count(*) from hired_employees.hired_employees e
    where not exists (select from hired_employees.departments d where d.id = e.department_id)
       or not exists (select from hired_employees.jobs j where j.id = e.job_id)
"""
Step = Callable[["World", random.Random], None]


class World:
    """One database, the two functions over it, and what single writes did, which history does not tell."""

    def __init__(self, api: Api, dock: Dock) -> None:
        self.api, self.dock = api, dock
        self.net: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()

    def deliver(self, work: Callable[[], Any]) -> None:
        """Until it passes: what may pass next time is delivered again."""
        for delivery in range(DELIVERIES):
            try:
                with suppress(EventRefused):  # a re-drive of a load that has no rows
                    work()
            except TransientError:
                time.sleep(0.01 * 2**delivery)
            else:
                return
        raise AssertionError("an event was given up")

    def call(self, method: str, target: str, body: Any = None) -> int:
        answer = self.api.call(method, target, body)
        assert answer.status < 500 or answer.status == 503, answer.text
        self.statuses[answer.status] += 1
        return answer.status


def employee(rng: random.Random) -> dict[str, Any]:
    """One of few ids; some parents are not there, some values are bad."""
    at = f"20{rng.randint(20, 23)}-0{rng.randint(1, 9)}-01T00:00:00Z" if rng.random() < 0.95 else "yesterday"
    return {
        "id": rng.randint(1, EMPLOYEES), "employee_name": rng.choice("ABC"), "hired_date": at,
        "department_id": rng.randint(1, PARENTS), "job_id": rng.randint(1, PARENTS),
    }  # fmt: skip


def parent(rng: random.Random, column: str) -> dict[str, Any]:
    return {"id": rng.randint(1, PARENTS), column: rng.choice("XYZ")}


def drop_a_file(world: World, rng: random.Random) -> None:
    """Of employees, or of parents that others wait for; now and then the same event comes twice."""
    kind = rng.choice(["employees", "employees", "departments", "jobs"])
    if kind == "employees":
        rows = [",".join(map(str, employee(rng).values())) for _ in range(rng.randint(1, 40))]
    else:
        rows = [f"{rng.randint(1, PARENTS)},{rng.choice('XYZ')}" for _ in range(rng.randint(1, 4))]
    name = f"{kind}-{rng.randint(1, 6)}.csv"
    generation = world.dock.put(name, "\n".join(rows).encode())
    for _ in range(rng.choice([1, 1, 2])):
        world.deliver(lambda: world.dock.deliver(name, generation))


def send_a_batch(world: World, rng: random.Random) -> None:
    kind = rng.choice(["POST", "PUT", "DELETE"])
    name, column = rng.choice([("employees", ""), ("employees", ""), ("departments", "departments"), ("jobs", "job")])
    items = [employee(rng) if name == "employees" else parent(rng, column) for _ in range(rng.randint(1, 30))]
    if name != "employees":
        items = items[:3]
    if kind == "POST" and rng.random() < 0.2:
        parents = {"departments": [parent(rng, "departments")], "jobs": [parent(rng, "job")]}
        world.call("POST", "/api/batch", parents | {"employees": [employee(rng) for _ in range(5)]})
        return
    world.call(kind, f"/api/{name}", [item["id"] for item in items] if kind == "DELETE" else items)


def write_one_row(world: World, rng: random.Random) -> None:
    name, row = rng.choice([("employees", employee(rng)), ("departments", parent(rng, "departments"))])
    kind, path = rng.choice(["PUT", "PATCH", "DELETE"]), f"/api/{name}/{row.pop('id')}"
    if kind == "PATCH":
        row = dict([rng.choice(list(row.items()))])
    status = world.call(kind, path, None if kind == "DELETE" else row)
    world.net[name] += {("PUT", 201): 1, ("DELETE", 204): -1}.get((kind, status), 0)


def keep_up(world: World, rng: random.Random) -> None:
    """What the schedule and an operator ask for."""
    highest = world.api.query("select coalesce(max(id), 0) from ingest_status.ingest_status")[0][0]
    load_id = rng.randint(1, max(1, highest))
    kind = rng.choice(["drain", "sweep", "redrive", "redrive", "dismiss"])
    if kind == "dismiss":
        world.call("POST", "/api/rejects/dismiss", {"ingest_id": load_id})
        return
    data = {"load_id": load_id, "records": None} if kind == "redrive" else {}
    type_ = {"drain": events.PENDING_DRAIN, "sweep": events.SWEEP, "redrive": events.REDRIVE}[kind]
    world.deliver(lambda: world.dock.ask(type_, data))


STEPS: tuple[Step, ...] = (drop_a_file, send_a_batch, write_one_row, keep_up)


def everything_adds_up(world: World) -> bool:
    """No orphan, a roll-up that equals a recount, and as many rows as history and single writes brought."""
    for name, table in (("employees", "hired_employees"), ("departments", "departments"), ("jobs", "jobs")):
        ((brought, there),) = world.api.query(
            "select coalesce(sum(rows_inserted - rows_deleted), 0),"
            f" (select count(*) from hired_employees.{table}) from ingest_status.ingest_status where table_name = %s",
            table,
        )
        assert brought + world.net[name] == there, (name, brought, world.net[name], there)
    assert world.api.query(ORPHANS) == [(0,)]
    assert world.api.get("/api/metrics/verify").json == {"data": [], "equal": True, "more": False}
    return world.api.rollup_is_right() and world.dock.rollup_is_right()


def every_waiting_row_has_an_end(world: World) -> bool:
    """None is pending whose parent is there, once the drains are over."""
    return world.api.query(
        "select count(*) from ingest_status.pending p"
        " where (p.waits_on = 'department_id' and exists"
        "        (select from hired_employees.departments d where d.id::text = p.waits_for))"
        "    or (p.waits_on = 'job_id' and exists (select from hired_employees.jobs j where j.id::text = p.waits_for))"
    ) == [(0,)]


@pytest.fixture
def world(api: Api, make_dock: Callable[..., Dock]) -> World:
    return World(api, make_dock())


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_happens_at_once_adds_up_in_the_end(world: World, seed: int) -> None:
    """Four hands at work on the same rows: every answer is clean, every event passes, nothing is lost or left."""
    ends_s = time.monotonic() + SECONDS

    def work(hand: int) -> int:
        rng = random.Random(seed * 100 + hand)
        steps = 0
        while time.monotonic() < ends_s:
            STEPS[hand](world, rng)
            steps += 1
        return steps

    with ThreadPoolExecutor(len(STEPS)) as pool:
        steps = list(pool.map(work, range(len(STEPS))))
    world.deliver(world.dock.run_sent)
    world.deliver(lambda: world.dock.ask(events.SWEEP))
    assert min(steps) > 5
    assert world.statuses[503] < sum(world.statuses.values()) / 4
    assert everything_adds_up(world)
    assert every_waiting_row_has_an_end(world)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", [3])
def test_whatever_happens_in_turn_adds_up_at_every_step(world: World, seed: int) -> None:
    """The same steps one after the other, in any order."""
    rng, ends_s = random.Random(seed), time.monotonic() + SECONDS
    while time.monotonic() < ends_s:
        for _ in range(5):
            rng.choice(STEPS)(world, rng)
        assert everything_adds_up(world)
    assert world.statuses[503] == 0
