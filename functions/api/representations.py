"""Which representation of an answer the caller takes: content negotiation by Accept (RFC 9110, 12.5.1)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

from functions.api.messages import Response
from functions.api.problems import Problem

if TYPE_CHECKING:
    from functions.api.messages import Request

JSON, CSV, NDJSON = "application/json", "text/csv", "application/x-ndjson"
CONTENT_TYPES = {JSON: JSON, CSV: "text/csv; charset=utf-8; header=present", NDJSON: NDJSON}
WEIGHT = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)\Z")


def choose(request: Request, offered: Sequence[str]) -> str:
    """The one of ``offered`` that the caller likes best; the first of them where it does not say, or likes two alike.

    Raises:
        Problem: 406, naming what is offered.
    """
    accept = request.headers.get("accept")
    if not accept or accept in ("*/*", offered[0]):
        return offered[0]
    ranges = [_range(text) for text in accept.split(",") if text.strip()]
    best = max(offered, key=lambda media_type: _weight(media_type, ranges))
    if ranges and _weight(best, ranges) == 0:
        raise Problem(406, "request.not_acceptable", f"Accept names none of what is offered: {', '.join(offered)}.")
    return best


def _range(text: str) -> tuple[str, float]:
    """A media range and its weight; one that cannot be read weighs nothing."""
    name, *parameters = (part.strip().lower() for part in text.split(";"))
    weight = next((part[2:].strip() for part in parameters if part.startswith("q=")), "1")
    return name, float(weight) if WEIGHT.match(weight) else 0.0


def _weight(media_type: str, ranges: Sequence[tuple[str, float]]) -> float:
    """What the most specific range that holds ``media_type`` says; parameters other than q are not looked at."""
    for wanted in (media_type, media_type.partition("/")[0] + "/*", "*/*"):
        weights = [weight for name, weight in ranges if name == wanted]
        if weights:
            return max(weights)
    return 0.0


def revalidated(request: Request, body: bytes, media_type: str, headers: Mapping[str, str] | None = None) -> Response:
    """200 with a strong ETag made of the body, or 304 when the caller has just that (``If-None-Match``)."""
    etag = f'"{blake2b(body, digest_size=16).hexdigest()}"'
    # The caller may keep it, for itself alone, and asks each time whether it still holds.
    answered = {"ETag": etag, "Cache-Control": "private, no-cache", **(headers or {})}
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    if etag in known or "*" in known:
        return Response(304, b"", CONTENT_TYPES[media_type], answered)
    return Response(200, body, CONTENT_TYPES[media_type], answered)
