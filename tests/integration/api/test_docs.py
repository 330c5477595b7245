"""The description of the API, as a document and as pages, before anybody has a key."""

from __future__ import annotations

import json
import re

import pytest

from functions.api import docs, problems
from tests.integration.api.conftest import Api


def test_the_document_is_given_and_only_once(api: Api) -> None:
    """JSON with a strong ETag; whoever has it gets 304."""
    answer = api.get("/openapi.json")
    assert (answer.status, answer.response.content_type, answer.json["openapi"]) == (200, "application/json", "3.1.0")
    again = api.get("/openapi.json", if_none_match=answer.headers["etag"])
    assert (again.status, again.text, again.headers["etag"]) == (304, "", answer.headers["etag"])


def test_a_table_that_is_added_is_described(things: Api) -> None:
    """By its dictionary entry alone."""
    described = things.get("/openapi.json").json
    assert {"/api/things", "/api/things/{id}", "/api/words/{id}"} <= set(described["paths"])
    assert described["components"]["schemas"]["things"]["properties"]["code"]["format"] == "uuid"


def test_what_the_document_shows_as_an_example_goes_in(things: Api) -> None:
    """Rows of every table, parents first, each as its example stands: by one batch, and then by each other form."""
    described = things.get("/openapi.json").json
    body = described["paths"]["/api/batch"]["post"]["requestBody"]["content"]["application/json"]["example"]
    body["things"][0]["part_of"] = body["things"][0]["code"]
    answer = things.post("/api/batch", body)
    assert (answer.status, answer.json["errors"]) == (201, [])
    for path, methods in described["paths"].items():
        for method in {"post", "put"} & methods.keys():
            if "{id}" in path or path == "/api/batch" or not methods[method]["operationId"].startswith("batch."):
                continue
            for media_type, media in methods[method]["requestBody"]["content"].items():
                sent = media["example"] if isinstance(media["example"], str) else json.dumps(media["example"])
                answer = things.call(method.upper(), path, sent.encode(), content_type=media_type)
                assert (answer.status, answer.json["errors"]) == (201 if method == "post" else 200, []), path


@pytest.mark.parametrize("path", ["/docs", "/docs/problems"])
def test_a_page_names_nothing_from_elsewhere_and_runs_no_inline_script(api: Api, path: str) -> None:
    """Its policy forbids both, every file that it names is there, and may be kept for ever."""
    answer = api.get(path)
    assert (answer.status, answer.response.content_type) == (200, "text/html; charset=utf-8")
    policy = answer.headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    named = re.findall(r'(?:src|href)="([^"#]+)"', answer.text)
    assert all(target.startswith("/") and not target.startswith("//") for target in named)
    assert re.search(r"<script(?![^>]*\ssrc=)|<style|\son\w+=|\sstyle=", answer.text) is None
    for target in named:
        found = api.get(target)
        assert found.status == 200, target
        if target.startswith("/docs/assets/"):
            assert found.headers["cache-control"].endswith("immutable")


@pytest.mark.parametrize("name", ["docs.js", "..%2Fdocs.py", "%2Fetc%2Fpasswd", "swagger-ui.js.map", "."])
def test_no_other_file_is_given(api: Api, name: str) -> None:
    """A name is looked up in a fixed list, and never a path."""
    assert api.get(f"/docs/assets/{name}").status == 404


def test_every_problem_leads_to_its_entry(api: Api) -> None:
    """The type of a document is an address that exists, with what the code means and what to do."""
    text = api.get("/docs/problems").text
    for code in problems.TITLES:
        address = problems.response(problems.Problem(400, code, "…"), "1").body.decode()
        assert f'"type": "/docs/problems#{code}"' in address
        assert text.count(f'id="{code}"') == 1
    assert text.count("What to do:") == len(problems.TITLES)


def test_a_page_cannot_be_framed_or_post_anywhere(api: Api) -> None:
    """What it does not need is off."""
    for part in ("default-src 'none'", "frame-ancestors 'none'", "form-action 'none'", "base-uri 'none'"):
        assert part in docs.POLICY
