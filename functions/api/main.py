"""API: HTTP in; rows, metrics, history or a problem document out."""

from __future__ import annotations

import contextlib
import re
import uuid

import flask
import functions_framework
from werkzeug.exceptions import RequestEntityTooLarge

from functions.api.messages import LONGEST_BODY, Request, Response
from shared import logs, settings

logs.configure()
settings.load()  # what cannot be used ends the start, with its reason, and not the first request
REQUEST_ID = re.compile(r"[A-Za-z0-9._~-]{1,64}\Z")  # one that a caller gives is kept if it can do no harm in a log

LONGEST_DRAINED = 64 << 20  # bytes


@functions_framework.http
def api(request: flask.Request) -> flask.Response:
    """Answer any request; nothing escapes, since functions-framework would answer with a page of HTML."""
    # Imported at first use: routes and adapters are no part of a cold start's import.
    from functions.api import app, services

    return _to_flask(app.handle(_from_flask(request), services.production))


def _from_flask(request: flask.Request) -> Request:
    given = request.headers.get("X-Request-Id", "")
    request.max_content_length = LONGEST_BODY  # also ends a chunked body that says nothing of its length
    body, too_large = b"", False
    try:
        body = request.get_data()
    except RequestEntityTooLarge:
        too_large = True
        _drain(request)
    return Request(
        method=request.method,
        path=request.path,
        query=tuple(request.args.items(multi=True)),
        headers={name.lower(): value for name, value in request.headers.items()},
        body=body,
        remote=request.remote_addr or "",
        id=given if REQUEST_ID.match(given) else uuid.uuid4().hex,
        too_large=too_large,
    )


def _drain(request: flask.Request) -> None:
    """Throw away what of a long body is still on its way: most clients read no answer before they have sent it all."""
    waiting, left = request.environ["wsgi.input"], LONGEST_DRAINED
    with contextlib.suppress(OSError):  # the caller went away, or sends too slowly: it is answered all the same
        while left > 0 and (piece := waiting.read(min(left, 1 << 16))):
            left -= len(piece)


def _to_flask(response: Response) -> flask.Response:
    # A stream: before any other answer functions-framework reads the rest of the request, and fails where it is long.
    body = response.chunks or (iter([response.body]) if response.streamed else response.body)
    answer = flask.Response(body, response.status, content_type=response.content_type)
    answer.headers.update(response.headers)
    return answer
