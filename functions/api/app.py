"""One request from its arrival to its answer: route, policy, handler; a problem document for whatever goes wrong."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from functions.api import access, problems, routes
from functions.api.messages import LONGEST_BODY, Call, Request, Response
from functions.api.problems import Problem
from shared import logs

if TYPE_CHECKING:
    from functions.api.services import Services
    from shared.dictionary import Dictionary
    from shared.logs import CanonicalLine

# W3C Trace Context, 3.2.2: version, trace id, parent id, flags.
TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}\Z")
STRICT_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Vary": "Accept, Authorization, X-API-Key",
}
_TABLES: dict[int, tuple[Dictionary, routes.RouteTable]] = {}  # by id of the dictionary, which is kept with it
TRANSPORT_SECURITY = {"Strict-Transport-Security": "max-age=31536000"}


def route_table(services: Services) -> routes.RouteTable:
    """The routes of the services' dictionary, made once for each."""
    found = _TABLES.get(id(services.dictionary))
    if found is None or found[0] is not services.dictionary:
        found = _TABLES[id(services.dictionary)] = (services.dictionary, routes.table(services.dictionary))
    return found[1]


def handle(request: Request, services: Callable[[], Services]) -> Response:
    """Answer ``request``; whatever happens, the answer is one that the contract knows. Prints one line.

    Args:
        services: gives the adapters; called inside, so that settings that cannot be used are answered as a problem too.
    """
    started_s = time.perf_counter()
    with logs.canonical_line("api.request", request_id=request.id, method=request.method) as line:
        call: Call | None = None
        ready: Services | None = None
        try:
            if trace := TRACEPARENT.match(request.headers.get("traceparent", "")):
                line.update(trace_id=trace[1], parent_id=trace[2])
            ready = services()
            call, handler = _prepare(request, ready, line)
            response = handler(call)
        except Exception as error:  # noqa: BLE001  # whatever it is: the client gets a problem, the log the rest
            problem = problems.of_error(error)
            if problem.status >= 500 or problem.status in (401, 403):
                line.failed(error)
            if problem.status in (401, 403):
                line.update(refused_last_minute=access.failures.note())
            line.update(problem=problem.code)
            response = problems.response(problem, request.id)
        _finish(request, response, call, ready, time.perf_counter() - started_s)
        line.update(status=response.status, bytes_sent=len(response.body))
        if response.chunks is not None:
            response.chunks = _cut_cleanly(response.chunks, request.id)
    return response


def _cut_cleanly(chunks: Iterator[bytes], request_id: str) -> Iterator[bytes]:
    """Pass ``chunks`` on; what ends them early gets a line of its own, and the server an error without any detail."""
    try:
        yield from chunks
    except Exception as error:  # noqa: BLE001  # whatever it is: the server would print its text
        with logs.canonical_line("api.stream", request_id=request_id) as line:
            line.failed(error)
        raise ConnectionAbortedError("the answer was cut short") from None


def _prepare(request: Request, services: Services, line: CanonicalLine) -> tuple[Call, Callable[[Call], Response]]:
    route, parameters = route_table(services).match(request.method, request.path)
    if route is None:
        allow = parameters["allow"]
        call = Call(request, services, {}, access.NOBODY, line)
        return call, lambda _call: Response(204, headers={"Allow": allow})
    line.update(operation=route.operation, **({"table": route.table.key} if route.table else {}))
    principal = access.require(route.policy, request, services)
    line.update(principal=principal.name)
    if request.too_large:
        detail = f"A body may have {LONGEST_BODY} bytes. Send fewer rows at once, or drop a file in the bucket."
        raise Problem(413, "request.too_large", detail)
    if not request.is_text:
        raise Problem(400, "request.malformed", "Path and query are UTF-8, percent-encoded; this request's are not.")
    if request.is_cut:
        raise Problem(400, "request.malformed", "The body ended before all of it had come; nothing was done.")
    return Call(request, services, parameters, principal, line, table=route.table), route.handler


def _finish(request: Request, response: Response, call: Call | None, services: Services | None, took_s: float) -> None:
    """Add the headers that every answer has."""
    database_s = call.database_s if call else 0.0
    is_production = services is not None and services.settings.environment == "production"
    headers = STRICT_HEADERS | (TRANSPORT_SECURITY if is_production else {})
    for name, value in headers.items():
        response.headers.setdefault(name, value)
    response.headers["X-Request-Id"] = request.id
    response.headers["Server-Timing"] = f"db;dur={database_s * 1000:.1f}, app;dur={(took_s - database_s) * 1000:.1f}"
    if request.too_large:
        response.streamed = True
