"""The route table: which code answers which method and path, and who may call it; resources by the dictionary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from werkzeug.exceptions import MethodNotAllowed, NotFound
from werkzeug.routing import BaseConverter, Map, Rule

from functions.api.problems import Problem

if TYPE_CHECKING:
    from functions.api.access import Policy
    from functions.api.messages import Call, Response
    from shared.dictionary import Dictionary, Table


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path.

    Attributes:
        path: in werkzeug's notation, such as ``/api/jobs/<id>``.
        operation: name of what it does, the same for every table: ``rows.list``.
        policy: the scope that its caller needs.
        table: the table that a resource's route is about.
    """

    method: str
    path: str
    operation: str
    policy: Policy
    handler: Callable[[Call], Response] = field(repr=False)
    table: Table | None = None


class _Text(BaseConverter):
    """The rest of a path, whatever it holds: a text as key may have slashes and ends of lines."""

    regex = r"(?s:.+)"
    part_isolating = False


class RouteTable:
    """Finds the route of a request.

    Args:
        routes: no two of one method and path.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        by_path: dict[str, dict[str, Route]] = {}
        for route in routes:
            if by_path.setdefault(route.path, {}).setdefault(route.method, route) is not route:
                raise ValueError(f"{route.method} {route.path} is there twice")
        for methods in by_path.values():
            if "GET" in methods:
                methods["HEAD"] = methods["GET"]
        self._by_path = by_path
        self._allow = {path: ", ".join(sorted({*methods, "OPTIONS"})) for path, methods in by_path.items()}
        self._by_prefix = {path.removesuffix("<id>"): path for path in by_path if path.endswith("/<id>")}
        rules = [Rule(path, endpoint=path) for path in by_path]
        found = Map(rules, strict_slashes=False, merge_slashes=False, converters={"text": _Text})
        self._urls = found.bind("")

    def match(self, method: str, path: str) -> tuple[Route | None, dict[str, Any]]:
        """The route and its parameters; no route for OPTIONS, whose parameters hold the ``allow`` header then.

        Raises:
            Problem: 404 or 405.
        """
        pattern, parameters = self._pattern(path)
        methods, allow = self._by_path[pattern], self._allow[pattern]
        if method == "OPTIONS":
            return None, {"allow": allow}
        if method not in methods:
            detail = f"This path knows {allow}."
            raise Problem(405, "request.method", detail, headers={"Allow": allow})
        return methods[method], parameters

    def _pattern(self, path: str) -> tuple[str, dict[str, Any]]:
        # A row by its id, the request that comes most: two look-ups instead of a walk through every rule.
        prefix, slash, last = path.rpartition("/")
        if last and path not in self._by_path and (pattern := self._by_prefix.get(prefix + slash)):
            return pattern, {"id": last}
        if path.startswith("//"):  # werkzeug passes all slashes over but one
            raise _nothing_there()
        try:
            pattern, parameters = self._urls.match(path, method="GET")
        except (NotFound, MethodNotAllowed):
            raise _nothing_there() from None
        return pattern, dict(parameters)


def _nothing_there() -> Problem:
    return Problem(404, "route.not_found", "There is nothing at this path; /docs lists what there is.")


def table(dictionary: Dictionary) -> RouteTable:
    """Every route that there is."""
    from functions.api import batches, dead_letters, docs, health, history, listing, metrics, rows

    fixed = [*health.ROUTES, *metrics.ROUTES, *history.ROUTES, *dead_letters.ROUTES]
    found = [*fixed, *(route for part in (listing, rows, batches) for route in part.routes(dictionary))]
    found += docs.routes(dictionary, found)
    return RouteTable(found)
