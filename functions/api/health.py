"""Health: alive, and ready to serve. Open to everybody, and empty of details."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from functions.api.messages import Response
from functions.api.routes import Route

if TYPE_CHECKING:
    from functions.api.messages import Call


def alive(_call: Call) -> Response:
    """200: the process answers."""
    return Response(200, json.dumps({"status": "ok"}).encode(), headers={"Cache-Control": "no-store"})


def ready(call: Call) -> Response:
    """200 when the database answers and has every migration of this version; those of a later one do no harm.

    Raises:
        TransientError: the database does not answer, or lacks a migration, which only the log names.
    """
    from shared import readiness

    readiness.require(call.services.database)
    return alive(call)


ROUTES = (
    Route("GET", "/health", "health.alive", "open", alive),
    Route("GET", "/ready", "health.ready", "open", ready),
)
