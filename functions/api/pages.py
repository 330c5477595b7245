"""Query parameters, and pages of a list: a token leads to the next one, and belongs to its list and filters alone."""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from functions.api.messages import JSON, Response
from functions.api.problems import Problem

if TYPE_CHECKING:
    from functions.api.messages import Request

DEFAULT_ROWS = 100
MOST_ROWS = 1000
LARGEST_ID = 2**63 - 1


def parameters(request: Request, known: Collection[str]) -> dict[str, str]:
    """The query by name.

    Raises:
        Problem: 400 for a parameter that is unknown, comes twice, or holds what no text of PostgreSQL can.
    """
    found: dict[str, str] = {}
    for name, value in request.query:
        if name not in known:
            offered = ", ".join(sorted(known)) or "none"
            raise refused(name, f"There is no such parameter; this path knows: {offered}.")
        if name in found:
            raise refused(name, "The parameter stands there twice.")
        if not is_text(value):
            raise refused(name, "The value contains a character that no text may hold.")
        found[name] = value
    return found


def refused(parameter: str, detail: str) -> Problem:
    """400 that names the parameter."""
    return Problem(400, "request.parameter", detail, errors=[{"parameter": parameter[:100], "detail": detail}])


def is_text(value: str) -> bool:
    """Whether PostgreSQL can hold ``value``: no NUL, no half of a surrogate pair."""
    return not any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value)


def number(given: Mapping[str, str], name: str) -> int | None:
    """A parameter that is an id, or None without it.

    Raises:
        Problem: 400 when it is none.
    """
    if name not in given:
        return None
    if (found := as_id(given[name])) is None:
        raise refused(name, f"The value must be a whole number from 1 to {LARGEST_ID}.")
    return found


def as_id(text: str) -> int | None:
    """The id that ``text`` is: plain digits, no more than bigint holds; None if it is none."""
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(LARGEST_ID))):
        return None
    return value if 1 <= (value := int(text)) <= LARGEST_ID else None


def one_of(given: Mapping[str, str], name: str, allowed: Sequence[str]) -> str | None:
    """A parameter that takes one of some words, or None without it.

    Raises:
        Problem: 400 for another word.
    """
    if name in given and given[name] not in allowed:
        raise refused(name, f"The value must be one of {', '.join(allowed)}.")
    return given.get(name)


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list is asked for.

    Attributes:
        size: rows that it may have.
        after: keys of the last row of the page before, or None at the start.
    """

    path: str
    filters: Mapping[str, str]
    size: int
    after: tuple[int, ...] | None

    @classmethod
    def of(cls, request: Request, given: Mapping[str, str], keys: int, most: int = MOST_ROWS) -> Page:
        """Read ``page_size`` and ``page_token``; all else in ``given`` are filters.

        Args:
            keys: how many keys order the list.
            most: rows that a page may have.

        Raises:
            Problem: 400 for a size that is no number from 1, or for a token of another list or of other filters.
        """
        filters = {name: value for name, value in given.items() if name not in ("page_size", "page_token")}
        # More than the most is cut down to it: the token says that there is more (AIP-158).
        size = min(number(given, "page_size") or DEFAULT_ROWS, most)
        token = given.get("page_token", "")
        after = _opened(token, _digest(request.path, filters), keys) if token else None
        return cls(request.path, filters, size, after)

    def answer(
        self, rows: Sequence[Mapping[str, Any]], keys: Sequence[Sequence[int]], media_type: str = JSON
    ) -> Response:
        """``rows`` as JSON or NDJSON, with the way to the next page where one row more than ``size`` was found.

        Args:
            rows: up to one more than the page may have.
            keys: the keys of each row, in order.
        """
        token = self._token(keys[self.size - 1]) if len(rows) > self.size else None
        headers = {"Link": f'<{self._next_url(token)}>; rel="next"'} if token else {}
        shown = [dict(row) for row in rows[: self.size]]
        if media_type == JSON:
            return Response(200, as_json({"data": shown, "next_page_token": token}), JSON, headers)
        return Response(200, b"".join(as_json(row) + b"\n" for row in shown), media_type, headers)

    def _token(self, last: Sequence[int]) -> str:
        text = json.dumps([_digest(self.path, self.filters), *last], separators=(",", ":"))
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    def _next_url(self, token: str) -> str:
        return f"{self.path}?{urlencode({**self.filters, 'page_size': self.size, 'page_token': token})}"


def _digest(path: str, filters: Mapping[str, str]) -> str:
    return blake2b(json.dumps([path, sorted(filters.items())]).encode(), digest_size=8).hexdigest()


def _opened(token: str, digest: str, keys: int) -> tuple[int, ...]:
    try:
        found = json.loads(base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True))
        if isinstance(found, list) and found[0] == digest and len(found) == keys + 1:
            return tuple(_key(value) for value in found[1:])
    except (ValueError, RecursionError, IndexError):
        pass
    detail = "The token is not one of this list with these filters; start without it."
    raise Problem(400, "request.page_token", detail, errors=[{"parameter": "page_token", "detail": detail}])


def _key(value: object) -> int:
    if type(value) is not int or not 0 <= value <= LARGEST_ID:
        raise ValueError
    return value


def as_json(value: Any) -> bytes:
    """``value`` as JSON; times are UTC and end in Z."""
    return json.dumps(value, default=_time).encode()  # ASCII: half a surrogate pair, in an event, stays an escape


def _time(value: Any) -> str:
    return str(value.isoformat()).replace("+00:00", "Z")
