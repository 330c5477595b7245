"""What who delivers an event is told: that all is well, or a problem document that says whether to deliver it again."""

from __future__ import annotations

import flask

from shared import answers
from shared.answers import ok
from shared.errors import CallerRefused, EventRefused, RowdockError, TransientError

__all__ = ["failed", "not_allowed", "ok", "ready"]
TO_MEND = (
    "The function cannot take events as it is deployed; its log says why. Deliver this one again once it is mended."
)


def ready() -> flask.Response:
    """200 or 503, for probes; why is for the log."""
    return answers.ready("ingest")


def not_allowed() -> flask.Response:
    """405: neither an event nor a probe."""
    return answers.not_allowed("Events come by POST; GET is for /health and /ready.", "POST")


def failed(error: Exception) -> flask.Response:
    """Return what ``error`` means to who delivers the event: 4xx never to send it again, 5xx to send it again later."""
    code = error.code if isinstance(error, RowdockError) else "defect"
    if isinstance(error, TransientError):
        detail = f"The event is not acknowledged. Deliver it again after {error.retry_after_s} seconds."
        return answers.problem(503, code, detail, {"Retry-After": str(error.retry_after_s)})
    if isinstance(error, CallerRefused | EventRefused):
        return answers.failed(error)
    return answers.problem(500, code, TO_MEND)
