"""``load_mode = "add"``: a file never changes a row that is there; one of its id with other content is rejected."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from shared import dictionary, events
from shared.dictionary import Dictionary
from tests.integration.ingest.conftest import Dock

ALIAS = 1 << 29  # an id and the one this much above it are one to the set of keys met, which are told apart later
EMPLOYEE = b"%d,%s,%s,%d,1\n"
TIME = b"2021-11-07T02:48:42Z"


def adding(**switches: Any) -> Dictionary:
    """The dictionary whose tables only add; ``switches`` are set for hired_date."""
    tables = {}
    for key, table in dictionary.load().tables.items():
        columns = tuple(
            dataclasses.replace(column, **switches) if column.name == "hired_date" else column
            for column in table.columns
        )
        tables[key] = dataclasses.replace(table, load_mode="add", columns=columns)
    return Dictionary(tables)


@pytest.fixture
def dock(make_dock: Callable[..., Dock]) -> Dock:
    made = make_dock(adding())
    made.parents()
    return made


def departments(dock: Dock) -> list[tuple[Any, ...]]:
    return dock.query("select * from hired_employees.departments order by id")


def ends(fields: dict[str, Any]) -> dict[str, int]:
    return {name.removeprefix("rows_"): n for name, n in fields.items() if name.startswith("rows_") and n}


def test_new_rows_go_in_and_what_is_there_stays(dock: Dock) -> None:
    """The same content is unchanged, other content rejected with its reason, line and text."""
    fields = dock.drop("departments-2.csv", b"1,Engineering\n2,Renamed\n4,New\n")
    assert ends(fields) == {"read": 3, "inserted": 1, "unchanged": 1, "rejected": 1}
    assert dock.rejects() == [(2, ["id.exists"], "2,Renamed")]
    assert dock.history()[-1]["rejects_by_reason"] == {"id.exists": 1}
    assert departments(dock) == [(1, "Engineering"), (2, "Sales"), (3, "Support"), (4, "New")]


def test_doubles_in_the_file_are_told_from_what_was_there_before(dock: Dock) -> None:
    """Against the table's row each of them exists, or is unchanged; among new rows the first one wins."""
    fields = dock.drop("departments-2.csv", b"1,A\n1,A\n1,Engineering\n4,New\n4,New\n4,Other\n")
    assert ends(fields) == {"read": 6, "inserted": 1, "unchanged": 2, "rejected": 3}
    assert [(line, reasons) for line, reasons, _ in dock.rejects()] == [
        (1, ["id.exists"]), (2, ["id.exists"]), (6, ["id.duplicate"]),
    ]  # fmt: skip
    assert dock.history()[-1]["rejects_by_reason"] == {"id.exists": 2, "id.duplicate": 1}


def test_ids_that_only_look_double_have_their_own_end(dock: Dock) -> None:
    """Ids too large for the set of keys met: one is new, one the same, one exists."""
    dock.drop("departments-2.csv", b"%d,Far\n%d,Farther\n" % (ALIAS + 1, ALIAS + 2))
    content = b"1,Engineering\n2,Sales\n3,Support\n%d,Far\n%d,Other\n%d,New\n" % (ALIAS + 1, ALIAS + 2, ALIAS + 3)
    fields = dock.drop("departments-3.csv", content)
    assert ends(fields) == {"read": 6, "inserted": 1, "unchanged": 4, "rejected": 1}
    assert dock.rejects() == [(5, ["id.exists"], f"{ALIAS + 2},Other")]
    assert departments(dock)[3:] == [(ALIAS + 1, "Far"), (ALIAS + 2, "Farther"), (ALIAS + 3, "New")]


def test_a_file_of_rows_that_exist_reaches_the_thresholds(make_dock: Callable[..., Dock]) -> None:
    """They are rejects like others: the file is rolled back, and they are kept."""
    tables = dict(adding().tables)
    tables["departments"] = dataclasses.replace(tables["departments"], max_errors=1)
    dock = make_dock(Dictionary(tables))
    dock.parents()
    fields = dock.drop("departments-2.csv", b"1,A\n2,B\n4,New\n")
    assert (fields["state"], ends(fields)) == ("rolled_back", {"read": 3, "rejected": 2, "rolled_back": 1})
    assert [reasons for _, reasons, _ in dock.rejects()] == [["id.exists"]] * 2


def test_a_row_that_waited_does_not_change_the_row_that_was_there(dock: Dock) -> None:
    """The drain rejects it, brings in the new one, and both count."""
    dock.drop("employees.csv", EMPLOYEE % (5, b"Before", TIME, 1))
    dock.drop("employees-2.csv", EMPLOYEE % (5, b"After", TIME, 9) + EMPLOYEE % (6, b"New", TIME, 9))
    dock.drop("departments-9.csv", b"9,Nine\n")
    dock.run_sent()
    assert [row[:2] for row in dock.employees()] == [(5, "Before"), (6, "New")]
    assert [(line, reasons) for line, reasons, _ in dock.rejects()] == [(1, ["id.exists"])]
    last = dock.history()[-1]
    assert (last["kind"], last["rows_read"], last["rows_inserted"], last["rows_rejected"]) == ("re-drive", 2, 1, 1)
    assert last["rejects_by_reason"] == {"id.exists": 1}
    assert dock.pending() == []


def test_a_reject_judged_again_does_not_change_the_row_that_is_there(make_dock: Callable[..., Dock]) -> None:
    """It stays open with its new reason; the same row as the live one, and a new one, close theirs."""
    strict = make_dock(adding())
    strict.parents()
    strict.drop("employees.csv", EMPLOYEE % (5, b"Before", TIME, 1) + EMPLOYEE % (7, b"Same", TIME, 1))
    bare = TIME.rstrip(b"Z")
    content = b"".join(EMPLOYEE % (key, name, bare, 1) for key, name in ((5, b"After"), (6, b"New"), (7, b"Same")))
    fields = strict.drop("employees-2.csv", content)
    assert fields["rows_rejected"] == 3
    services = dataclasses.replace(strict.services, dictionary=adding(assume_zone="UTC"))
    dock = dataclasses.replace(strict, services=services)
    dock.ask(events.REDRIVE, {"load_id": fields["load_id"], "records": None})
    assert [row[:2] for row in dock.employees()] == [(5, "Before"), (6, "New"), (7, "Same")]
    assert [(line, reasons) for line, reasons, _ in dock.rejects()] == [(1, ["id.exists"])]
    assert dock.query("select record_number, closed_as from ingest_status.rejects order by 1") == [
        (1, None), (2, "re-driven"), (3, "re-driven"),
    ]  # fmt: skip
    assert ends(dock.history()[-1]) == {"read": 3, "inserted": 1, "unchanged": 1, "rejected": 1}


def test_a_table_that_merges_is_as_before(make_dock: Callable[..., Dock]) -> None:
    """The default: a corrected file updates by id."""
    dock = make_dock()
    dock.drop("jobs.csv", b"1,Engineer\n2,Seller\n3,Cook\n")
    assert ends(dock.drop("jobs-2.csv", b"2,Senior Seller\n")) == {"read": 1, "updated": 1}
