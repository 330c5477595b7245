"""Ingest: an event announces a file or asks for upkeep; 2xx says that it is done for good, 5xx to deliver it again."""

from __future__ import annotations

import flask
import functions_framework
from flask.typing import ResponseReturnValue

from functions.ingest import answers
from shared import events, identity, logs

logs.configure()


@functions_framework.http
def ingest(request: flask.Request) -> ResponseReturnValue:
    """Take one event, in any form that ``events.parse`` knows; a redelivery changes nothing.

    Bad data is no error: it is recorded and answered with 204. A caller or a body that no delivery of ours has gets 403
    or 400, what may pass next time 503. All else is ours to mend, such as a missing migration: 500, so that the event
    comes again, or ends as a dead letter, and no file is lost. ``/health`` and ``/ready`` answer everybody.
    """
    if request.method != "POST":
        probe = {"/health": answers.ok, "/ready": answers.ready}.get(request.path, answers.not_allowed)
        return probe() if request.method in ("GET", "HEAD") else answers.not_allowed()
    try:
        with logs.canonical_line("ingest.finished") as line:
            # Imported at first use: numpy and the stores' clients are no part of a cold start's import.
            from functions.ingest import services, work

            current = services.production()
            identity.require_caller(dict(request.headers), current.settings)
            event = events.parse(dict(request.headers), request.get_data())
            line.update(event_id=event.id, event_type=event.type)
            line.update(work.handle(current, event))
    except Exception as error:  # noqa: BLE001  # the line has told of it; functions-framework would answer with HTML
        return answers.failed(error)
    return "", 204
