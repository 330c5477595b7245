"""Restore: puts tables back from a backup, or drills that; 2xx says that it is done, or what would be done."""

from __future__ import annotations

import flask
import functions_framework

from shared import answers, identity, logs
from shared.errors import RowdockError

logs.configure()
PATHS = (
    "POST / restores tables from a backup, POST /drill restores one for good measure; GET is for /health and /ready."
)


@functions_framework.http
def restore(request: flask.Request) -> flask.Response:
    """Do what the path asks for; without ``confirm`` nothing is changed, and the answer says what would be.

    A caller or a request that is none gets 403, 400 or 404, what does not fit what is there 409, a damaged backup 422,
    what may pass next time 503, and what is ours to mend 500. ``/health`` and ``/ready`` answer everybody.
    """
    if request.method in ("GET", "HEAD"):
        probe = {"/health": answers.ok, "/ready": _ready}.get(request.path)
        return probe() if probe else answers.not_allowed(PATHS, "POST")
    # Imported at first use: numpy and the stores' clients are no part of a cold start's import.
    from functions.restore import calls
    from shared import json_body
    from shared.backups import services

    name, call = calls.CALLS.get(request.path, ("", None))
    if call is None:
        return answers.not_found(PATHS)
    if request.method != "POST":
        return answers.not_allowed(PATHS, "POST")
    try:
        with logs.canonical_line(f"{name}.finished") as line:
            current = services.production()
            identity.require_caller(dict(request.headers), current.settings)
            told = call(current, json_body.parse(request.get_data()), line)
    except Exception as error:  # noqa: BLE001  # the line has told of it; functions-framework would answer with HTML
        return answers.failed(error, calls.STATUS_BY_ERROR)
    return answers.data(200, told)


def _ready() -> flask.Response:
    """200 or 503, and a line of the log where something is missing: one for each probe would be noise."""
    from shared import postgres, readiness

    try:
        readiness.require(postgres.database())
    except RowdockError as error:
        with logs.canonical_line("restore.not_ready") as line:
            line.failed(error)
        return answers.not_ready("The function cannot restore now.")
    return answers.ok()
