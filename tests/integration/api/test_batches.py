"""Batches: good rows go in, each other one is told with its reason and kept, and whatever happens the counts add up."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import random
import threading
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from functions.ingest import work
from functions.ingest.services import Services as IngestServices
from shared import dictionary, events, migrate, objectstore, rejects, settings
from shared.dictionary import Dictionary
from shared.errors import ServiceUnavailable
from shared.events import Event
from shared.postgres import Database
from tests.integration.api.conftest import ADA, Answer, Api
from tests.integration.api.json_bodies import BODIES
from tests.integration.ingest.test_fourth_table import ENTRY, MIGRATION


def employee(number: int, **changes: Any) -> dict[str, Any]:
    return ADA | {"id": number, "employee_name": f"Name {number}"} | changes


def codes(answer: Answer) -> list[tuple[int, str]]:
    return [(error["index"], error["code"]) for error in answer.json["errors"]]


def counts(answer: Answer) -> dict[str, int]:
    return {name: number for name, number in answer.json["counts"].items() if number}


def kept(api: Api) -> list[tuple[Any, ...]]:
    return api.query("select record_number, reasons, raw from ingest_status.rejects order by load_id, record_number")


def employees_of(api: Api) -> int:
    return int(api.query("select count(*) from hired_employees.hired_employees")[0][0])


# --- What goes in


@pytest.mark.parametrize(
    "body",
    [
        {"data": [ADA]},
        {"data": ADA},
        [ADA],
        ADA,
        b"id,employee_name,hired_date,department_id,job_id\n1, Ada ,2021-02-03T05:05:06+01:00,1,1\n",
        json.dumps(ADA).encode() + b"\n",
    ],
    ids=["list", "one", "bare list", "bare one", "csv", "ndjson"],
)
def test_rows_are_added_in_whatever_form_they_come(parents: Api, body: Any) -> None:
    """201, the rows as they are stored, where the load is found, and one row of history."""
    media_type = "application/json"
    if isinstance(body, bytes):
        media_type = "text/csv" if body.startswith(b"id,") else "application/x-ndjson"
    answer = parents.post("/api/employees", body, content_type=media_type)
    (load,) = parents.history()
    assert (answer.status, answer.data, answer.json["errors"]) == (201, [ADA], [])
    assert answer.json["ingest_id"] == load["id"]
    assert answer.headers["location"] == f"/api/ingests/{load['id']}"
    assert counts(answer) == {"received": 1, "inserted": 1}
    assert (load["kind"], load["state"], load["table_name"], load["rows_read"], load["rows_inserted"]) == (
        "batch", "loaded", "hired_employees", 1, 1,
    )  # fmt: skip
    assert (load["last_id"], load["delimiter"], load["columns"]) == (1, ",", list(ADA))
    assert load["details"] == {"principal": "loopback", "operation": "batch.add"}
    assert parents.rollup_is_right()


def test_a_row_without_id_gets_one_that_no_file_has(parents: Api) -> None:
    """From the identity, in the order of the request."""
    rows = [{k: v for k, v in employee(n).items() if k != "id"} for n in range(3)]
    answer = parents.post("/api/employees", [rows[0], ADA, rows[1] | {"id": None}, rows[2]])
    ids = [row["id"] for row in answer.data]
    assert (answer.status, ids[1]) == (201, 1)
    assert [ids[0], ids[2], ids[3]] == [1_000_000_000, 1_000_000_001, 1_000_000_002]


def test_rows_that_stand_where_the_identity_gives_ids_are_passed_over(parents: Api) -> None:
    """Somebody put rows there by id: a new row still finds its place."""
    taken = [{"id": 1_000_000_000 + n, "job": f"Job {n}"} for n in range(50)]
    assert parents.post("/api/jobs", taken).status == 201
    answer = parents.post("/api/jobs", {"job": "New"})
    assert (answer.status, counts(answer)) == (201, {"received": 1, "inserted": 1})
    assert answer.data[0]["id"] >= 1_000_000_050
    assert len(parents.history()) == 2


def test_the_same_rows_again_change_nothing_and_say_so(parents: Api) -> None:
    """A client that saw no answer sends them again."""
    rows = [employee(n) for n in range(1, 4)]
    parents.post("/api/employees", rows)
    for method in ("POST", "PUT"):
        answer = parents.call(method, "/api/employees", rows)
        assert (answer.status, answer.data) == ({"POST": 201, "PUT": 200}[method], rows)
        assert counts(answer) == {"received": 3, "unchanged": 3}


def test_post_never_changes_a_row_and_put_does(parents: Api) -> None:
    """A known id with other content: rejected by the one, written by the other."""
    parents.post("/api/employees", ADA)
    answer = parents.post("/api/employees", [ADA | {"employee_name": "Eve"}, employee(2)])
    assert (answer.status, codes(answer), answer.data) == (207, [(0, "id.exists")], [employee(2)])
    assert parents.employees() == [(1, "Ada"), (2, "Name 2")]
    answer = parents.put("/api/employees", [ADA | {"employee_name": "Eve"}, employee(2), employee(3)])
    assert (answer.status, counts(answer)) == (200, {"received": 3, "inserted": 1, "updated": 1, "unchanged": 1})
    assert parents.employees() == [(1, "Eve"), (2, "Name 2"), (3, "Name 3")]
    assert parents.rollup_is_right()


def test_put_moves_a_hire_in_the_roll_up(parents: Api) -> None:
    parents.put("/api/employees", ADA)
    parents.put("/api/employees", ADA | {"hired_date": "2022-09-01T00:00:00Z", "department_id": 3})
    assert parents.query("select year, quarter, department_id, job_id, hired from metrics.hires_by_quarter") == [
        (2022, 3, 3, 1, 1)
    ]


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_of_one_id_twice_the_first_good_row_stands(parents: Api, method: str) -> None:
    """An identical later one is unchanged, a different one is rejected; one that was no good does not count."""
    rows = [ADA | {"job_id": 99}, ADA, ADA | {"employee_name": "Eve"}, dict(ADA), ADA | {"hired_date": "never"}]
    answer = parents.call(method, "/api/employees", rows)
    assert codes(answer) == [(0, "job_id.parent_missing"), (2, "id.duplicate"), (4, "hired_date.not_timestamp")]
    assert counts(answer) == {"received": 5, "inserted": 1, "unchanged": 1, "rejected": 3}
    assert answer.data == [ADA, ADA]
    assert parents.employees() == [(1, "Ada")]


# --- What does not


def test_each_reason_of_each_row_is_told_with_its_place_and_kept(parents: Api) -> None:
    """Index, pointer, code, sentence with the value, and the id that closes the reject."""
    bad = {"id": "x", "employee_name": "", "hired_date": "2021-07-27T16:02:08", "department_id": 9, "job_id": 1}
    answer = parents.post("/api/employees", {"data": [ADA, bad, 5, ADA | {"id": 3, "salary": 1}]})
    (load,) = parents.history()
    assert (answer.status, answer.data) == (207, [ADA])
    assert answer.json["errors"][0] == {
        "index": 1,
        "pointer": "/data/1/id",
        "code": "id.not_integer",
        "detail": 'id is no whole number in plain digits (8.0, +8, 1e3 and 1,000 are not): "x"',
        "reject_id": f"{load['id']}-2",
    }
    assert [(e["index"], e["pointer"], e["code"]) for e in answer.json["errors"][1:]] == [
        (1, "/data/1/employee_name", "employee_name.missing"),
        (1, "/data/1/hired_date", "hired_date.no_zone"),
        (1, "/data/1/department_id", "department_id.parent_missing"),
        (2, "/data/2", "record.not_object"),
        (3, "/data/3/salary", "record.unknown_column"),
    ]
    assert "departments does not have: 9" in answer.json["errors"][3]["detail"]
    assert kept(parents) == [
        (
            2,
            ["id.not_integer", "employee_name.missing", "hired_date.no_zone", "department_id.parent_missing"],
            "x,,2021-07-27T16:02:08,9,1",
        ),
        (3, ["record.not_object"], "5"),
        (4, ["record.unknown_column"], json.dumps(ADA | {"id": 3, "salary": 1})),
    ]
    assert load["rejects_by_reason"]["department_id.parent_missing"] == 1
    assert (load["rows_read"], load["rows_inserted"], load["rows_rejected"]) == (4, 1, 3)


def test_a_thousand_rows_with_every_reason_mixed_add_up(parents: Api) -> None:
    """What is in, what is told and what is kept are one and the same."""
    rng = random.Random(7)
    parents.post("/api/employees", [employee(n) for n in range(1, 101)])
    spoils: list[Callable[[dict[str, Any]], Any]] = [
        lambda row: row | {"id": rng.randrange(1, 101)},
        lambda row: row | {"id": rng.choice([0, "7", 1.5, True, None])},
        lambda row: row | {"hired_date": rng.choice(["now", "2021-02-30T00:00:00Z", 5, None, "2021-01-01"])},
        lambda row: row | {"employee_name": rng.choice(["", " ", None, 7, "a\0b", ["x"], "\ud800"])},
        lambda row: row | {"department_id": rng.choice([99, 0, "1", None])}, lambda row: row | {"job_id": 98, "x": 1},
        lambda row: None, lambda row: [row], lambda row: {k: v for k, v in row.items() if rng.random() < 0.8},
        lambda row: row | {"id": rng.randrange(101, 1000)},
    ]  # fmt: skip
    rows = [employee(n) for n in range(101, 1101)]
    rows = [rng.choice(spoils)(row) if rng.random() < 0.4 else row for row in rows]
    answer = parents.post("/api/employees", {"data": rows})
    load = parents.history()[-1]
    told = {error["index"] for error in answer.json["errors"]}
    assert answer.status == 207
    assert 200 < len(told) < 400
    assert len(answer.data) + len(told) == 1000
    assert {number - 1 for number, _, _ in kept(parents)} == told
    assert employees_of(parents) == 100 + answer.json["counts"]["inserted"]
    by_reason = Counter(reason for _, reasons, _ in kept(parents) for reason in reasons)
    assert load["rejects_by_reason"] == by_reason
    assert {"id.exists", "id.duplicate", "job_id.parent_missing", "record.nested", "employee_name.nul"} <= set(
        by_reason
    )
    assert parents.rollup_is_right()


def test_all_rows_may_be_bad(parents: Api) -> None:
    """207 as well: the batch was taken, and every row of it has its answer."""
    answer = parents.post("/api/jobs", [{"id": 7}, {"job": 1}])
    assert (answer.status, answer.data, counts(answer)) == (207, [], {"received": 2, "rejected": 2})


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_a_batch_has_1_to_1000_rows(parents: Api, method: str) -> None:
    """None and 1001 are refused before a row is judged, and leave no trace."""
    for rows in ([], [None] * 1001):
        answer = parents.call(method, "/api/jobs", {"data": rows})
        assert (answer.status, answer.json["code"]) == (422, "batch.size")
    assert parents.history() == []
    assert parents.call(method, "/api/jobs", [{"id": n, "job": "x"} for n in range(5, 1005)]).status in (200, 201)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_any_body_has_a_clean_answer(parents: Api, method: str) -> None:
    """Valid, invalid or odd JSON: never a 5xx, and what is no JSON is 400."""
    paths = ("/api/jobs", "/api/batch") if method == "POST" else ("/api/jobs",)
    found = [(name, path, parents.call(method, path, body).status) for name, body in BODIES for path in paths]
    wrong = [
        (name, path, status)
        for name, path, status in found
        if status not in ((400,) if name.startswith("n_") else (200, 201, 207, 400, 422))
    ]
    assert wrong == []


# --- Removing


def test_rows_are_removed_by_id_and_the_answer_has_them_as_they_were(parents: Api) -> None:
    """Objects or bare ids; one that is not there is as wanted already."""
    parents.post("/api/employees", [employee(n) for n in range(1, 5)])
    answer = parents.delete("/api/employees", {"data": [{"id": 3}, 1, 99, {"id": 3}]})
    assert (answer.status, answer.data) == (200, [employee(3), employee(1)])
    assert counts(answer) == {"received": 4, "deleted": 2, "unchanged": 2}
    load = parents.history()[-1]
    assert (load["rows_read"], load["rows_deleted"], load["rows_unchanged"]) == (4, 2, 2)
    assert parents.employees() == [(2, "Name 2"), (4, "Name 4")]
    assert parents.rollup_is_right()


def test_a_row_in_use_stays_and_the_rest_goes(parents: Api) -> None:
    """It says who refers to it, and how often."""
    parents.post("/api/employees", [employee(n, department_id=1) for n in range(1, 4)])
    answer = parents.delete("/api/departments", [1, 2, "3"])
    assert (answer.status, [row["id"] for row in answer.data]) == (207, [2])
    assert codes(answer) == [(0, "id.in_use"), (2, "id.not_integer")]
    assert "(3 in employees)" in answer.json["errors"][0]["detail"]
    assert parents.query("select id from hired_employees.departments order by 1") == [(1,), (3,)]


def test_nothing_is_removed_without_a_list(parents: Api) -> None:
    """DELETE of a collection without body never means all of it."""
    assert parents.delete("/api/jobs").status == 400
    assert parents.delete("/api/jobs", {"data": []}).status == 422
    assert parents.query("select count(*) from hired_employees.jobs") == [(2,)]


def test_what_was_not_removed_is_not_judged_again_as_a_row(parents: Api) -> None:
    """A re-drive of such a reject must not add anything."""
    load_id = parents.delete("/api/jobs", ["x"]).json["ingest_id"]
    conn = parents.connect("owner")
    with pytest.raises(rejects.NoSuchLoad):
        rejects.export(conn, parents.services.dictionary, load_id, io.StringIO())
    conn.close()


# --- Several tables


def test_several_tables_go_in_at_once_parents_first(api: Api) -> None:
    """A child may name a parent of the same body, wherever it stands in it."""
    body = {
        "employees": [ADA, employee(2, department_id=5)],
        "jobs": [{"id": 1, "job": "Engineer"}],
        "departments": [{"id": 1, "departments": "One"}, {"id": 5, "departments": "Five"}],
    }
    answer = api.post("/api/batch", body)
    assert (answer.status, answer.data) == (201, body)
    assert counts(answer) == {"received": 5, "inserted": 5}
    assert {load["id"]: load["rows_inserted"] for load in api.history()} == {
        answer.json["ingest_ids"][name]: len(body[name]) for name in body
    }
    assert api.rollup_is_right()


def test_a_child_of_a_rejected_parent_is_rejected(api: Api) -> None:
    """A pointer says where, under the table's name; what depends on neither goes in."""
    body = {
        "departments": [{"id": 1, "departments": ""}, {"id": 2, "departments": "Two"}],
        "jobs": [{"id": 1, "job": "Engineer"}],
        "employees": [employee(1), employee(2, department_id=2)],
    }
    answer = api.post("/api/batch", body)
    assert (answer.status, [row["id"] for row in answer.data["employees"]]) == (207, [2])
    assert [(e["table"], e["pointer"], e["code"]) for e in answer.json["errors"]] == [
        ("departments", "/departments/0/departments", "departments.missing"),
        ("employees", "/employees/0/department_id", "department_id.parent_missing"),
    ]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"salaries": [{}]}, 400), ({"hired_employees": [{}]}, 400), ({"jobs": {}}, 400), ([], 400), (1, 400),
        ({}, 422), ({"jobs": []}, 422), ({"jobs": [1] * 600, "departments": [1] * 401}, 422),
        ({"jobs": [1] * 600, "departments": [1] * 400}, 207),
    ],
)  # fmt: skip
def test_several_tables_together_have_1_to_1000_rows(api: Api, body: Any, status: int) -> None:
    """An unknown name is refused, and says which are known."""
    answer = api.post("/api/batch", body)
    assert answer.status == status
    if isinstance(body, dict) and "salaries" in body:
        assert "departments, jobs, employees" in answer.json["detail"]


# --- What the caller prefers


def test_all_or_nothing_writes_nothing_but_the_rejects(parents: Api) -> None:
    """422; the good rows are not in, the bad ones are kept under a load that was rolled back."""
    rows = [ADA, ADA | {"id": 2, "job_id": 99}]
    answer = parents.post("/api/employees", rows, prefer="handling=strict")
    (load,) = parents.history()
    assert (answer.status, answer.json["code"], codes(answer)) == (
        422,
        "batch.rejected",
        [(1, "job_id.parent_missing")],
    )
    assert answer.response.content_type == "application/problem+json"
    assert answer.headers["preference-applied"] == "handling=strict"
    assert counts(answer) == {"received": 2, "rejected": 1, "rolled_back": 1}
    assert (load["state"], load["reason_code"], load["rows_rejected"], load["rows_rolled_back"]) == (
        "rolled_back", "batch.rejected", 1, 1,
    )  # fmt: skip
    assert (employees_of(parents), [number for number, _, _ in kept(parents)]) == (0, [2])
    assert parents.post("/api/employees", rows[:1], prefer="handling=strict").status == 201
    removed = parents.delete("/api/jobs", [1, 2], prefer="handling=strict")
    assert (removed.status, parents.query("select count(*) from hired_employees.jobs")) == (422, [(2,)])


def test_an_answer_may_be_short(parents: Api) -> None:
    """return=minimal leaves the rows out, and nothing else."""
    answer = parents.post("/api/employees", [ADA, {}], prefer="return=minimal, wait=10")
    assert (answer.status, "data" in answer.json, answer.headers["preference-applied"]) == (
        207,
        False,
        "return=minimal",
    )
    assert counts(answer) == {"received": 2, "inserted": 1, "rejected": 1}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_a_batch_may_be_tried(parents: Api, method: str) -> None:
    """Keys and all are judged, the answer says what would happen, and nothing is written."""
    parents.post("/api/employees", [ADA])
    before = [parents.history(), kept(parents), parents.employees()]
    rows = [employee(2), ADA | {"employee_name": "Eve"}, ADA | {"id": 3, "job_id": 99}]
    answer = parents.call(method, "/api/employees?validate_only=true", rows)
    assert answer.status == 200
    assert codes(answer) == {
        "POST": [(1, "id.exists"), (2, "job_id.parent_missing")], "PUT": [(2, "job_id.parent_missing")], "DELETE": [],
    }[method]  # fmt: skip
    assert not {"ingest_id", "reject_id"} & ({*answer.json} | {*(answer.json["errors"] or [{}])[0]})
    assert [parents.history(), kept(parents), parents.employees()] == before
    assert parents.rollup_is_right()


@pytest.mark.parametrize(
    "query", ["?validate_only=yes", "?validate_only=", "?dry_run=true", "?x", "?validate_only=true&x=1"]
)
def test_a_parameter_that_is_none_is_refused(parents: Api, query: str) -> None:
    answer = parents.post(f"/api/employees{query}", ADA)
    assert (answer.status, answer.json["code"], employees_of(parents)) == (400, "request.parameter", 0)


# --- What waits, and what is judged again: by the ingest function's own code


@pytest.fixture
def ingest(database: Any, tmp_path: Path) -> Iterator[Callable[[str], dict[str, Any]]]:
    """Asks the ingest function for something, over the same database."""
    pool = Database(database.url_for("ingest"), application_name="ingest-test", pool_size=4)
    current = settings.load({"ROWDOCK_ENVIRONMENT": "emulator", "CALLER_AUTH": "off"})

    def ask(type_: str, data: dict[str, Any] | None = None, tables: Dictionary | None = None) -> dict[str, Any]:
        store = objectstore.connect("s3+http://a:b@127.0.0.1:1")  # a batch has no object: it is never asked
        services = IngestServices(current, tables or dictionary.load(), pool, store, lambda event: None)
        return work.handle(services, events.make(type_, data or {}))

    yield ask
    pool.close()


def test_a_parent_that_came_wakes_the_rows_that_wait_for_it(parents: Api, ingest: Any) -> None:
    """By one event after the commit, and only if something waits; the waiting row goes in."""
    parents.post("/api/departments", {"id": 8, "departments": "Eight"})
    assert parents.sent == []
    park(parents, "7,Early,2021-02-03T04:05:06Z,9,1", waits_for="9")
    parents.post("/api/jobs", {"id": 9, "job": "Nine"})
    parents.post("/api/departments", {"id": 9, "departments": "Nine"})
    assert [event.type for event in parents.sent][-1:] == [events.PENDING_DRAIN]
    ingest(events.PENDING_DRAIN)
    assert parents.employees() == [(7, "Early")]


def park(api: Api, raw: str, *, waits_for: str) -> None:
    """A row of a file that waits for its department."""
    api.query(
        "with l as (insert into ingest_status.ingest_status (kind, table_name, state, columns, delimiter, rows_read,"
        " rows_pending, started_at) values ('file', 'hired_employees', 'loaded', %s, ',', 1, 1, now()) returning id)"
        " insert into ingest_status.pending (load_id, record_number, line_number, byte_offset, byte_length, table_name,"
        " row_key, waits_on, waits_for, raw)"
        " select id, 1, 1, 0, 9, 'hired_employees', '7', 'department_id', %s, %s from l",
        list(ADA), waits_for, raw,
    )  # fmt: skip


def test_a_wake_up_that_nobody_takes_never_fails_the_batch(parents: Api) -> None:
    """The durable one is in the database; the sweep finds it."""

    def refuse(_event: Event) -> None:
        raise ServiceUnavailable("nobody is there")

    park(parents, "7,Early,2021-02-03T04:05:06Z,9,1", waits_for="9")
    deaf = dataclasses.replace(parents, services=dataclasses.replace(parents.services, send=refuse))
    assert deaf.post("/api/departments", {"id": 9, "departments": "Nine"}).status == 201
    assert parents.query("select count(*) > 0 from ingest_status.wakeups") == [(True,)]


def export(api: Api, load_id: int) -> list[dict[str, str]]:
    out = io.StringIO()
    conn = api.connect("owner")
    rejects.export(conn, api.services.dictionary, load_id, out)
    conn.close()
    return list(csv.DictReader(io.StringIO(out.getvalue())))


def test_rejects_of_a_batch_are_exported_judged_again_and_dismissed_like_those_of_a_file(
    parents: Api, ingest: Any
) -> None:
    """A row whose parent came goes in by a re-drive, exactly; one that SQL rejected like one that JSON rules did."""
    odd = 'A "quoted", name\nof two lines'
    rows = [
        employee(1, employee_name=odd, job_id=9, hired_date="2021-02-03T04:05:06.5+01:00"),
        employee(2, hired_date="2021-02-03T04:05:06"),
        employee(3, salary=1),
        employee(4, employee_name="x" * 9000, job_id=9),
    ]
    load_id = parents.post("/api/employees", rows).json["ingest_id"]
    exported = export(parents, load_id)
    assert [row["_reject_id"] for row in exported] == [f"{load_id}-{n}" for n in (1, 2, 3, 4)]
    assert (exported[0]["employee_name"], exported[0]["job_id"]) == (odd, "9")
    assert exported[1]["hired_date"] == "2021-02-03T04:05:06"
    assert json.loads(exported[2]["_raw"]) == rows[2]
    parents.post("/api/jobs", {"id": 9, "job": "Nine"})
    fields = ingest(events.REDRIVE, {"load_id": load_id, "records": None})
    assert (fields["rows_loaded"], fields["rows_rejected"], fields["cut"]) == (1, 2, 1)
    instant = "to_char(hired_date at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.MS')"
    assert parents.query(f"select employee_name, {instant}, job_id from hired_employees.hired_employees") == [
        (odd, "2021-02-03 03:05:06.500", 9)
    ]
    conn = parents.connect("owner")
    with conn:
        assert rejects.dismiss(conn, load_id, None) == 3
    conn.close()
    assert parents.rollup_is_right()


# --- A table that was added, with every type


CODES = [f"{letter * 8}-0000-4000-8000-00000000000{n}" for n, letter in enumerate("abcdef")]


def contract(n: int, **changes: Any) -> dict[str, Any]:
    row = {"code": CODES[n], "employee_id": 1, "replaces": None, "signed_on": "2021-11-07", "salary": "1234.50"}
    return row | {"hours": 40, "permanent": True, "terms": {"a": [1, None, "é"]}} | changes


@pytest.fixture
def contracts(make_api: Callable[..., Api], database: Any, tmp_path: Path) -> Api:
    tables = dictionary.parse(tomllib.loads(dictionary.DICTIONARY_PATH.read_text() + ENTRY))
    (tmp_path / "9001_contracts.sql").write_text(MIGRATION)
    migrate.migrate(database.owner_url, [migrate.MIGRATIONS, tmp_path])
    api = make_api(tables)
    body = {"departments": [{"id": 1, "departments": "x"}], "jobs": [{"id": 1, "job": "x"}], "employees": [ADA]}
    assert api.post("/api/batch", body).status == 201
    return api


def test_a_table_of_every_type_takes_batches(contracts: Api) -> None:
    """Values arrive exactly, and are found to be the same however they are written."""
    shared = '"employee_id": 1, "signed_on": "2021-11-07"'
    first = '"salary": 1234.50, "hours": 9223372036854775807, "permanent": false, "terms": {"x": 0.10, "text": "a\\"b"}'
    second = '"salary": "99999999.99", "hours": -1, "permanent": true, "terms": "just a string"'
    rows = (f'{{"code": "{code}", {shared}, {rest}}}' for code, rest in ((CODES[0], first), (CODES[1].upper(), second)))
    body = f"[{', '.join(rows)}]".encode()
    answer = contracts.post("/api/contracts", body)
    assert (answer.status, answer.json["errors"]) == (201, [])
    assert '"salary":1234.50' in answer.text
    assert '"terms":{"x": 0.10, "text": "a\\"b"}' in answer.text
    assert answer.data[1]["terms"] == "just a string"
    assert answer.data[0]["replaces"] is None
    same = contracts.put("/api/contracts", body.replace(b"1234.50", b'"1234.5"').replace(b"0.10", b"1e-1"))
    assert counts(same) == {"received": 2, "unchanged": 2}


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_rows_that_refer_to_one_another_go_in_whatever_their_order(contracts: Api, method: str) -> None:
    """A chain in one body; a chain that hangs on a rejected row is rejected with it."""
    rows = [
        contract(0, replaces=CODES[1]), contract(1, replaces=CODES[2]), contract(2),
        contract(3, replaces=CODES[4]), contract(4, hours="x"), contract(5, replaces=CODES[5]),
    ]  # fmt: skip
    answer = contracts.call(method, "/api/contracts", rows)
    assert codes(answer) == [(3, "replaces.parent_missing"), (4, "hours.not_integer")]
    assert [row["code"] for row in answer.data] == [CODES[0], CODES[1], CODES[2], CODES[5]]
    assert answer.data[0]["salary"] == 1234.5


def test_a_key_that_no_identity_gives_is_required(contracts: Api) -> None:
    answer = contracts.post("/api/contracts", contract(0, code=None))
    assert codes(answer) == [(0, "code.missing")]


def test_a_row_that_another_of_its_table_refers_to_is_in_use(contracts: Api) -> None:
    """One that refers to itself is not."""
    contracts.post("/api/contracts", [contract(0), contract(1, replaces=CODES[0]), contract(2, replaces=CODES[2])])
    answer = contracts.delete("/api/contracts", [{"code": code} for code in CODES[:3]])
    assert codes(answer) == [(0, "code.in_use")]
    assert counts(answer) == {"received": 3, "deleted": 2, "rejected": 1}


def test_rejects_of_every_type_are_judged_again(contracts: Api, ingest: Any) -> None:
    """The record that SQL made of a row is the row again."""
    row = contract(0, employee_id=7, terms={"a": 'x "y", z\n'}, salary=-0.5, permanent=False)
    load_id = contracts.post("/api/contracts", row).json["ingest_id"]
    contracts.post("/api/employees", employee(7))
    ingest(events.REDRIVE, {"load_id": load_id, "records": None}, contracts.services.dictionary)
    again = contracts.put("/api/contracts", row)
    assert counts(again) == {"received": 1, "unchanged": 1}


def test_a_table_that_was_added_goes_with_its_parents_in_one_body(contracts: Api) -> None:
    """Its parent comes, and its parent's parent, in the same transaction."""
    body = {
        "contracts": [contract(0, employee_id=7, replaces=CODES[1]), contract(1, employee_id=8)],
        "employees": [employee(7, job_id=70), employee(8, job_id=71)],
        "jobs": [{"id": 70, "job": "Seventy"}],
    }
    answer = contracts.post("/api/batch", body)
    assert [(e["pointer"], e["code"]) for e in answer.json["errors"]] == [
        ("/employees/1/job_id", "job_id.parent_missing"),
        ("/contracts/0/replaces", "replaces.parent_missing"),
        ("/contracts/1/employee_id", "employee_id.parent_missing"),
    ]
    body["jobs"].append({"id": 71, "job": "Seventy-one"})
    again = contracts.post("/api/batch", body)
    assert (again.status, counts(again)) == (201, {"received": 6, "inserted": 4, "unchanged": 2})


ODD_NAMES = [
    "key",
    "reason",
    "rows",
    "n",
    "r",
    "e",
    "g",
    "j",
    "p",
    "w",
    "l",
    "s",
    "uses",
    "child",
    "stops",
    "id",
    "raw",
]
ODD_NAMES += ["old", "new", "excluded", "received", "inserted", "select", "user", "order", "data", "kind", "number"]


def test_columns_may_have_any_name(make_api: Callable[..., Api], database: Any, tmp_path: Path) -> None:
    """Those that the statement uses itself, and words of SQL."""
    columns = "".join(f'[tables.odd.columns.{name}]\ntype = "text"\nrequired = false\n' for name in ODD_NAMES)
    entry = f'[tables.odd]\nschema = "hired_employees"\napi_name = "odd"\nfile_pattern = "odd"\n{columns}'
    entry = entry.replace('columns.key]\ntype = "text"\nrequired = false', 'columns.key]\ntype = "integer"')
    entry = entry.replace('file_pattern = "odd"', 'file_pattern = "odd"\nprimary_key = "key"')
    tables = dictionary.parse(tomllib.loads(dictionary.DICTIONARY_PATH.read_text() + "\n" + entry))
    made = ", ".join(f'"{name}" text' for name in ODD_NAMES[1:])
    (tmp_path / "9001_odd.sql").write_text(
        f"create table hired_employees.odd (key integer primary key, {made});"
        " select rowdock.guard('hired_employees.odd');"
    )
    migrate.migrate(database.owner_url, [migrate.MIGRATIONS, tmp_path])
    api = make_api(tables)
    row = {name: f"a {name}" for name in ODD_NAMES} | {"key": 1}
    assert api.post("/api/odd", {"data": [row, row | {"key": "x"}, row | {"n": "other"}]}).data == [row]
    assert api.put("/api/odd", [row | {"old": "b"}]).data == [row | {"old": "b"}]
    assert api.history()[0]["rejects_by_reason"] == {"key.not_integer": 1, "key.duplicate": 1}
    assert next(csv.reader([kept(api)[0][2]])) == ["x", *list(row.values())[1:]]
    assert api.post("/api/odd", row | {"key": 2}).status == 201
    assert [removed["key"] for removed in api.delete("/api/odd", [1, 2, 3]).data] == [1, 2]


# --- Others at the same time


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Run the calls in threads that start together; their results, in order."""
    results: list[Any] = [None] * len(calls)
    start = threading.Barrier(len(calls))

    def run(place: int, call: Callable[[], Any]) -> None:
        start.wait()
        try:
            results[place] = call()
        except Exception as error:  # noqa: BLE001  # the test shows it
            results[place] = error

    threads = [threading.Thread(target=run, args=(place, call)) for place, call in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.slow
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_batches_of_the_same_ids_in_opposite_order_never_deadlock(parents: Api, method: str) -> None:
    """Whoever comes second finds the rows of the first; every answer is clean, and all counts add up."""
    rounds = 6

    def write(writer: int) -> list[Answer]:
        answers = []
        for turn in range(rounds):
            rows = [employee(1000 * turn + n, job_id=1 + writer % 2) for n in range(1, 301)]
            answers.append(parents.call(method, "/api/employees", rows[:: -1 if writer % 2 else 1]))
        return answers

    found = at_once(*(lambda writer=writer: write(writer) for writer in range(8)))
    answers = [answer for answers in found for answer in answers]
    assert {answer.status for answer in answers} <= {200, 201, 207}
    for answer in answers:
        assert len(answer.data) + answer.json["counts"]["rejected"] == 300
    assert employees_of(parents) == 300 * rounds == sum(answer.json["counts"]["inserted"] for answer in answers)
    assert parents.query("select sum(rows_inserted) from ingest_status.ingest_status") == [(300 * rounds,)]
    assert parents.rollup_is_right()


@pytest.mark.slow
def test_adding_and_removing_the_same_rows_at_once_adds_up(parents: Api) -> None:
    """What was inserted less what was deleted is there."""

    def add_and_remove(seed: int) -> list[Answer]:
        rng, answers = random.Random(seed), []
        for _ in range(12):
            ids = rng.sample(range(1, 61), 40)
            if rng.random() < 0.5:
                answers.append(parents.delete("/api/employees", ids))
            else:
                rows = [employee(n, department_id=rng.randrange(1, 4)) for n in ids]
                answers.append(parents.call(rng.choice(["POST", "PUT"]), "/api/employees", rows))
        return answers

    found = at_once(*(lambda seed=seed: add_and_remove(seed) for seed in range(6)))
    answers = [answer for answers in found for answer in answers]
    done = [answer for answer in answers if answer.status < 300]
    assert {answer.status for answer in answers} <= {200, 201, 207, 503}
    assert len(done) > len(answers) * 0.9
    balance = sum(answer.json["counts"]["inserted"] - answer.json["counts"]["deleted"] for answer in done)
    assert employees_of(parents) == balance
    assert parents.rollup_is_right()


@contextmanager
def open_transaction(api: Api, statement: str) -> Iterator[Any]:
    """Another writer, in the middle of its work."""
    conn = api.connect("owner")
    try:
        with conn.cursor() as cursor:
            cursor.execute(statement)
        yield conn
    finally:
        conn.close()


def wait_for_lock(api: Api) -> int:
    """The process id of the API's backend, once it waits for another transaction; only a superuser sees it wait."""
    conn = api.connect("superuser")
    conn.autocommit = True
    deadline_s = time.monotonic() + 10
    try:
        with conn.cursor() as cursor:
            while time.monotonic() < deadline_s:
                cursor.execute(
                    "select pid from pg_stat_activity where application_name = 'api-test' and wait_event_type = 'Lock'"
                    " and datname = current_database()"
                )
                if found := cursor.fetchone():
                    return int(found[0])
    finally:
        conn.close()
    raise AssertionError("nobody waits")


@pytest.mark.parametrize(
    ("statement", "call", "expected"),
    [
        (
            "delete from hired_employees.jobs where id = 2",
            lambda api: api.post("/api/employees", [ADA, employee(2, job_id=2)]),
            [(1, "job_id.parent_missing")],
        ),
        (
            "insert into hired_employees.hired_employees values (1, 'Other', now(), 1, 1)",
            lambda api: api.post("/api/employees", [ADA, employee(2)]),
            [(0, "id.exists")],
        ),
        (
            "insert into hired_employees.hired_employees values (1, 'Other', now(), 1, 2)",
            lambda api: api.delete("/api/jobs", [1, 2]),
            [(1, "id.in_use")],
        ),
    ],
    ids=["a parent left", "a row came", "a child came"],
)
def test_what_another_writer_does_meanwhile_is_seen_by_the_second_look(
    parents: Api, statement: str, call: Callable[[Api], Answer], expected: list[tuple[int, str]]
) -> None:
    """The statement is undone and made again: each row has the answer that is right now, once."""
    with open_transaction(parents, statement) as other:
        answers: list[Answer] = []
        thread = threading.Thread(target=lambda: answers.append(call(parents)))
        thread.start()
        wait_for_lock(parents)
        other.commit()
        thread.join()
    assert (answers[0].status, codes(answers[0])) == (207, expected)
    assert len(parents.history()) == 1
    assert parents.rollup_is_right()


def test_a_backend_killed_in_the_middle_is_a_503_and_nothing_is_written(parents: Api) -> None:
    """The next request finds a connection that lives."""
    with open_transaction(parents, "insert into hired_employees.hired_employees values (1, 'Other', now(), 1, 1)"):
        answers: list[Answer] = []
        thread = threading.Thread(target=lambda: answers.append(parents.post("/api/employees", [employee(2), ADA])))
        thread.start()
        pid = wait_for_lock(parents)
        superuser = parents.connect("superuser")
        with superuser, superuser.cursor() as cursor:
            cursor.execute("select pg_terminate_backend(%s)", (pid,))
        superuser.close()
        thread.join()
    assert (answers[0].status, answers[0].json["code"]) == (503, "unavailable")
    assert answers[0].headers["retry-after"]
    assert (parents.history(), employees_of(parents)) == ([], 0)
    assert parents.post("/api/employees", [employee(2), ADA]).status == 201


def test_a_writer_who_stands_in_the_way_too_long_is_a_503(parents: Api, database: Any) -> None:
    """The lock's time limit ends the wait; nothing is written."""
    pool = Database(database.url_for("api"), application_name="impatient", lock_timeout_s=0.2)
    impatient = dataclasses.replace(parents, services=dataclasses.replace(parents.services, database=pool))
    with open_transaction(parents, "insert into hired_employees.hired_employees values (1, 'Other', now(), 1, 1)"):
        answer = impatient.post("/api/employees", [ADA])
    pool.close()
    assert (answer.status, answer.json["code"]) == (503, "busy")
    assert parents.history() == []


def test_a_rule_that_only_the_database_knows_refuses_the_batch_without_its_words(parents: Api) -> None:
    """A CHECK of somebody's own: 422, nothing written, no text of the server's."""
    parents.query("alter table hired_employees.jobs add constraint private_name check (job <> 'secret')")
    answer = parents.post("/api/jobs", [{"id": 8, "job": "secret"}, {"id": 9, "job": "x"}])
    assert (answer.status, answer.json["code"]) == (422, "row.invalid")
    assert "private_name" not in answer.text
    assert parents.query("select count(*) from hired_employees.jobs") == [(2,)]


def test_no_value_of_a_row_reaches_the_log(parents: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """Counts and ids of loads do."""
    parents.post("/api/employees", [ADA | {"employee_name": "Zaphod"}, {"employee_name": "Zaphod", "Trillian": 1}])
    out = capsys.readouterr().out
    line = json.loads(out.splitlines()[-1])
    assert (line["rows_inserted"], line["rows_rejected"], line["operation"]) == (1, 1, "batch.add")
    assert "Zaphod" not in out
    assert "Trillian" not in out


def test_a_name_like_sql_is_a_name(parents: Api) -> None:
    """Values are parameters, and what comes back is what was sent."""
    names = ["'; drop table hired_employees.jobs; --", "%s %(rows0)s %%", "\\", "{}", "$1", '"', "é\u2028😀", "\\u0041"]
    rows = [employee(n, employee_name=name) for n, name in enumerate(names, 1)]
    assert parents.post("/api/employees", rows).data == rows
    bad = [row | {"job_id": 99} for row in rows]
    parents.put("/api/employees", bad)
    assert [next(csv.reader([raw]))[1] for _, _, raw in kept(parents)] == names
