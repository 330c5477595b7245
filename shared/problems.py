"""Problem documents (RFC 9457): what every function answers where it cannot do what was asked."""

from __future__ import annotations

import json
from typing import Any

MEDIA_TYPE = "application/problem+json"


def document(status: int, code: str, title: str, detail: str, **extensions: Any) -> bytes:
    """Return the body of an answer of ``MEDIA_TYPE``.

    Args:
        status: HTTP status of the answer.
        code: stable and dotted, for programs.
        title: the same for every problem of this code.
        detail: of this one, what to do included; no value of a row, no text of the database, no path.
        extensions: further members, such as ``type`` and ``instance``; without ``type`` it is ``about:blank``, and the
            title the status's own phrase.
    """
    members = {"title": title, "status": status, "detail": detail, "code": code, **extensions}
    return json.dumps(members).encode()
