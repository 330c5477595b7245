"""The route table: which route a path finds."""

from __future__ import annotations

import pytest

from functions.api import routes
from functions.api.messages import Response
from functions.api.problems import Problem
from functions.api.routes import Route, RouteTable
from shared import dictionary

PATHS = ("/api/jobs", "/api/jobs/<id>", "/api/jobs/special", "/api/<int:year>/jobs", "/api/words/<text:id>")


@pytest.fixture
def table() -> RouteTable:
    return RouteTable([Route("GET", path, path, "open", lambda _call: Response()) for path in PATHS])


@pytest.mark.parametrize(
    ("path", "operation", "parameters"),
    [
        ("/api/jobs", "/api/jobs", {}),
        ("/api/jobs/", "/api/jobs", {}),
        ("/api/jobs/7", "/api/jobs/<id>", {"id": "7"}),
        ("/api/jobs/a b\n", "/api/jobs/<id>", {"id": "a b\n"}),
        ("/api/jobs/special", "/api/jobs/special", {}),
        ("/api/2021/jobs", "/api/<int:year>/jobs", {"year": 2021}),
        ("/api/words/a/b\r\nc", "/api/words/<text:id>", {"id": "a/b\r\nc"}),
    ],
)
def test_a_path_finds_its_route(table: RouteTable, path: str, operation: str, parameters: dict[str, object]) -> None:
    """A path of its own goes before one with an id; an id is one part of the path, a text the rest of it."""
    route, found = table.match("GET", path)
    assert route is not None
    assert (route.operation, found) == (operation, parameters)


@pytest.mark.parametrize(
    "path", ["", "/", "/api", "/api/jobs/1/2", "/api/jobs//1", "//api/jobs/1", "/api/words/", "/api/x/jobs"]
)
def test_a_path_that_is_none_finds_none(table: RouteTable, path: str) -> None:
    """404, without a redirect to something like it."""
    with pytest.raises(Problem, match="nothing at this path"):
        table.match("GET", path)


def test_no_table_can_take_a_path_of_the_apis_own() -> None:
    """The dictionary refuses such a name when it is read: two routes of one path would end every request."""
    fixed = [route.path for route in routes.table(dictionary.load()).routes if route.table is None]
    names = {path.split("/")[2] for path in fixed if path.startswith("/api/")}
    assert {name for name in names if not name.startswith("<")} == set(dictionary.TAKEN_API_NAMES)
