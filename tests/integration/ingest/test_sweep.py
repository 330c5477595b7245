"""The sweep: its steps share the time, work in batches, and one that fails keeps no other from its work."""

from __future__ import annotations

import json
from typing import Any

import pytest

from functions.ingest import sweep
from shared import events, logs
from shared.errors import DatabaseBusy
from tests.integration.ingest.conftest import Dock

WAITING = "".join(f"{n},Name,2021-11-07T02:48:42Z,9,1\n" for n in range(1, 31)).encode()


@pytest.fixture
def overdue(loaded_parents: Dock) -> Dock:
    """Thirty rows that waited too long, thirty attempts too old to watch, deltas to fold."""
    dock = loaded_parents
    dock.drop("employees.csv", b"99,Name,2021-11-07T02:48:42Z,1,1\n" + WAITING)
    dock.query("update ingest_status.pending set parked_at = parked_at - interval '1 year'")
    dock.query(
        "insert into ingest_status.attempts (bucket, object_name, generation, started_at)"
        " select 'b', 'o', n::text, now() - interval '31 days' from generate_series(1, 30) n"
    )
    dock.query("delete from ingest_status.wakeups")
    return dock


def left_over(dock: Dock) -> tuple[int, int, int]:
    """Rows that wait, attempts past their time, deltas."""
    ((pending, attempts, deltas),) = dock.query(
        "select (select count(*) from ingest_status.pending),"
        " (select count(*) from ingest_status.attempts where started_at < now() - interval '30 days'),"
        " (select count(*) from metrics.hires_deltas)"
    )
    return pending, attempts, deltas


def test_a_sweep_does_all_of_its_work(overdue: Dock) -> None:
    """Nothing is left over, and its line says what was done."""
    assert left_over(overdue) == (30, 30, 1)
    fields = overdue.ask(events.SWEEP)
    assert left_over(overdue) == (0, 0, 0)
    done = {"deltas_folded": 1, "rows_expired": 30, "attempts_forgotten": 30, "rejects_forgotten": 0}
    assert fields.items() >= done.items()
    assert "unfinished" not in fields
    assert overdue.rollup_is_right()


def test_a_step_stops_in_time_and_the_next_sweep_goes_on(overdue: Dock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that has time for one batch leaves the rest; every step has its turn in every sweep."""
    monkeypatch.setattr(sweep, "SOFT_STOP", 0.0)
    monkeypatch.setattr(sweep, "BATCH_ROWS", 10)
    monkeypatch.setattr(sweep.retention, "ROWS_AT_ONCE", 20)
    assert overdue.ask(events.SWEEP)["unfinished"]
    assert left_over(overdue) == (20, 10, 0)
    overdue.ask(events.SWEEP)
    assert left_over(overdue) == (10, 0, 0)
    overdue.ask(events.SWEEP)
    assert left_over(overdue) == (0, 0, 0)
    assert "unfinished" not in overdue.ask(events.SWEEP)


def test_no_step_has_more_than_its_share_of_the_time(overdue: Dock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow drain cannot use up the invocation; what a quick step leaves goes to those after it."""
    deadlines = []

    def note(services: Any) -> dict[str, Any]:
        deadlines.append(services.settings.deadline_s)
        return {}

    monkeypatch.setattr(sweep, "STEPS", dict.fromkeys(sweep.STEPS, note))
    overdue.ask(events.SWEEP)
    whole_s = overdue.services.settings.deadline_s
    assert deadlines == [pytest.approx(whole_s / left, rel=0.01) for left in range(len(sweep.STEPS), 0, -1)]


HELD = {
    "drain": {
        "error": "DatabaseBusy",
        "error_code": "database.busy",
        "error_message": "PostgreSQL answered SQLSTATE 55P03",  # lock_not_available
    }
}


@pytest.fixture
def held_drain(overdue: Dock, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Another drain holds the lock, and a wake-up asks for this one."""
    monkeypatch.setattr("functions.ingest.drain.LOCK_WAIT_S", 0.1)
    overdue.query("insert into ingest_status.wakeups (parent_table) values ('departments')")
    holder = overdue.connect("ingest")
    with holder.cursor() as cursor:
        cursor.execute("select pg_advisory_xact_lock(hashtextextended('drain', 0))")
    yield holder
    holder.close()


@pytest.mark.usefixtures("held_drain")
def test_a_step_that_fails_keeps_no_other_from_its_work(overdue: Dock) -> None:
    """The drain fails; the rest is done, and then the failure is raised, with its cause."""
    with pytest.raises(sweep.SweepFailed) as failure:
        overdue.ask(events.SWEEP)
    assert left_over(overdue) == (0, 0, 0)
    assert failure.value.fields["steps_failed"] == HELD
    assert failure.value.fields["rows_expired"] == 30
    assert isinstance(failure.value.__cause__, ExceptionGroup)
    assert isinstance(failure.value.__cause__.exceptions[0], DatabaseBusy)


@pytest.mark.usefixtures("held_drain")
def test_the_line_of_a_failed_sweep_names_the_step(overdue: Dock, capsys: pytest.CaptureFixture[str]) -> None:
    """Severity ERROR, the step with its error, and what the other steps did."""
    with pytest.raises(sweep.SweepFailed), logs.canonical_line("ingest.finished"):
        overdue.ask(events.SWEEP)
    line = json.loads(capsys.readouterr().out)
    assert (line["severity"], line["outcome"], line["error_code"]) == ("ERROR", "failed", "sweep")
    assert line["steps_failed"] == HELD
    assert line["attempts_forgotten"] == 30


def test_a_row_that_a_drain_holds_is_left_to_it(overdue: Dock) -> None:
    """It is not rejected as expired under the drain's hands, nor does the sweep wait for it."""
    holder = overdue.connect("ingest")
    with holder.cursor() as cursor:
        cursor.execute("select from ingest_status.pending where row_key = '7' for update")
    assert overdue.ask(events.SWEEP)["rows_expired"] == 29
    assert [row[1] for row in overdue.pending()] == ["7"]
    holder.close()


def test_a_defect_in_a_step_is_told_with_its_calls(overdue: Dock, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no error of ours foresaw is not swallowed either."""

    def broken(services: Any) -> dict[str, Any]:
        return {"impossible": 1 / 0}

    monkeypatch.setattr(sweep, "STEPS", {"broken": broken, **sweep.STEPS})
    with pytest.raises(sweep.SweepFailed) as failure:
        overdue.ask(events.SWEEP)
    told = failure.value.fields["steps_failed"]["broken"]
    assert (told["error"], told["error_code"]) == ("ZeroDivisionError", "defect")
    assert told["calls"][-1].startswith(f"{__name__}:broken:")
    assert left_over(overdue) == (0, 0, 0)
