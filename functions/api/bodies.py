"""Bodies that ask for something: one JSON object whose members are known."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from functions.api.messages import JSON
from functions.api.problems import Problem

if TYPE_CHECKING:
    from functions.api.messages import Request


def read_object(request: Request, known: Collection[str]) -> dict[str, Any]:
    """The body's object.

    Raises:
        Problem: 415 for another media type, 400 for what is no JSON object or has a member that is unknown.
    """
    media_type = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
    if media_type != JSON:
        raise Problem(415, "request.media_type", f"The body must be {JSON}.")
    try:
        found = json.loads(request.body)
    except (ValueError, RecursionError):
        raise Problem(400, "request.malformed", "The body is not JSON in UTF-8.") from None
    if not isinstance(found, dict):
        raise Problem(400, "request.malformed", "The body must be one JSON object.")
    if unknown := sorted(set(found) - set(known)):
        detail = f"There is no such member; known are {', '.join(known)}."
        raise malformed("/" + unknown[0].replace("~", "~0").replace("/", "~1"), detail)
    return found


def malformed(pointer: str, detail: str) -> Problem:
    """400 that points at the member."""
    shown = pointer[:200].encode("utf-8", "replace").decode()
    return Problem(400, "request.malformed", detail, errors=[{"pointer": shown, "detail": detail}])
