"""What a function answers: JSON, or a problem document with nothing of rows, database or machine in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

import flask

from shared import problems
from shared.errors import (
    BackupDamaged,
    BackupDiffers,
    BackupRunning,
    CallerRefused,
    DeploymentError,
    EventRefused,
    NoSuchBackup,
    NoSuchTable,
    PermanentError,
    RequestRefused,
    RowdockError,
    TransientError,
)

TO_MEND = "The function cannot do it as it is deployed; its log says why."
# Of permanent errors; what is not here is 409: what was asked for does not fit what is there.
STATUS_BY_ERROR: dict[type[PermanentError], int] = {
    RequestRefused: 400,
    EventRefused: 400,
    CallerRefused: 403,
    NoSuchBackup: 404,
    NoSuchTable: 404,
    BackupDamaged: 409,
    BackupDiffers: 409,
}
TOLD: tuple[type[TransientError], ...] = (BackupRunning,)  # transient errors whose message helps the caller


def ok() -> flask.Response:
    """200, for probes."""
    return data(200, {"status": "ok"})


def data(status: int, body: Mapping[str, Any]) -> flask.Response:
    """``body`` as JSON, which nobody keeps; instants in it are texts already."""
    answer = flask.Response(json.dumps(body), status, content_type="application/json")
    answer.headers["Cache-Control"] = "no-store"
    return answer


def ready(name: str) -> flask.Response:
    """200, or 503 and a line of the log where something is missing: one for each probe would be noise."""
    from shared import logs, postgres, readiness

    try:
        readiness.require(postgres.database())
    except RowdockError as error:
        with logs.canonical_line(f"{name}.not_ready") as line:
            line.failed(error)
        return not_ready(f"The function {name} cannot do its work now.")
    return ok()


def not_ready(detail: str) -> flask.Response:
    """503, for probes; why is for the log."""
    return problem(503, "not_ready", detail, {"Retry-After": "5"})


def not_allowed(detail: str, allow: str) -> flask.Response:
    """405: neither a call that does something nor a probe."""
    return problem(405, "method", detail, {"Allow": allow})


def not_found(detail: str) -> flask.Response:
    """404: no such path."""
    return problem(404, "path", detail)


def failed(error: Exception, statuses: Mapping[type[PermanentError], int] = MappingProxyType({})) -> flask.Response:
    """What ``error`` means to the caller: 4xx what another call does not mend, 503 what may pass, 500 what is ours.

    Args:
        statuses: of permanent errors, where a function says it more exactly than ``STATUS_BY_ERROR``.
    """
    code = error.code if isinstance(error, RowdockError) else "defect"
    if isinstance(error, TransientError):
        why = f"{error}. " if isinstance(error, TOLD) else "It cannot be done now. "
        detail = f"{why}Try again after {error.retry_after_s} seconds."
        return problem(503, code, detail, {"Retry-After": str(error.retry_after_s)})
    if isinstance(error, PermanentError) and not isinstance(error, DeploymentError):
        return problem({**STATUS_BY_ERROR, **statuses}.get(type(error), 409), code, str(error))
    return problem(500, code, TO_MEND)


def problem(
    status: int, code: str, detail: str, headers: Mapping[str, str] | None = None, **extensions: Any
) -> flask.Response:
    """A problem document (RFC 9457); ``extensions`` are further members of it."""
    body = problems.document(status, code, HTTPStatus(status).phrase, detail, **extensions)
    return flask.Response(body, status, headers, content_type=problems.MEDIA_TYPE)
