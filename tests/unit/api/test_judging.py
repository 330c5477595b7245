"""Rows as JSON: JSON's own types, and then the one definition of the rules, however short the way to a verdict is."""

from __future__ import annotations

import csv
import io
import json
import random
import re
from itertools import groupby
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from functions.api import bodies
from functions.api.judging import Fault, Judged, Number, judge_of, judge_row
from functions.api.messages import Request
from functions.api.problems import Problem
from functions.api.records import as_record
from shared import dictionary, rules
from shared.dictionary import Column, Table
from tests.judging import ALL_VECTORS, Vector, table_of

EMPLOYEES = dictionary.load().tables["hired_employees"]
ADA = {"id": 1, "employee_name": "Ada", "hired_date": "2021-02-03T04:05:06Z", "department_id": 1, "job_id": 1}
JSON_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)\Z")
TEXT_KINDS = ("text", "timestamptz", "date", "uuid", "numeric")
BY_COLUMN = [(column, list(group)) for column, group in groupby(ALL_VECTORS, key=lambda v: v.column)]


def table_for(column: Column) -> Table:
    made = table_of({"key": {"type": "integer"}, "value": {"type": "text"}})
    return Table(
        key=made.key, schema="s", api_name="things", file_pattern="t", primary_key="key",
        columns=(made.columns[0], column),
    )  # fmt: skip


def verdict(column: Column, value: Any) -> tuple[str | None, str | None]:
    """As ``rules.judge`` gives it, but for the value's canonical text; of JSON that document."""
    judged = judge_row(table_for(column), {"key": 1, column.name: value})
    if judged.faults:
        assert [fault.member for fault in judged.faults] == [column.name]
        return None, judged.faults[0].code.removeprefix(f"{column.name}.")
    wire = judged.values[column.name]
    text = {True: "true", False: "false"}.get(wire, str(wire)) if isinstance(wire, bool) else str(wire)
    return ("" if wire is None else text), None


def defined(column: Column, text: str) -> tuple[str | None, str | None]:
    value, code = rules.judge(column, text)
    return (None, code) if code else ("" if value is None else rules.canonical(value), None)


@pytest.mark.parametrize(
    ("column", "group"),
    [(column, group) for column, group in BY_COLUMN if column.kind in TEXT_KINDS],
    ids=lambda found: found.name if isinstance(found, Column) else "",
)
def test_a_string_is_worth_what_the_vectors_say(column: Column, group: list[Vector]) -> None:
    """Every kind that JSON writes as a string."""
    for vector in group:
        assert verdict(column, vector.text) == (vector.canonical, vector.code), vector


@pytest.mark.parametrize("vector", [v for v in ALL_VECTORS if v.column.minimum is not None], ids=str)
def test_an_integer_is_worth_what_the_vectors_say_and_a_string_is_none(vector: Vector) -> None:
    """What JSON can write as an integer; the same in quotes is another type."""
    assert verdict(vector.column, vector.text)[1] == "not_integer"
    if JSON_INTEGER.match(vector.text):
        assert verdict(vector.column, bodies.parse_json(vector.text.encode())) == defined(vector.column, vector.text)


REFUSED = object()


def read(text: str) -> Any:
    try:
        return bodies.parse_json(text.encode())
    except Problem:
        return REFUSED


@pytest.mark.parametrize("vector", [v for v in ALL_VECTORS if v.column.kind == "jsonb"], ids=str)
def test_a_document_is_worth_what_the_vectors_say(vector: Vector) -> None:
    """What is no JSON in a file is refused with the whole body; the rest by the same rule."""
    value = read(vector.text)
    if value is REFUSED:  # a member that comes twice has two meanings in a body, where jsonb takes the last
        assert vector.code is not None or vector.text == '{"a": 1, "a": 2}'
        return
    text, code = verdict(vector.column, value)
    if value is None:
        assert code == "missing"
    elif vector.code is None:
        assert code is None
        assert json.loads(text or "") == json.loads(vector.canonical or "")
    else:
        assert code == vector.code


@pytest.mark.parametrize(
    ("kind", "value", "code"),
    [
        ("integer", "true", "not_integer"),
        ("integer", "1.0", "not_integer"),
        ("integer", '"1"', "not_integer"),
        ("integer", "1e3", "not_integer"),
        ("integer", "[]", "not_integer"),
        ("integer", "{}", "not_integer"),
        ("integer", "null", "missing"),
        ("integer", "2147483648", "out_of_range"),
        ("integer", "-0", None),
        ("bigint", "9223372036854775807", None),
        ("bigint", "9" * 5000, "out_of_range"),
        ("bigint", "9" * 40, "out_of_range"),
        ("text", "1", "not_text"),
        ("text", "1.5", "not_text"),
        ("text", "true", "not_text"),
        ("text", "[]", "not_text"),
        ("text", '""', "missing"),
        ("text", '" \\t"', "missing"),
        ("text", '"\\u0000"', "nul"),
        ("text", '"\\ud800"', "encoding"),
        ("text", '"\\ud83d\\ude00"', None),
        ("text", "null", "missing"),
        ("timestamptz", "0", "not_timestamp"),
        ("timestamptz", "true", "not_timestamp"),
        ("date", "20210101", "not_date"),
        ("uuid", "1", "not_uuid"),
        ("boolean", "1", "not_boolean"),
        ("boolean", '"true"', "not_boolean"),
        ("boolean", "false", None),
        ("numeric(6,2)", "12", None),
        ("numeric(6,2)", "12.50", None),
        ("numeric(6,2)", "1.234", "out_of_range"),
        ("numeric(6,2)", "true", "not_numeric"),
        ("numeric(6,2)", "1e3", None),
        ("numeric(6,2)", "1E-2", None),
        ("numeric(6,2)", "1e4", "out_of_range"),
        ("numeric(6,2)", "1e999999999", "out_of_range"),
        ("numeric(6,2)", "0e999999999", None),
        ("numeric(6,2)", "9" * 5000, "out_of_range"),
        ("numeric(6,2)", "[1]", "not_numeric"),
        ("jsonb", "null", "missing"),
        ("jsonb", "0.10", None),
        ("jsonb", '["\\u0000"]', "not_json"),
        ("jsonb", "[" * 600 + "]" * 600, "not_json"),
        ("jsonb", "9" * 200_000, "not_json"),
    ],
)
def test_each_kind_takes_its_own_type_of_json(kind: str, value: str, code: str | None) -> None:
    """A number in quotes, a one for true, a fraction for a whole number: the sender means something else."""
    column = table_of({"key": {"type": "integer"}, "value": {"type": kind}}).by_name["value"]
    assert verdict(column, bodies.parse_json(value.encode()))[1] == code


def test_a_number_keeps_its_digits() -> None:
    """No binary fraction stands between the body and the database."""
    column = table_of({"key": {"type": "integer"}, "value": {"type": "numeric(40,20)"}}).by_name["value"]
    exact = "12345678901234567890.12345678901234567890"
    assert verdict(column, bodies.parse_json(exact.encode())) == (exact, None)
    document = table_of({"key": {"type": "integer"}, "value": {"type": "jsonb"}}).by_name["value"]
    assert verdict(document, bodies.parse_json(f'{{"a": [{exact}, 1e5]}}'.encode())) == (
        f'{{"a": [{exact}, 1e5]}}',
        None,
    )


def test_every_fault_of_a_row_is_told_at_once() -> None:
    """Those of the record first, then by column."""
    item = {"id": "1", "employee_name": 5, "hired_date": "2021", "department_id": None, "Job": 1, "job_id": 0}
    assert judge_row(EMPLOYEES, item).faults == [
        Fault("record.unknown_column", "Job"),
        Fault("id.not_integer", "id"),
        Fault("employee_name.not_text", "employee_name"),
        Fault("hired_date.not_timestamp", "hired_date"),
        Fault("department_id.missing", "department_id"),
        Fault("job_id.out_of_range", "job_id"),
    ]


@pytest.mark.parametrize("item", [None, 1, "x", [], [1], True, Number("1.5")])
def test_an_item_that_is_no_object_is_told_so(item: Any) -> None:
    assert judge_row(EMPLOYEES, item) == Judged({}, [Fault("record.not_object", None)])


def test_a_change_of_some_columns_is_judged_by_those_alone() -> None:
    assert judge_row(EMPLOYEES, {"job_id": 2}, partial=True) == Judged({"job_id": 2}, [])
    assert judge_row(EMPLOYEES, {"job_id": None}, partial=True).faults == [Fault("job_id.missing", "job_id")]


def test_a_row_may_come_without_its_key_where_one_is_given_to_it() -> None:
    """Absent and null are the same; a key that is there is judged."""
    for item in ({k: v for k, v in ADA.items() if k != "id"}, ADA | {"id": None}):
        judged = judge_row(EMPLOYEES, item, key_required=False)
        assert (judged.faults, "id" in judged.values) == ([], False)
        assert judge_row(EMPLOYEES, item).faults == [Fault("id.missing", "id")]
    assert judge_row(EMPLOYEES, ADA | {"id": 0}, key_required=False).faults == [Fault("id.out_of_range", "id")]


def test_of_many_unknown_members_some_are_named() -> None:
    """A row may have a hundred thousand of them; the answer does not grow with that."""
    item = ADA | {f"x{n}": n for n in range(100_000)}
    assert len(judge_row(EMPLOYEES, item).faults) == 10


ALPHABET = st.text(st.sampled_from("0123456789-:.TZ+ \t\0é\ud800tfruealsn"), max_size=28)
COLUMNS = [column for column, _ in BY_COLUMN if column.kind in TEXT_KINDS]


@given(
    st.sampled_from(COLUMNS), st.one_of(ALPHABET, st.sampled_from([v.text for v in ALL_VECTORS]), st.text(max_size=8))
)
@example(next(c for c in COLUMNS if c.kind == "timestamptz"), "2021-02-29T00:00:00Z")
@settings(max_examples=600, deadline=None)
def test_the_short_ways_say_what_the_rules_say(column: Column, text: str) -> None:
    assert verdict(column, text) == defined(column, text)


def test_the_short_way_of_times_agrees_on_near_misses() -> None:
    """Any one character of a good time replaced by any other."""
    column = EMPLOYEES.by_name["hired_date"]
    rng = random.Random(3)
    for _ in range(20_000):
        text = list("2021-11-07T02:48:42Z")
        for _ in range(rng.randrange(1, 4)):
            text[rng.randrange(len(text))] = rng.choice("0123456789-:TZ. ")
        assert verdict(column, "".join(text)) == defined(column, "".join(text))


def test_texts_are_judged_as_those_of_a_file() -> None:
    """A CSV body: an id is digits there."""
    row = {"id": " 7 ", "employee_name": "Ada", "hired_date": "2021-02-03T04:05:06+01:00", "department_id": "1"}
    judged = judge_of(EMPLOYEES).texts(row)
    assert judged.values == {
        "id": 7, "employee_name": "Ada", "hired_date": "2021-02-03T03:05:06Z", "department_id": 1,
    }  # fmt: skip
    assert judged.faults == [Fault("job_id.missing", "job_id")]


@pytest.mark.parametrize(
    ("item", "kept"),
    [
        (ADA | {"id": True}, "true,Ada,2021-02-03T04:05:06Z,1,1"),
        (ADA | {"employee_name": 'A "B", C\nD', "job_id": "x"}, '1,"A ""B"", C\nD",2021-02-03T04:05:06Z,1,x'),
        (ADA | {"employee_name": None, "id": Number("1.50")}, "1.50,,2021-02-03T04:05:06Z,1,1"),
        ({"id": 1}, "1,,,,"),
        (ADA | {"employee_name": "a\0\ud800"}, "1,a\ufffd\ufffd,2021-02-03T04:05:06Z,1,1"),
    ],
)
def test_a_rejected_row_is_kept_as_a_record_of_its_table(item: dict[str, Any], kept: str) -> None:
    """As a file would have it, so that it is mended and judged again as one."""
    why, raw = as_record(EMPLOYEES, item, judge_row(EMPLOYEES, item).faults)
    assert raw == kept
    assert all(not reason.startswith("record.") for reason in why)
    assert len(next(csv.reader(io.StringIO(raw, newline=""), strict=True))) == 5


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ([1, 2], "record.not_object"),
        ("x", "record.not_object"),
        (ADA | {"salary": 1.5}, "record.unknown_column"),
        (ADA | {"employee_name": ["a", {"b": None}]}, "record.nested"),
    ],
)
def test_what_no_record_can_hold_is_kept_as_json(item: Any, reason: str) -> None:
    """With a reason of the record, so that nobody takes it for one."""
    why, raw = as_record(EMPLOYEES, item, judge_row(EMPLOYEES, item).faults)
    assert why[0] == reason
    assert json.loads(raw) == item


def body_of(content: bytes, media_type: str = "application/json") -> bodies.Sent:
    return bodies.rows(Request("POST", "/", headers={"content-type": media_type}, body=content), EMPLOYEES)


@pytest.mark.parametrize(
    ("content", "pointer"),
    [
        (b'{"data": [{"id": 1}]}', "/data/0/a~1b~0c"),
        (b'{"data": {"id": 1}}', "/data/a~1b~0c"),
        (b'[{"id": 1}]', "/0/a~1b~0c"),
        (b'{"id": 1}', "/a~1b~0c"),
        (b'\xef\xbb\xbf {"data": [{"id": 1}]} ', "/data/0/a~1b~0c"),
    ],
)
def test_a_body_may_have_four_forms_and_pointers_point_into_each(content: bytes, pointer: str) -> None:
    """RFC 6901, with its two escapes."""
    sent = body_of(content)
    assert sent.items == [{"id": 1}]
    assert sent.pointer(0, "a/b~c") == pointer


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b" ",
        b"{",
        b"[1,]",
        b'{"id": 1, "id": 2}',
        b'[{"a": {"b": 1, "b": 1}}]',
        b"NaN",
        b"[Infinity]",
        b"1",
        b"null",
        b'"x"',
        b"true",
        b'{"data": 1}',
        b'{"data": null}',
        b'{"data": [], "more": 1}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"\xff",
        b'["\xed\xa0\x80"]',
        b"[1]x",
        "[{}]".encode("utf-16"),
        b"[1e]",
        b"[01]",
        b"['a']",
        b'["\t"]',
        b"\0[]",
    ],
)
def test_what_is_no_list_of_rows_is_refused(content: bytes) -> None:
    with pytest.raises(Problem) as refused:
        body_of(content)
    assert (refused.value.status, refused.value.code) == (400, "request.malformed")


def test_an_object_of_many_members_with_one_twice_is_refused_at_once() -> None:
    members = ",".join(f'"m{n}":1' for n in range(200_000))
    with pytest.raises(Problem, match="m199999"):
        body_of(f'{{{members},"m199999":2}}'.encode())


def test_lines_of_json_and_records_of_csv_are_rows_too() -> None:
    assert body_of(b'{"id": 1}\n\n{"id": 2}\r\n', "application/x-ndjson").items == [{"id": 1}, {"id": 2}]
    header = b"job_id,id\r\n"
    sent = body_of(header + b'1,"2"\n\n3\n', "text/csv; charset=UTF-8")
    assert [item.fields for item in sent.items] == [{"job_id": "1", "id": "2"}, None]
    assert sent.items[1].raw == ["3"]


@pytest.mark.parametrize(
    ("content", "media_type"),
    [
        (b'{"id": 1}\n{"id"', "application/x-ndjson"),
        (b"", "text/csv"),
        (b"id,salary\n1,2\n", "text/csv"),
        (b"id,id\n1,2\n", "text/csv"),
        (b'id\n"1', "text/csv"),
        (b'id\n"1"2\n', "text/csv"),
    ],
)
def test_lines_that_cannot_be_read_refuse_the_body(content: bytes, media_type: str) -> None:
    with pytest.raises(Problem) as refused:
        body_of(content, media_type)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/xml", "application/json; charset=latin-1", "json", "/"]
)
def test_another_media_type_is_told_what_is_taken(media_type: str) -> None:
    with pytest.raises(Problem, match="application/json, application/x-ndjson, text/csv") as refused:
        body_of(b"[]", media_type)
    assert (refused.value.status, refused.value.headers["Accept-Post"]) == (
        415, "application/json, application/x-ndjson, text/csv",
    )  # fmt: skip
