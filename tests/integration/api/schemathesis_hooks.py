"""What schemathesis needs to know of this API: bodies that are no JSON, and the only exceptions from its checks.

Every exception is here, with its reason; ``schemathesis.toml`` beside it has those that are of one route.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import schemathesis
from schemathesis.checks import CheckContext
from schemathesis.core.failures import AcceptedNegativeData
from schemathesis.core.transport import Response
from schemathesis.generation.case import Case
from schemathesis.hooks import HookContext
from schemathesis.openapi.checks import RejectedPositiveData
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from schemathesis.transport import SerializationContext

from shared import dictionary

LINES = ("text/csv", "application/x-ndjson")


@schemathesis.serializer("text/csv")
def as_csv(_ctx: SerializationContext, value: Any) -> bytes:
    """An example as it stands; any other text as a value, since noise alone would be answered 400."""
    return _bytes(value if _is_example(value, "id") else 'id\n"{}"\n'.format(str(value).replace('"', '""')))


@schemathesis.serializer("application/x-ndjson")
def as_ndjson(_ctx: SerializationContext, value: Any) -> bytes:
    """Likewise."""
    return _bytes(value if _is_example(value, "{") else json.dumps({"id": str(value)}))


def _is_example(value: Any, beginning: str) -> bool:
    return isinstance(value, str) and value.startswith(beginning)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


@schemathesis.hook
def map_body(_context: HookContext, body: Any) -> Any:
    """7.0 is an integer to JSON Schema; to this API, which keeps what was written, it is none. Send 7."""
    if isinstance(body, float) and body.is_integer():
        return int(body)
    if isinstance(body, list):
        return [map_body(_context, item) for item in body]
    return {name: map_body(_context, item) for name, item in body.items()} if isinstance(body, dict) else body


# --- What a schema allows and the API refuses

OF_THE_STATE = {
    "request.precondition": "whether If-Match holds is up to the row that is there",
    "request.page_token": "a token is given by a list, and none is known beforehand",
    "idempotency.reused": "whether a key came before is up to the requests before",
    "batch.size": "that not all lists of /api/batch may be empty, or 1000 together, JSON Schema cannot say",
}
OF_ROWS = {
    "parent_missing": "whether the parent is there is up to the table",
    "exists": "likewise the row itself",
    "in_use": "likewise what refers to it",
    "duplicate": "that an id stands once in a list of objects, JSON Schema cannot say",
    "key_changed": "that the id of the body is the one of the path, neither",
}
OF_PLACES = {
    "If-None-Match": "beside If-Match it means nothing: what two headers say together, OpenAPI cannot say",
    "/rejects/": "an id of a reject begins with the load's: what two members say together, JSON Schema cannot say",
    "sort": "a column may stand once, with - or without",
    "page_size": "7.0 again, which is no number of rows here",
    **dict.fromkeys(
        {column.name for table in dictionary.load().tables.values() for column in table.columns},
        "a filter's value has to be one that the column can hold; a pattern says its form only",
    ),
}


@schemathesis.check
def good_data_is_taken(ctx: CheckContext, response: Response, case: Case) -> bool | None:
    """``positive_data_acceptance``, but for what no schema can say."""
    return _unless(positive_data_acceptance, RejectedPositiveData, _is_beyond_schemas, ctx, response, case)


def _is_beyond_schemas(response: Response, case: Case) -> bool:
    problem = response.json()
    errors = problem.get("errors", ())
    if problem["code"] in OF_THE_STATE:
        return True
    if case.media_type in LINES:  # of whose rows a schema says nothing
        return problem["code"] == "batch.rejected"
    if problem["code"] in ("row.invalid", "batch.rejected"):
        return all(error["code"].rpartition(".")[2] in OF_ROWS for error in errors)
    return bool(errors) and all(map(_is_known, errors))


def _is_known(error: dict[str, Any]) -> bool:
    places = [error[name] for name in ("header", "parameter", "pointer") if name in error]
    return any(place.startswith(known) for place in places for known in OF_PLACES)


# --- What a schema forbids and the API answers with success


@schemathesis.check
def bad_data_is_told(ctx: CheckContext, response: Response, case: Case) -> bool | None:
    """``negative_data_rejection``, but for batches, which tell of each bad row and take the good ones."""
    return _unless(negative_data_rejection, AcceptedNegativeData, _is_told_otherwise, ctx, response, case)


def _is_told_otherwise(response: Response, case: Case) -> bool:
    if response.status_code == 412:  # nothing was written: schemathesis does not count it as a refusal
        return True
    if case.operation.path == "/dead-letters":  # this server trusts its own machine: no platform signs here
        return "Authorization" not in (case.headers or {})
    return case.media_type in LINES or bool(_errors(response))


def _errors(response: Response) -> Iterable[Any]:
    try:
        return response.json().get("errors", ())  # type: ignore[no-any-return]
    except (ValueError, AttributeError, json.JSONDecodeError):
        return ()


def _unless(
    check: Callable[[CheckContext, Response, Case], bool | None],
    failure: type[Exception],
    is_meant: Callable[[Response, Case], bool],
    ctx: CheckContext,
    response: Response,
    case: Case,
) -> bool | None:
    try:
        return check(ctx, response, case)
    except failure:
        if is_meant(response, case):
            return None
        raise
