"""Health: alive, and ready to serve. Open to everybody, and empty of details."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from functions.api.messages import Response
from functions.api.problems import Problem
from functions.api.routes import Route

if TYPE_CHECKING:
    from functions.api.messages import Call


def alive(_call: Call) -> Response:
    """200: the process answers."""
    return Response(200, json.dumps({"status": "ok"}).encode(), headers={"Cache-Control": "no-store"})


def ready(call: Call) -> Response:
    """200 when the database answers and has the migrations of this version.

    Raises:
        Problem: 503 when it lacks some, or has ones that this version does not know.
        TransientError: the database does not answer.
    """
    from shared import migrate

    with call.connection() as conn:
        differences = migrate.differences(conn, migrate.read())
    if differences:
        detail = "The database does not have the migrations of this version: run rowdock migrate."
        raise Problem(503, "unavailable", detail, headers={"Retry-After": "5"})
    return alive(call)


ROUTES = (
    Route("GET", "/health", "health.alive", "open", alive),
    Route("GET", "/ready", "health.ready", "open", ready),
)
