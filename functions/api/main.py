"""API: HTTP in; rows, metrics, history or a problem document out."""

from __future__ import annotations

import io
import re
import uuid
from collections import deque
from collections.abc import Iterator
from typing import IO
from urllib.parse import parse_qsl

import flask
import functions_framework

from functions.api.messages import LONGEST_BODY, Request, Response
from shared import logs, settings

logs.configure()
settings.load()  # what cannot be used ends the start, with its reason, and not the first request
REQUEST_ID = re.compile(r"[A-Za-z0-9._~-]{1,64}\Z")  # one that a caller gives is kept if it can do no harm in a log

LONGEST_DRAINED = 64 << 20  # bytes
# A client that lost its network sends no more and takes no more: it would hold a thread for ever.
SILENCE_S = 15.0
PIECE_BYTES = 1 << 16


@functions_framework.http
def api(request: flask.Request) -> flask.Response:
    """Answer any request; nothing escapes, since functions-framework would answer with a page of HTML."""
    # Imported at first use: routes and adapters are no part of a cold start's import.
    from functions.api import app, services

    return _to_flask(app.handle(_from_flask(request), services.production))


def _left_over(_error: Exception) -> flask.Response:
    """Answer what functions-framework gives to no function: its rule for paths stops at the end of a line."""
    return flask.make_response(api(flask.request))


if flask.has_app_context():  # as functions-framework imports this module
    flask.current_app.register_error_handler(404, _left_over)


def _from_flask(request: flask.Request) -> Request:
    given = request.headers.get("X-Request-Id", "")
    told = request.content_length  # None for a body in chunks
    if line := request.environ.get("gunicorn.socket"):
        line.settimeout(SILENCE_S)
    waiting, body, is_cut = request.environ["wsgi.input"], b"", False
    too_large = told is not None and told > LONGEST_BODY
    try:
        # Not by Flask, which cuts a body in chunks at its limit without a word.
        body = b"" if too_large else b"".join(_pieces(waiting, LONGEST_BODY + 1 if told is None else told))
        too_large |= len(body) > LONGEST_BODY
        is_cut = told is not None and not too_large and len(body) < told
        if too_large:  # most clients read no answer before they have sent it all
            deque(_pieces(waiting, LONGEST_DRAINED), maxlen=0)
    except OSError:  # the caller went away, fell silent, or what it sent are no chunks
        is_cut = True
    request.environ["wsgi.input"] = io.BytesIO(body)  # functions-framework reads it once more
    query = _query(request)
    return Request(
        method=request.method,
        path=request.path,
        query=query or (),
        headers={name.lower(): value for name, value in request.headers.items()},
        body=body,
        remote=request.remote_addr or "",
        id=given if REQUEST_ID.match(given) else uuid.uuid4().hex,
        too_large=too_large,
        is_cut=is_cut,
        is_text=query is not None,
    )


def _query(request: flask.Request) -> tuple[tuple[str, str], ...] | None:
    """The pairs of the query, or None where it, or the path, is no UTF-8.

    Flask leaves an escape as it is then, or puts another character in its place: either finds what nobody asked for.
    """
    try:
        request.environ.get("PATH_INFO", "").encode("latin-1").decode()  # WSGI gives bytes as Latin-1 (PEP 3333)
        return tuple(parse_qsl(request.query_string.decode(), keep_blank_values=True, errors="strict"))
    except UnicodeDecodeError:
        return None


def _pieces(waiting: IO[bytes], most: int) -> Iterator[bytes]:
    """Up to ``most`` bytes of what a client sends, or all until its end.

    Raises:
        OSError: the connection was lost, or a chunk is none.
    """
    while most > 0 and (piece := waiting.read(min(most, PIECE_BYTES))):
        most -= len(piece)
        yield piece


def _to_flask(response: Response) -> flask.Response:
    # A stream: before any other answer functions-framework reads the rest of the request, and fails where it is long.
    body = response.chunks or (iter([response.body]) if response.streamed else response.body)
    answer = flask.Response(body, response.status, content_type=response.content_type)
    answer.headers.update(response.headers)
    return answer
