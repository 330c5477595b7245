"""A request's body: one JSON object, of which each key is known and has the kind of value that it takes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from shared.errors import RequestRefused


def parse(data: bytes) -> dict[str, Any]:
    """The JSON object that a request holds; an empty body is an empty one.

    Raises:
        RequestRefused: it is something else.
    """
    try:
        found = json.loads(data) if data.strip() else {}
    except (ValueError, RecursionError):
        raise RequestRefused("the body is no JSON") from None
    if not isinstance(found, dict):
        raise RequestRefused("the body must be a JSON object")
    return found


def only(body: Mapping[str, Any], *known: str) -> None:
    """Raise RequestRefused if the body has another key than these."""
    if extra := sorted(set(body) - set(known)):
        raise RequestRefused(f"{extra[0]!r} is not known here; known are {', '.join(known)}")


def text(body: Mapping[str, Any], name: str, default: str | None = None) -> str | None:
    """The text of that key; ``default`` where it is absent or null.

    Raises:
        RequestRefused: it is none.
    """
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise RequestRefused(f"{name} takes a text")
    return default if value is None else value


def one_of(body: Mapping[str, Any], name: str, allowed: Sequence[str], default: str) -> str:
    """As ``text``, one of these."""
    value = text(body, name) or default
    if value not in allowed:
        raise RequestRefused(f"{name} takes {', '.join(allowed)}")
    return value


def flag(body: Mapping[str, Any], name: str, *, default: bool) -> bool:
    """The truth value of that key.

    Raises:
        RequestRefused: it is none.
    """
    value = body.get(name, default)
    if not isinstance(value, bool):
        raise RequestRefused(f"{name} takes true or false")
    return value


def instant(name: str, told: str) -> datetime:
    """The instant that the text is; aware.

    Raises:
        RequestRefused: it is none, or says no zone.
    """
    try:
        at = datetime.fromisoformat(told)
    except ValueError:
        at = datetime.min
    if at.tzinfo is None:
        raise RequestRefused(f"{name} takes an instant with its zone, such as 2026-11-25T03:15:00Z")
    return at
