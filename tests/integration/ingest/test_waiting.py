"""Rows that wait for a parent: they go in by themselves, however the parent came, and never over what is newer."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from types import SimpleNamespace
from typing import Any

import pytest

from functions.ingest import drain, load, replay, walk, work
from functions.ingest.walk import Walk
from shared import dictionary, events, logs
from shared.errors import SettingsError
from tests.conftest import TestDatabase
from tests.integration.ingest.conftest import JOBS, Dock
from tests.integration.ingest.test_rejects import relaxed, with_rules

EARLY = b"5,Early Bird,2021-11-07T02:48:42Z,9,1\n"
BEFORE = b"5,Before,2021-11-07T02:48:42Z,1,1\n"


@pytest.fixture
def waiting(dock: Dock) -> Dock:
    """Jobs are there; employee 5 waits for department 9."""
    dock.drop("jobs.csv", JOBS)
    dock.drop("employees.csv", EARLY)
    assert dock.pending() == [(1, "5", "department_id", "9")]
    dock.sent.clear()
    return dock


def names(dock: Dock) -> list[str]:
    return [row[1] for row in dock.employees()]


def test_a_parent_from_a_file_wakes_what_waits(waiting: Dock) -> None:
    """The load that brings the parent asks for a drain, which runs after its commit."""
    waiting.drop("departments.csv", b"9,Nine\n")
    assert names(waiting) == []
    waiting.run_sent()
    assert names(waiting) == ["Early Bird"]
    assert waiting.pending() == []
    last = waiting.history()[-1]
    assert (last["kind"], last["rows_read"], last["rows_inserted"]) == ("re-drive", 1, 1)


@pytest.mark.parametrize("role", ["api", "owner", "restore"])
def test_a_parent_from_anybody_else_is_found_by_the_sweep(waiting: Dock, role: str) -> None:
    """A trigger leaves the wake-up, whoever writes; the sweep needs no event of the writer's."""
    conn = waiting.connect(role)
    with conn, conn.cursor() as cursor:
        cursor.execute("insert into hired_employees.departments values (9, 'Nine')")
    conn.close()
    waiting.ask(events.SWEEP)
    assert names(waiting) == ["Early Bird"]


def test_a_renumbered_parent_wakes_too(waiting: Dock) -> None:
    """An update that brings the key is an arrival."""
    waiting.drop("departments.csv", b"8,Eight\n")
    waiting.run_sent()
    waiting.query("update hired_employees.departments set id = 9 where id = 8")
    waiting.ask(events.SWEEP)
    assert names(waiting) == ["Early Bird"]


def test_a_row_with_two_missing_parents_waits_for_both(dock: Dock) -> None:
    """One parent comes: it waits on for the other; then it goes in."""
    dock.drop("employees.csv", EARLY)
    dock.drop("departments.csv", b"9,Nine\n")
    dock.run_sent()
    assert [row[1:] for row in dock.pending()] == [("5", "job_id", "1")]
    dock.drop("jobs.csv", JOBS)
    dock.run_sent()
    assert names(dock) == ["Early Bird"]


def test_a_parked_row_never_overwrites_a_row_that_came_meanwhile(waiting: Dock) -> None:
    """The id got a live row after the parking: the parked one is rejected as superseded."""
    waiting.query("insert into hired_employees.departments values (1, 'One')")
    waiting.query("insert into hired_employees.hired_employees values (5, 'Newer', now(), 1, 1)")
    waiting.drop("departments-9.csv", b"9,Nine\n")
    waiting.run_sent()
    assert names(waiting) == ["Newer"]
    assert [reasons for _, reasons, _ in waiting.rejects()] == [["record.superseded"]]


def test_a_parked_row_may_update_the_row_that_was_there_when_it_was_parked(loaded_parents: Dock) -> None:
    """An update that waits is still an update when its parent comes, unless the row changed meanwhile."""
    dock = loaded_parents
    dock.drop("employees-1.csv", b"5,Before,2021-11-07T02:48:42Z,1,1\n6,Before,2021-11-07T02:48:42Z,1,1\n")
    dock.drop("employees-2.csv", EARLY + EARLY.replace(b"5,", b"6,", 1))
    dock.query("update hired_employees.hired_employees set employee_name = 'Changed' where id = 6")
    dock.drop("departments-9.csv", b"9,Nine\n")
    dock.run_sent()
    assert names(dock) == ["Early Bird", "Changed"]
    assert dock.rollup_is_right()


def test_the_later_of_two_parked_rows_of_one_id_wins(waiting: Dock) -> None:
    """A corrected file, parked as well, supersedes the row that waited before."""
    waiting.drop("employees-2.csv", EARLY.replace(b"Early", b"Later"))
    assert len(waiting.pending()) == 1
    waiting.drop("departments.csv", b"9,Nine\n")
    waiting.run_sent()
    assert names(waiting) == ["Later Bird"]


def test_a_re_drive_that_parks_leaves_what_was_parked_before_as_it_was(loaded_parents: Dock) -> None:
    """Employee 5 waits and gets a newer live row; another row of its file is re-driven, and waits: 5 stays newer."""
    dock = loaded_parents
    load_id = dock.drop("employees.csv", EARLY + b"6,No Time,2021-11-07,9,1\n")["load_id"]
    dock.query("insert into hired_employees.hired_employees values (5, 'Newer', now(), 1, 1)")
    today = with_rules(dock, relaxed(date_alone="midnight"))
    assert today.ask(events.REDRIVE, {"load_id": load_id, "records": None})["rows_pending"] == 1
    today.drop("departments-9.csv", b"9,Nine\n")
    today.run_sent()
    assert names(dock) == ["Newer", "No Time"]


def test_a_newer_file_that_leaves_a_row_as_it_is_supersedes_what_waits_to_change_it(loaded_parents: Dock) -> None:
    """The newer file says what the live row says: the older row, which waits, has lost already."""
    dock = loaded_parents
    dock.drop("employees-1.csv", BEFORE + b"7,Stays,2021-11-07T02:48:42Z,1,1\n")
    older = dock.drop("employees-2.csv", EARLY + EARLY.replace(b"5,", b"6,", 1))["load_id"]
    newer = dock.drop("employees-3.csv", BEFORE)
    assert (newer["rows_unchanged"], newer["rows_rejected"]) == (1, 0)
    assert [key for _, key, _, _ in dock.pending()] == ["6"]
    assert dock.rejects() == [(1, ["record.superseded"], EARLY.decode().strip())]
    told = [h for h in dock.history() if h["details"].get("of_load") == older]
    assert [(h["rows_read"], h["rejects_by_reason"]) for h in told] == [(1, {"record.superseded": 1})]
    assert told[0]["details"] == {"of_load": older, "why": "superseded", "by_load": newer["load_id"]}
    dock.drop("departments-9.csv", b"9,Nine\n")
    dock.run_sent()
    assert names(dock) == ["Before", "Early Bird", "Stays"]


def test_a_newer_file_that_brings_a_row_anew_supersedes_what_waits_for_the_same_id(loaded_parents: Dock) -> None:
    """The live row was removed and comes back with the same content: still it is newer than what waits."""
    dock = loaded_parents
    dock.drop("employees-1.csv", BEFORE)
    dock.drop("employees-2.csv", EARLY)
    dock.query("delete from hired_employees.hired_employees")
    assert dock.drop("employees-3.csv", BEFORE)["rows_inserted"] == 1
    assert dock.pending() == []
    assert [reasons for _, reasons, _ in dock.rejects()] == [["record.superseded"]]


def test_a_newer_file_that_is_rolled_back_supersedes_nothing_of_other_objects(make_dock: Callable[..., Dock]) -> None:
    """Its rows did not come; only what waits from earlier generations of itself is over."""
    tables = dictionary.load()
    employees = dataclasses.replace(tables.tables["hired_employees"], max_update_ratio=0.1)
    dock = make_dock(dictionary.Dictionary({**tables.tables, "hired_employees": employees}))
    dock.parents()
    dock.drop("employees-1.csv", BEFORE)
    dock.drop("employees-2.csv", EARLY)
    dock.drop("employees-3.csv", EARLY.replace(b"5,", b"6,", 1))
    fields = dock.drop("employees-3.csv", BEFORE.replace(b"Before", b"Other"))
    assert fields["state"] == "rolled_back"
    assert [key for _, key, _, _ in dock.pending()] == ["5"]
    assert [raw[0] for _, _, raw in dock.rejects()] == ["6"]


def test_of_two_rows_of_one_id_in_a_file_the_first_waits(dock: Dock) -> None:
    """An identical double is unchanged, a different one is rejected, although the first is not in yet."""
    fields = dock.drop("employees.csv", EARLY + EARLY + EARLY.replace(b"Early", b"Other"))
    assert (fields["rows_pending"], fields["rows_unchanged"], fields["rows_rejected"]) == (1, 1, 1)
    assert [reasons for _, reasons, _ in dock.rejects()] == [["id.duplicate"]]


def test_an_identical_double_that_waits_is_unchanged_however_it_is_written(dock: Dock) -> None:
    """Quotes, blanks and zones do not make it another row; other content does, of a row whose first record waits."""
    same = b'5,"Early Bird", 2021-11-07T03:48:42+01:00 ,9,1\n'
    other = b'5,"Early Birds",2021-11-07T02:48:42Z,9,1\n'
    fields = dock.drop("employees.csv", EARLY + same + other + same.replace(b"5,", b"6,", 1))
    assert (fields["rows_pending"], fields["rows_unchanged"], fields["rows_rejected"]) == (2, 1, 1)
    assert dock.rejects() == [(3, ["id.duplicate"], other.decode().strip())]


def test_many_waiting_doubles_are_compared_in_bounded_batches(dock: Dock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every batch is compared, and every row has its end."""
    monkeypatch.setattr("functions.ingest.waiting_doubles.BATCH_ROWS", 7)
    rows = [b"%d,Name,2021-11-07T02:48:42Z,9,1\n" % n for n in range(1, 51)]
    same = [row.replace(b"Name", b'"Name"') for row in rows[:30]]
    other = [row.replace(b"Name", b"Other") for row in rows[30:]]
    fields = dock.drop("employees.csv", b"".join(rows + same + other))
    assert (fields["rows_pending"], fields["rows_unchanged"], fields["rows_rejected"]) == (50, 30, 20)
    assert [line for line, _, _ in dock.rejects()] == list(range(81, 101))


def test_waiting_ends_after_its_time(waiting: Dock) -> None:
    """Past the dictionary's pending_days the row is rejected, and can be mended like any other."""
    days = waiting.services.dictionary.tables["hired_employees"].pending_days
    waiting.query("update ingest_status.pending set parked_at = now() - make_interval(days => %s)", days - 1)
    waiting.ask(events.SWEEP)
    assert len(waiting.pending()) == 1
    waiting.query("update ingest_status.pending set parked_at = now() - make_interval(days => %s)", days + 1)
    waiting.ask(events.SWEEP)
    assert waiting.pending() == []
    assert waiting.rejects() == [(1, ["department_id.expired"], EARLY.decode().strip())]
    last = waiting.history()[-1]
    assert (last["kind"], last["details"]["why"], last["details"]["of_load"]) == ("re-drive", "expired", last["id"] - 1)
    assert (last["rows_read"], last["rejects_by_reason"]) == (1, {"department_id.expired": 1})


def expire(dock: Dock) -> None:
    dock.query("update ingest_status.pending set parked_at = now() - interval '99 days'")
    dock.ask(events.SWEEP)


def test_an_expired_row_that_is_re_driven_never_overwrites_a_row_that_came_meanwhile(loaded_parents: Dock) -> None:
    """It is superseded, as it would have been had it waited on; naming it after that loads it all the same."""
    dock = loaded_parents
    load_id = dock.drop("employees.csv", EARLY + EARLY.replace(b"5,", b"6,", 1))["load_id"]
    expire(dock)
    dock.query("insert into hired_employees.hired_employees values (5, 'Newer', now(), 1, 1)")
    dock.query("insert into hired_employees.departments values (9, 'Nine')")
    fields = dock.ask(events.REDRIVE, {"load_id": load_id, "records": None})
    assert (fields["rows_loaded"], fields["rows_rejected"]) == (1, 1)
    assert names(dock) == ["Newer", "Early Bird"]
    assert [reasons for _, reasons, _ in dock.rejects()] == [["record.superseded"]]
    dock.ask(events.REDRIVE, {"load_id": load_id, "records": [1]})
    assert names(dock) == ["Early Bird", "Early Bird"]


def test_what_a_row_waited_over_is_remembered_through_every_rejection(loaded_parents: Dock) -> None:
    """Expired, then rejected for another reason, then good again: the row that came meanwhile is still newer."""
    dock = loaded_parents
    load_id = dock.drop("employees.csv", EARLY)["load_id"]
    expire(dock)
    strict = with_rules(dock, relaxed(name="employee_name", max_length=3))
    strict.ask(events.REDRIVE, {"load_id": load_id, "records": None})
    assert [reasons for _, reasons, _ in dock.rejects()] == [["employee_name.too_long"]]
    dock.query("insert into hired_employees.hired_employees values (5, 'Newer', now(), 1, 1)")
    dock.query("insert into hired_employees.departments values (9, 'Nine')")
    dock.ask(events.REDRIVE, {"load_id": load_id, "records": None})
    assert names(dock) == ["Newer"]


def test_a_re_driven_row_gives_way_to_a_later_one_that_waits(loaded_parents: Dock) -> None:
    """A later file's row of the same id waits: the re-driven one is older, and is superseded rather than loaded."""
    dock = loaded_parents
    load_id = dock.drop("employees-1.csv", b"5,Older,2021-11-07,1,1\n")["load_id"]
    dock.drop("employees-2.csv", EARLY)
    today = with_rules(dock, relaxed(date_alone="midnight"))
    today.ask(events.REDRIVE, {"load_id": load_id, "records": None})
    assert [reasons for _, reasons, _ in dock.rejects()] == [["record.superseded"]]
    today.drop("departments-9.csv", b"9,Nine\n")
    today.run_sent()
    assert names(dock) == ["Early Bird"]


def test_a_re_driven_row_supersedes_an_earlier_one_that_waits(loaded_parents: Dock) -> None:
    """What an earlier file parked is older than the re-driven row, which the live row equals already."""
    dock = loaded_parents
    dock.drop("employees-1.csv", BEFORE)
    dock.drop("employees-2.csv", EARLY)
    load_id = dock.drop("employees-3.csv", BEFORE.replace(b"02:48:42Z", b"02:48:42"))["load_id"]
    with_rules(dock, relaxed(assume_zone="UTC")).ask(events.REDRIVE, {"load_id": load_id, "records": None})
    dock.drop("departments-9.csv", b"9,Nine\n")
    dock.run_sent()
    assert names(dock) == ["Before"]


def test_two_rows_of_one_id_never_wait_from_one_file(dock: Dock) -> None:
    """The first waits, the second was rejected by a rule that has changed since: both waiting would block the drain."""
    dock.drop("jobs.csv", JOBS)
    load_id = dock.drop("employees.csv", EARLY + b"5,Second,2021-11-07,9,1\n")["load_id"]
    today = with_rules(dock, relaxed(date_alone="midnight"))
    today.ask(events.REDRIVE, {"load_id": load_id, "records": None})
    assert len(dock.pending()) == 1
    today.drop("departments.csv", b"9,Nine\n")
    today.run_sent()
    assert names(dock) == ["Early Bird"]


def test_a_drain_twice_changes_nothing(waiting: Dock) -> None:
    """A drain that finds no wake-up, or nothing ready, leaves no trace."""
    waiting.drop("departments.csv", b"9,Nine\n")
    waiting.run_sent()
    before = waiting.history()
    waiting.ask(events.PENDING_DRAIN)
    waiting.ask(events.SWEEP)
    assert waiting.history() == before


def test_many_waiting_rows_go_in_in_bounded_batches(dock: Dock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each batch is a transaction of its own; together they bring every row."""
    monkeypatch.setattr("functions.ingest.walk.BATCH_ROWS", 100)
    rows = b"".join(b"%d,Name,2021-11-07T02:48:42Z,%d,1\n" % (n, n % 3 + 1) for n in range(1, 501))
    dock.drop("employees.csv", rows)
    dock.parents()
    dock.run_sent()
    assert len(dock.employees()) == 500
    redrives = [h for h in dock.history() if h["kind"] == "re-drive"]
    assert max(h["rows_read"] for h in redrives) == 100
    assert dock.query("select count(*) from ingest_status.wakeups") == [(0,)]


@pytest.mark.slow
def test_no_wake_up_is_lost_when_child_and_parent_commit_at_once(dock: Dock, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 times: parked and parent are both written, then both commit at once, each draining only for itself.

    Whoever's drain is first may not see the other's commit yet, and takes the wake-ups that it sees. The row goes in.
    """
    dock.drop("jobs.csv", JOBS)
    parent = dock.connect("api")
    together = Barrier(2, timeout=60)
    park = load.after_parking

    def park_then_race(*where: Any) -> None:
        park(*where)
        together.wait()

    def commit_and_drain() -> None:
        together.wait()
        parent.commit()
        dock.ask(events.PENDING_DRAIN)

    monkeypatch.setattr(load, "after_parking", park_then_race)
    with ThreadPoolExecutor(1) as pool:
        for number in range(1, 1001):
            with parent.cursor() as cursor:
                cursor.execute("insert into hired_employees.departments values (%s, 'D')", (number,))
            dock.put("employees.csv", b"%d,Name,2021-11-07T02:48:42Z,%d,1\n" % (number, number))
            arrived = pool.submit(commit_and_drain)
            assert work.handle(dock.services, dock.finalized("employees.csv"))["rows_pending"] == 1
            dock.run_sent()
            arrived.result()
            assert dock.query("select count(*) from hired_employees.hired_employees") == [(number,)]
    parent.close()


def test_a_column_may_reject_at_once_instead(make_dock: object) -> None:
    """``parent_missing = "reject"`` in the dictionary: no waiting."""
    tables = dictionary.load()
    employees = tables.tables["hired_employees"]
    columns = tuple(
        dataclasses.replace(c, parent_missing="reject") if c.name == "department_id" else c for c in employees.columns
    )
    strict = dictionary.Dictionary(
        {**tables.tables, "hired_employees": dataclasses.replace(employees, columns=columns)}
    )
    dock: Dock = make_dock(strict)  # type: ignore[operator]
    dock.drop("jobs.csv", JOBS)
    dock.drop("employees.csv", EARLY)
    assert dock.pending() == []
    assert [reasons for _, reasons, _ in dock.rejects()] == [["department_id.parent_missing"]]


def test_a_load_that_committed_is_acknowledged_although_nothing_takes_its_wake_up(dock: Dock) -> None:
    """No EVENTS_URL is set: the rows are in, the event is done, its log line says so, and the sweep drains later."""

    def refuse(event: events.Event) -> None:
        raise SettingsError("EVENTS_URL is not set")

    alone = dataclasses.replace(dock, services=dataclasses.replace(dock.services, send=refuse))
    fields = alone.drop("employees.csv", EARLY)
    assert (fields["state"], fields["drain_not_sent"]) == ("loaded", "settings")
    alone.drop("jobs.csv", JOBS)
    alone.drop("departments.csv", b"9,Nine\n")
    alone.ask(events.SWEEP)
    assert names(dock) == ["Early Bird"]


def test_a_load_that_committed_is_acknowledged_although_its_side_connection_is_lost(
    database: TestDatabase, waiting: Dock
) -> None:
    """The server ends it while the load commits: the department is in, the log line says what could not be done."""
    with database.connect("superuser") as conn, conn.cursor() as cursor:
        cursor.execute(LOSE_THE_OTHER_CONNECTIONS)
    conn.close()
    fields = waiting.drop("departments.csv", b"9,Nine\n")
    assert (fields["state"], fields["drain_not_sent"]) == ("loaded", "database.unavailable")
    assert fields["attempt_not_finished"] == "database.unavailable"
    database.query("drop trigger lose_the_others on ingest_status.ingest_status", role="superuser")
    waiting.ask(events.SWEEP)
    assert names(waiting) == ["Early Bird"]


LOSE_THE_OTHER_CONNECTIONS = """
    create function public.lose_the_others() returns trigger language plpgsql security definer as $$
    begin
      perform pg_terminate_backend(pid, 5000) from pg_stat_activity
      where datname = current_database() and application_name = 'ingest-test' and pid <> pg_backend_pid();
      return null;
    end $$;
    create constraint trigger lose_the_others after insert on ingest_status.ingest_status
      deferrable initially deferred for each row execute function public.lose_the_others();
"""


def test_a_drain_whose_rows_vanish_under_it_goes_on(waiting: Dock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A newer generation takes the parked row away between the look and the lock: nothing fails, nothing is left."""
    look = Walk._next_loads

    def look_then_lose(walk: Walk, conn: Any) -> dict[str, int]:
        found = look(walk, conn)
        if found:
            waiting.drop("employees.csv", EARLY.replace(b",9,1", b",1,1").replace(b"5,", b"6,", 1))
        return found

    waiting.query("insert into hired_employees.departments values (1, 'One')")
    waiting.query("insert into hired_employees.departments values (9, 'Nine')")
    monkeypatch.setattr(Walk, "_next_loads", look_then_lose)
    waiting.ask(events.PENDING_DRAIN)
    assert waiting.pending() == []
    assert [row[0] for row in waiting.employees()] == [6]
    assert waiting.query("select count(*) from ingest_status.wakeups") == [(0,)]


def deny(monkeypatch: pytest.MonkeyPatch, key: int) -> None:
    """Judge as a defect might: the parent of ``key`` is never there, although the drain's look finds it."""
    real = replay.parent_lookup

    def lookup(*where: Any) -> Any:
        present = real(*where)
        return lambda column, keys: present(column, keys) - {key}

    monkeypatch.setattr(replay, "parent_lookup", lookup)


def test_a_drain_ends_although_the_judge_denies_a_parent_that_is_there(
    waiting: Dock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that nothing changes are judged once; others of their batch go in; no wake-up, event or history is left."""
    waiting.drop("employees-2.csv", EARLY.replace(b",9,1", b",8,1").replace(b"5,", b"6,", 1))
    before = len(waiting.history())
    deny(monkeypatch, 9)
    waiting.query("insert into hired_employees.departments values (8, 'Eight'), (9, 'Nine')")
    waiting.sent.clear()
    fields = waiting.ask(events.PENDING_DRAIN)
    assert fields == {"batches": 1, "rows_loaded": 1, "rows_rejected": 0, "rows_pending": 0, "keys_stuck": 1}
    assert [row[0] for row in waiting.employees()] == [6]
    assert waiting.query("select count(*) from ingest_status.wakeups") == [(0,)]
    assert (waiting.sent, len(waiting.history())) == ([], before + 1)
    monkeypatch.undo()
    waiting.query("insert into hired_employees.departments values (10, 'Ten')")
    waiting.ask(events.SWEEP)
    assert [row[0] for row in waiting.employees()] == [5, 6]


def test_rows_whose_load_has_no_history_hold_up_no_other(waiting: Dock, capsys: pytest.CaptureFixture[str]) -> None:
    """A restore may bring that about: they are left alone, an error in the log names their load, and they expire."""
    ((load_id,),) = waiting.query("select distinct load_id from ingest_status.pending")
    waiting.query("delete from ingest_status.parts where load_id = %s", load_id)
    waiting.query("delete from ingest_status.ingest_status where id = %s", load_id)
    waiting.drop("employees-2.csv", EARLY.replace(b"5,", b"6,", 1))
    waiting.query("insert into hired_employees.departments values (9, 'Nine')")
    with logs.canonical_line("ingest.finished") as line:
        line.update(waiting.ask(events.PENDING_DRAIN))
    told = json.loads(capsys.readouterr().out)
    assert (told["severity"], told["loads_without_history"], told["rows_loaded"]) == ("ERROR", [load_id], 1)
    assert [row[0] for row in waiting.employees()] == [6]
    assert [key for _, key, _, _ in waiting.pending()] == ["5"]
    assert waiting.query("select count(*) from ingest_status.wakeups") == [(0,)]
    expire(waiting)
    assert waiting.rejects() == [(1, ["department_id.expired"], EARLY.decode().strip())]


def test_long_waiting_rows_go_in_in_batches_of_bounded_bytes(waiting: Dock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch holds what it has room for, and one row at least: memory does not depend on how long records are."""
    monkeypatch.setattr(walk, "BATCH_BYTES", 100)
    monkeypatch.setattr(walk, "FETCHED_ROWS", 2)
    lengths = (1, 1, 200, 1, 1, 1)
    rows = [b"%d,%s,2021-11-07T02:48:42Z,9,1\n" % (n, b"N" * length) for n, length in enumerate(lengths, 6)]
    waiting.drop("employees-2.csv", b"".join(rows))
    waiting.query("insert into hired_employees.departments values (9, 'Nine')")
    waiting.ask(events.PENDING_DRAIN)
    assert [row[0] for row in waiting.employees()] == list(range(5, 12))
    assert [h["rows_read"] for h in waiting.history() if h["kind"] == "re-drive"] == [1, 2, 1, 3]


def test_a_row_stuck_in_a_batch_does_not_hold_up_the_next_ones(waiting: Dock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of one row: the oldest load's is stuck, the later ones go in."""
    monkeypatch.setattr(walk, "BATCH_ROWS", 1)
    deny(monkeypatch, 9)
    later = [EARLY.replace(b"5,", b"%d," % n, 1).replace(b",9,1", b",%d,1" % (n % 2 + 7)) for n in (6, 7, 8)]
    waiting.drop("employees-2.csv", b"".join(later))
    waiting.query("insert into hired_employees.departments values (7, 'Seven'), (8, 'Eight'), (9, 'Nine')")
    assert waiting.ask(events.PENDING_DRAIN)["batches"] == 3
    assert [row[0] for row in waiting.employees()] == [6, 7, 8]


def test_a_drain_out_of_time_that_changed_nothing_leaves_the_rest_to_the_sweep(
    waiting: Dock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event would only bring the same again; the wake-ups stay. One that changed something goes on by an event."""
    waiting.query("insert into hired_employees.departments values (9, 'Nine')")
    moments = iter([0.0, 0.0, 1e9, 0.0, 0.0, 1e9])
    monkeypatch.setattr(drain, "time", SimpleNamespace(monotonic=lambda: next(moments)))
    with monkeypatch.context() as denied:
        deny(denied, 9)
        fields = waiting.ask(events.PENDING_DRAIN)
    assert (fields["unfinished"], fields["batches"], waiting.sent) == (True, 0, [])
    assert waiting.query("select count(*) > 0 from ingest_status.wakeups") == [(True,)]
    fields = waiting.ask(events.PENDING_DRAIN)
    assert (fields["unfinished"], fields["batches"], len(waiting.sent)) == (True, 1, 1)


def test_a_parent_that_goes_after_the_look_and_comes_again_is_not_missed(
    waiting: Dock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row is stuck when it is judged; the wake-up of the second coming, within the same drain, brings it in."""
    look, steps = Walk._next_loads, ["put back", "remove"]

    def look_then_change(walk: Walk, conn: Any) -> dict[str, int]:
        found = look(walk, conn)
        if "9" in found and steps[-1:] == ["remove"]:
            waiting.query("delete from hired_employees.departments where id = 9")
            steps.pop()
        elif walk.stuck == {"9"} and steps == ["put back"]:
            assert (found, names(waiting)) == ({}, [])
            waiting.query("insert into hired_employees.departments values (9, 'Again')")
            steps.pop()
        return found

    waiting.query("insert into hired_employees.departments values (9, 'Nine')")
    monkeypatch.setattr(Walk, "_next_loads", look_then_change)
    assert "keys_stuck" not in waiting.ask(events.PENDING_DRAIN)
    assert (names(waiting), steps) == (["Early Bird"], [])
    assert waiting.query("select count(*) from ingest_status.wakeups") == [(0,)]
