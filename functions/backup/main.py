"""Backup: one AVRO backup of every table. Until it is built it answers 501."""

from __future__ import annotations

import flask
import functions_framework


@functions_framework.http
def backup(request: flask.Request) -> flask.Response:
    """Answer with a problem document (RFC 9457), status 501."""
    problem = {"type": "about:blank", "title": "Not Implemented", "status": 501, "instance": request.path}
    return flask.Response(flask.json.dumps(problem), 501, mimetype="application/problem+json")
