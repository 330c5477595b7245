"""Backup: takes one, verifies them and removes what is too old, on schedule or when asked; 2xx says that it is done."""

from __future__ import annotations

import flask
import functions_framework

from shared import called, logs

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
    return called.answer(request, "backup", PATHS, _calls)


def _calls() -> called.Calls:
    from functions.backup import calls

    return calls.CALLS
