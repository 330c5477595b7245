"""A re-drive of many rejects: in bounded batches, over several invocations, however often each is delivered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from functions.ingest import redrive, work
from shared import events
from shared.errors import DatabaseBusy, EventRefused
from tests.integration.ingest.conftest import Dock
from tests.integration.ingest.test_rejects import relaxed, with_rules

# No zone; each seventh has no name; record 31 has the key of record 3, and 33 that of 13, which waits for its parent.
LINES = [
    f"{ {31: 3, 33: 13}.get(n, n) },{'' if n % 7 == 0 else f'Name {n}'},2021-11-07T02:48:42,{9 if n == 13 else 2},1\n"
    for n in range(1, 41)
]


@pytest.fixture
def make_rejected(make_dock: Callable[..., Dock], database: Any) -> Callable[[], tuple[Dock, int]]:
    """An emptied database with the parents and forty rejects; the dictionary takes them now, but for some."""

    def make() -> tuple[Dock, int]:
        dock = make_dock()
        dock.query(
            "truncate hired_employees.hired_employees, hired_employees.departments, hired_employees.jobs,"
            " ingest_status.ingest_status, ingest_status.parts, ingest_status.rejects, ingest_status.pending"
        )
        dock.parents()
        load_id = dock.drop("employees.csv", "".join(LINES).encode())["load_id"]
        dock.sent.clear()
        return with_rules(dock, relaxed(assume_zone="UTC")), load_id

    return make


def tables(dock: Dock) -> dict[str, Any]:
    closed = dock.query(
        "select record_number, closed_as, reasons from ingest_status.rejects where closed_as is not null order by 1"
    )
    return {"employees": dock.employees(), "open": dock.rejects(), "pending": dock.pending(), "closed": closed}


def redrives_sent(dock: Dock) -> list[events.Event]:
    return [event for event in dock.sent if event.type == events.REDRIVE]


def everything(load_id: int) -> events.Event:
    return events.make(events.REDRIVE, {"load_id": load_id, "records": None})


@pytest.fixture
def expected(make_rejected: Callable[[], tuple[Dock, int]]) -> dict[str, Any]:
    """What one invocation in one batch makes of them."""
    dock, load_id = make_rejected()
    fields = work.handle(dock.services, everything(load_id))
    ends = ("rows_read", "rows_loaded", "rows_rejected", "rows_pending")
    assert [fields[end] for end in ends] == [40, 32, 7, 1]
    assert redrives_sent(dock) == []
    assert ["id.duplicate"] in [reasons for _, reasons, _ in dock.rejects()]
    return tables(dock)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every invocation has time for one batch of seven."""
    monkeypatch.setattr(redrive, "BATCH_ROWS", 7)
    monkeypatch.setattr(redrive, "SOFT_STOP", 0.0)


def test_several_invocations_end_with_the_tables_of_one(
    expected: dict[str, Any], make_rejected: Callable[[], tuple[Dock, int]], impatient: None
) -> None:
    """Each stops in time and asks for the next, which begins where it stopped: no record is judged twice."""
    dock, load_id = make_rejected()
    event, read, invocations = everything(load_id), 0, 0
    while event is not None:
        fields = work.handle(dock.services, event)
        read, invocations = read + fields["rows_read"], invocations + 1
        event = redrives_sent(dock)[-1] if fields.get("unfinished") else None
    assert (read, invocations) == (40, 7)
    assert tables(dock) == expected


def test_each_invocation_delivered_twice_changes_nothing(
    expected: dict[str, Any], make_rejected: Callable[[], tuple[Dock, int]], impatient: None
) -> None:
    """Redeliveries, and what they send, end with the same tables."""
    dock, load_id = make_rejected()
    dock.sent.append(everything(load_id))
    handled = 0
    while queue := redrives_sent(dock):
        dock.sent[:] = queue[1:]
        work.handle(dock.services, queue[0])
        if handled < 3:
            work.handle(dock.services, queue[0])
        handled += 1
    assert handled > 7
    assert tables(dock) == expected


@pytest.mark.parametrize("room", [100, 60_000], ids=["short records", "records read from their object"])
def test_long_records_are_re_driven_in_batches_of_bounded_bytes(
    loaded_parents: Dock, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """A batch holds what it has room for, and one record at least, as the file has them."""
    monkeypatch.setattr(redrive, "BATCH_BYTES", room)
    content = "".join(f"{n},{'é' * (room // 6)},2021-11-07,2,1\n" for n in range(1, 6))
    load_id = loaded_parents.drop("employees.csv", content.encode())["load_id"]
    dock = with_rules(loaded_parents, relaxed(date_alone="midnight"))
    work.handle(dock.services, everything(load_id))
    assert [row[0] for row in dock.employees()] == [1, 2, 3, 4, 5]
    assert [h["rows_read"] for h in dock.history() if h["kind"] == "re-drive"] == [2, 2, 1]


def test_what_was_named_is_re_driven_alike(make_rejected: Callable[[], tuple[Dock, int]], impatient: None) -> None:
    """Of two named records of one key the first goes in, whichever batches and deliveries they fall into."""
    dock, load_id = make_rejected()
    named = events.make(events.REDRIVE, {"load_id": load_id, "records": list(range(1, 41))})
    work.handle(dock.services, named)
    dock.run_sent()
    work.handle(dock.services, named)
    dock.run_sent()
    assert [row[1] for row in dock.employees() if row[0] == 3] == ["Name 3"]
    assert dock.query("select reasons from ingest_status.rejects where record_number = 31") == [(["id.duplicate"],)]
    assert dock.query("select row_key from ingest_status.rejects where record_number = 3") == [("3",)]


def test_a_re_drive_waits_for_another_of_the_same_load(
    make_rejected: Callable[[], tuple[Dock, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one holds the load, another is not acknowledged: it comes again."""
    monkeypatch.setattr(redrive, "LOCK_WAIT_S", 0.1)
    dock, load_id = make_rejected()
    holder = dock.connect("ingest")
    with holder.cursor() as cursor:
        cursor.execute("select from ingest_status.ingest_status where id = %s for no key update", (load_id,))
    with pytest.raises(DatabaseBusy):
        work.handle(dock.services, everything(load_id))
    holder.close()
    assert work.handle(dock.services, everything(load_id))["rows_read"] == 40


@pytest.mark.parametrize(
    "wrong",
    [
        *({"after": after} for after in (-1, "3", None, True, 2**63)),
        *({"records": records} for records in (["1"], [2**63], [1, -(2**63) - 1])),
        *({"load_id": load_id} for load_id in ("1", 2**63, 10**400)),
    ],
    ids=lambda wrong: str(wrong)[:30],
)
def test_an_event_with_wrong_data_is_refused(dock: Dock, wrong: dict[str, Any]) -> None:
    """The message says what a re-drive takes; no number goes to PostgreSQL that its bigint cannot hold."""
    with pytest.raises(EventRefused, match="load_id, a number"):
        dock.ask(events.REDRIVE, {"load_id": 1, "records": None, "after": 0} | wrong)


def test_records_that_are_read_from_their_object_are_re_driven_in_time_too(
    loaded_parents: Dock, impatient: None
) -> None:
    """Each may cost a request to the store: an invocation reads as many as it has time for, one at least."""
    long = "é" * 9000
    content = "".join(f"{n},{long},2021-11-07,2,1\n" for n in (1, 2, 3))
    load_id = loaded_parents.drop("employees.csv", content.encode())["load_id"]
    dock = with_rules(loaded_parents, relaxed(date_alone="midnight"))
    assert work.handle(dock.services, everything(load_id))["rows_loaded"] == 1
    dock.run_sent()
    assert [(row[0], row[1] == long) for row in dock.employees()] == [(1, True), (2, True), (3, True)]
