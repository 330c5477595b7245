"""Problem documents (RFC 9457): what went wrong, where, and what to do; nothing of the database, no path, no secret."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from functions.api.messages import Response
from shared.errors import (
    CallerRefused,
    ConstraintViolation,
    DeadlineExceeded,
    PermanentError,
    TransientError,
)
from shared.problems import MEDIA_TYPE, document

# A connection that is lost on the way back from a commit looks like any other.
UNKNOWN_END = "A write may have been done all the same: look, or send it again under its Idempotency-Key."
TYPE = "/docs/problems#"  # resolved against where the API is (RFC 3986, 5); the page has one entry for each code
# What each code means in general, for the page of problems and as the title of its documents.
TITLES = {
    "request.malformed": "The request cannot be read",
    "request.parameter": "A parameter of the query is not understood",
    "request.page_token": "The page token does not belong to this list",
    "request.precondition": "The row is not the one that was meant",
    "request.too_large": "The body is too large",
    "request.media_type": "The body's media type is not taken",
    "request.not_acceptable": "No representation is offered that the caller accepts",
    "request.method": "The path does not know this method",
    "route.not_found": "There is nothing at this path",
    "row.not_found": "There is no such row",
    "row.in_use": "Other rows refer to the row",
    "row.invalid": "The row breaks the data rules",
    "row.exists": "There is such a row already",
    "batch.size": "A batch has 1 to 1000 rows",
    "batch.rejected": "Rows of the batch break the data rules, and all or nothing was asked for",
    "load.not_found": "There is no such load",
    "reject.not_open": "A reject that is named is not open",
    "event.refused": "The request is no event that can be kept",
    "dead_letter.not_found": "There is no such dead letter",
    "dead_letter.not_replayable": "Nothing takes an event of this type",
    "idempotency.reused": "The Idempotency-Key was used for another request",
    "idempotency.in_flight": "The request of this Idempotency-Key is still under way",
    "access.unauthenticated": "The caller did not prove who it is",
    "access.forbidden": "The caller may not do this",
    "unavailable": "A part that the request needs does not answer now",
    "busy": "Another writer stood in the way",
    "deadline": "The request took longer than it may",
    "defect": "Rowdock failed at something it should do",
    "not_built": "This part is not built yet",
}


class Problem(PermanentError):
    """A request that is answered with a problem document.

    Args:
        status: HTTP status.
        code: stable, one of ``TITLES``.
        detail: what, where, with which value, and what to do; the caller sees it.
        errors: one ``{"detail", "pointer" | "parameter" | "header"}`` for each place that is wrong.
        headers: for the answer.
        extensions: further members of the document.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: Sequence[Mapping[str, Any]] = (),
        headers: Mapping[str, str] | None = None,
        **extensions: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code  # type: ignore[misc]  # an instance's own code; the class attribute is the default
        self.errors = list(errors)
        self.headers = dict(headers or {})
        self.extensions = extensions


def of_error(error: BaseException) -> Problem:
    """The problem that tells a client of ``error``, whatever it is."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, DeadlineExceeded):
        return Problem(504, "deadline", "The database ended the request at its time limit. Ask for less at once.")
    if isinstance(error, TransientError):
        retry = {"Retry-After": str(error.retry_after_s)}
        again = f"Try again after {error.retry_after_s} seconds."
        if error.code == "database.busy":
            return Problem(503, "busy", f"Nothing was changed. {again}", headers=retry)
        return Problem(503, "unavailable", f"{again} {UNKNOWN_END}", headers=retry)
    if isinstance(error, CallerRefused):
        return Problem(403, "access.forbidden", "The caller is not one that may call this path.")
    if isinstance(error, ConstraintViolation):
        # 23503 and 23505 say that rows stand in the way (conflict); the rest, that the row itself is wrong.
        if error.sqlstate in ("23503", "23505"):
            return Problem(
                409, "row.in_use" if error.sqlstate == "23503" else "row.exists", "Other rows stand against it."
            )
        return Problem(422, "row.invalid", "The database's own rules refuse the row.")
    return Problem(
        500, "defect", "The request failed through no fault of its own; the log has it under the request id."
    )


def response(problem: Problem, request_id: str) -> Response:
    """The document as an answer."""
    members: dict[str, Any] = {"type": TYPE + problem.code, "instance": f"/requests/{request_id}"} | problem.extensions
    if problem.errors:
        members["errors"] = problem.errors
    body = document(problem.status, problem.code, TITLES[problem.code], str(problem), **members)
    return Response(problem.status, body, MEDIA_TYPE, dict(problem.headers))
