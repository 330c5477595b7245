"""What the caller is told: that all is well, or a problem document with nothing of rows, database or machine in it."""

from __future__ import annotations

from http import HTTPStatus

import flask

from shared import problems
from shared.errors import CallerRefused, EventRefused, RowdockError, TransientError

TO_MEND = (
    "The function cannot take events as it is deployed; its log says why. Deliver this one again once it is mended."
)


def ok() -> flask.Response:
    """200, for probes."""
    answer = flask.jsonify(status="ok")
    answer.headers["Cache-Control"] = "no-store"
    return answer


def not_ready() -> flask.Response:
    """503, for probes; why is for the log."""
    return _problem(503, "not_ready", "The function cannot take events now.", {"Retry-After": "5"})


def not_allowed() -> flask.Response:
    """405: neither an event nor a probe."""
    detail = "Events come by POST; GET is for /health and /ready."
    return _problem(405, "method", detail, {"Allow": "POST"})


def failed(error: Exception) -> flask.Response:
    """Return what ``error`` means to who delivers the event: 4xx never to send it again, 5xx to send it again later."""
    code = error.code if isinstance(error, RowdockError) else "defect"
    if isinstance(error, TransientError):
        detail = f"The event is not acknowledged. Deliver it again after {error.retry_after_s} seconds."
        return _problem(503, code, detail, {"Retry-After": str(error.retry_after_s)})
    if isinstance(error, CallerRefused):
        return _problem(403, code, str(error))
    if isinstance(error, EventRefused):
        return _problem(400, code, str(error))
    return _problem(500, code, TO_MEND)


def _problem(status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> flask.Response:
    body = problems.document(status, code, HTTPStatus(status).phrase, detail)
    return flask.Response(body, status, headers, content_type=problems.MEDIA_TYPE)
