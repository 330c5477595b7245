"""Requests that mean harm: any route, any part of the request; an answer of the contract, and nothing done."""

from __future__ import annotations

import base64
import json
import re
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from functions.api import app, problems
from functions.api.messages import Request
from functions.api.routes import Route
from tests.integration.api.conftest import ADA, Answer, Api

TEXTS = [
    "", " ", "0", "-1", "1.0", "1e3", "00000000001", "\u0661", "\uff11", "2147483648", "9" * 19, "9" * 5000,
    "1\0", "\0", "\ud800", "a\r\nX-Evil: 1", "1\n", "\u2028", "%", "%s", "%(size)s", "{}", "$1", "\\", "'", '"', "''--",
    "1;select pg_sleep(9)", "1 or 1=1", "../../etc/passwd", "null", "NaN", "now", "infinity", "[" * 2000, "(" * 2000,
    "in.(" + "1," * 3000 + "1)", "like." + "%a" * 400 + "b", "ilike.*" * 50, "eq.\u0661", "eq.1\0", "is.null\0",
    "x" * 7000, "-id,-id", "rdk_" + "0" * 12 + "_" + "x" * 43, "=?utf-8?q?x?=", "\u202e", "a,b;q=1.0000",
    "\xff\xfe", '"' * 3000,
]  # fmt: skip
HEADERS = ["accept", "content-type", "prefer", "if-match", "if-none-match", "idempotency-key", "authorization",
           "x-api-key", "traceparent", "content-encoding", "x-forwarded-for", "ce-id", "ce-specversion"]  # fmt: skip
BODIES = [
    b"", b"[" * 100_000, b"{" * 5000, b'{"a":' * 5000, b"nul", b"\xff", b'"\\ud800"', b"[" + b"1," * 999 + b"1]",
    b'{"data":[' + b"{}," * 999 + b"{}]}", b'{"data":' * 900 + b"1" + b"}" * 900, b"1" * 100_000, b"-" * 5000,
    b'{"data":[{"id":' + b"9" * 5000 + b"}]}", b'{"data":[{"id":1e999999999,"job":"x"}]}', b'{"id":true,"job":null}',
    b'{"data":[{"id":1,"job":"\\u0000"}]}', b'{"data":[{"id":1,"job":"\\ud800"}]}',
    b'{"ingest_id":1,"rejects":["1-9"]}', b'{"ingest_id":9223372036854775807}',
    b'{"jobs":[{"id":1,"\\u0000":1}]}', b'{"jobs":[[[[]]]],"employees":[null]}',
    b'\xef\xbb\xbf{"data":[]}', b"id,job\n1," + b'"' * 3000, b"PK\x03\x04", b"\x1f\x8b\x08\x00", b"a" * 300_000,
    b'{"specversion":"1.0","id":"' + b"x" * 5000 + b'","source":"s","type":"t","data":[]}',
]  # fmt: skip
# A row per request would say little; a request of each kind to every route says much, in seconds.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\uffff]")


def send(api: Api, route: Route, text: str = "1", body: bytes = b"", query: Any = (), **headers: str) -> Answer:
    """A request whose parts need not have come through a URL."""
    path = re.sub(r"<[^>]*>", lambda found: "2021" if "year" in found[0] and text == "1" else text, route.path)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = Request(route.method, path, tuple(query), api.headers | named, body, id="request-1")
    return Answer(app.handle(request, lambda: api.services))


def keeps_the_contract(answer: Answer) -> bool:
    """No 5xx, header lines that are lines, and a problem of a known code where it is not done."""
    lines = [f"{name}: {value}" for name, value in answer.response.headers.items()]
    if answer.status >= 500 or any(CONTROL.search(line) for line in lines):
        return False
    return answer.status < 400 or answer.json["code"] in problems.TITLES


def of_all_routes(api: Api) -> list[Route]:
    return [route for route in app.route_table(api.services).routes if route.operation != "metrics.rebuild"]


@pytest.fixture
def everything(things: Api) -> Api:
    """Every route is open to us, dead letters too."""
    return things.with_settings(caller_auth="off")


@pytest.mark.slow
def test_no_text_in_path_or_query_of_any_route_breaks_it(everything: Api) -> None:
    """As a name of a parameter, as its value, and as an id."""
    for route in of_all_routes(everything):
        known = ["page_size", "page_token", "sort", "select", "ingest_id", "state", "object", "reason", "validate_only"]
        names = [*known, "table", "kind", *(route.table.by_name if route.table else ())]
        for text in TEXTS:
            assert keeps_the_contract(send(everything, route, text=text)), (route, text)
            for name in names:
                assert keeps_the_contract(send(everything, route, query=[(name, text)])), (route, name, text)
            assert keeps_the_contract(send(everything, route, query=[(text, "1")])), (route, text)


@pytest.mark.slow
def test_no_header_of_any_route_breaks_it(everything: Api) -> None:
    """Nor does one come back in a header of the answer that it would end."""
    for route in of_all_routes(everything):
        for name in HEADERS:
            for text in TEXTS:
                answer = send(everything, route, body=b'{"data":[]}', **{name: text})
                assert keeps_the_contract(answer), (route, name, text)


@pytest.mark.parametrize(
    "kind", ["application/json", "application/x-ndjson", "text/csv", "application/merge-patch+json"]
)
def test_no_body_of_any_route_breaks_it(everything: Api, kind: str) -> None:
    """Neither deep nor long ones, nor numbers and characters that nothing can hold."""
    for route in of_all_routes(everything):
        if route.method != "GET":
            for body in BODIES:
                assert keeps_the_contract(send(everything, route, body=body, content_type=kind)), (route, body[:80])


def test_ten_thousand_parameters_are_refused_at_once(parents: Api) -> None:
    """Names, doubled names and filters alike."""
    for query in ([("id", "eq.1")] * 10_000, [(f"x{n}", "1") for n in range(10_000)], [("", "")] * 10_000):
        answer = parents.call("GET", f"/api/jobs?{urlencode(query)}")
        assert (answer.status, len(answer.text) < 2000) == (400, True)


def test_a_body_that_is_compressed_is_refused_as_what_it_is(parents: Api) -> None:
    """415 that says what is taken (RFC 9110, 15.5.16): neither unpacked, which might fill the memory, nor misread."""
    for coding in ("gzip", "GZIP", "br", "gzip, identity", "x"):
        answer = parents.post("/api/employees", {"data": [ADA]}, content_encoding=coding)
        assert (answer.status, answer.headers["accept-encoding"]) == (415, "identity"), coding
    assert parents.employees() == []
    assert parents.post("/api/employees", {"data": [ADA]}, content_encoding="Identity").status == 201


def test_a_token_whose_head_nests_too_deep_proves_nothing(make_api: Any) -> None:
    """401, as for any token that does not hold; it is no defect of ours."""
    guarded = make_api(API_JWT_ISSUER="https://i.test", API_JWT_AUDIENCE="a", API_JWT_JWKS_URL="http://127.0.0.1:1/k")
    guarded = guarded.with_settings(api_auth="required")
    for head in (b"[" * 5000, b'{"a":' * 5000, b"\xff", b"null", b'{"alg":"RS256","kid":[]}'):
        token = base64.urlsafe_b64encode(head).rstrip(b"=").decode()
        answer = guarded.get("/api/jobs", authorization=f"Bearer {token}.e30.AAAA")
        assert (answer.status, answer.json["code"]) in ((401, "access.unauthenticated"), (503, "unavailable")), head[:9]


def test_a_page_of_another_port_of_this_machine_is_not_answered(parents: Api) -> None:
    """What serves it may show what strangers wrote, and a browser sends its forms along: the same origin or none."""
    body = json.dumps({"data": [ADA]}).encode()
    for origin in ("http://localhost:3000", "http://127.0.0.1:8887", "http://localhost", "null", "", "x"):
        assert parents.post("/api/employees", body, origin=origin).status == 403, origin
    assert parents.employees() == []
    assert parents.post("/api/employees", body, origin="http://localhost:8887").status == 201


def test_no_other_site_is_allowed_by_any_answer(parents: Api) -> None:
    """No CORS: a browser shows an answer to the API's own pages alone, whatever a preflight asks."""
    for answer in (
        parents.call("OPTIONS", "/api/jobs", origin="https://evil.test", access_control_request_method="DELETE"),
        parents.get("/api/jobs", origin="http://localhost:8887"),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_a_key_in_the_query_opens_nothing_and_reaches_no_log(make_api: Any, capsys: Any) -> None:
    """It would stand in logs and histories: it is no way in, and ours does not repeat it."""
    guarded = make_api().with_settings(api_auth="required")
    secret = "rdk_" + "0" * 12 + "_" + "s3cret" * 7 + "x"
    for query in (f"x-api-key={secret}", f"key={secret}", secret, f"access_token={secret}"):
        assert guarded.get(f"/api/jobs?{query}").status == 401
    guarded.get(f"/api/jobs/{quote(secret)}", x_api_key=secret)
    assert "s3cret" not in capsys.readouterr().out
