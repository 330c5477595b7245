"""What every request of the API may rely on, whatever it asks for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from functions.api import app
from shared.postgres import Database
from tests.integration.api.conftest import Api


def test_it_says_that_it_is_alive_and_ready_and_nothing_else(api: Api) -> None:
    """Both are open, and tell no detail."""
    assert (api.get("/health").status, api.get("/health").json) == (200, {"status": "ok"})
    assert (api.get("/ready").status, api.get("/ready").json) == (200, {"status": "ok"})


def test_a_database_that_lacks_a_migration_is_not_ready(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """503, and the log says what to do; /health goes on."""
    api.query("delete from rowdock.migrations where version = (select max(version) from rowdock.migrations)")
    answer = api.get("/ready")
    assert (answer.status, answer.json["code"], answer.headers["retry-after"]) == (503, "unavailable", "5")
    assert "run rowdock migrate" in json.loads(capsys.readouterr().out)["error_message"]
    assert api.get("/health").status == 200


def test_a_database_that_a_later_version_has_migrated_is_ready(api: Api) -> None:
    """While a roll-out goes on this version still serves: it would take every instance out of service at once."""
    api.query("insert into rowdock.migrations values (9999, 'of_tomorrow', repeat('0', 64))")
    assert api.get("/ready").status == 200


def test_a_database_that_is_gone_is_a_clean_503(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """A problem with Retry-After, and no word of the server's in answer or log."""
    nowhere = Database("host=127.0.0.1 port=1 user=secret_user password=secret_word", application_name="nowhere")
    object.__setattr__(api.services, "database", nowhere)
    answer = api.get("/ready")
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    assert "secret" not in answer.text + capsys.readouterr().out


@pytest.mark.parametrize("path", ["/nothing", "/api", "/api/nothing", "/api/jobs/1/2", "/health/x", "//health"])
def test_a_path_that_is_none_is_a_problem(api: Api, path: str) -> None:
    """404 as application/problem+json, with the request's id."""
    answer = api.get(path)
    assert (answer.status, answer.response.content_type) == (404, "application/problem+json")
    assert answer.json["code"] == "route.not_found"
    assert answer.json["instance"] == f"/requests/{answer.headers['x-request-id']}"


@pytest.mark.parametrize("method", ["POST", "DELETE", "TRACE", "FOO"])
def test_a_method_that_a_path_does_not_know_is_told_the_others(api: Api, method: str) -> None:
    """405 with Allow (RFC 9110, 15.5.6); OPTIONS tells the same."""
    answer = api.call(method, "/health")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
    told = api.call("OPTIONS", "/health")
    assert (told.status, told.headers["allow"], told.text) == (204, "GET, HEAD, OPTIONS", "")


def test_a_defect_is_a_problem_without_details(
    api: Api, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 and the request's id; the log has the class and the calls, neither has the message."""
    monkeypatch.setattr(app, "route_table", _fail)
    answer = api.get("/health")
    assert (answer.status, answer.json["code"]) == (500, "defect")
    line = json.loads(capsys.readouterr().out)
    assert (line["severity"], line["error"], line["status"]) == ("ERROR", "ZeroDivisionError", 500)
    assert line["request_id"] == answer.headers["x-request-id"]
    assert "private" not in answer.text + json.dumps(line)


def _fail(_services: Any) -> Any:
    raise ZeroDivisionError("private")


def test_every_answer_has_strict_headers_and_times(api: Api) -> None:
    """Good ones and problems alike."""
    for answer in (api.get("/ready"), api.get("/nothing")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert answer.headers["server-timing"].startswith("db;dur=")
    assert "strict-transport-security" not in api.get("/health").headers
    elsewhere = api.with_settings(environment="production", api_auth="required")
    for path in ("/health", "/api/jobs"):
        assert elsewhere.get(path).headers["strict-transport-security"] == "max-age=31536000"


def test_one_line_is_logged_for_each_request(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """With the trace that the caller gave, and without the query, which may hold personal data."""
    trace = "0af7651916cd43dd8448eb211c80319c"
    api.get("/health?name=Ada", traceparent=f"00-{trace}-b7ad6b7169203331-01")
    (line,) = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert (line["message"], line["operation"], line["status"], line["trace_id"]) == (
        "api.request", "health.alive", 200, trace,
    )  # fmt: skip
    assert "Ada" not in json.dumps(line)


def test_without_keys_only_this_machine_is_answered(api: Api) -> None:
    """Neither another host nor a page of another site that a browser here shows gets in."""
    for host in ("evil.example:8887", "", "127.0.0.1.evil.example"):
        assert api.post("/api/jobs", {"id": 1, "job": "x"}, host=host).status == 403
