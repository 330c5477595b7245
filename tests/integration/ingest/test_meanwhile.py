"""Another writer between a look-up and the writing that relies on it: the work comes again, and then ends right."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import pytest

from functions.ingest import replay, work
from shared import events
from shared.errors import DatabaseBusy
from tests.integration.ingest.conftest import Dock
from tests.integration.ingest.test_rejects import relaxed, with_rules

ADD_NEWER = "insert into hired_employees.hired_employees values (5, 'Newer', now(), 1, 1)"
REMOVE_PARENT = "delete from hired_employees.departments where id = 9"
EARLY = b"5,Early Bird,2021-11-07T02:48:42Z,9,1\n"
HOLD = 20211108


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Dock, str], None]:
    """Let another session run a statement when the next rows have been looked up and are to be merged."""

    def arrange(dock: Dock, statement: str) -> None:
        merge, left = replay.merge_stage, [statement]

        def written_then_merged(*where: Any) -> tuple[int, int]:
            while left:
                dock.query(left.pop())
            return merge(*where)

        monkeypatch.setattr(replay, "merge_stage", written_then_merged)

    return arrange


@contextmanager
def held_before_update(dock: Dock) -> Iterator[Callable[[], None]]:
    """Stop the next UPDATE of employees, its snapshot taken, until the end; gives what waits until one has come."""
    dock.query(
        "create function public.hold() returns trigger language plpgsql as"
        f" $$ begin perform pg_advisory_xact_lock({HOLD}); return null; end $$;"
        " create trigger hold before update on hired_employees.hired_employees"
        " for each statement execute function public.hold()"
    )
    with closing(dock.connect("owner")) as holder, holder.cursor() as cursor:
        cursor.execute("select pg_advisory_lock(%s)", (HOLD,))

        def wait_for_an_update() -> None:
            deadline_s = time.monotonic() + 60
            while dock.query("select count(*) from pg_locks where objid = %s and not granted", HOLD) == [(0,)]:
                assert time.monotonic() < deadline_s, "no UPDATE came"

        yield wait_for_an_update


@pytest.fixture
def ready(loaded_parents: Dock) -> Dock:
    """Employee 5 waited for department 9, which has come."""
    loaded_parents.drop("employees.csv", EARLY)
    loaded_parents.query("insert into hired_employees.departments values (9, 'Nine')")
    return loaded_parents


@pytest.fixture
def mendable(loaded_parents: Dock) -> tuple[Dock, events.Event]:
    """Employee 5 was rejected by a rule that has changed since, and the event that re-drives it."""
    loaded_parents.query("insert into hired_employees.departments values (9, 'Nine')")
    load_id = loaded_parents.drop("employees.csv", EARLY.replace(b"T02:48:42Z", b""))["load_id"]
    dock = with_rules(loaded_parents, relaxed(date_alone="midnight"))
    return dock, events.make(events.REDRIVE, {"load_id": load_id, "records": None})


def names(dock: Dock) -> list[str]:
    return [row[1] for row in dock.employees()]


def test_a_row_that_comes_while_its_elder_is_drained_is_never_overwritten(
    ready: Dock, meanwhile: Callable[[Dock, str], None]
) -> None:
    """There was no live row when the waiting one was looked at: the drain comes again, and finds it superseded."""
    meanwhile(ready, ADD_NEWER)
    with pytest.raises(DatabaseBusy):
        ready.ask(events.PENDING_DRAIN)
    assert len(ready.pending()) == 1
    ready.ask(events.PENDING_DRAIN)
    assert names(ready) == ["Newer"]
    assert [reasons for _, reasons, _ in ready.rejects()] == [["record.superseded"]]


def test_a_parent_that_goes_while_its_child_is_drained_makes_the_drain_come_again(
    ready: Dock, meanwhile: Callable[[Dock, str], None]
) -> None:
    """The row waits on; it goes in when the parent is back."""
    meanwhile(ready, REMOVE_PARENT)
    with pytest.raises(DatabaseBusy):
        ready.ask(events.PENDING_DRAIN)
    ready.ask(events.PENDING_DRAIN)
    assert len(ready.pending()) == 1
    ready.query("insert into hired_employees.departments values (9, 'Nine')")
    ready.ask(events.PENDING_DRAIN)
    assert names(ready) == ["Early Bird"]


def test_a_re_drive_whose_parent_goes_is_not_acknowledged(
    mendable: tuple[Dock, events.Event], meanwhile: Callable[[Dock, str], None]
) -> None:
    """Nothing is lost: when the same event comes again, the row waits for its parent."""
    dock, event = mendable
    meanwhile(dock, REMOVE_PARENT)
    with pytest.raises(DatabaseBusy):
        work.handle(dock.services, event)
    assert work.handle(dock.services, event)["rows_pending"] == 1
    assert [row[1:] for row in dock.pending()] == [("5", "department_id", "9")]


def test_a_re_drive_whose_key_is_added_is_not_acknowledged(
    mendable: tuple[Dock, events.Event], meanwhile: Callable[[Dock, str], None]
) -> None:
    """It comes again, and then sees the live row that it goes over because somebody said so."""
    dock, event = mendable
    meanwhile(dock, ADD_NEWER)
    with pytest.raises(DatabaseBusy):
        work.handle(dock.services, event)
    assert names(dock) == ["Newer"]
    assert work.handle(dock.services, event)["rows_loaded"] == 1
    assert names(dock) == ["Early Bird"]


def test_a_re_drive_whose_key_is_added_within_its_merge_is_not_acknowledged(
    mendable: tuple[Dock, events.Event],
) -> None:
    """The merge's snapshot does not see the row: the primary key does."""
    dock, event = mendable
    with ThreadPoolExecutor(1) as pool:
        with held_before_update(dock) as wait_for_an_update:
            driving = pool.submit(work.handle, dock.services, event)
            wait_for_an_update()
            dock.query(ADD_NEWER)
        with pytest.raises(DatabaseBusy):
            driving.result()
    assert names(dock) == ["Newer"]
    assert len(dock.rejects()) == 1


BEFORE = b"1,Before,2021-11-07T02:48:42Z,1,1\n"
# Ids 2^29 apart look like doubles: the second of them goes in by the merge, not straight.
FILE = b"1,After,2021-11-07T02:48:42Z,1,1\n5,Near,2021-11-07T02:48:42Z,1,1\n536870917,Far,2021-11-07T02:48:42Z,1,1\n"


@pytest.mark.parametrize(
    ("statement", "again"),
    [
        ("insert into hired_employees.hired_employees values (536870917, 'Other', now(), 1, 1)", (1, 2)),
        ("delete from hired_employees.hired_employees where id = 1", (3, 0)),
    ],
    ids=["a key is added", "a row to change is removed"],
)
def test_a_row_that_changes_while_a_file_is_merged_is_never_counted_as_unchanged(
    loaded_parents: Dock, statement: str, again: tuple[int, int]
) -> None:
    """The load comes again, and then every row of the file is in the table and counted as what became of it."""
    dock = loaded_parents
    dock.drop("employees-1.csv", BEFORE)
    dock.put("employees-2.csv", FILE)
    event = dock.finalized("employees-2.csv")
    with ThreadPoolExecutor(1) as pool:
        with held_before_update(dock) as wait_for_an_update:
            loading = pool.submit(work.handle, dock.services, event)
            wait_for_an_update()
            dock.query(statement)
        with pytest.raises(DatabaseBusy):
            loading.result()
    fields = work.handle(dock.services, event)
    assert (fields["rows_inserted"], fields["rows_updated"], fields["rows_unchanged"]) == (*again, 0)
    assert names(dock) == ["After", "Near", "Far"]
    assert dock.rollup_is_right()
