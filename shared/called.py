"""A function that is called by path: probes, who may call, one canonical line, and every failure a problem document."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import flask

from shared import answers, identity, logs
from shared.errors import PermanentError

if TYPE_CHECKING:
    from shared.backups.services import Services
    from shared.logs import CanonicalLine

Headers = Mapping[str, str]
Call = Callable[["Services", Headers, dict[str, Any], "CanonicalLine"], Mapping[str, Any]]
Calls = Mapping[str, tuple[str, Call]]  # by path: the name of the work, and what does it


def answer(
    request: flask.Request,
    name: str,
    paths: str,
    calls: Callable[[], Calls],
    statuses: Mapping[type[PermanentError], int] | None = None,
) -> flask.Response:
    """What the path asks for, done; or why it is not.

    Args:
        name: the function's, for the log.
        paths: says what there is, for who asks for something else.
        calls: imports them, at first use: numpy and the stores' clients are no part of a cold start's import.
        statuses: of permanent errors, where the function says it more exactly than all do.
    """
    if request.method in ("GET", "HEAD"):
        if request.path == "/ready":
            return answers.ready(name)
        return answers.ok() if request.path == "/health" else answers.not_allowed(paths, "POST")
    work, call = calls().get(request.path, ("", None))
    if call is None:
        return answers.not_found(paths)
    if request.method != "POST":
        return answers.not_allowed(paths, "POST")
    try:
        with logs.canonical_line(f"{work}.finished") as line:
            return answers.data(200, _done(request, call, line))
    except Exception as error:  # noqa: BLE001  # the line has told of it; functions-framework would answer with HTML
        return answers.failed(error, statuses or {})


def _done(request: flask.Request, call: Call, line: CanonicalLine) -> Mapping[str, Any]:
    from shared import json_body
    from shared.backups import services

    current, headers = services.production(), dict(request.headers)
    identity.require_caller(headers, current.settings)
    return call(current, headers, json_body.parse(request.get_data()), line)
