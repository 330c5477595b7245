"""History, rejects and backups over HTTP: every row can be reached, nothing is cut without a word."""

from __future__ import annotations

import csv
import io
import json
from contextlib import closing
from typing import Any

import functions_framework
import pytest

from functions.api import app
from functions.api.messages import Request
from shared import cli, events, rejects
from shared.errors import ServiceUnavailable
from tests.conftest import ROOT
from tests.integration.api.conftest import Answer, Api

COLUMNS = ["id", "employee_name", "hired_date", "department_id", "job_id"]
LOAD = """
    insert into ingest_status.ingest_status (kind, state, table_name, file_name, object_name, bucket, generation,
      columns, delimiter, rows_read, rows_inserted, rows_rejected, rows_pending, rejects_by_reason, started_at)
    values (%(kind)s, %(state)s, %(table)s, %(name)s, %(name)s, %(bucket)s, '1', %(columns)s, ',',
      %(rejected)s + %(pending)s, 0, %(rejected)s, %(pending)s, %(reasons)s, '2021-02-03T04:05:06.5Z') returning id
"""
REJECT = """
    insert into ingest_status.rejects (load_id, record_number, line_number, byte_offset, byte_length, reasons, raw,
      closed_as) values (%s, %s, %s, 0, 0, %s, %s, %s)
"""
PENDING = """
    insert into ingest_status.pending (load_id, record_number, line_number, byte_offset, byte_length, table_name,
      row_key, waits_on, waits_for, raw) values (%s, %s, %s, 0, 0, 'hired_employees', '9', 'department_id', '77', %s)
"""


def load(api: Api, name: str | None = "employees.csv", **changed: Any) -> int:
    """A row of history, of a file or of a batch without a name; returns its id."""
    values = {
        "kind": "file", "state": "loaded", "table": "hired_employees", "name": name, "columns": COLUMNS, "rejected": 0,
        "pending": 0, "reasons": "{}", "bucket": None if name is None else "csv-uploads",
    }  # fmt: skip
    with closing(api.connect("owner")) as conn, conn, conn.cursor() as cursor:
        cursor.execute(LOAD, values | changed)
        return int(cursor.fetchone()[0])


@pytest.fixture
def rejected(api: Api) -> Api:
    """Load 1 with four rejects, one of them closed, and a row that waits; load 2, a batch, with one."""
    load(api, rejected=4, pending=1, reasons='{"employee_name.missing": 3}')
    api.query(REJECT, 1, 2, 2, ["employee_name.missing"], "2,,2021-02-03T04:05:06Z,1,1", None)
    api.query(REJECT, 1, 3, 3, ["employee_name.missing", "hired_date.no_zone"], "3,,2021-02-03T04:05:06,1,1", None)
    api.query(REJECT, 1, 4, 4, ["record.quote"], '4,Stray "Quote,2021-02-03T04:05:06Z,1,1', None)
    api.query(REJECT, 1, 5, 5, ["employee_name.missing"], "5,,2021-02-03T04:05:06Z,1,1", "mended")
    api.query(PENDING, 1, 9, 9, "9,Waits,2021-02-03T04:05:06Z,77,1")
    load(api, None, kind="batch", rejected=1)
    api.query(REJECT, 2, 1, 1, ["job_id.parent_missing"], "6,Six,2021-02-03T04:05:06Z,1,99", None)
    return api


def pages_of(api: Api, target: str) -> list[dict[str, Any]]:
    """Every row of a list, by its tokens; both ways to the next page agree."""
    found: list[dict[str, Any]] = []
    while True:
        answer = api.get(target)
        assert answer.status == 200, answer.text
        found += answer.data
        token = answer.json["next_page_token"]
        if token is None:
            assert "link" not in answer.headers
            return found
        target, _, relation = answer.headers["link"].partition(">")
        target = target.removeprefix("<")
        assert relation == '; rel="next"'
        assert token in target


# --- ingests


def test_loads_come_the_newest_first_page_by_page(api: Api) -> None:
    """Each once, whatever the page's size."""
    ids = [load(api, f"employees_{n}.csv") for n in range(7)]
    for size in (1, 2, 3, 7, 100):
        assert [row["id"] for row in pages_of(api, f"/api/ingests?page_size={size}")] == ids[::-1]


def test_a_load_that_comes_between_pages_moves_nothing(api: Api) -> None:
    ids = [load(api, f"employees_{n}.csv") for n in range(4)]
    first = api.get("/api/ingests?page_size=2").json
    load(api, "late.csv")
    second = api.get(f"/api/ingests?page_size=2&page_token={first['next_page_token']}")
    assert [row["id"] for row in first["data"] + second.data] == ids[::-1]


def test_a_row_of_history_says_what_the_command_says(rejected: Api) -> None:
    """Under the same names; times are in UTC and end in Z."""
    row = rejected.get("/api/ingests").data[1]
    assert set(row) == set(rejects.LOAD_COLUMNS)
    assert (row["file_name"], row["kind"], row["rows_rejected"]) == ("employees.csv", "file", 4)
    assert row["rejects_by_reason"] == {"employee_name.missing": 3}
    assert row["started_at"] == "2021-02-03T04:05:06.500000Z"


def test_loads_are_found_by_object_table_state_and_kind(api: Api) -> None:
    """A table by its resource's name or the dictionary's; filters narrow one another."""
    load(api, "in/jobs & co.csv", table="jobs")
    load(api, "employees.csv", state="refused")
    load(api, None, kind="batch")
    expected = {
        "object=in/jobs%20%26%20co.csv": [1],
        "object=jobs.csv": [],
        "table=employees": [3, 2],
        "table=hired_employees": [3, 2],
        "state=refused": [2],
        "kind=batch": [3],
        "kind=file&state=loaded": [1],
        "kind=re-drive": [],
    }
    assert {query: [row["id"] for row in pages_of(api, f"/api/ingests?{query}")] for query in expected} == expected


REFUSED = [
    ("stat=loaded", "stat"),
    ("state=lost", "state"),
    ("kind=files", "kind"),
    ("table=nothing", "table"),
    ("page_size=0", "page_size"),
    ("page_size=-1", "page_size"),
    ("page_size=ten", "page_size"),
    ("page_size=%D9%A3", "page_size"),
    ("state=loaded&state=loaded", "state"),
    ("object=a%00b", "object"),
    ("page_token=x", "page_token"),
    ("page_token=%C3%A9", "page_token"),
    ("page_token=bnVsbA", "page_token"),
    ("page_token=W10", "page_token"),
    ("page_token=====", "page_token"),
]


def test_a_parameter_that_is_not_understood_is_named(api: Api) -> None:
    """400, never another answer than was asked for."""
    for query, name in REFUSED:
        answer = api.get(f"/api/ingests?{query}")
        assert (answer.status, answer.json["errors"][0]["parameter"]) == (400, name), query


def test_a_token_belongs_to_its_list_and_filters(api: Api) -> None:
    for n in range(3):
        load(api, f"employees_{n}.csv")
    token = api.get("/api/ingests?page_size=1&kind=file").json["next_page_token"]
    assert api.get(f"/api/ingests?page_size=2&kind=file&page_token={token}").status == 200
    for other in (
        f"/api/ingests?page_token={token}",
        f"/api/backups?page_token={token}",
        f"/api/rejects?page_token={token}",
    ):
        answer = api.get(other)
        assert (answer.status, answer.json["code"]) == (400, "request.page_token")


def test_more_than_a_thousand_a_page_is_cut_to_that_and_said(api: Api) -> None:
    """The token says that there is more."""
    api.query(
        "insert into ingest_status.ingest_status (kind, state, started_at)"
        " select 'batch', 'loaded', now() from generate_series(1, 1001)"
    )
    answer = api.get("/api/ingests?page_size=5000")
    assert (len(answer.data), answer.json["next_page_token"] is None) == (1000, False)


def test_one_load_tells_its_parts_and_what_is_open_now(rejected: Api) -> None:
    rejected.query("insert into ingest_status.parts values (1, 2, 100, 180, 2), (1, 1, 0, 100, 3)")
    row = rejected.get("/api/ingests/1").data
    assert (row["id"], row["open_rejects"], row["still_pending"]) == (1, 3, 1)
    assert [(part["part_number"], part["first_byte"], part["end_byte"]) for part in row["parts"]] == [
        (1, 0, 100),
        (2, 100, 180),
    ]
    assert set(row) == {*rejects.LOAD_COLUMNS, "open_rejects", "still_pending", "parts"}
    assert rejected.get("/api/ingests/2").data["parts"] == []


def test_a_load_that_is_none_is_not_found(api: Api) -> None:
    for number in ("1", "0", "-1", "x", "1.0", "99999999999999999999", "%00"):
        answer = api.get(f"/api/ingests/{number}")
        assert (answer.status, answer.json["code"]) == (404, "load.not_found")


def test_the_command_tells_kinds_apart_too(rejected: Api, database: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """It is the same code."""
    assert cli.main(["--database-url", database.owner_url, "loads", "--kind", "batch", "--json"]) == 0
    assert [row["id"] for row in json.loads(capsys.readouterr().out)] == [2]


# --- rejects


def test_a_reject_tells_every_reason_with_its_sentence(rejected: Api) -> None:
    """And its line, its text as it was, and the id that closes it."""
    row = rejected.get("/api/rejects?ingest_id=1").data[1]
    assert row == {
        "reject_id": "1-3",
        "table_name": "hired_employees",
        "file_name": "employees.csv",
        "ingest_id": 1,
        "record_number": 3,
        "line_number": 3,
        "reasons": [
            {"code": "employee_name.missing", "detail": "employee_name is empty, and it is required"},
            {
                "code": "hired_date.no_zone",
                "detail": "hired_date names no zone; end it with Z or an offset, or set `assume_zone` for it in the"
                " dictionary",
            },
        ],
        "raw": "3,,2021-02-03T04:05:06,1,1",
        "state": "open",
        "closed_at": None,
        "closed_by_ingest": None,
    }


def test_rejects_are_found_by_load_table_state_and_reason(rejected: Api) -> None:
    expected = {
        "": ["1-2", "1-3", "1-4", "2-1"],
        "ingest_id=2": ["2-1"],
        "table=employees": ["1-2", "1-3", "1-4", "2-1"],
        "table=jobs": [],
        "state=closed": ["1-5"],
        "state=all": ["1-2", "1-3", "1-4", "1-5", "2-1"],
        "state=pending": ["1-9"],
        "state=pending&reason=department_id.parent_missing": ["1-9"],
        "state=pending&reason=job_id.parent_missing": [],
        "reason=hired_date.no_zone": ["1-3"],
        "reason=employee_name.missing&state=all": ["1-2", "1-3", "1-5"],
        "ingest_id=77": [],
    }
    found = {
        query: [row["reject_id"] for row in pages_of(rejected, f"/api/rejects?page_size=2&{query}".rstrip("&"))]
        for query in expected
    }
    assert found == expected


def test_a_waiting_row_says_what_it_waits_for(rejected: Api) -> None:
    (row,) = rejected.get("/api/rejects?state=pending").data
    assert (row["waits_on"], row["waits_for"], row["state"]) == ("department_id", "77", "pending")
    assert row["reasons"][0]["detail"] == "department_id names a row that departments does not have"


def test_rejects_come_one_a_line(rejected: Api) -> None:
    """NDJSON has no place for the token: the Link header leads on."""
    answer = rejected.get("/api/rejects?page_size=3", accept="application/x-ndjson")
    assert answer.response.content_type == "application/x-ndjson"
    assert [json.loads(line)["reject_id"] for line in answer.text.splitlines()] == ["1-2", "1-3", "1-4"]
    target = answer.headers["link"].removeprefix("<").partition(">")[0]
    last = rejected.get(target, accept="application/x-ndjson")
    assert [json.loads(line)["reject_id"] for line in last.text.splitlines()] == ["2-1"]
    assert "link" not in last.headers


def test_a_table_that_left_the_dictionary_keeps_its_rejects(rejected: Api) -> None:
    """Codes stand for themselves then."""
    rejected.query("update ingest_status.ingest_status set table_name = 'gone' where id = 2")
    (row,) = rejected.get("/api/rejects?ingest_id=2").data
    assert row["reasons"] == [{"code": "job_id.parent_missing", "detail": "job_id.parent_missing"}]


def test_the_csv_is_the_export_that_can_be_mended(rejected: Api) -> None:
    """What the command writes, as a file to save."""
    answer = rejected.get("/api/rejects?ingest_id=1", accept="text/csv")
    assert answer.response.content_type == "text/csv; charset=utf-8; header=present"
    assert answer.headers["content-disposition"] == 'attachment; filename="rejects-1.csv"'
    written = io.StringIO()
    with closing(rejected.connect("api")) as conn:
        assert rejects.export(conn, rejected.services.dictionary, 1, written) == 3
    assert answer.text == written.getvalue()
    rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    assert [row["_reject_id"] for row in rows] == ["1-2", "1-3", "1-4"]


def test_the_csv_holds_every_reject_however_many(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is streamed by pages, none of which is left out or comes twice, also when the last one is full."""
    monkeypatch.setattr(rejects, "PAGE_ROWS", 10)
    for number in (25, 30):
        made = load(api, f"employees_{number}.csv", rejected=number)
        api.query(
            "insert into ingest_status.rejects select %s, n, n, 0, 0, array['employee_name.missing'],"
            " n || ',,2021-02-03T04:05:06Z,1,1', null from generate_series(1, %s) n",
            made,
            number,
        )
        answer = api.get(f"/api/rejects?ingest_id={made}", accept="text/csv")
        assert answer.response.chunks is not None
        rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
        assert [row["id"] for row in rows] == [str(n) for n in range(1, number + 1)]


def test_a_csv_that_breaks_off_says_so_to_its_reader_and_to_the_log(
    api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stream ends in an error without details, never as if it were whole."""
    monkeypatch.setattr(rejects, "PAGE_ROWS", 1)
    load(api, rejected=2)
    for n in (1, 2):
        api.query(REJECT, 1, n, n, ["employee_name.missing"], "2,,2021-02-03T04:05:06Z,1,1", None)
    chunks = api.get("/api/rejects?ingest_id=1", accept="text/csv").response.chunks
    assert chunks is not None
    assert next(chunks).startswith(b"id,")
    api.query("drop table ingest_status.rejects")
    capsys.readouterr()
    with pytest.raises(ConnectionAbortedError, match="cut short") as cut:
        next(chunks)
    assert cut.value.__cause__ is None
    line = json.loads(capsys.readouterr().out)
    assert (line["message"], line["severity"], line["error"]) == ("api.stream", "ERROR", "DatabaseMisuse")


def test_a_csv_needs_a_load_that_was_read_as_rows(api: Api) -> None:
    load(api, columns=None, state="refused")
    assert api.get("/api/rejects", accept="text/csv").status == 400
    assert api.get("/api/rejects?ingest_id=1&state=closed", accept="text/csv").status == 400
    assert api.get("/api/rejects?ingest_id=1&reason=x", accept="text/csv").status == 400
    for number in (1, 2):
        assert api.get(f"/api/rejects?ingest_id={number}", accept="text/csv").json["code"] == "load.not_found"


# --- re-drive and dismiss


def test_a_re_drive_is_asked_for_as_the_command_asks(rejected: Api) -> None:
    """202 with what was asked, and one event; all open ones when none is named."""
    answer = rejected.post("/api/rejects/redrive", {"ingest_id": 1, "rejects": ["1-2", "1-4"]})
    assert (answer.status, answer.data) == (202, {"ingest_id": 1, "rejects": ["1-2", "1-4"]})
    answer = rejected.post("/api/rejects/redrive", {"ingest_id": 1})
    assert (answer.status, answer.data) == (202, {"ingest_id": 1, "rejects": None})
    assert answer.headers["location"] == "/api/ingests?kind=re-drive"
    assert [(event.type, event.source, event.data) for event in rejected.sent] == [
        (events.REDRIVE, "//rowdock", {"load_id": 1, "records": [2, 4]}),
        (events.REDRIVE, "//rowdock", {"load_id": 1, "records": None}),
    ]


def test_a_re_drive_of_what_is_not_open_asks_for_nothing(rejected: Api) -> None:
    """409 that points at each: closed, waiting, never there."""
    answer = rejected.post("/api/rejects/redrive", {"ingest_id": 1, "rejects": ["1-2", "1-5", "1-9", "1-1000"]})
    assert (answer.status, answer.json["code"]) == (409, "reject.not_open")
    assert [error["pointer"] for error in answer.json["errors"]] == ["/rejects/1", "/rejects/2", "/rejects/3"]
    assert rejected.sent == []


def test_a_re_drive_that_nobody_takes_is_503(rejected: Api) -> None:
    def refuse(_event: Any) -> None:
        raise ServiceUnavailable("nobody is there")

    object.__setattr__(rejected.services, "send", refuse)
    answer = rejected.post("/api/rejects/redrive", {"ingest_id": 1})
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")


def test_dismissed_rejects_are_closed_and_stay(rejected: Api) -> None:
    """Once: what is closed already is not counted again, and keeps its state."""
    answer = rejected.post("/api/rejects/dismiss", {"ingest_id": 1, "rejects": ["1-2", "1-5"]})
    assert (answer.status, answer.data) == (200, {"ingest_id": 1, "dismissed": 1})
    assert rejected.post("/api/rejects/dismiss", {"ingest_id": 1, "rejects": ["1-2"]}).data["dismissed"] == 0
    assert rejected.post("/api/rejects/dismiss", {"ingest_id": 1}).data["dismissed"] == 2
    states = {row["reject_id"]: row["state"] for row in pages_of(rejected, "/api/rejects?state=all")}
    assert states == {"1-2": "dismissed", "1-3": "dismissed", "1-4": "dismissed", "1-5": "mended", "2-1": "open"}


BAD_BODIES: list[tuple[Any, int, str | None]] = [
    (b"", 400, None),
    (b"{", 400, None),
    (b"\xff", 400, None),
    (b"[" * 100_000, 400, None),
    (b"[]", 400, None),
    (b"9" * 5000, 400, None),
    ({}, 400, "/ingest_id"),
    ({"ingest_id": "1"}, 400, "/ingest_id"),
    ({"ingest_id": True}, 400, "/ingest_id"),
    ({"ingest_id": 1.0}, 400, "/ingest_id"),
    ({"ingest_id": 0}, 400, "/ingest_id"),
    ({"ingest_id": 2**63}, 400, "/ingest_id"),
    ({"ingest_id": 1, "reject": []}, 400, "/reject"),
    ({"ingest_id": 1, "a/b~c\ud800": []}, 400, "/a~1b~0c?"),
    ({"ingest_id": 1, "rejects": []}, 400, "/rejects"),
    ({"ingest_id": 1, "rejects": None}, 400, "/rejects"),
    ({"ingest_id": 1, "rejects": "1-2"}, 400, "/rejects"),
    ({"ingest_id": 1, "rejects": ["1-2"] * 1001}, 400, "/rejects"),
    ({"ingest_id": 1, "rejects": ["1-2", 2]}, 400, "/rejects/1"),
    ({"ingest_id": 1, "rejects": ["2-1"]}, 400, "/rejects/0"),
    ({"ingest_id": 1, "rejects": ["1-2\n"]}, 400, "/rejects/0"),
    ({"ingest_id": 3}, 404, None),
]


@pytest.mark.parametrize("action", ["redrive", "dismiss"])
def test_a_body_that_is_not_understood_does_nothing(rejected: Api, action: str) -> None:
    """The problem points at the member."""
    for body, status, pointer in BAD_BODIES:
        answer = rejected.post(f"/api/rejects/{action}", body)
        assert answer.status == status, (body, answer.text)
        assert pointer is None or answer.json["errors"][0]["pointer"] == pointer
    form = rejected.post(f"/api/rejects/{action}", b"ingest_id=1", content_type="application/x-www-form-urlencoded")
    assert (form.status, form.json["code"]) == (415, "request.media_type")
    assert rejected.sent == []
    assert len(pages_of(rejected, "/api/rejects")) == 4


def test_no_value_of_a_row_reaches_the_log(rejected: Api, capsys: pytest.CaptureFixture[str]) -> None:
    rejected.get("/api/rejects?state=all")
    rejected.get("/api/rejects?reason=Stray")
    rejected.post("/api/rejects/dismiss", {"ingest_id": 1, "rejects": ["Stray"]})
    assert "Stray" not in capsys.readouterr().out


def test_the_server_streams_the_csv(rejected: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through functions-framework itself: whole for GET, without a body for HEAD."""
    monkeypatch.setattr("functions.api.services.production", lambda: rejected.services)
    server = functions_framework.create_app("api", str(ROOT / "functions" / "api" / "main.py"), "http")
    asked = {"path": "/api/rejects?ingest_id=1", "headers": {"Accept": "text/csv", "Host": "localhost"}}
    answer = server.test_client().get(**asked)
    assert (answer.status_code, answer.content_type) == (200, "text/csv; charset=utf-8; header=present")
    assert answer.text == rejected.get("/api/rejects?ingest_id=1", accept="text/csv").text
    assert server.test_client().head(**asked).data == b""


# --- backups


def test_backups_are_listed_as_the_backup_function_wrote_them(api: Api) -> None:
    """The newest first, of one table or of all, in one state or in any."""
    api.query(
        "insert into backup_status.backup_status (table_name, number_rows, last_id, backup_id, run, kind, scheduled_at,"
        " snapshot_at, state, started_at, finished_at, bytes, parts, verified_at, verified_depth, verified_ok) select"
        " t, n, n, '2026112' || d || 'T031500Z', 'a', 'scheduled', at, at, 'done', at, at, 100, 1, at, 'decode', true"
        " from (values ('jobs', 183, 4), ('departments', 12, 4), ('jobs', 184, 5)) v (t, n, d),"
        " lateral (select make_timestamptz(2026, 11, 20 + d, 3, 15, 0, 'UTC')) l (at)"
    )
    rows = pages_of(api, "/api/backups?page_size=1")
    assert [row["id"] for row in rows] == [3, 2, 1]
    at = "2026-11-24T03:15:00Z"
    seed = {"id": 2, "table_name": "departments", "number_rows": 12, "last_id": 12}
    times = dict.fromkeys(("scheduled_at", "snapshot_at", "started_at", "finished_at", "verified_at"), at)
    what = {"backup_id": "20261124T031500Z", "kind": "scheduled", "state": "done", "bytes": 100, "parts": 1}
    assert rows[1] == seed | what | times | {"error_code": None, "verified_depth": "decode", "verified_ok": True}
    assert [row["id"] for row in pages_of(api, "/api/backups?table=jobs")] == [3, 1]
    assert pages_of(api, "/api/backups?state=failed") == []
    assert api.get("/api/backups?state=lost").status == 400


def test_head_answers_as_get_does(rejected: Api) -> None:
    request = Request("HEAD", "/api/ingests", (), {"host": "localhost"})
    assert Answer(app.handle(request, lambda: rejected.services)).status == 200
