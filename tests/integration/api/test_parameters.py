"""Parameters of the query: every path reads them alike, whoever wrote it."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tests.integration.api.conftest import ADA, Api

LISTS = ["/api/jobs", "/api/employees", "/api/ingests", "/api/rejects", "/api/backups", "/api/dead-letters"]
PATHS = [
    *(("GET", path, None) for path in LISTS),
    ("GET", "/api/jobs/1", None),
    ("PATCH", "/api/jobs/1", {"job": "x"}),
    ("PUT", "/api/jobs/1", {"job": "x"}),
    ("DELETE", "/api/jobs/1", None),
    ("POST", "/api/jobs", [{"id": 9, "job": "x"}]),
    ("PUT", "/api/jobs", [{"id": 9, "job": "x"}]),
    ("DELETE", "/api/jobs", [9]),
    ("POST", "/api/batch", {"jobs": [{"id": 9, "job": "x"}]}),
    ("GET", "/api/2021/quarters", None),
    ("GET", "/api/2021/departments", None),
    ("GET", "/api/metrics/verify", None),
    ("POST", "/api/metrics/rebuild", None),
    ("POST", "/api/rejects/redrive", {"ingest_id": 1}),
    ("POST", "/api/rejects/dismiss", {"ingest_id": 1}),
    ("POST", "/api/dead-letters/1/replay", None),
    ("GET", "/api/ingests/1", None),
]
SIZES = {"1": 200, "007": 200, "5000": 200, "9" * 30: 200, "0" * 30 + "1": 200, "0": 400, "-1": 400, "+1": 400,
         " 1": 400, "1.0": 400, "1e1": 400, "٣": 400, "\uff11": 400, "ten": 400, "": 400}  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body"), PATHS)
def test_an_unknown_parameter_is_refused_in_the_same_words(parents: Api, method: str, path: str, body: Any) -> None:
    """400 that names it, and nothing is done: a slip of the pen never asks for something else."""
    answer = parents.call(method, f"{path}?validat_only=true", body)
    assert (answer.status, answer.json["code"]) == (400, "request.parameter")
    (error,) = answer.json["errors"]
    assert error["parameter"] == "validat_only"
    assert error["detail"].startswith("there is no such parameter; known are ")
    assert answer.json["detail"] == f"validat_only: {error['detail']}"
    assert parents.query("select count(*) from hired_employees.jobs") == [(2,)]


@pytest.mark.parametrize("path", LISTS)
def test_every_list_takes_the_same_sizes_of_a_page(parents: Api, path: str) -> None:
    """More rows than a page may have are that many, however many digits say so; what is no number of rows is 400."""
    for size, status in SIZES.items():
        answer = parents.get(f"{path}?page_size={size}".replace(" ", "%20"))
        assert answer.status == status, size
        assert status == 200 or answer.json["errors"][0]["parameter"] == "page_size", size


@pytest.mark.parametrize("path", LISTS)
def test_every_list_refuses_what_is_no_token_of_its_own(parents: Api, path: str) -> None:
    """400 in the same words, whatever it is; an empty token is none."""
    parents.query("insert into hired_employees.jobs values (3, 'x')")
    [token] = [parents.get("/api/jobs?page_size=1").json["next_page_token"]]
    version, digest, keys = json.loads(base64.urlsafe_b64decode(token + "=="))
    made_up: list[Any] = [[version, digest, [*keys, *keys]], [2, digest, keys], [version, "x", keys], None, {}, 1, [[]]]
    tokens = [base64.urlsafe_b64encode(json.dumps(value).encode()).decode() for value in made_up]
    for text in [*tokens, "x", "=", "A" * 20_000, "%FF", "ü", "W" * 999, *([] if path == "/api/jobs" else [token])]:
        answer = parents.get(f"{path}?page_token={text}")
        assert (answer.status, answer.json["code"]) in ((400, "request.page_token"), (400, "request.parameter")), text
    assert parents.get(f"{path}?page_token=").status == 200


def test_a_trial_that_is_asked_for_and_not_writes_nothing(parents: Api) -> None:
    """A parameter that comes twice has no value that counts."""
    answer = parents.post("/api/employees?validate_only=true&validate_only=false", [ADA])
    assert (answer.status, answer.json["errors"][0]["parameter"]) == (400, "validate_only")
    assert parents.employees() == []
