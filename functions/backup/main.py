"""Backup: takes one, verifies them and removes what is too old, on schedule or when asked; 2xx says that it is done."""

from __future__ import annotations

import flask
import functions_framework

from shared import answers, identity, logs
from shared.errors import RowdockError

logs.configure()
PATHS = (
    "POST / takes a backup, POST /verify looks at them, POST /expire removes old ones; GET is for /health and /ready."
)


@functions_framework.http
def backup(request: flask.Request) -> flask.Response:
    """Do what the path asks for; the same scheduled instant again is answered like the first time.

    A caller or a request that no schedule of ours has gets 403, 400 or 404, what may pass next time 503, a backup that
    is damaged 409, and what is ours to mend 500. ``/health`` and ``/ready`` answer everybody.
    """
    if request.method in ("GET", "HEAD"):
        probe = {"/health": answers.ok, "/ready": _ready}.get(request.path)
        return probe() if probe else answers.not_allowed(PATHS, "POST")
    # Imported at first use: numpy and the stores' clients are no part of a cold start's import.
    from functions.backup import calls
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
            told = call(current, dict(request.headers), json_body.parse(request.get_data()), line)
    except Exception as error:  # noqa: BLE001  # the line has told of it; functions-framework would answer with HTML
        return answers.failed(error)
    return answers.data(200, told)


def _ready() -> flask.Response:
    """200 or 503, and a line of the log where something is missing: one for each probe would be noise."""
    from shared import postgres, readiness

    try:
        readiness.require(postgres.database())
    except RowdockError as error:
        with logs.canonical_line("backup.not_ready") as line:
            line.failed(error)
        return answers.not_ready("The function cannot take backups now.")
    return answers.ok()
