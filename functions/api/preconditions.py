"""Conditional requests (RFC 9110, 13): entity tags as callers send and get them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from functions.api.problems import Problem

if TYPE_CHECKING:
    from functions.api.messages import Request

ETAG = re.compile(r'\s*(W/)?"([\x21\x23-\x7e\x80-\xff]*)"\s*\Z')


@dataclass(frozen=True, slots=True)
class IfMatch:
    """Which states of a row a write may find.

    Attributes:
        given: whether the caller said anything; if so, there has to be a row.
        digests: of the states; None for any.
    """

    given: bool = False
    digests: tuple[str, ...] | None = None

    def allows(self, digest: str | None) -> bool:
        """Whether a row of ``digest``, or None where there is no row, may be written."""
        if digest is None:
            return not self.given
        return self.digests is None or digest in self.digests


def strong(digest: str) -> str:
    """The header's value for a row's digest."""
    return f'"{digest}"'


def if_match(request: Request) -> IfMatch:
    """What If-Match says; a weak tag matches no row.

    Raises:
        Problem: 400 where it cannot be read: to write all the same could be what the caller wants to prevent.
    """
    text = request.headers.get("if-match")
    if text is None or text.strip() == "*":
        return IfMatch(text is not None)
    tags = [ETAG.match(part) for part in text.split(",")]
    if not all(tags):
        raise _unreadable("If-Match", 'takes * or tags in quotes, such as the ETag that the row was read with: "9c1f…"')
    return IfMatch(True, tuple(tag[2] for tag in tags if tag and not tag[1]))


def must_be_new(request: Request) -> bool:
    """Whether ``If-None-Match: *`` says that there must be no such row yet.

    Raises:
        Problem: 400 for any other value of a write, and beside If-Match.
    """
    text = request.headers.get("if-none-match")
    if text is not None and (text.strip() != "*" or "if-match" in request.headers):
        raise _unreadable("If-None-Match", "takes * in a write, and does not stand beside If-Match")
    return text is not None


def refuse_if_none_match(request: Request) -> None:
    """Let pass a request without If-None-Match.

    Raises:
        Problem: 400: nothing can be changed in a row that must not be there.
    """
    if "if-none-match" in request.headers:
        raise _unreadable("If-None-Match", "has no meaning for this method; If-Match has")


def is_known(request: Request, digest: str) -> bool:
    """Whether the caller of GET has the row already: weak comparison, and what cannot be read names nothing."""
    text = request.headers.get("if-none-match")
    if text is None:
        return False
    tags = (ETAG.match(part) for part in text.split(","))
    return text.strip() == "*" or any(tag and tag[2] == digest for tag in tags)


def _unreadable(header: str, takes: str) -> Problem:
    detail = f"{header} {takes}."
    return Problem(400, "request.malformed", detail, errors=[{"header": header, "detail": detail}])
