"""The OpenAPI document: every route, nothing else, and nothing that it contradicts itself in."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker
from openapi_spec_validator import validate

from functions.api import docs, judging, problem_guide, problems, routes
from functions.api.openapi import document, parts, schemas
from functions.api.routes import RouteTable
from shared import dictionary
from shared.dictionary import Dictionary
from tests.integration.api.things import ENTRY


def parsed(more: str = "") -> Dictionary:
    return dictionary.parse(tomllib.loads(dictionary.DICTIONARY_PATH.read_text() + more))


DICTIONARIES = {"as shipped": parsed(), "with every type": parsed(ENTRY)}


@pytest.fixture(params=DICTIONARIES.values(), ids=DICTIONARIES)
def tables(request: pytest.FixtureRequest) -> Dictionary:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def table(tables: Dictionary) -> RouteTable:
    return routes.table(tables)


@pytest.fixture
def described(tables: Dictionary, table: RouteTable) -> dict[str, Any]:
    return document.document(tables, table.routes)


def operations(described: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def test_every_route_is_described_and_every_description_is_a_route(
    table: RouteTable, described: dict[str, Any]
) -> None:
    """Method by method; each with a summary, a tag, a name of its own, and answers."""
    said = {(method, path): operation for method, path, operation in operations(described)}
    assert set(said) == {(route.method, document.template(route)) for route in table.routes}
    assert len({operation["operationId"] for operation in said.values()}) == len(said)
    for operation in said.values():
        assert operation["summary"]
        assert operation["tags"]
        assert any(status.startswith("2") for status in operation["responses"])


def test_the_document_is_valid_openapi(described: dict[str, Any]) -> None:
    """By the schema of OpenAPI 3.1 and the rules beyond it."""
    validate(json.loads(json.dumps(described)))


def test_the_path_names_its_parameters(table: RouteTable, described: dict[str, Any]) -> None:
    """Those of the template and no others."""
    for method, path, operation in operations(described):
        named = {part["name"] for part in operation.get("parameters", ()) if part["in"] == "path"}
        assert all(f"{{{name}}}" in path for name in named), (method, path)
        assert path.count("{") == len(named), (method, path)


def test_the_security_is_the_policy(table: RouteTable, described: dict[str, Any]) -> None:
    """Open routes ask for nothing and never refuse a caller; the others name scope and refusals."""
    for route in table.routes:
        operation = described["paths"][document.template(route)][route.method.lower()]
        assert ("401" in operation["responses"]) == (route.policy != "open")
        scopes = {scope for way in operation["security"] for named in way.values() for scope in named}
        assert scopes == ({route.policy} if route.policy in ("read", "write", "admin") else set()), route
        assert bool(operation["security"]) == (route.policy != "open"), route


def examples(part: Any, schema: Any = None) -> Iterator[tuple[Any, Any]]:
    """Every example of a document, with the schema that it is of."""
    if isinstance(part, list):
        for item in part:
            yield from examples(item)
    if not isinstance(part, dict):
        return
    if "schema" in part and "example" in part:
        yield part["schema"], part["example"]
    if "examples" in part:
        yield from ((part, value) for value in part["examples"])
    for name, value in part.items():
        if name not in ("example", "examples"):
            yield from examples(value)


def test_every_example_is_valid(described: dict[str, Any]) -> None:
    """Against its own schema, formats included."""
    found = list(examples(described))
    assert len(found) > 60
    for schema, example in found:
        whole = {"allOf": [schema], "components": described["components"]}
        Draft202012Validator(whole, format_checker=FormatChecker()).validate(example)


def test_every_body_and_every_answer_that_is_json_has_an_example(described: dict[str, Any]) -> None:
    """What is sent can be tried as it stands."""
    for method, path, operation in operations(described):
        for content in (operation.get("requestBody", {}), *operation["responses"].values()):
            for media_type, media in content.get("content", {}).items():
                if media_type.endswith("json") and path != "/openapi.json":
                    assert "example" in media, (method, path, media_type)


def test_the_example_of_a_row_keeps_the_rules(tables: Dictionary) -> None:
    """It goes in as it stands, where its parents are."""
    for table in tables.tables.values():
        example = json.loads(json.dumps(schemas.row_example(table)))
        assert judging.judge_row(table, example).faults == []


@pytest.mark.parametrize(
    ("column", "good", "bad"),
    [
        ("id", [1, 2147483647], [0, -1, 2147483648, "1", 1.5, True, None]),
        ("employee_name", ["Ada", " ü\n", "x" * 5000], ["", " \t", "a\0b", 7, None]),
        (
            "hired_date",
            ["2021-11-07T02:48:42Z", "2021-11-07T02:48:42.123456+05:30", "2024-02-29T00:00:00-15:59"],
            ["2021-11-07", "2021-11-07T02:48:42", "2021-11-07 02:48:42Z", "2021-13-07T02:48:42Z", "now", 1, None],
        ),
        ("department_id", [1], [0, "1", None]),
    ],
)
def test_a_column_is_described_as_it_is_judged(column: str, good: list[Any], bad: list[Any]) -> None:
    """What the schema takes the rules take, and the other way round."""
    table = DICTIONARIES["as shipped"].tables["hired_employees"]
    validator = Draft202012Validator(schemas.sent_value(table.by_name[column]), format_checker=FormatChecker())
    for value in (*good, *bad):
        judged = judging.judge_row(table, {column: value}, partial=True)
        assert validator.is_valid(value) == (judged.faults == []) == (value in good and value is not True), value


def test_a_filter_is_described_for_each_column_and_its_examples_fit(tables: Dictionary) -> None:
    """The pattern takes what the list takes."""
    for table in tables.tables.values():
        names = [part["name"] for part in parts.of_list(table)]
        assert set(table.by_name) <= set(names)
        for column in table.columns:
            part = parts.of_filter(column)
            validator = Draft202012Validator(part["schema"])
            assert all(validator.is_valid(example) for example in part["schema"]["examples"]), column
            assert not validator.is_valid("7")
            assert not validator.is_valid("like.")


def test_every_problem_has_a_guide_and_every_guide_a_problem() -> None:
    """No code leads nowhere, and none is explained that cannot come."""
    assert set(problem_guide.GUIDE) == set(problems.TITLES)


def test_the_pages_name_their_files_by_content() -> None:
    """A file that changes has another name, so that it may be kept for ever."""
    assert len(docs.assets()) == len(docs.FILES)
    for name, asset in docs.assets().items():
        assert len(name.split(".")[1]) == 16
        assert asset.body
