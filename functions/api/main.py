"""API: HTTP in; rows, metrics or a problem out. Until its routes are built it answers 501, and its health."""

from __future__ import annotations

import flask
import functions_framework


@functions_framework.http
def api(request: flask.Request) -> flask.Response:
    """Answer ``GET /health`` with 200 and everything else with a problem document (RFC 9457), status 501."""
    if request.path == "/health":
        return flask.jsonify(status="ok")
    problem = {"type": "about:blank", "title": "Not Implemented", "status": 501, "instance": request.path}
    return flask.Response(flask.json.dumps(problem), 501, mimetype="application/problem+json")
