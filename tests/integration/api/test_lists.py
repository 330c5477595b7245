"""Lists: what a caller may rely on when it filters, sorts and turns pages."""

from __future__ import annotations

import base64
import csv
import io
import json
import operator
import random
import re
import threading
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from functools import cmp_to_key
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.api.conftest import Answer, Api
from tests.integration.api.naughty import NAUGHTY

EMPLOYEES = "/api/employees"
NO_ORDER = ["", "nothing", "id,id", "id,-id", "id,", "--id", "+id", "id desc", "id;", "id nulls first"]
NO_FILTER = [
    "",
    "1",
    "eq",
    "eq.",
    "eq.x",
    "eq.0",
    "eq.2147483648",
    "eq.1.0",
    "eq.'1'",
    "like.1",
    "is.true",
    "is.",
    "in.1",
    "in.()",
    "in.(1",
    "in.(1,)",
    'in.("1"x)',
    'in.("1)',
    "not.eq.1",
    "EQ.1",
    "eq. ",
    "eq.1;drop table x",
    "=.1",
    "gt.null",
    "eq.1%00",
    "in.(" + ",".join(["1"] * 201) + ")",
]
ODD_VALUES: list[Any] = ["x", "", "1e5", "9" * 30, "\0", "\ud800", 1, [], {}, True]
ATTACKS = [
    "1'--",
    "1;drop table hired_employees.hired_employees",
    "'; select pg_sleep(9)--",
    "1) or (1=1",
    "%s",
    "%(size)s",
    "%(filter0)s",
    "{size}",
    "$1",
    '"',
    "\\",
    "t.*",
    "id from x--",
    "pg_sleep(9)",
    "(select 1)",
    "null",
    "1::text",
    "#",
]
A_CSV = "text/csv; charset=utf-8; header=present"
ACCEPTED: dict[str, str | None] = {
    "": "application/json",
    "*/*": "application/json",
    "text/csv": A_CSV,
    "text/*": A_CSV,
    "TEXT/CSV; header=present": A_CSV,
    "application/json;q=0.5, text/csv;q=0.8": A_CSV,
    "application/json;q=0, */*": A_CSV,
    "text/html, application/xhtml+xml, */*;q=0.8": "application/json",
    "application/x-ndjson, application/json;q=0.9": "application/x-ndjson",
    "text/html": None,
    "application/json;q=0": None,
    "text/csv;q=nonsense": None,
    "*/*;q=0": None,
}
NULLABLE = ("t", "r", "amount", "permanent", "made_on", "seen_at")


def uuid_of(number: int) -> str:
    return str(UUID(int=number))


def pages(api: Api, target: str, **headers: str) -> Iterator[Answer]:
    """Every page from ``target`` on, by the link in the header."""
    while True:
        answer = api.get(target, **headers)
        assert answer.status == 200, answer.text
        yield answer
        if "link" not in answer.headers:
            return
        found = re.fullmatch(r'<(\S+)>; rel="next"', answer.headers["link"])
        assert found
        target = found[1]


def rows_of(api: Api, target: str) -> list[dict[str, Any]]:
    return [row for page in pages(api, target) for row in page.data]


def refusal(answer: Answer) -> str:
    """The parameter that a refused request is told of."""
    assert (answer.status, answer.json["code"]) == (400, "request.parameter"), answer.text
    return str(answer.json["errors"][0]["parameter"])


@pytest.fixture
def employees(parents: Api) -> Api:
    """The API with 250 employees."""
    parents.query(
        "insert into hired_employees.hired_employees"
        " select n, 'Name ' || n, timestamptz '2021-01-01 00:00Z' + n * interval '1 day', 1 + n % 3, 1 + n % 2"
        " from generate_series(1, 250) n"
    )
    return parents


@pytest.fixture
def mixed(things: Api) -> Api:
    """Things of which many have equal values, and many have none."""
    dice = random.Random(4)
    for number in range(1, 61):
        row = {
            "t": dice.choice([None, "a", "b", "ab"]),
            "r": dice.choice([None, -1, 0, 2**62]),
            "amount": dice.choice([None, "1.50", "-2.25", "12345678901234567890.01"]),
            "permanent": dice.choice([None, True, False]),
            "made_on": dice.choice([None, "2021-01-01", "2021-12-31"]),
            "seen_at": dice.choice([None, "2021-01-01T00:00:00Z", "2021-01-01T00:00:00.000001Z"]),
        }
        things.query(
            "insert into hired_employees.things (code, t, r, amount, permanent, made_on, seen_at)"
            " values (%s, %s, %s, %s, %s, %s, %s)",
            uuid_of(number),
            *row.values(),
        )
    return things


# Pages


def test_a_list_has_a_hundred_rows_by_id_and_the_way_to_the_next(employees: Api) -> None:
    """The token stands in the body and in the link; the last page has none."""
    first, second, third = pages(employees, EMPLOYEES)
    assert [len(page.data) for page in (first, second, third)] == [100, 100, 50]
    assert [row["id"] for page in (first, second, third) for row in page.data] == list(range(1, 251))
    assert first.data[0] == {
        "id": 1, "employee_name": "Name 1", "hired_date": "2021-01-02T00:00:00Z", "department_id": 2, "job_id": 2,
    }  # fmt: skip
    assert (
        dict(parse_qsl(urlsplit(first.headers["link"][1:].partition(">")[0]).query))["page_token"]
        == (first.json["next_page_token"])
    )
    assert third.json["next_page_token"] is None
    assert "count" not in first.json


def test_a_list_of_nothing_is_one(api: Api) -> None:
    """An empty list, and no next page."""
    assert api.get(EMPLOYEES).json == {"data": [], "next_page_token": None}
    assert api.get(f"{EMPLOYEES}?page_token=").json == {"data": [], "next_page_token": None}
    assert api.get(EMPLOYEES, accept="application/x-ndjson").text == ""
    assert api.get("/api/jobs", accept="text/csv").text == "id,job\r\n"


def test_a_page_that_is_just_full_is_the_last(employees: Api) -> None:
    """No empty page follows."""
    sizes = [len(page.data) for page in pages(employees, f"{EMPLOYEES}?page_size=125")]
    assert sizes == [125, 125]


def test_the_size_of_a_page_can_be_chosen(employees: Api) -> None:
    """More than 1000 are taken for 1000; what is no number of rows is refused; it may change between pages."""
    for size in ("1000", "1001", "9" * 500, "0250"):
        assert len(employees.get(f"{EMPLOYEES}?page_size={size}").data) == 250
    for size in ("0", "-1", "", "x", "1.5", "1e3", "%D9%A1", "00", "1%0A"):
        assert refusal(employees.get(f"{EMPLOYEES}?page_size={size}")) == "page_size"
    token = employees.get(f"{EMPLOYEES}?page_size=10").json["next_page_token"]
    assert [row["id"] for row in employees.get(f"{EMPLOYEES}?page_size=2&page_token={token}").data] == [11, 12]


def test_every_row_that_stays_is_seen_once_while_others_come_and_go(employees: Api) -> None:
    """However the pages are sorted: a page goes on after a row, not after a number of rows."""
    employees.query("delete from hired_employees.hired_employees where id % 2 = 0")
    stays = set(range(1, 251, 2))
    over = threading.Event()

    def disturb() -> None:
        dice = random.Random(1)
        while not over.is_set():
            number = dice.randrange(2, 251, 2)
            row = {"employee_name": str(number), "hired_date": "2021-05-05T00:00:00Z", "department_id": 1, "job_id": 1}
            employees.put(f"{EMPLOYEES}/{number}", row)
            employees.delete(f"{EMPLOYEES}/{dice.randrange(2, 251, 2)}")

    disturber = threading.Thread(target=disturb)
    disturber.start()
    try:
        for sort in ("id", "-id", "employee_name", "department_id,-hired_date", "-job_id,department_id"):
            seen = [row["id"] for row in rows_of(employees, f"{EMPLOYEES}?page_size=7&sort={sort}")]
            assert sorted(number for number in seen if number in stays) == sorted(stays), sort
    finally:
        over.set()
        disturber.join()


# Tokens


def test_a_token_of_another_list_is_refused(employees: Api) -> None:
    """Other filters, another order, another table; columns and size may change."""
    token = employees.get(f"{EMPLOYEES}?sort=-job_id&department_id=eq.1&page_size=5").json["next_page_token"]
    for query in ("", "sort=-job_id", "sort=job_id&department_id=eq.1", "sort=-job_id&department_id=eq.2"):
        answer = employees.get(f"{EMPLOYEES}?{query}&page_token={token}")
        assert (answer.status, answer.json["code"]) == (400, "request.page_token")
    assert employees.get(f"/api/jobs?page_token={token}").status == 400
    assert employees.get(f"{EMPLOYEES}?select=id&department_id=eq.1&sort=-job_id&page_token={token}").status == 200


def test_a_token_that_was_tampered_with_is_refused_or_a_place(things: Api) -> None:
    """Never a defect, whatever it holds: it is no secret, so a caller may make one up."""
    for number in range(1, 4):
        things.put(f"/api/things/{uuid_of(number)}", {"data": {"r": number, "seen_at": "2021-01-01T00:00:00Z"}})
    target = "/api/things?sort=r,seen_at&page_size=1"
    token = things.get(target).json["next_page_token"]
    version, digest, values = json.loads(base64.urlsafe_b64decode(token + "=="))
    made_up: list[Any] = [
        [version, digest, values[:2]], [version, digest, [*values, "1"]], [2, digest, values], [version, "x", values],
        [version, digest, None], [version, digest], {}, None, 1, "x", [], [version, digest, "abc"],
        *([version, digest, [value, *values[1:]]] for value in ODD_VALUES),
        *([version, digest, [values[0], value, values[2]]] for value in ("now", "infinity", "x", "2021-02-30")),
        *([version, digest, [*values[:2], value]] for value in ("x", None, "'; drop table x")),
    ]  # fmt: skip
    tokens = [base64.urlsafe_b64encode(json.dumps(document).encode()).decode() for document in made_up]
    tokens += ["x", "=", "A" * 20_000, "%FF", "ü", "\0", token[:-1], token + "A", token[::-1], "W" * 1001]
    tokens.append(base64.urlsafe_b64encode(b"[" * 10_000).decode())
    for text in tokens:
        answer = things.get(f"{target}&page_token={quote(text)}")
        assert answer.status in (200, 400), text
        assert answer.status == 200 or answer.json["code"] in ("request.page_token", "request.parameter"), text


def test_a_long_text_makes_no_long_token(things: Api) -> None:
    """It is sorted by its first 200 characters, and every row is seen."""
    for number in range(1, 6):
        things.put(f"/api/things/{uuid_of(number)}", {"data": {"t": "😀" * 50_000 + str(number)}})
    found = list(pages(things, "/api/things?sort=-t&page_size=2&select=code"))
    assert [row["code"] for page in found for row in page.data] == [uuid_of(number) for number in range(1, 6)]
    assert max(len(page.headers.get("link", "")) for page in found) < 2000


def test_rows_that_the_rules_would_refuse_are_listed(things: Api) -> None:
    """Another writer's values: infinity, an empty text, blanks around one."""
    things.query(
        "insert into hired_employees.things (code, t, seen_at, made_on) values"
        f" ('{uuid_of(1)}', '', 'infinity', '-infinity'), ('{uuid_of(2)}', ' x ', '-infinity', 'infinity'),"
        f" ('{uuid_of(3)}', 'x', 'infinity', '-infinity')"
    )
    for sort in ("t", "-t", "seen_at", "-made_on,seen_at"):
        assert len(rows_of(things, f"/api/things?sort={sort}&page_size=1")) == 3


# Order


def compare(row: dict[str, Any], other: dict[str, Any], keys: list[tuple[str, bool]]) -> int:
    """As SQL would: null is greater than every value, and a descending key turns all around."""
    for name, descending in keys:
        a, b = row[name], other[name]
        if a != b:
            less = b is None or (a is not None and a < b)
            return -1 if less != descending else 1
    return 0


def typed(row: dict[str, Any]) -> dict[str, Any]:
    """Values that Python compares as PostgreSQL does."""
    seen_at = row["seen_at"] and datetime.fromisoformat(row["seen_at"].replace("Z", "+00:00"))
    return row | {"seen_at": seen_at}


FILTERS = st.lists(
    st.one_of(
        st.tuples(st.just("t"), st.sampled_from(["eq", "neq", "lt", "gte"]), st.sampled_from(["a", "ab", "b"])),
        st.tuples(st.just("r"), st.sampled_from(["eq", "neq", "gt", "lte"]), st.sampled_from([-1, 0, 2**62])),
        st.tuples(st.just("permanent"), st.sampled_from(["eq", "neq"]), st.booleans()),
        st.tuples(st.just("made_on"), st.sampled_from(["gt", "lte"]), st.sampled_from(["2021-01-01", "2021-06-01"])),
        st.tuples(st.sampled_from(NULLABLE), st.just("is"), st.sampled_from(["null", "not_null"])),
        st.tuples(st.just("r"), st.just("in"), st.lists(st.sampled_from([-1, 0, 5]), min_size=1, max_size=3)),
    ),
    max_size=3,
    unique_by=lambda wanted: wanted[:2],
)
COMPARE = {
    "eq": operator.eq, "neq": operator.ne, "gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le,
}  # fmt: skip


def holds(row: dict[str, Any], name: str, wanted: str, value: Any) -> bool:
    if wanted == "is":
        return (row[name] is None) == (value == "null")
    if row[name] is None:
        return False
    return row[name] in value if wanted == "in" else bool(COMPARE[wanted](row[name], value))


def written(value: Any) -> str:
    if isinstance(value, list):
        return f"({','.join(map(str, value))})"
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_any_filters_and_order_give_what_python_gives(mixed: Api) -> None:
    """Mixed directions, equal values and nulls, over pages of any size; the count is that of all pages."""
    everything = [typed(row) for row in rows_of(mixed, "/api/things")]
    assert len(everything) == 60

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(
        FILTERS,
        st.lists(st.tuples(st.sampled_from((*NULLABLE, "code")), st.booleans()), max_size=4, unique_by=lambda k: k[0]),
        st.integers(1, 30),
    )
    def check(wanted: list[tuple[str, str, Any]], keys: list[tuple[str, bool]], size: int) -> None:
        query = [(name, f"{which}.{written(value)}") for name, which, value in wanted]
        if keys:
            query.append(("sort", ",".join("-" * descending + name for name, descending in keys)))
        target = f"/api/things?{urlencode([*query, ('page_size', str(size))])}"
        expected = [row for row in everything if all(holds(row, *one) for one in wanted)]
        expected.sort(key=cmp_to_key(lambda a, b: compare(a, b, [*keys, ("code", False)])))
        found = list(pages(mixed, target, prefer="count=exact"))
        assert [row["code"] for page in found for row in page.data] == [row["code"] for row in expected]
        assert {page.json["count"] for page in found} == {len(expected)}

    check()


def test_an_order_that_is_none_is_refused(api: Api) -> None:
    """400, naming the parameter."""
    for sort in NO_ORDER:
        assert refusal(api.get(f"{EMPLOYEES}?sort={quote(sort)}")) == "sort", sort


def test_documents_have_no_order_and_no_value_to_compare(things: Api) -> None:
    """jsonb can be asked whether it is there, and no more."""
    assert refusal(things.get("/api/things?sort=data")) == "sort"
    assert refusal(things.get('/api/things?data=eq.{"a":1}')) == "data"
    things.put(f"/api/things/{uuid_of(1)}", {"data": {"data": [1]}})
    things.put(f"/api/things/{uuid_of(2)}", {"data": {}})
    assert [row["code"] for row in things.get("/api/things?data=is.null").data] == [uuid_of(2)]
    assert [row["code"] for row in things.get("/api/things?data=is.not_null").data] == [uuid_of(1)]


# Filters


def ids(api: Api, query: str) -> list[int]:
    answer = api.get(f"{EMPLOYEES}?{query}")
    assert answer.status == 200, answer.text
    return [row["id"] for row in answer.data]


def test_a_range_is_two_filters_of_one_column(employees: Api) -> None:
    """A value is judged by the column's rule, an offset counts."""
    assert ids(employees, "id=gte.10&id=lt.13") == [10, 11, 12]
    assert ids(employees, "hired_date=gt.2021-01-02T00:00:00Z&hired_date=lte.2021-01-04T02:00:00%2B02:00") == [2, 3]
    assert ids(employees, "id=in.(3,1,99999)&id=neq.1") == [3]


def test_texts_are_found_by_pattern(parents: Api) -> None:
    r"""* or % is any text, _ any character, and \ keeps the next one; ilike does not look at case."""
    names = ["Ada", "ada", "100%", "100x", "a*b", "axb", "a_b", "back\\slash", 'quote"d', "a, b", "(c)"]
    for number, name in enumerate(names):
        parents.query(f"insert into hired_employees.hired_employees values ({number + 1}, %s, now(), 1, 1)", name)

    def found(wanted: str) -> list[str]:
        answer = parents.get(f"{EMPLOYEES}?employee_name={quote(wanted)}")
        assert answer.status == 200, answer.text
        return [row["employee_name"] for row in answer.data]

    assert found("like.A*") == ["Ada"]
    assert found("ilike.%da") == ["Ada", "ada"]
    assert found(r"like.100\%") == ["100%"]
    assert found(r"like.a\*b") == ["a*b"]
    assert found("like.a_b") == ["a*b", "axb", "a_b"]
    assert found(r"like.*\\*") == ["back\\slash"]
    assert found("eq.a*b") == ["a*b"]
    assert found(r'in.("a, b","quote\"d","back\\slash",Ada,(c))') == ["Ada", "back\\slash", 'quote"d', "a, b", "(c)"]


def test_a_filter_that_is_none_is_refused(api: Api) -> None:
    """400, naming the parameter; a value that breaks its column's rule is none."""
    for wanted in NO_FILTER:
        assert refusal(api.get(f"{EMPLOYEES}?id={wanted}")) == "id", wanted


def test_a_text_filter_that_is_none_is_refused(api: Api) -> None:
    """An escape that keeps nothing, NUL, a pattern without end."""
    for wanted in ("like.", "like.a\\", "like.%00", "like." + "%25a" * 600, "eq.%00", "eq.", "in.(,)"):
        assert refusal(api.get(f"{EMPLOYEES}?employee_name={wanted}")) == "employee_name", wanted


def test_the_longest_pattern_is_answered(parents: Api) -> None:
    """Against a text that it nearly matches."""
    parents.query("insert into hired_employees.hired_employees values (1, repeat('a', 5000), now(), 1, 1)")
    pattern = "%a" * 499 + "b"
    assert ids(parents, f"employee_name=like.{quote(pattern)}") == []


def test_an_unknown_or_doubled_parameter_is_refused(api: Api) -> None:
    """400; an unknown one is told those that are known."""
    for query in ("page_size=1&page_size=1", "select=id&select=job_id", "id=eq.1&id=eq.2"):
        assert refusal(api.get(f"{EMPLOYEES}?{query}")) == query.partition("=")[0]
    for query in ("x=1", "ID=eq.1", "=1", "x" * 5000):
        detail = api.get(f"{EMPLOYEES}?{query}").json["detail"]
        assert all(known in detail for known in ("page_size", "page_token", "sort", "select", "hired_date"))


def test_a_query_has_an_end(api: Api) -> None:
    """Neither more filters nor bytes than the next page's link can hold."""
    filters = "&".join(
        f"{c}={o}.1" for c in ("id", "job_id", "department_id") for o in ("eq", "neq", "gt", "gte", "lt", "lte", "in")
    )
    assert api.get(f"{EMPLOYEES}?{filters.replace('in.1', 'in.(1)')}").status == 400
    assert api.get(f"{EMPLOYEES}?employee_name=eq.{'x' * 9000}").status == 400


def test_the_link_to_the_next_page_holds_whatever_was_asked_for(parents: Api) -> None:
    """One line of ASCII that leads on, for any text in a filter."""
    for number in (1, 2):
        parents.query(f"insert into hired_employees.hired_employees values ({number}, 'x', now(), 1, 1)")
    for text in NAUGHTY:
        if len(quote(text)) > 5000:
            continue
        query = urlencode({"employee_name": f"neq.{text}", "page_size": "1"})
        first = parents.get(f"{EMPLOYEES}?{query}")
        if first.status == 400:
            assert not text.strip(" \t\r\n")
            continue
        assert first.headers["link"].isascii()
        assert first.headers["link"].isprintable()
        assert [len(page.data) for page in pages(parents, f"{EMPLOYEES}?{query}")] == [1, 1]


def test_no_parameter_is_a_way_into_sql(employees: Api) -> None:
    """Whatever is sent as name or value: refused, or a value that no row has; the table stands."""
    for attack in ATTACKS:
        for query in (
            {attack: "eq.1"}, {"sort": attack}, {"select": attack}, {"page_size": attack}, {"page_token": attack},
            {"id": attack}, {"id": f"eq.{attack}"}, {"id": f"in.({attack})"}, {"id": f"is.{attack}x"},
            {"id": f"{attack}.1"},
        ):  # fmt: skip
            assert employees.get(f"{EMPLOYEES}?{urlencode(query)}").status == 400, query
        for query in ({"employee_name": f"eq.{attack}"}, {"employee_name": f'in.("{attack}")'}):
            answer = employees.get(f"{EMPLOYEES}?{urlencode(query)}")
            assert answer.status == 400 or answer.data == [], query
    assert len(rows_of(employees, EMPLOYEES)) == 250


# Columns, counts, representations


def test_columns_can_be_chosen_and_come_in_that_order(employees: Api) -> None:
    """In every representation."""
    assert employees.get(f"{EMPLOYEES}?select=job_id,id&page_size=1").text.startswith('{"data":[{"job_id":2,"id":1}]')
    assert employees.get(f"{EMPLOYEES}?select=job_id,id&page_size=1", accept="text/csv").text == "job_id,id\r\n2,1\r\n"
    for select in ("", "id,id", "nothing", "id,", "*"):
        assert refusal(employees.get(f"{EMPLOYEES}?select={select}")) == "select"


def test_rows_are_counted_when_that_is_asked_for(employees: Api) -> None:
    """All that match, on every page; and the answer says that it did."""
    for page in pages(employees, f"{EMPLOYEES}?department_id=eq.1&page_size=50", prefer="count=exact"):
        assert page.json["count"] == 83
        assert (page.headers["preference-applied"], page.headers["x-total-count"]) == ("count=exact", "83")
    answer = employees.get(f"{EMPLOYEES}?page_size=1", accept="text/csv", prefer="count=exact")
    assert answer.headers["x-total-count"] == "250"
    for prefer in ("count=none", "count", "handling=strict"):
        answer = employees.get(EMPLOYEES, prefer=prefer)
        assert "count" not in answer.json
        assert "preference-applied" not in answer.headers


def test_rows_are_estimated_when_that_is_asked_for(employees: Api) -> None:
    """By the planner, from statistics, with filters and without; said to be an estimate."""
    employees.query("analyze hired_employees.hired_employees")
    answer = employees.get(EMPLOYEES, prefer="count=estimated")
    assert (answer.json["count"], answer.headers["preference-applied"]) == (250, "count=estimated")
    filtered = employees.get(f"{EMPLOYEES}?department_id=eq.1&sort=-id", prefer="count=estimated")
    assert 40 < filtered.json["count"] < 160


def test_csv_holds_any_text_as_it_is(parents: Api) -> None:
    """RFC 4180, read back by a reader of its own; every page has the header, and the link to the next."""
    texts = [text.strip(" \t\r\n") for text in NAUGHTY]
    for number, text in enumerate(texts):
        parents.query(
            "insert into hired_employees.hired_employees values (%s, %s, '2021-01-01Z', 1, 1)", number + 1, text
        )
    read: list[list[str]] = []
    for page in pages(parents, f"{EMPLOYEES}?page_size=20", accept="text/csv"):
        assert page.response.content_type == "text/csv; charset=utf-8; header=present"
        header, *records = csv.reader(io.StringIO(page.text, newline=""), strict=True)
        assert header == ["id", "employee_name", "hired_date", "department_id", "job_id"]
        read += records
    assert read == [[str(n + 1), text, "2021-01-01T00:00:00Z", "1", "1"] for n, text in enumerate(texts)]


def test_csv_tells_nothing_from_an_empty_text(things: Api) -> None:
    """And a record of one empty field is a line that a reader does not pass over; every type has its text."""
    things.query(
        "insert into hired_employees.things (code, t, permanent, amount, data, seen_at) values"
        f" ('{uuid_of(1)}', null, null, null, null, null),"
        f" ('{uuid_of(2)}', '', true, 1.50, '{{\"a\": \"b\"}}', '2021-01-01 12:00+02')"
    )
    query = "/api/things?select=t,permanent,amount,data,seen_at"
    assert things.get(query, accept="text/csv").text == (
        't,permanent,amount,data,seen_at\r\n,,,,\r\n"",true,1.50,"{""a"": ""b""}",2021-01-01T10:00:00Z\r\n'
    )
    assert things.get("/api/things?select=t", accept="text/csv").text == 't\r\n""\r\n""\r\n'
    assert things.get("/api/things?select=amount", accept="text/csv").text == 'amount\r\n""\r\n1.50\r\n'


def test_ndjson_is_one_row_a_line(employees: Api) -> None:
    """Whatever the rows hold, and with the link to the next page."""
    employees.put(f"{EMPLOYEES}/1", {"data": employees.get(f"{EMPLOYEES}/1").data | {"employee_name": "a\nb\u2028c"}})
    lines: list[str] = []
    for page in pages(employees, EMPLOYEES, accept="application/x-ndjson"):
        assert page.response.content_type == "application/x-ndjson"
        lines += page.text.removesuffix("\n").split("\n")
    assert [json.loads(line) for line in lines] == rows_of(employees, EMPLOYEES)


def test_the_caller_chooses_the_representation(api: Api) -> None:
    """By weight, the more specific range first; 406 names what there is."""
    for accept, content_type in ACCEPTED.items():
        answer = api.get("/api/jobs", accept=accept)
        if content_type is None:
            assert (answer.status, answer.json["code"]) == (406, "request.not_acceptable"), accept
        else:
            assert (answer.status, answer.response.content_type) == (200, content_type), accept


def test_numbers_keep_their_digits(things: Api) -> None:
    """In lists as in single rows."""
    things.query(f"insert into hired_employees.things (code, amount) values ('{uuid_of(1)}', 1234567890123456789.10)")
    document = json.loads(things.get("/api/things?select=amount").text, parse_float=Decimal)
    assert str(document["data"][0]["amount"]) == "1234567890123456789.10"
