"""Retention: what may hold personal data goes in its time, and what was loaded is not loaded again for it."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg2
import pytest

from functions.ingest import retention
from shared import dictionary, events, rejects
from shared.dictionary import Dictionary
from shared.rejects import NoSuchLoad
from tests.integration.ingest.conftest import Dock
from tests.integration.ingest.test_rejects import relaxed, with_rules

KEPT_DAYS = 50
BAD = b"2,,2021-11-07T02:48:42Z,2,1\n3,No Zone,2021-11-07T02:48:42,2,1\n4,,2021-11-07T02:48:42Z,2,1\n"
GOOD = b"1,Harold Vogt,2021-11-07T02:48:42Z,2,1\n"


def kept(days: int) -> Dictionary:
    """The dictionary with another retention for the employees, for whom 50 days are fewer than a row may wait."""
    tables = dictionary.load().tables
    employees = dataclasses.replace(tables["hired_employees"], retention_days=days, pending_days=90)
    return Dictionary({**tables, "hired_employees": employees})


@pytest.fixture
def dock(make_dock: Callable[..., Dock]) -> Dock:
    made = make_dock(kept(KEPT_DAYS))
    made.parents()
    return made


def grow_older(dock: Dock, days: int) -> None:
    """Everything that is there happened so many days earlier."""
    dock.query("update ingest_status.ingest_status set finished_at = finished_at - make_interval(days => %s)", days)
    dock.query("update ingest_status.rejects set closed_at = closed_at - make_interval(days => %s)", days)
    dock.query("update ingest_status.attempts set started_at = started_at - make_interval(days => %s)", days)
    dock.query("update ingest_status.pending set parked_at = parked_at - make_interval(days => %s)", days)


def raw_kept(dock: Dock) -> list[int]:
    """Record numbers of all rejects, open or closed."""
    return [n for (n,) in dock.query("select record_number from ingest_status.rejects order by load_id, record_number")]


def dismiss(dock: Dock, load_id: int, *records: int) -> None:
    conn = dock.connect("ingest")
    with conn:
        rejects.dismiss(conn, load_id, list(records))
    conn.close()


@pytest.mark.parametrize(("age_days", "left"), [(KEPT_DAYS - 1, [2, 3, 4]), (KEPT_DAYS + 1, [])])
def test_rejects_go_when_their_time_is_over(dock: Dock, age_days: int, left: list[int]) -> None:
    """Open and closed alike, a day after and not a day before; the line counts the open ones apart."""
    load_id = dock.drop("employees.csv", GOOD + BAD)["load_id"]
    dismiss(dock, load_id, 3)
    grow_older(dock, age_days)
    fields = dock.ask(events.SWEEP)
    assert raw_kept(dock) == left
    gone = 0 if left else 1
    assert (fields["rejects_forgotten"], fields["open_rejects_forgotten"]) == (3 * gone, 2 * gone)
    assert dock.ask(events.SWEEP)["loads_forgotten"] == 0


def test_the_same_days_do_not_end_what_another_table_keeps_longer(dock: Dock) -> None:
    """Departments have the default of 400 days; so has a file of no table."""
    dock.drop("departments-2.csv", b"7,\n")
    dock.drop("nothing.csv", b"1,2\n")
    grow_older(dock, 399)
    assert dock.ask(events.SWEEP)["loads_forgotten"] == 0
    grow_older(dock, 2)
    assert dock.ask(events.SWEEP)["loads_forgotten"] == 4
    assert raw_kept(dock) == []
    assert {h["object_name"]: h["reason_code"] for h in dock.history()}["nothing.csv"] == "file.unknown_table"


def test_history_of_a_file_keeps_what_it_was_and_loses_what_may_be_personal(dock: Dock) -> None:
    """Identity, state and counts stay; reason and details may hold values of rows, such as a wrong header's."""
    dock.drop("employees.csv", b"id,employee_name,Harold Vogt\n" + GOOD)
    dock.drop("employees-2.csv", b"id,employee_name,hired_date,department_id,job_id,Ty Hofer\n1,,,,,\n")
    before = dock.history()
    assert "Harold Vogt" in str(before)
    assert "Ty Hofer" in str(before)
    grow_older(dock, KEPT_DAYS + 1)
    dock.ask(events.SWEEP)
    after = dock.history()
    assert "Harold Vogt" not in str(after)
    assert "Ty Hofer" not in str(after)
    changed = ("reason", "details", "forgotten_at", "finished_at")
    assert [{k: v for k, v in h.items() if k not in changed} for h in after] == [
        {k: v for k, v in h.items() if k not in changed} for h in before
    ]
    assert {h["reason"] for h in after[2:]} == {retention.FORGOTTEN}
    assert all(h["forgotten_at"] is None for h in after[:2])


def test_a_forgotten_file_is_not_loaded_again(dock: Dock) -> None:
    """Neither by reconcile, which finds it in the bucket, nor by a late redelivery; a corrected file still is."""
    generation = dock.put("employees.csv", GOOD + BAD)
    dock.deliver("employees.csv", generation)
    dock.query("update hired_employees.hired_employees set employee_name = 'Changed since'")
    grow_older(dock, 10_000)
    assert dock.ask(events.SWEEP)["loads_forgotten"] == 3
    dock.sent.clear()
    assert dock.ask(events.RECONCILE, {"min_age_s": -60})["events_sent"] == 0
    assert dock.deliver("employees.csv", generation)["state"] == "duplicate"
    assert [row[1] for row in dock.employees()] == ["Changed since"]
    assert dock.drop("employees.csv", GOOD)["rows_updated"] == 1


def test_batches_and_re_drives_are_forgotten_whole(dock: Dock) -> None:
    """Nothing can announce them again: their rows of history go, and their parts; younger ones stay."""
    load_id = dock.drop("employees.csv", BAD)["load_id"]
    today = with_rules(dock, relaxed(assume_zone="UTC"))
    today.ask(events.REDRIVE, {"load_id": load_id, "records": None})
    insert = (
        "insert into ingest_status.ingest_status (kind, state, table_name, started_at, rows_read, rows_rejected)"
        " values ('batch', 'loaded', 'hired_employees', now(), 1, 1) returning id"
    )
    ((batch,),) = dock.query(insert)
    dock.query("insert into ingest_status.rejects values (%s, 1, 1, 0, 2, '{id.missing}', '{}')", batch)
    grow_older(dock, KEPT_DAYS + 1)
    dock.query(insert)
    dock.ask(events.SWEEP)
    assert [h["kind"] for h in dock.history()] == ["file", "file", "file", "batch"]
    assert raw_kept(dock) == []
    assert dock.query("select load_id from ingest_status.parts where load_id in (%s, %s)", load_id, batch) == []


def test_a_load_that_rows_still_wait_from_is_kept_until_they_have_their_end(dock: Dock) -> None:
    """They are read by its columns; when their parent comes they go in, and then the load is forgotten."""
    dock.drop("employees.csv", BAD + b"5,Early Bird,2021-11-07T02:48:42Z,9,1\n")
    grow_older(dock, KEPT_DAYS + 1)
    assert dock.ask(events.SWEEP)["loads_forgotten"] == 0
    assert len(dock.pending()) == 1
    dock.drop("departments-9.csv", b"9,Nine\n")
    assert dock.ask(events.SWEEP)["loads_forgotten"] == 1
    assert [row[1] for row in dock.employees()] == ["Early Bird"]
    assert raw_kept(dock) == []


def test_what_a_re_drive_holds_is_left_to_it(dock: Dock) -> None:
    """The sweep neither waits for it nor takes its rejects away; the next one forgets the load."""
    load_id = dock.drop("employees.csv", BAD)["load_id"]
    grow_older(dock, KEPT_DAYS + 1)
    holder = dock.connect("ingest")
    with holder.cursor() as cursor:
        cursor.execute("select from ingest_status.ingest_status where id = %s for no key update", (load_id,))
    assert dock.ask(events.SWEEP)["loads_forgotten"] == 0
    assert raw_kept(dock) == [1, 2, 3]
    holder.close()
    assert dock.ask(events.SWEEP)["loads_forgotten"] == 1


def test_many_rejects_are_forgotten_in_bounded_batches(dock: Dock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A load keeps its row until the last of its rejects is gone."""
    monkeypatch.setattr(retention, "ROWS_AT_ONCE", 7)
    monkeypatch.setattr(retention, "LOADS_AT_ONCE", 1)
    for n in range(3):
        dock.drop(f"employees-{n}.csv", BAD * 10)
    grow_older(dock, KEPT_DAYS + 1)
    conn = dock.connect("ingest")
    with conn:
        first = retention.forget_loads(conn, dock.services.dictionary)
    conn.close()
    assert (first["rejects_forgotten"], first["loads_forgotten"]) == (7, 0)
    fields = dock.ask(events.SWEEP)
    assert (fields["rejects_forgotten"], fields["loads_forgotten"]) == (83, 3)
    assert raw_kept(dock) == []


def test_commands_say_that_a_load_was_forgotten(dock: Dock) -> None:
    """``loads`` gives the reason and no open rejects; an export refuses rather than write an empty list to mend."""
    load_id = dock.drop("employees.csv", BAD)["load_id"]
    grow_older(dock, KEPT_DAYS + 1)
    dock.ask(events.SWEEP)
    conn = dock.connect("api")
    (load,) = rejects.loads(conn, object_name="employees.csv")
    assert (load["rows_rejected"], load["open_rejects"], load["reason"]) == (3, 0, retention.FORGOTTEN)
    assert load["forgotten_at"] is not None
    with pytest.raises(NoSuchLoad, match="retention_days"):
        rejects.export(conn, dock.services.dictionary, load_id, io.StringIO())
    conn.close()


def dead_letter(dock: Dock, name: str, age: str, replayed: bool = False) -> None:
    dock.query(
        "insert into ingest_status.dead_letters (event_id, event_source, event_type, data, received_at, replayed_at)"
        " values (%s, 's', 't', '{}', now() - %s::interval, case when %s then now() end)",
        *(name, age, replayed),
    )


def answer(dock: Dock, key: str, age: str) -> None:
    dock.query(
        "insert into api_access.idempotency values ('somebody', %s, '', 200, '{}', '', now() - %s::interval)", key, age
    )


def test_dead_letters_and_answers_are_forgotten_in_their_time(dock: Dock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dead letters after 90 days, replayed or not; answers after a day; in bounded batches, younger ones stay."""
    monkeypatch.setattr(retention, "ROWS_AT_ONCE", 1)
    monkeypatch.setattr(retention, "ANSWERS_AT_ONCE", 1)
    for name, age, replayed in (
        ("old", "91 days", False),
        ("old, replayed", "91 days", True),
        ("young", "89 days", True),
    ):
        dead_letter(dock, name, age, replayed)
    for key, age in (("old", "25 hours"), ("older", "3 days"), ("young", "23 hours")):
        answer(dock, key, age)
    fields = dock.ask(events.SWEEP)
    assert (fields["dead_letters_forgotten"], fields["answers_forgotten"]) == (2, 2)
    assert dock.query("select event_id from ingest_status.dead_letters") == [("young",)]
    assert dock.query("select key from api_access.idempotency") == [("young",)]


def test_the_sweep_cannot_read_what_was_answered(dock: Dock) -> None:
    """Its role sees whose an answer is and how old, not the answer, which may hold rows."""
    with (
        closing(dock.connect("ingest")) as conn,
        conn.cursor() as cursor,
        pytest.raises(psycopg2.errors.InsufficientPrivilege),
    ):
        cursor.execute("select body from api_access.idempotency")


def test_a_re_drive_of_a_forgotten_load_changes_nothing(dock: Dock) -> None:
    """Its rejects are gone: nothing is judged, nothing fails."""
    load_id = dock.drop("employees.csv", BAD)["load_id"]
    grow_older(dock, KEPT_DAYS + 1)
    dock.ask(events.SWEEP)
    before = dock.history()
    fields: dict[str, Any] = dock.ask(events.REDRIVE, {"load_id": load_id, "records": None})
    assert (fields["rows_read"], dock.history()) == (0, before)
