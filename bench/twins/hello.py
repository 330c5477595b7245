"""The least that a function under functions-framework can do: the ceiling of what any of them reaches."""

from __future__ import annotations

import flask
import functions_framework


@functions_framework.http
def api(_request: flask.Request) -> str:
    """Answer any request with the same text."""
    return "hello"
