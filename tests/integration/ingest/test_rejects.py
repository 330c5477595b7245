"""Rejects: exported to mend and dropped again, re-driven under new rules, dismissed."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable

import pytest

from shared import dictionary, events, rejects
from shared.dictionary import Dictionary
from tests.integration.ingest.conftest import Dock

FILE = (
    b"1,Harold Vogt,2021-11-07T02:48:42Z,2,1\n"
    b"2,,2021-11-07T02:48:42Z,2,1\n"
    b"3,No Zone,2021-11-07T02:48:42,2,1\n"
    b'4,Stray "Quote,2021-11-07T02:48:42Z,2,1\n'
    b'5,"Comma, Inside",2021-11-07,2,1\n'
)


def relaxed(name: str = "hired_date", **switches: str | int) -> Dictionary:
    """The dictionary with switches set for a column of the employees."""
    tables = dictionary.load()
    employees = tables.tables["hired_employees"]
    columns = tuple(
        dataclasses.replace(c, **switches) if c.name == name else c  # type: ignore[arg-type]
        for c in employees.columns
    )
    return Dictionary({**tables.tables, "hired_employees": dataclasses.replace(employees, columns=columns)})


def with_rules(dock: Dock, tables: Dictionary) -> Dock:
    return dataclasses.replace(dock, services=dataclasses.replace(dock.services, dictionary=tables))


def export(dock: Dock, load_id: int) -> list[dict[str, str]]:
    out = io.StringIO()
    conn = dock.connect("ingest")
    rejects.export(conn, dock.services.dictionary, load_id, out)
    conn.close()
    return list(csv.DictReader(io.StringIO(out.getvalue())))


def as_csv(rows: list[dict[str, str]]) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def closed(dock: Dock) -> list[tuple[int, str]]:
    return dock.query(
        "select record_number, closed_as from ingest_status.rejects where closed_as is not null order by 1"
    )


def test_an_export_shows_each_open_reject_with_its_fields_and_id(loaded_parents: Dock) -> None:
    """Fields fall into the file's columns; what does not fall into them stands in _raw."""
    load_id = loaded_parents.drop("employees.csv", FILE)["load_id"]
    rows = export(loaded_parents, load_id)
    assert [row["_reject_id"] for row in rows] == [f"{load_id}-{n}" for n in (2, 3, 4, 5)]
    assert [row["_reasons"] for row in rows] == [
        "employee_name.missing",
        "hired_date.no_zone",
        "record.quote",
        "hired_date.no_time",
    ]
    assert rows[3]["employee_name"] == "Comma, Inside"
    assert rows[2]["_raw"] == '4,Stray "Quote,2021-11-07T02:48:42Z,2,1'
    assert rows[2]["id"] == ""


def test_a_mended_export_loads_and_closes_the_originals(loaded_parents: Dock) -> None:
    """The mended rows go in; their rejects are closed as mended, by the load that did it; the rest stay open."""
    dock = loaded_parents
    load_id = dock.drop("employees.csv", FILE)["load_id"]
    rows = export(dock, load_id)
    rows[0]["employee_name"] = "Ty Hofer"
    rows[1]["hired_date"] += "Z"
    fields = dock.drop("mended-employees.csv", as_csv(rows[:2]))
    assert (fields["rows_inserted"], fields["rows_rejected"]) == (2, 0)
    assert closed(dock) == [(2, "mended"), (3, "mended")]
    assert [line for line, _, _ in dock.rejects()] == [4, 5]
    assert [row[1] for row in dock.employees()] == ["Harold Vogt", "Ty Hofer", "No Zone"]


def test_a_row_mended_badly_is_a_new_reject_in_place_of_the_old(loaded_parents: Dock) -> None:
    """There is one open reject for it, under the new file."""
    dock = loaded_parents
    load_id = dock.drop("employees.csv", FILE)["load_id"]
    again = dock.drop("mended-employees.csv", as_csv(export(dock, load_id)[:1]))
    assert again["rows_rejected"] == 1
    assert closed(dock) == [(2, "mended")]
    assert dock.query("select count(*) from ingest_status.rejects where closed_as is null") == [(4,)]


def test_a_re_drive_judges_under_the_rules_of_today(loaded_parents: Dock) -> None:
    """The dictionary allows a missing zone now: that row goes in, the others stay rejected, with today's reasons."""
    dock = loaded_parents
    load_id = dock.drop("employees.csv", FILE)["load_id"]
    today = with_rules(dock, relaxed(assume_zone="UTC"))
    fields = today.ask(events.REDRIVE, {"load_id": load_id, "records": None})
    assert (fields["rows_read"], fields["rows_loaded"], fields["rows_rejected"]) == (4, 1, 3)
    assert closed(dock) == [(3, "re-driven")]
    assert [row[0] for row in dock.employees()] == [1, 3]
    last = dock.history()[-1]
    assert (last["kind"], last["rows_read"], last["rows_inserted"], last["rows_rejected"]) == ("re-drive", 4, 1, 3)


def test_a_re_drive_twice_loads_once(loaded_parents: Dock) -> None:
    """What is closed is not judged again."""
    dock = loaded_parents
    load_id = dock.drop("employees.csv", FILE)["load_id"]
    today = with_rules(dock, relaxed(assume_zone="UTC", date_alone="midnight"))
    first = today.ask(events.REDRIVE, {"load_id": load_id, "records": [3, 5]})
    second = today.ask(events.REDRIVE, {"load_id": load_id, "records": [3, 5]})
    assert (first["rows_loaded"], second["rows_read"]) == (2, 0)
    assert [row[1] for row in dock.employees()] == ["Harold Vogt", "No Zone", "Comma, Inside"]


def test_a_re_drive_of_a_whole_load_leaves_lost_doubles_alone(loaded_parents: Dock) -> None:
    """Judged alone a double would pass, and overwrite the row that won; only naming it does that."""
    dock = loaded_parents
    double = FILE.splitlines(keepends=True)[0]
    fields = dock.drop("employees.csv", double + double.replace(b"Harold", b"Gerald"))
    everything = dock.ask(events.REDRIVE, {"load_id": fields["load_id"], "records": None})
    assert everything["rows_read"] == 0
    dock.ask(events.REDRIVE, {"load_id": fields["load_id"], "records": [2]})
    assert [row[1] for row in dock.employees()] == ["Gerald Vogt"]


def test_a_reject_whose_raw_text_was_cut_is_read_from_its_object(loaded_parents: Dock) -> None:
    """The reject keeps 8,192 characters; the object has the rest, byte order mark or not."""
    dock = loaded_parents
    long = "é" * 9000
    content = b"\xef\xbb\xbf" + FILE.splitlines(keepends=True)[0] + f"7,{long},2021-11-07,2,1\n".encode()
    fields = dock.drop("employees.csv", content)
    assert dock.query("select length(raw) from ingest_status.rejects") == [(8192,)]
    with_rules(dock, relaxed(date_alone="midnight")).ask(
        events.REDRIVE, {"load_id": fields["load_id"], "records": None}
    )
    assert dock.employees()[-1][1] == long


def test_text_that_could_not_be_kept_exactly_never_goes_in_changed(loaded_parents: Dock) -> None:
    """A byte that is no UTF-8 is shown as U+FFFD; a re-drive judges the object's own bytes, and rejects them again."""
    dock = loaded_parents
    fields = dock.drop("employees.csv", b"7,H\xf6fer,2021-11-07T00:00:00Z,2,1\n")
    again = dock.ask(events.REDRIVE, {"load_id": fields["load_id"], "records": None})
    assert (again["rows_read"], again["rows_rejected"]) == (1, 1)
    assert dock.employees() == []


def test_a_re_driven_row_may_wait_for_its_parent(loaded_parents: Dock) -> None:
    """A reject that lacks only a parent now is parked, and no reject any more."""
    dock = loaded_parents
    fields = dock.drop("employees.csv", b"7,Name,2021-11-07,9,1\n")
    with_rules(dock, relaxed(date_alone="midnight")).ask(
        events.REDRIVE, {"load_id": fields["load_id"], "records": None}
    )
    assert dock.rejects() == []
    assert [row[1:] for row in dock.pending()] == [("7", "department_id", "9")]
    late = with_rules(dock, relaxed(date_alone="midnight"))
    late.drop("departments-9.csv", b"9,Nine\n")
    late.run_sent()
    assert [row[0] for row in dock.employees()] == [7]


def test_an_export_shows_rows_that_waited_in_vain_with_their_fields(dock: Dock) -> None:
    """Superseded and expired rows fall into their columns, and can be mended like others."""
    load_id = dock.drop("employees.csv", b"7,Waits,2021-11-07T00:00:00Z,9,1\n8,Waits,2021-11-07T00:00:00Z,9,1\n")[
        "load_id"
    ]
    dock.drop("other-employees.csv", b"7,Newer,2021-11-07T00:00:00Z,9,1\n")
    dock.query("update ingest_status.pending set parked_at = now() - interval '99 days' where load_id = %s", load_id)
    dock.ask(events.SWEEP)
    rows = export(dock, load_id)
    assert [(row["id"], row["_reasons"]) for row in rows] == [
        ("7", "record.superseded"),
        ("8", "department_id.expired"),
    ]


def test_dismissed_rejects_are_closed_and_load_nothing(loaded_parents: Dock) -> None:
    """They leave the list of open ones."""
    dock = loaded_parents
    load_id = dock.drop("employees.csv", FILE)["load_id"]
    conn = dock.connect("owner")
    with conn:
        assert rejects.dismiss(conn, load_id, [2, 3]) == 2
        assert rejects.dismiss(conn, load_id, [2]) == 0
    assert rejects.rejects(conn, load_id=load_id, state="closed", limit=9)[0]["state"] == "dismissed"
    conn.close()
    assert [line for line, _, _ in dock.rejects()] == [4, 5]


@pytest.mark.parametrize("state", ["open", "closed", "all", "pending"])
def test_rejects_are_listed_page_by_page(loaded_parents: Dock, state: str) -> None:
    """The pages together are the whole list, in order."""
    dock = loaded_parents
    dock.drop("employees.csv", FILE + b"8,Waits,2021-11-07T00:00:00Z,9,1\n9,Waits,2021-11-07T00:00:00Z,9,1\n")
    conn = dock.connect("owner")
    with conn:
        rejects.dismiss(conn, dock.history()[-1]["id"], [2, 3])
    whole = rejects.rejects(conn, state=state, limit=100)
    paged, after = [], (0, 0)
    while page := rejects.rejects(conn, state=state, after=after, limit=1):
        paged += page
        after = (page[0]["load_id"], page[0]["record_number"])
    conn.close()
    assert paged == whole
    assert len(whole) == {"open": 2, "closed": 2, "all": 4, "pending": 2}[state]


def test_reconcile_finds_a_file_whose_event_never_came(make_dock: Callable[..., Dock]) -> None:
    """The bucket is listed against history; what is unknown is asked for, what is known is not."""
    dock = make_dock()
    dock.drop("departments.csv", b"1,One\n")
    dock.put("jobs.csv", b"1,Engineer\n")
    assert dock.ask(events.RECONCILE, {"min_age_s": 3600})["events_sent"] == 0
    assert dock.ask(events.RECONCILE, {"min_age_s": -60})["events_sent"] == 1
    dock.run_sent()
    assert dock.query("select * from hired_employees.jobs") == [(1, "Engineer")]
    assert dock.ask(events.RECONCILE, {"min_age_s": -60})["events_sent"] == 0
