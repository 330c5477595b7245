"""Restore: puts tables back from a backup, or drills that; 2xx says that it is done, or what would be done."""

from __future__ import annotations

import flask
import functions_framework

from shared import called, logs
from shared.errors import BackupDamaged, ObjectNotFound

logs.configure()
PATHS = (
    "POST / restores tables from a backup, POST /drill restores one for good measure; GET is for /health and /ready."
)
# Of the backup and not of the request: what lies in the bucket is not what was written.
STATUS_BY_ERROR = {BackupDamaged: 422, ObjectNotFound: 422}


@functions_framework.http
def restore(request: flask.Request) -> flask.Response:
    """Do what the path asks for; without ``confirm`` nothing is changed, and the answer says what would be.

    A caller or a request that is none gets 403, 400 or 404, what does not fit what is there 409, a damaged backup 422,
    what may pass next time 503, and what is ours to mend 500. ``/health`` and ``/ready`` answer everybody.
    """
    return called.answer(request, "restore", PATHS, _calls, STATUS_BY_ERROR)


def _calls() -> called.Calls:
    from functions.restore import calls

    return calls.CALLS
