"""The OpenAPI document: each route of the table is an operation, and nothing else is."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from functions.api.openapi import parts, resources, schemas, services
from functions.api.openapi.parts import Part
from shared import VERSION

if TYPE_CHECKING:
    from functions.api.routes import Route
    from shared.dictionary import Dictionary

PARAMETER = re.compile(r"<(?:[^:>]*:)?(\w+)>")
ALWAYS = (400, 413, 500, 503, 504)
GUARDED = (401, 403)
TAGS = {
    "batch": ("Several tables", "Rows of several tables in one request."),
    "metrics": ("Metrics", "Hires by quarter and department, from roll-ups that every write keeps right."),
    "history": ("History", "What became of each file and batch."),
    "rejects": ("Rejects", "Rows that broke a rule: read, mend, judge again, dismiss."),
    "backups": ("Backups", "What the backups hold."),
    "dead_letters": ("Dead letters", "Events that were given up."),
    "health": ("Health", "Alive, and ready."),
    "docs": ("Documentation", "This description."),
}
DESCRIPTION = """
CSV files dropped in a bucket become clean PostgreSQL rows; this is the way to them over HTTP.

Bodies are `{"data": ...}`, names are the columns' own, times are RFC 3339 and answered in UTC. An unknown parameter or
member is an error, and no list is cut without a next page. What goes wrong is answered as a problem document (RFC 9457)
whose `type` leads to [what its code means](/docs/problems).

A caller shows an API key or a token with the scope `read`, `write` or `admin`; each includes those before it.
"""
SECURITY = {
    "ApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "Made by `rowdock api-keys`."},
    "Bearer": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "A token of the configured issuer (OIDC), whose scopes are in it; an API key does too.",
    },
    "Platform": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "The identity token of a trigger.",
    },
}


def document(dictionary: Dictionary, described: Sequence[Route]) -> Part:
    """OpenAPI 3.1 of the routes."""
    say = _sayings(dictionary)
    paths: dict[str, Part] = {}
    for route in described:
        paths.setdefault(template(route), {})[route.method.lower()] = _operation(route, say(route))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Rowdock",
            "version": VERSION,
            "summary": "Rows, batches, metrics and history over HTTP.",
            "description": DESCRIPTION.strip(),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": _tags(dictionary),
        "paths": paths,
        "components": _components(dictionary),
    }


def template(route: Route) -> str:
    """The route's path as OpenAPI writes it."""
    return PARAMETER.sub(r"{\1}", route.path)


def _sayings(dictionary: Dictionary) -> Callable[[Route], Part]:
    of_tables, of_services = resources.of_tables(dictionary), services.of_services(dictionary)
    return lambda route: of_tables[route.operation](route.table) if route.table else of_services[route.operation]


def _operation(route: Route, said: Part) -> Part:
    more = GUARDED if route.policy != "open" else ()
    statuses = sorted({*ALWAYS, *more, *said.get("problems", ())})
    refused = {str(status): schemas.ref(parts.STATUSES[status][0], "responses") for status in statuses}
    return {
        "operationId": f"{route.operation}.{route.table.api_name}" if route.table else route.operation,
        "tags": [route.table.api_name if route.table else TAGS[route.operation.partition(".")[0]][0]],
        **{name: value for name, value in said.items() if name != "problems"},
        "responses": said["responses"] | refused,
        "security": _security(route),
    }


def _security(route: Route) -> list[Part]:
    if route.policy == "open":
        return []
    if route.policy == "platform":
        return [{"Platform": []}]
    return [{"ApiKey": [route.policy]}, {"Bearer": [route.policy]}]  # the scope stands as the role that is needed


def _tags(dictionary: Dictionary) -> list[Part]:
    of_tables = [
        {"name": table.api_name, "description": f"The rows of {table.schema}.{table.key}."}
        for table in dictionary.tables.values()
    ]
    return of_tables + [{"name": name, "description": description} for name, description in TAGS.values()]


def _components(dictionary: Dictionary) -> Part:
    rows: dict[str, Any] = {}
    for table in dictionary.tables.values():
        rows |= schemas.components(table)
    shared = {"Problem": parts.PROBLEM, "Fault": parts.FAULT} | resources.COMPONENTS | services.COMPONENTS
    return {
        "schemas": rows | shared,
        "responses": dict(parts.problem(status) for status in parts.STATUSES),
        "headers": parts.HEADERS,
        "securitySchemes": SECURITY,
    }
