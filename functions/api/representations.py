"""In which form an answer goes out: the media types that a path offers against the caller's Accept header."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

from functions.api.messages import Response
from functions.api.problems import Problem

if TYPE_CHECKING:
    from functions.api.messages import Request

CSV = "text/csv"
NDJSON = "application/x-ndjson"


def choose(request: Request, offered: Sequence[str]) -> str:
    """The media type of ``offered`` that the caller likes best (RFC 9110, 12.5.1); of equals the first.

    Raises:
        Problem: 406 when it takes none of them; the detail lists them.
    """
    ranges = _ranges(request.headers.get("accept") or "*/*")
    best = max(offered, key=lambda media_type: _quality(media_type, ranges))
    if _quality(best, ranges) <= 0:
        raise Problem(406, "request.not_acceptable", f"This path answers {', '.join(offered)}.")
    return best


def _ranges(accept: str) -> dict[str, float]:
    """Media range to quality; parameters but ``q`` are left out, a quality that is no number counts as 1."""
    found = {}
    for part in accept.split(","):
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        given = next((value[2:] for value in parameters if value.startswith("q=")), "1")
        try:
            quality = float(given)
        except ValueError:
            quality = 1.0
        found[name] = quality
    return found


def _quality(media_type: str, ranges: dict[str, float]) -> float:
    """The most specific range that ``media_type`` falls into decides."""
    kind = media_type.partition("/")[0]
    return next((ranges[name] for name in (media_type, f"{kind}/*", "*/*") if name in ranges), 0.0)


def revalidated(request: Request, body: bytes, media_type: str, headers: dict[str, str] | None = None) -> Response:
    """200 with a strong ETag made of the body, or 304 when the caller has just that (``If-None-Match``)."""
    etag = f'"{blake2b(body, digest_size=16).hexdigest()}"'
    # The caller may keep it, for itself alone, and asks each time whether it still holds.
    answered = {"ETag": etag, "Cache-Control": "private, no-cache", **(headers or {})}
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    if etag in known or "*" in known:
        return Response(304, b"", media_type, answered)
    return Response(200, body, with_charset(media_type), answered)


def with_charset(media_type: str) -> str:
    """What Content-Type says: a text names its encoding, JSON has but one."""
    return f"{media_type}; charset=utf-8" if media_type.startswith("text/") else media_type
