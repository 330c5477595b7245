"""Deliveries that come twice, out of order, at once, or die on the way: the tables equal those of a calm run."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from functions.ingest import load, work
from shared import dictionary, events
from shared.dictionary import Dictionary
from shared.errors import DatabaseBusy, DatabaseUnavailable, RowdockError, StoreUnavailable, TransientError
from shared.events import Event
from shared.postgres import Database
from tests.integration.ingest.conftest import Dock

ROOT = Path(__file__).resolve().parents[3]
ROWS = 60_000
POINTS = [
    "after the claim",
    "after COPY got its first block",
    "in the middle of COPY, several blocks in",
    "after COPY changed its target",
    "after COPY came back to its first target",
    "after the last COPY",
    "after the merge",
    "before the history",
    "after the history, before COMMIT",
    "after COMMIT, before the answer",
]


def lines(first: int, last: int, name: str = "Name") -> bytes:
    """Employees ``first`` to ``last`` with, in each hundred, one missing name, one double and one unknown parent."""
    out = []
    for i in range(first, last + 1):
        who = "" if i % 100 == 7 else f"{name} {i}"
        department = 9 if i % 100 == 8 else i % 3 + 1
        out.append(f"{i},{who},2021-{i % 12 + 1:02}-03T04:05:06Z,{department},{i % 2 + 1}\n")
        if i % 100 == 9:
            out.append(f"{i},Double {i},2021-01-03T04:05:06Z,1,1\n")
    return "".join(out).encode()


def state_of(dock: Dock) -> dict[str, Any]:
    """Everything that a calm run and an eventful one must have alike."""
    return {
        "employees": dock.employees(),
        "rejects": dock.rejects(),
        "pending": dock.pending(),
        "rollup": dock.query("select * from metrics.hires_by_quarter order by 1, 2, 3, 4"),
        "history": [
            {k: v for k, v in load.items() if k.startswith("rows_") or k in ("state", "object_name", "last_id")}
            for load in dock.history()
        ],
    }


def adds_up(dock: Dock) -> bool:
    """Whether every load of history says what became of each of its rows."""
    ends = ("inserted", "updated", "unchanged", "rejected", "pending", "rolled_back")
    return all(load["rows_read"] == sum(load[f"rows_{end}"] for end in ends) for load in dock.history())


def empty(dock: Dock) -> None:
    """Back to a database that has seen the parents' files alone."""
    dock.query(
        "truncate hired_employees.hired_employees, hired_employees.departments, hired_employees.jobs,"
        " ingest_status.ingest_status, ingest_status.parts, ingest_status.attempts, ingest_status.rejects,"
        " ingest_status.pending, ingest_status.wakeups"
    )
    dock.query("alter sequence ingest_status.ingest_status_id_seq restart")
    dock.parents()


def calm_run(dock: Dock, *files: tuple[str, bytes]) -> dict[str, Any]:
    """What the tables look like after ``files`` were loaded one after the other; the tables are emptied again."""
    for name, content in files:
        dock.drop(name, content)
    state = state_of(dock)
    empty(dock)
    return state


def deliver_until_done(dock: Dock, event: Event) -> dict[str, Any]:
    """As the platform does: again after every transient failure."""
    deadline_s = time.monotonic() + 60
    while True:
        try:
            return work.handle(dock.services, event)
        except TransientError:
            if time.monotonic() > deadline_s:
                raise


PARENTS = ("departments.csv", "jobs.csv")


def without_parents(state: dict[str, Any]) -> dict[str, Any]:
    """History of the files under test: the parents' own loads are not compared."""
    return state | {"history": [h for h in state["history"] if h["object_name"] not in PARENTS]}


def start_worker(dock: Dock, storage_url: str, database_url: str, event: Event, die_at: str = "") -> Any:
    worker = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("worker.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    orders = {
        "event": dataclasses.asdict(event),
        "storage_url": storage_url,
        "database_url": database_url,
        "die_at": die_at,
    }
    worker.stdin.write(json.dumps(orders))
    worker.stdin.close()
    assert worker.stdout.readline() == "ready\n"
    return worker


def test_the_same_event_twice_changes_nothing(loaded_parents: Dock) -> None:
    """The second delivery is acknowledged as a duplicate; no row, reject or history is added."""
    dock = loaded_parents
    dock.put("employees.csv", lines(1, 300))
    event = dock.finalized("employees.csv")
    work.handle(dock.services, event)
    before = state_of(dock)
    assert work.handle(dock.services, event)["state"] == "duplicate"
    assert state_of(dock) == before


def test_two_events_of_one_generation_load_it_once(loaded_parents: Dock) -> None:
    """Event ids prove nothing: identity is bucket, object and generation."""
    dock = loaded_parents
    dock.drop("employees.csv", lines(1, 300))
    before = state_of(dock)
    assert dock.deliver("employees.csv")["state"] == "duplicate"
    assert state_of(dock) == before


def test_twenty_twins_at_once_load_the_file_once(loaded_parents: Dock) -> None:
    """A twin that finds the first unfinished is not acknowledged but comes again; the end is that of a calm run."""
    dock = loaded_parents
    content = lines(1, 5_000)
    expected = calm_run(dock, ("employees.csv", content))
    dock.put("employees.csv", content)
    event = dock.finalized("employees.csv")
    start = threading.Barrier(20)

    def twin() -> str:
        start.wait()
        return str(deliver_until_done(dock, event)["state"])

    with ThreadPoolExecutor(20) as pool:
        states = sorted(future.result() for future in [pool.submit(twin) for _ in range(20)])
    assert states == ["duplicate"] * 19 + ["loaded"]
    assert without_parents(state_of(dock)) == without_parents(expected)
    assert dock.rollup_is_right()


def test_a_twin_of_an_unfinished_load_is_not_acknowledged(loaded_parents: Dock) -> None:
    """While somebody holds the object, a delivery fails as transient, and leaves no history."""
    dock = loaded_parents
    dock.put("employees.csv", lines(1, 10))
    holder = dock.connect("ingest")
    with holder.cursor() as cursor:
        cursor.execute(
            "select pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"object:{dock.bucket}/employees.csv",)
        )
    with pytest.raises(DatabaseBusy):
        dock.deliver("employees.csv")
    assert "employees.csv" not in [h["object_name"] for h in dock.history()]
    holder.rollback()  # answered when the lock is free; a close is not
    holder.close()
    assert dock.deliver("employees.csv")["state"] == "loaded"


HOLD = 20211107
HELD_IN_COPY = f"""
    create function public.hold() returns trigger language plpgsql as
      $$ begin perform pg_advisory_xact_lock({HOLD}); return new; end $$;
    create trigger hold before insert on hired_employees.hired_employees
      for each row when (new.id = %s) execute function public.hold()
"""


@contextmanager
def copy_held_at(dock: Dock, employee_id: int) -> Iterator[Callable[[], None]]:
    """Stop every COPY at the row of ``employee_id`` until the end; gives what waits until one has come there."""
    dock.query(HELD_IN_COPY, employee_id)
    with closing(dock.connect("owner")) as holder, holder.cursor() as cursor:
        cursor.execute("select pg_advisory_lock(%s)", (HOLD,))

        def wait_for_a_load() -> None:
            deadline_s = time.monotonic() + 60
            while dock.query("select count(*) from pg_locks where objid = %s and not granted", HOLD) == [(0,)]:
                assert time.monotonic() < deadline_s, "no COPY came to the row that it is held at"

        yield wait_for_a_load


def test_a_twin_that_comes_while_the_first_is_inside_copy_is_not_acknowledged(loaded_parents: Dock) -> None:
    """It fails as transient without waiting; when it comes again the first is done, and it is a duplicate."""
    dock = loaded_parents
    content = lines(1, 30_000)
    expected = calm_run(dock, ("employees.csv", content))
    dock.put("employees.csv", content)
    event = dock.finalized("employees.csv")
    with ThreadPoolExecutor(1) as pool:
        with copy_held_at(dock, 15_000) as wait_for_a_load:
            first = pool.submit(work.handle, dock.services, event)
            wait_for_a_load()
            with pytest.raises(DatabaseBusy):
                work.handle(dock.services, event)
        assert first.result(60)["state"] == "loaded"
    assert work.handle(dock.services, event)["state"] == "duplicate"
    assert without_parents(state_of(dock)) == without_parents(expected)
    assert adds_up(dock)
    assert dock.rollup_is_right()


@pytest.mark.slow
def test_a_twin_loads_the_file_after_the_first_died_inside_copy(
    loaded_parents: Dock, database: Any, any_store: Any
) -> None:
    """The first is killed in the middle of its COPY, with the twin at the door: the twin's next try loads it all."""
    dock = loaded_parents
    content = lines(1, 30_000)
    expected = calm_run(dock, ("employees.csv", content))
    dock.put("employees.csv", content)
    event = dock.finalized("employees.csv")
    with copy_held_at(dock, 15_000) as wait_for_a_load:
        worker = start_worker(dock, any_store.url, database.url_for("ingest"), event)
        wait_for_a_load()
        with pytest.raises(DatabaseBusy):
            work.handle(dock.services, event)
        worker.kill()
        assert worker.wait(10) == -signal.SIGKILL
        worker.stdout.close()
    assert deliver_until_done(dock, event)["state"] == "loaded"
    assert without_parents(state_of(dock)) == without_parents(expected)
    assert adds_up(dock)
    assert dock.rollup_is_right()


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_a_process_killed_at_a_named_point_loses_and_doubles_nothing(
    loaded_parents: Dock, database: Any, any_store: Any, point: str
) -> None:
    """kill -9, then redelivery: the tables equal those of a calm run."""
    dock = loaded_parents
    old, new = lines(1, 2_000, "Old"), lines(1_000, ROWS)
    expected = calm_run(dock, ("employees-old.csv", old), ("employees.csv", new))
    dock.drop("employees-old.csv", old)
    dock.put("employees.csv", new)
    event = dock.finalized("employees.csv")
    worker = start_worker(dock, any_store.url, database.url_for("ingest"), event, point)
    assert worker.wait(60) == -9
    assert worker.stdout.read() == ""
    worker.stdout.close()
    deliver_until_done(dock, event)
    assert without_parents(state_of(dock)) == without_parents(expected)
    assert dock.rollup_is_right()


def seconds_of_a_calm_load(dock: Dock, storage_url: str, database_url: str, file: tuple[str, bytes]) -> float:
    """From ``ready`` to the end of a worker that nobody kills: on this machine, now; the tables are emptied again."""
    dock.put(*file)
    worker = start_worker(dock, storage_url, database_url, dock.finalized(file[0]))
    started_s = time.monotonic()
    assert worker.wait(60) == 0
    took_s = time.monotonic() - started_s
    worker.stdout.close()
    empty(dock)
    return took_s


def killed_at(worker: Any, moment_s: float) -> bool:
    """Kill ``worker`` so long after it said ``ready``; whether it was still alive."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        worker.wait(moment_s)
    worker.kill()
    code = worker.wait(10)
    worker.stdout.close()
    return bool(code == -signal.SIGKILL)


@pytest.mark.slow
def test_thirty_kills_at_random_moments_lose_and_double_nothing(
    loaded_parents: Dock, database: Any, any_store: Any
) -> None:
    """Each load is killed at a seeded random moment and delivered again, until thirty kills met a live one."""
    dock, chance = loaded_parents, random.Random(20211107)
    database_url = database.url_for("ingest")
    longest_s = seconds_of_a_calm_load(dock, any_store.url, database_url, ("employees.csv", lines(1, 5_050)))
    files: list[tuple[str, bytes]] = []
    kills = 0
    while kills < 30:
        assert len(files) < 60, f"of 60 loads only {kills} were alive at their moment"
        first = len(files) * 5_000 + 1
        name, content = f"employees-{len(files)}.csv", lines(first, first + 5_049)
        files.append((name, content))
        dock.put(name, content)
        event = dock.finalized(name)
        kills += killed_at(start_worker(dock, any_store.url, database_url, event), chance.uniform(0, 0.8 * longest_s))
        deliver_until_done(dock, event)
    assert adds_up(dock)
    assert dock.rollup_is_right()
    happened = state_of(dock)
    empty(dock)
    assert without_parents(happened) == without_parents(calm_run(dock, *files))


class Overwriting:
    """A store whose object is replaced while its first read is under way: once ``reads`` pieces of it were read."""

    def __init__(self, store: Any, content: bytes, reads: int = 0) -> None:
        self._store, self._content, self._reads_left = store, content, reads
        self.generation = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def open_read(self, bucket: str, name: str, generation: str, *rest: Any) -> Any:
        reader = self._store.open_read(bucket, name, generation, *rest)
        original = reader.readinto

        def readinto(buffer: memoryview) -> int:
            if not self.generation and self._reads_left == 0:
                self.generation = self._store.put(bucket, name, self._content).generation
            self._reads_left -= 1
            return int(original(buffer))

        reader.readinto = readinto
        return reader


def with_store(dock: Dock, store: Any) -> Dock:
    return dataclasses.replace(dock, services=dataclasses.replace(dock.services, store=store))


@pytest.mark.slow
@pytest.mark.parametrize("reads", [0, 1, 3], ids=["before the first byte", "after a piece", "after three pieces"])
def test_an_overwrite_during_the_read_never_mixes_two_generations(loaded_parents: Dock, reads: int) -> None:
    """The first generation is read to its end; then the second one comes, and wins: all as in a calm run."""
    dock = loaded_parents
    first, second = lines(1, ROWS, "First"), lines(1, ROWS, "Second")
    between = calm_run(dock, ("employees.csv", first))
    after = calm_run(dock, ("employees.csv", first), ("employees.csv", second))
    overwriting = Overwriting(dock.services.store, second, reads)
    assert with_store(dock, overwriting).drop("employees.csv", first)["state"] == "loaded"
    assert overwriting.generation
    assert without_parents(state_of(dock)) == without_parents(between)
    dock.deliver("employees.csv", overwriting.generation)
    assert without_parents(state_of(dock)) == without_parents(after)
    assert {row[1].split()[0] for row in dock.employees()} == {"Second"}
    assert adds_up(dock)
    assert dock.rollup_is_right()


def test_a_load_that_is_asked_for_takes_a_generation_that_is_a_number(dock: Dock) -> None:
    """JSON made a number of it, as it does of Cloud Storage's: compared as text, it is the current one or it is not."""
    dock.put("jobs.csv", b"1,Engineer\n")
    numbered = with_store(dock, Numbered(dock.services.store, "1700000000000001"))
    asked = {"bucket": dock.bucket, "name": "jobs.csv", "generation": 1700000000000001}
    assert numbered.ask(events.LOAD, asked)["state"] == "loaded"


class Numbered:
    """A store whose generations are digits, as Cloud Storage's are."""

    def __init__(self, store: Any, number: str) -> None:
        self._store, self._number = store, number

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def stat(self, bucket: str, name: str, *rest: Any) -> Any:
        return dataclasses.replace(self._store.stat(bucket, name, *rest), generation=self._number)

    def open_read(self, bucket: str, name: str, _number: str, *rest: Any) -> Any:
        return self._store.open_read(bucket, name, self._store.stat(bucket, name).generation, *rest)


def test_two_generations_out_of_order_end_with_the_newer(loaded_parents: Dock) -> None:
    """The older one's event comes last: it is recorded as superseded and changes nothing."""
    dock = loaded_parents
    older = dock.put("employees.csv", lines(1, 200, "Older"))
    newer = dock.put("employees.csv", lines(1, 300, "Newer"))
    assert dock.deliver("employees.csv", newer)["state"] == "loaded"
    expected = dock.employees()
    assert dock.deliver("employees.csv", older)["state"] == "superseded"
    assert dock.employees() == expected
    assert [(h["state"], h["generation"] == newer) for h in dock.history()[2:]] == [
        ("loaded", True),
        ("superseded", False),
    ]
    assert dock.deliver("employees.csv", older)["state"] == "duplicate"


def test_rows_that_wait_from_an_older_generation_are_superseded_with_it(dock: Dock) -> None:
    """A newer generation closes what its predecessor parked."""
    dock.drop("employees.csv", lines(1, 3, "Older"))
    dock.drop("employees.csv", lines(1, 2, "Newer"))
    assert [row[1] for row in dock.pending()] == ["1", "2"]
    assert {tuple(reasons) for _, reasons, _ in dock.rejects()} == {("record.superseded",)}
    dock.parents()
    dock.run_sent()
    assert [row[1] for row in dock.employees()] == ["Newer 1", "Newer 2"]


NEWER_GENERATIONS = {
    "empty": (b"", "ignored"),
    "refused": (b"id,employee_name,wage\n1,a,2\n", "refused"),
    "rolled back": (b"1,Name,2021-11-07,1,1\n", "rolled_back"),
}


@pytest.mark.parametrize(("content", "state"), NEWER_GENERATIONS.values(), ids=NEWER_GENERATIONS)
def test_rows_that_wait_are_superseded_by_a_newer_generation_that_brings_no_row(
    make_dock: Callable[..., Dock], content: bytes, state: str
) -> None:
    """It is the current one all the same; the rows are rejects of their own load, and history says what ended them."""
    tables = dictionary.load()
    strict = dataclasses.replace(tables.tables["hired_employees"], max_errors=0)
    dock = make_dock(Dictionary({**tables.tables, "hired_employees": strict}))
    older = dock.drop("employees.csv", lines(1, 3, "Older"))["load_id"]
    dock.drop("other-employees.csv", lines(11, 11, "Other"))
    newer = dock.drop("employees.csv", content)
    assert newer["state"] == state
    assert [row[1] for row in dock.pending()] == ["11"]
    (told,) = [h for h in dock.history() if h["details"].get("of_load") == older]
    assert (told["rows_read"], told["rejects_by_reason"]) == (3, {"record.superseded": 3})
    assert told["details"] == {"of_load": older, "why": "superseded", "by_load": newer["load_id"]}


def test_a_refused_generation_supersedes_nothing_that_came_after_it(
    dock: Dock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its refusal and its history a newer generation is loaded, whose rows go on waiting."""
    record = load.record_without_rows

    def overtaken(*refused: Any) -> dict[str, Any]:
        dock.drop("employees.csv", lines(1, 2, "Newer"))
        return record(*refused)

    monkeypatch.setattr(load, "record_without_rows", overtaken)
    assert dock.drop("employees.csv", b"id,employee_name,wage\n1,a,2\n")["state"] == "refused"
    assert [row[1] for row in dock.pending()] == ["1", "2"]


def test_a_deleted_object_leaves_its_rows_waiting(dock: Dock) -> None:
    """No newer generation says otherwise, and files never delete rows."""
    generation = dock.put("employees.csv", lines(1, 2))
    dock.deliver("employees.csv", generation)
    gone = dock.put("employees.csv", b"")
    dock.services.store.delete(dock.bucket, "employees.csv")
    assert dock.deliver("employees.csv", gone)["state"] == "superseded"
    assert len(dock.pending()) == 2


def test_an_object_that_is_gone_is_recorded_as_superseded(dock: Dock) -> None:
    """Deleted before it was read: acknowledged, and history says so."""
    generation = dock.put("jobs.csv", b"1,Engineer\n")
    dock.services.store.delete(dock.bucket, "jobs.csv")
    assert dock.deliver("jobs.csv", generation)["state"] == "superseded"
    assert dock.history()[-1]["reason_code"] == "object.not_found"


def test_an_empty_object_is_ignored_and_its_content_loaded_when_it_comes(dock: Dock) -> None:
    """Some gateways write 0 bytes first; that generation is recorded, the next one is a load of its own."""
    assert dock.drop("jobs.csv", b"")["state"] == "ignored"
    assert dock.drop("jobs.csv", b"1,Engineer\n")["state"] == "loaded"


@pytest.mark.parametrize("name", ["in/a b+c.csv", "in/a%20b.csv", "año/日本 jobs é.csv", "jobs'; drop table x;--.csv"])
def test_a_name_of_any_characters_is_found(dock: Dock, name: str) -> None:
    """Plus, percent, quotes and letters beyond ASCII stay what they are."""
    name = name if "job" in name else name.replace(".csv", "-jobs.csv")
    assert dock.drop(name, b"1,Engineer\n")["state"] == "loaded"
    assert dock.history()[-1]["object_name"] == name


def test_a_database_that_is_down_makes_the_delivery_come_again(dock: Dock) -> None:
    """Nothing is acknowledged, and nothing is left behind."""
    dock.put("jobs.csv", b"1,Engineer\n")
    nowhere = Database("postgresql://ingest@127.0.0.1:1/nothing", application_name="test")
    broken = dataclasses.replace(dock, services=dataclasses.replace(dock.services, database=nowhere))
    with pytest.raises(DatabaseUnavailable):
        broken.deliver("jobs.csv")
    assert dock.history() == []
    assert dock.deliver("jobs.csv")["state"] == "loaded"


class Failing(Overwriting):
    """A store whose connection breaks in the middle of a read."""

    def open_read(self, *where: Any) -> Any:
        reader = self._store.open_read(*where)
        original, left = reader.readinto, [2]

        class Breaking:
            def __enter__(self) -> Any:
                reader.__enter__()
                return self

            def __exit__(self, *error: object) -> Any:
                return reader.__exit__(*error)

            def readinto(self, buffer: memoryview) -> int:
                left[0] -= 1
                if left[0] < 0:
                    raise StoreUnavailable("the connection broke")
                return int(original(buffer))

        return Breaking()


def test_a_store_that_fails_in_the_middle_of_a_read_is_not_bad_data(loaded_parents: Dock) -> None:
    """The error keeps its own family through COPY: transient, rolled back, tried again."""
    dock = loaded_parents
    content = lines(1, ROWS)
    with pytest.raises(StoreUnavailable):
        with_store(dock, Failing(dock.services.store, b"")).drop("employees.csv", content)
    assert dock.employees() == []
    assert dock.query("select outcome, error_code from ingest_status.attempts order by id desc limit 1") == [
        ("failed", "object.unavailable")
    ]
    assert dock.deliver("employees.csv")["state"] == "loaded"


def test_a_zombie_past_its_deadline_is_ended_by_the_server_and_its_twin_gets_through(loaded_parents: Dock) -> None:
    """The platform gave up on a delivery that still runs: PostgreSQL ends it, so that its twin is not held up."""
    dock = loaded_parents
    released = threading.Event()

    class Hanging(Overwriting):
        def open_read(self, *where: Any) -> Any:
            assert released.wait(60)
            return self._store.open_read(*where)

    dock.put("employees.csv", lines(1, 100))
    impatient = dataclasses.replace(dock.services.settings, deadline_s=0.3)
    services = dataclasses.replace(dock.services, settings=impatient, store=Hanging(dock.services.store, b""))
    event = dock.finalized("employees.csv")
    with ThreadPoolExecutor(1) as pool:
        zombie = pool.submit(work.handle, services, event)
        assert deliver_until_done(dock, event)["state"] in ("loaded", "duplicate")
        released.set()
        with pytest.raises(RowdockError) as failure:
            zombie.result(60)
    assert isinstance(failure.value, TransientError)
    assert [h["state"] for h in dock.history() if h["object_name"] == "employees.csv"] == ["loaded"]
    assert dock.rollup_is_right()


@pytest.mark.parametrize("how", ["overwritten", "deleted"])
def test_a_generation_that_is_current_again_is_loaded_after_all(dock: Dock, how: str) -> None:
    """An operator takes back what went over it: reconcile finds it, though history has it as superseded."""
    dock.parents()
    older = dock.put("employees.csv", b"1,A,2021-07-27T16:02:08Z,1,1\n")
    if how == "overwritten":
        newer = dock.put("employees.csv", b"2,B,2021-07-27T16:02:08Z,1,1\n")
    else:
        newer = hide(dock, "employees.csv")
    for expected in ("superseded", "duplicate"):
        assert dock.deliver("employees.csv", older)["state"] == expected
    dock.services.store.delete(dock.bucket, "employees.csv", newer)
    assert dock.ask(events.RECONCILE, {"min_age_s": -60})["events_sent"] == 1
    dock.run_sent()
    assert [row[0] for row in dock.employees()] == [1]
    assert [load["state"] for load in dock.history() if load["generation"] == older] == ["superseded", "loaded"]
    assert dock.deliver("employees.csv", older)["state"] == "duplicate"
    assert dock.ask(events.RECONCILE, {"min_age_s": -60})["events_sent"] == 0


def test_a_file_that_is_current_again_and_cannot_be_read_is_recorded_as_such(dock: Dock) -> None:
    """History ends with what it is, not with what it was taken for."""
    generation = dock.put("employees.csv", b"PK\x03\x04")
    marker = hide(dock, "employees.csv")
    assert dock.deliver("employees.csv", generation)["state"] == "superseded"
    dock.services.store.delete(dock.bucket, "employees.csv", marker)
    assert dock.deliver("employees.csv", generation)["state"] == "refused"
    assert dock.deliver("employees.csv", generation)["state"] == "duplicate"
    assert [load["state"] for load in dock.history()] == ["superseded", "refused"]


def hide(dock: Dock, name: str) -> str:
    """Delete the object as a user does, where versions are kept; returns the generation of the marker."""
    dock.services.store.delete(dock.bucket, name)
    client: Any = dock.services.store._client  # type: ignore[attr-defined]  # the interface knows no markers
    (marker,) = client.list_object_versions(Bucket=dock.bucket, Prefix=name)["DeleteMarkers"]
    return str(marker["VersionId"])
