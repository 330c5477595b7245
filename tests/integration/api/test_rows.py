"""One row by its id: what a caller may rely on when it reads, puts, changes and removes it."""

from __future__ import annotations

import itertools
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote, unquote

import pytest

from shared.errors import ServiceUnavailable
from shared.events import Event
from shared.rules import BLANKS
from tests.integration.api.conftest import ADA, Api
from tests.integration.api.naughty import NAUGHTY
from tests.integration.api.things import EMPTY, FULL, A, B

BROKEN: list[tuple[str, Any, str]] = [
    ("department_id", "1", "not_integer"),
    ("department_id", 1.0, "not_integer"),
    ("department_id", True, "not_integer"),
    ("department_id", 0, "out_of_range"),
    ("department_id", 2147483648, "out_of_range"),
    ("department_id", None, "missing"),
    ("department_id", [1], "not_integer"),
    ("employee_name", 1, "not_text"),
    ("employee_name", {}, "not_text"),
    ("employee_name", "a\0b", "nul"),
    ("employee_name", "\ud800", "encoding"),
    ("employee_name", "  ", "missing"),
    ("hired_date", 1612325106, "not_timestamp"),
    ("hired_date", "2021-02-03", "no_time"),
    ("hired_date", "2021-02-03T04:05:06", "no_zone"),
    ("hired_date", "now", "not_timestamp"),
]
NO_JSON = [
    b"", b" ", b"{", b"{]", b"nul", b'{"id": NaN}', b'{"id": Infinity}', b'{"id": 01}', b'{"id": 1,}', b"{'id': 1}",
    b'{"id": 1, "id": 1}', b'{"data": {"id": 1, "id": 2}}', b"\xff\xfe{}", b'{"employee_name": "\xff"}', b"[" * 100_000,
    b'{"a":' * 100_000, b'{"id": 1} {}', b'"\x01"', b"\0", '{"id": 1}'.encode("utf-16"),
]  # fmt: skip
ODD_VALUES = ["1e400", "-0", "1" * 4000, "1e999999999999", "0.1", "[[]]", '"\\ud800\\udc00"', '"\\ud800"']
KEYS = ["a b", "a/b", "ü/😀", "a\r\nSet-Cookie: x=y", "'; drop table x;--", "%41", "a?b#c", "..", "x" * 500]
EMPLOYEES = "/api/employees"


@pytest.fixture
def ada(parents: Api) -> Api:
    """The API with one employee."""
    assert parents.put(f"{EMPLOYEES}/1", ADA).status == 201
    return parents


def codes(answer: Any) -> list[tuple[str, str]]:
    assert (answer.status, answer.json["code"]) == (422, "row.invalid"), answer.text
    return [(error["pointer"], error["code"]) for error in answer.json["errors"]]


# Reading


def test_a_row_is_read_with_its_tag(ada: Api) -> None:
    """The row stands in data, the tag is strong, and it is the same as long as the row is."""
    answer = ada.get(f"{EMPLOYEES}/1")
    assert (answer.status, answer.json) == (200, {"data": ADA})
    assert len(answer.headers["etag"]) == 34
    assert ada.get(f"{EMPLOYEES}/1").headers["etag"] == answer.headers["etag"]
    ada.patch(f"{EMPLOYEES}/1", {"employee_name": "Ada L."})
    assert ada.get(f"{EMPLOYEES}/1").headers["etag"] != answer.headers["etag"]


def test_times_are_answered_in_utc_with_the_digits_they_have(ada: Api) -> None:
    """Whatever offset they came with."""
    ada.put(f"{EMPLOYEES}/1", ADA | {"hired_date": "2021-02-03T04:05:06.120+02:30"})
    assert ada.get(f"{EMPLOYEES}/1").data["hired_date"] == "2021-02-03T01:35:06.12Z"


def test_a_row_that_the_caller_has_is_not_sent_again(ada: Api) -> None:
    """304 without body, with the tag (RFC 9110, 13.1.2)."""
    tag = ada.get(f"{EMPLOYEES}/1").headers["etag"]
    for known in ('"{}"', 'W/"{}"', '"x", "{}"', "*"):
        answer = ada.get(f"{EMPLOYEES}/1", if_none_match=known.format(tag.strip('"')))
        assert (answer.status, answer.text, answer.headers["etag"]) == (304, "", tag), known


def test_a_row_that_the_caller_has_in_another_state_is_sent(ada: Api) -> None:
    """A tag that cannot be read names nothing."""
    for other in ('"x"', 'W/"x"', "x", "", '"x'):
        assert ada.get(f"{EMPLOYEES}/1", if_none_match=other).status == 200, other


def test_head_tells_what_get_would(ada: Api) -> None:
    """Status and tag; the server leaves the body out."""
    assert ada.call("HEAD", f"{EMPLOYEES}/1").headers["etag"] == ada.get(f"{EMPLOYEES}/1").headers["etag"]
    assert ada.call("HEAD", f"{EMPLOYEES}/2").status == 404


def test_some_columns_can_be_asked_for(ada: Api) -> None:
    """In the order that was asked for, under the tag of the whole row."""
    answer = ada.get(f"{EMPLOYEES}/1?select=job_id,id")
    assert answer.text == '{"data":{"job_id":1,"id":1}}'
    assert answer.headers["etag"] == ada.get(f"{EMPLOYEES}/1").headers["etag"]


@pytest.mark.parametrize(
    "query", ["select=", "select=id,id", "select=nothing", "select=id&select=id", "x=1", "id=eq.1"]
)
def test_a_parameter_that_is_not_understood_is_refused(ada: Api, query: str) -> None:
    """400, naming it."""
    answer = ada.get(f"{EMPLOYEES}/1?{query}")
    assert (answer.status, answer.json["code"]) == (400, "request.parameter")
    assert answer.json["errors"][0]["parameter"] == query.partition("=")[0]


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_an_id_that_no_row_has_is_not_found(ada: Api, method: str) -> None:
    """404 with the id, also where no row could ever have it."""
    for key in ("2", "0", "-1", "2147483648", "9" * 5000, "abc", "1;", "%00", "%ff", "1'", "%D9%A1", "1.0", "1%0A2"):
        answer = ada.call(method, f"{EMPLOYEES}/{key}", {} if method == "PATCH" else None)
        assert (answer.status, answer.json["code"]) == (404, "row.not_found"), key
        assert unquote(key)[:100] in answer.json["detail"]


def test_only_json_is_offered_for_a_row(ada: Api) -> None:
    """406 names what is."""
    assert ada.get(f"{EMPLOYEES}/1", accept="text/html, application/*;q=0.1").status == 200
    answer = ada.get(f"{EMPLOYEES}/1", accept="text/csv")
    assert (answer.status, answer.json["code"]) == (406, "request.not_acceptable")
    assert "application/json" in answer.json["detail"]


# Putting


def test_put_makes_a_row_and_says_where(parents: Api) -> None:
    """201 with Location, the row and its tag; the body need not repeat the id."""
    row = {name: value for name, value in ADA.items() if name != "id"}
    answer = parents.put(f"{EMPLOYEES}/7", {"data": row})
    assert (answer.status, answer.headers["location"], answer.data) == (201, f"{EMPLOYEES}/7", ADA | {"id": 7})
    assert parents.get(answer.headers["location"]).headers["etag"] == answer.headers["etag"]


def test_put_replaces_the_whole_row(ada: Api) -> None:
    """200; a bare object is taken as well as one in data, and no other row is touched."""
    ada.put(f"{EMPLOYEES}/2", ADA | {"id": 2})
    answer = ada.put(f"{EMPLOYEES}/1", ADA | {"employee_name": "Grace", "job_id": 2})
    assert (answer.status, answer.data["employee_name"], answer.data["job_id"]) == (200, "Grace", 2)
    assert "location" not in answer.headers
    assert ada.employees() == [(1, "Grace"), (2, "Ada")]
    assert ada.rollup_is_right()


def test_the_id_in_the_body_is_that_of_the_path(ada: Api) -> None:
    """A row keeps its id."""
    for method in ("PUT", "PATCH"):
        answer = ada.call(method, f"{EMPLOYEES}/1", ADA | {"id": 2})
        assert codes(answer) == [("/id", "id.key_changed")]
    assert ada.patch(f"{EMPLOYEES}/1", {"id": 1, "job_id": 2}).status == 200


def test_every_reason_is_told_at_once(parents: Api) -> None:
    """What a value breaks, what is missing, what is unknown, and which parents are not there; nothing is written."""
    row = {"id": 9, "employee_name": " ", "hired_date": "2021-02-30T00:00:00Z", "department_id": 99, "job": 1}
    assert codes(parents.put(f"{EMPLOYEES}/9", {"data": row})) == [
        ("/data/job", "record.unknown_column"),
        ("/data/employee_name", "employee_name.missing"),
        ("/data/hired_date", "hired_date.not_timestamp"),
        ("/data/job_id", "job_id.missing"),
        ("/data/department_id", "department_id.parent_missing"),
    ]
    assert codes(parents.put(f"{EMPLOYEES}/9", ADA | {"id": 9, "department_id": 98, "job_id": 99})) == [
        ("/department_id", "department_id.parent_missing"),
        ("/job_id", "job_id.parent_missing"),
    ]
    assert parents.employees() == []


def test_a_value_that_breaks_its_rule_is_told(parents: Api) -> None:
    """An id is a number, a time a text: the rules are those of files."""
    for column, value, code in BROKEN:
        answer = parents.put(f"{EMPLOYEES}/1", ADA | {column: value})
        assert codes(answer) == [(f"/{column}", f"{column}.{code}")]


def test_a_row_that_is_no_object_is_told(parents: Api) -> None:
    """422 for what is JSON but no row."""
    for body in ([], [ADA], "x", 1, int("1" * 4000), None, {"data": []}, {"data": None}):
        answer = parents.put(f"{EMPLOYEES}/1", json.dumps(body).encode())
        assert [code for _, code in codes(answer)] == ["record.not_object"]


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_a_body_that_is_no_json_is_refused(ada: Api, method: str) -> None:
    """400, and what is wrong with it; never a defect."""
    for body in NO_JSON:
        answer = ada.call(method, f"{EMPLOYEES}/1", body)
        assert (answer.status, answer.json["code"]) == (400, "request.malformed"), body[:20]
    assert ada.employees() == [(1, "Ada")]


@pytest.mark.parametrize(
    "value", ["1e400", "-0", "1" * 4000, "1e999999999999", "0.1", "[[]]", '"\\ud800\\udc00"', '"\\ud800"']
)
def test_whatever_stands_in_a_value_is_no_defect(ada: Api, value: str) -> None:
    """A number of any size, half a character: a rule is broken, or none is."""
    for name in ADA:
        body = json.dumps(ADA | {name: "#"}).replace('"#"', value).encode()
        assert ada.put(f"{EMPLOYEES}/1", body).status in (200, 422)


def test_a_byte_order_mark_and_a_charset_do_no_harm(parents: Api) -> None:
    """RFC 8259, 8.1: a reader may pass it over."""
    body = b"\xef\xbb\xbf" + json.dumps(ADA).encode()
    assert parents.put(f"{EMPLOYEES}/1", body, content_type="application/json; charset=UTF-8").status == 201
    assert parents.put(f"{EMPLOYEES}/1", body, content_type="").status == 200


def test_another_media_type_is_refused(ada: Api) -> None:
    """415, naming what is taken."""
    for content_type in ("text/plain", "application/xml", "application/json; charset=latin-1"):
        answer = ada.put(f"{EMPLOYEES}/1", ADA, content_type=content_type)
        assert (answer.status, answer.json["code"]) == (415, "request.media_type"), content_type
    assert ada.patch(f"{EMPLOYEES}/1", {"job_id": 2}, content_type="application/merge-patch+json").status == 200


def test_a_caller_can_do_without_the_row(parents: Api) -> None:
    """Prefer: return=minimal gives the tag and Location alone."""
    made = parents.put(f"{EMPLOYEES}/1", ADA, prefer="return=minimal")
    assert (made.status, made.text, made.headers["preference-applied"]) == (201, "", "return=minimal")
    again = parents.put(f"{EMPLOYEES}/1", ADA, prefer="return=minimal")
    assert (again.status, again.text, again.headers["etag"]) == (204, "", made.headers["etag"])


def test_any_text_comes_back_as_it_went_in(parents: Api) -> None:
    """But for blanks around it, which are trimmed as in files."""
    for text in NAUGHTY:
        parents.put(f"{EMPLOYEES}/1", ADA | {"employee_name": text})
        assert parents.get(f"{EMPLOYEES}/1").data["employee_name"] == text.strip(BLANKS)
        assert parents.employees() == [(1, text.strip(BLANKS))]


# Changing


def test_patch_changes_what_it_names(ada: Api) -> None:
    """And leaves the rest; an empty one changes nothing, and the roll-up follows."""
    before = ada.get(f"{EMPLOYEES}/1").headers["etag"]
    assert ada.patch(f"{EMPLOYEES}/1", {}).headers["etag"] == before
    answer = ada.patch(f"{EMPLOYEES}/1", {"data": {"job_id": 2}})
    assert (answer.status, answer.data) == (200, ADA | {"job_id": 2})
    assert answer.headers["etag"] != before
    assert ada.rollup_is_right()


def test_patch_is_judged_as_a_whole_row_is(ada: Api) -> None:
    """null empties a column, which one that is required does not take."""
    assert codes(ada.patch(f"{EMPLOYEES}/1", {"job_id": None, "department_id": 99, "x": 1})) == [
        ("/x", "record.unknown_column"),
        ("/job_id", "job_id.missing"),
        ("/department_id", "department_id.parent_missing"),
    ]
    assert ada.get(f"{EMPLOYEES}/1").data == ADA


def test_patch_makes_no_row(parents: Api) -> None:
    """404, whatever its body is."""
    for body in (ADA, {"x": 1}):
        assert parents.patch(f"{EMPLOYEES}/1", body).status == 404


# Removing


def test_delete_removes_one_row(ada: Api) -> None:
    """204 without body; 404 the second time."""
    answer = ada.delete(f"{EMPLOYEES}/1")
    assert (answer.status, answer.text) == (204, "")
    assert ada.delete(f"{EMPLOYEES}/1").status == 404
    assert ada.rollup_is_right()


def test_a_parent_in_use_stays_and_its_users_are_counted(ada: Api) -> None:
    """409 says how many rows of which table; without them it goes."""
    ada.put(f"{EMPLOYEES}/2", ADA | {"id": 2})
    answer = ada.delete("/api/departments/1")
    assert (answer.status, answer.json["code"]) == (409, "row.in_use")
    assert answer.json["in_use"] == [{"table": "employees", "column": "department_id", "rows": 2}]
    assert "2 of employees" in answer.json["detail"]
    assert ada.delete("/api/departments/3").status == 204
    for key in (1, 2):
        ada.delete(f"{EMPLOYEES}/{key}")
    assert ada.delete("/api/departments/1").status == 204


# Conditions


def test_a_row_as_it_was_read_may_be_written(ada: Api) -> None:
    """If-Match takes one tag, a list, or any row that is there."""
    for form, method in itertools.product(('"{}"', '"x", "{}"', "*", ' "{}" ,"y"'), ("PUT", "PATCH", "DELETE")):
        tag = ada.get(f"{EMPLOYEES}/1").headers["etag"].strip('"')
        body = None if method == "DELETE" else ADA | {"employee_name": method}
        answer = ada.call(method, f"{EMPLOYEES}/1", body, if_match=form.format(tag))
        assert answer.status == (204 if method == "DELETE" else 200), (form, method)
        if method == "DELETE":
            ada.put(f"{EMPLOYEES}/1", ADA)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_a_row_that_somebody_changed_is_not_written(ada: Api, method: str) -> None:
    """412; a weak tag matches nothing, not even the right one."""
    tag = ada.get(f"{EMPLOYEES}/1").headers["etag"]
    ada.patch(f"{EMPLOYEES}/1", {"employee_name": "Grace"})
    weak = "W/" + ada.get(f"{EMPLOYEES}/1").headers["etag"]
    for condition in (tag, weak, '""', f'"x", {weak}'):
        answer = ada.call(method, f"{EMPLOYEES}/1", None if method == "DELETE" else ADA, if_match=condition)
        assert (answer.status, answer.json["code"]) == (412, "request.precondition")
    assert ada.employees() == [(1, "Grace")]


def test_a_condition_that_cannot_be_read_is_refused(ada: Api) -> None:
    """400: to write all the same could be what the caller wants to prevent."""
    for condition, method in itertools.product(("x", "", '"x', '"a" "b"', "9c1f, *"), ("PUT", "PATCH", "DELETE")):
        answer = ada.call(method, f"{EMPLOYEES}/1", None if method == "DELETE" else ADA, if_match=condition)
        assert (answer.status, answer.json["errors"][0]["header"]) == (400, "If-Match"), condition


def test_if_match_needs_a_row(parents: Api) -> None:
    """PUT makes none under a condition: 412; PATCH and DELETE find none: 404."""
    assert parents.put(f"{EMPLOYEES}/1", ADA, if_match="*").status == 412
    assert parents.patch(f"{EMPLOYEES}/1", ADA, if_match="*").status == 404
    assert parents.delete(f"{EMPLOYEES}/1", if_match='"x"').status == 404
    assert parents.employees() == []


def test_a_row_can_be_put_only_if_it_is_new(parents: Api) -> None:
    """If-None-Match: * makes it once."""
    assert parents.put(f"{EMPLOYEES}/1", ADA, if_none_match="*").status == 201
    answer = parents.put(f"{EMPLOYEES}/1", ADA | {"employee_name": "Grace"}, if_none_match="*")
    assert (answer.status, answer.json["code"]) == (412, "request.precondition")
    assert parents.employees() == [(1, "Ada")]
    assert parents.put(f"{EMPLOYEES}/1", ADA, if_none_match='"x"').status == 400
    assert parents.patch(f"{EMPLOYEES}/1", ADA, if_none_match="*").status == 400


def test_of_writers_with_one_tag_one_wins(ada: Api) -> None:
    """The check is inside the statement: no update is lost, however they interleave."""
    for _ in range(10):
        tag = ada.get(f"{EMPLOYEES}/1").headers["etag"]
        barrier = threading.Barrier(6)

        def write(number: int, tag: str = tag, barrier: threading.Barrier = barrier) -> int:
            barrier.wait()
            return ada.patch(f"{EMPLOYEES}/1", {"employee_name": f"{tag} {number}"}, if_match=tag).status

        with ThreadPoolExecutor(6) as pool:
            assert sorted(pool.map(write, range(6))) == [200] + [412] * 5


def test_of_makers_of_a_new_row_one_wins(parents: Api) -> None:
    """Of those that put it at the same time."""
    for key in range(10, 20):
        barrier = threading.Barrier(6)

        def make(_: int, key: int = key, barrier: threading.Barrier = barrier) -> int:
            barrier.wait()
            return parents.put(f"{EMPLOYEES}/{key}", ADA | {"id": key}, if_none_match="*").status

        with ThreadPoolExecutor(6) as pool:
            assert sorted(pool.map(make, range(6))) == [201] + [412] * 5


def test_a_row_and_its_parent_race_to_a_clean_end(parents: Api) -> None:
    """One is written while the other is removed: never an orphan, never a defect."""
    for key in range(10, 30):
        parents.put(f"/api/departments/{key}", {"departments": "x"})
        barrier = threading.Barrier(2)

        def put(key: int = key, barrier: threading.Barrier = barrier) -> int:
            barrier.wait()
            return parents.put(f"{EMPLOYEES}/{key}", ADA | {"id": key, "department_id": key}).status

        def remove(key: int = key, barrier: threading.Barrier = barrier) -> int:
            barrier.wait()
            return parents.delete(f"/api/departments/{key}").status

        with ThreadPoolExecutor(2) as pool:
            ends = pool.submit(put), pool.submit(remove)
            assert tuple(end.result() for end in ends) in {(201, 409), (422, 204)}


# Rows that wait


def park(api: Api, waits_for: str) -> None:
    api.query(
        "insert into ingest_status.pending (load_id, record_number, line_number, byte_offset, byte_length, table_name,"
        " row_key, waits_on, waits_for, raw) values (1, 1, 1, 0, 1, 'hired_employees', '5', 'department_id', %s, 'x')",
        waits_for,
    )


def test_a_parent_that_is_awaited_wakes_those_that_wait(api: Api) -> None:
    """One event for the drain, when it is new and some row waits for that very one."""
    park(api, "7")
    api.put("/api/departments/6", {"departments": "Six"})
    assert api.sent == []
    api.put("/api/departments/7", {"departments": "Seven"})
    api.put("/api/departments/7", {"departments": "Seven again"})
    assert [event.type for event in api.sent] == ["dev.rowdock.pending.drain.v1"]


def test_a_wake_up_that_cannot_be_sent_does_not_fail_the_request(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """The trigger's own wake-up is there for the sweep; the log says so."""

    def refuse(_event: Event) -> None:
        raise ServiceUnavailable("nobody there")

    object.__setattr__(api.services, "send", refuse)
    park(api, "7")
    assert api.put("/api/departments/7", {"departments": "Seven"}).status == 201
    assert json.loads(capsys.readouterr().out)["drain_not_asked_for"] == "service.unavailable"
    assert api.query("select count(*) > 0 from ingest_status.wakeups") == [(True,)]


# Any table


def test_every_type_comes_back_as_it_went_in(things: Api) -> None:
    """Numbers to their last digit, null where nothing is, a row that is its own parent."""
    assert things.put(f"/api/things/{A}", {"data": FULL}).status == 201
    assert things.get(f"/api/things/{A}").data == FULL
    exact = b'{"amount": 1234567890123456789012345678.91, "r": -9223372036854775808, "data": {"n": 1.10, "m": 1e-7}}'
    answer = things.patch(f"/api/things/{A}", exact)
    assert '"amount":1234567890123456789012345678.91' in answer.text
    assert '"n": 1.10' in answer.text
    assert answer.data["r"] == -9223372036854775808
    empty = things.put(f"/api/things/{A}", {"data": {}})
    assert (empty.status, empty.data) == (200, {"code": A, **EMPTY})


def test_a_key_of_another_type_names_its_row(things: Api) -> None:
    """In any of its spellings; Location has the one."""
    answer = things.put(f"/api/things/{A.upper()}", {"data": {}})
    assert (answer.status, answer.headers["location"]) == (201, f"/api/things/{A}")
    assert things.put(f"/api/things/{A}", {"data": {"code": A.upper()}}).status == 200
    assert things.get("/api/things/nothing").status == 404
    assert things.get(f"/api/things/{B}").status == 404


def test_optional_parents_may_be_absent_but_not_wrong(things: Api) -> None:
    """A reference to the row itself is one, to another that is not there is none."""
    assert codes(things.put(f"/api/things/{A}", {"data": {"part_of": B, "employee_id": 1}})) == [
        ("/data/part_of", "part_of.parent_missing"),
        ("/data/employee_id", "employee_id.parent_missing"),
    ]
    assert things.put(f"/api/things/{A}", {"data": {"part_of": A}}).status == 201
    assert things.put(f"/api/things/{B}", {"data": {"part_of": A}}).status == 201
    assert things.delete(f"/api/things/{A}").json["in_use"] == [{"table": "things", "column": "part_of", "rows": 2}]


@pytest.mark.parametrize(
    "key", ["a b", "a/b", "ü/😀", "a\r\nSet-Cookie: x=y", "'; drop table x;--", "%41", "a?b#c", "..", "x" * 500]
)
def test_a_text_as_key_does_no_harm_in_path_and_header(things: Api, key: str) -> None:
    """Location leads back to the row, and is one line of ASCII."""
    answer = things.put(f"/api/words/{quote(key, safe='')}", {"data": {"rank": 1}})
    assert (answer.status, answer.data) == (201, {"word": key, "rank": 1})
    location = answer.headers["location"]
    assert location.isascii()
    assert location.isprintable()
    assert things.call("GET", location).data == {"word": key, "rank": 1}


def test_no_value_of_a_row_reaches_the_log(ada: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither of one that is written nor of one that is refused."""
    ada.put(f"{EMPLOYEES}/2", ADA | {"id": 2, "employee_name": "Secretia"})
    ada.put(f"{EMPLOYEES}/2", ADA | {"id": 2, "employee_name": "Secretia", "job_id": 99})
    ada.get(f"{EMPLOYEES}/Secretia")
    assert "Secretia" not in capsys.readouterr().out
