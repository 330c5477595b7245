"""Pages of a list whose keys are numbers, such as history: what ``paging`` is for rows, without its SQL."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from functions.api import paging
from functions.api.messages import JSON, Response
from functions.api.parameters import LARGEST_ID

if TYPE_CHECKING:
    from functions.api.messages import Request

PARAMETERS = ("page_size", "page_token")


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
    def of(cls, request: Request, given: Mapping[str, str], keys: int, most: int = paging.LARGEST_SIZE) -> Page:
        """Read ``page_size`` and ``page_token``; all else in ``given`` are filters.

        Args:
            keys: how many keys order the list.
            most: rows that a page may have.

        Raises:
            Problem: 400 for a size that is no number from 1, or for a token of another list or of other filters.
        """
        filters = {name: value for name, value in given.items() if name not in PARAMETERS}
        size = paging.size(given.get("page_size"), most)
        token = given.get("page_token")
        after = _numbers(paging.opened(token, _digest(request.path, filters), keys)) if token else None
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
        return paging.token(_digest(self.path, self.filters), json.dumps(last))

    def _next_url(self, token: str) -> str:
        return f"{self.path}?{urlencode({**self.filters, 'page_size': self.size, 'page_token': token})}"


def _digest(path: str, filters: Mapping[str, str]) -> str:
    return paging.digest(path, sorted(filters.items()))


def _numbers(keys: Sequence[Any]) -> tuple[int, ...]:
    if not all(type(key) is int and 0 <= key <= LARGEST_ID for key in keys):
        raise paging.foreign_token()
    return tuple(keys)


def as_json(value: Any) -> bytes:
    """``value`` as JSON; times are UTC and end in Z."""
    return json.dumps(value, default=_time).encode()  # ASCII: half a surrogate pair, in an event, stays an escape


def _time(value: Any) -> str:
    return str(value.isoformat()).replace("+00:00", "Z")
