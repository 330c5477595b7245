"""What each problem means, and what to do about it: for the page that the documents' ``type`` leads to."""

from __future__ import annotations

from typing import NamedTuple


class Guide(NamedTuple):
    """Of one code, for a person."""

    meaning: str
    remedy: str


GUIDE = {
    "request.malformed": Guide(
        "The body is no JSON, NDJSON or CSV in UTF-8, has another shape than the operation takes, names a member twice,"
        " or was cut off on its way; or a header such as If-Match or Idempotency-Key, the path"
        " or the query cannot be read.",
        "Mend the place that detail and errors name. Nothing was done.",
    ),
    "request.parameter": Guide(
        "A parameter of the query is unknown, comes twice, or has a value that it does not take.",
        "errors names the parameter. A filter is column=operator.value, with a value that the column could hold.",
    ),
    "request.page_token": Guide(
        "The token was given by another list, or by this one with other filters or another order.",
        "Send the token with just the parameters of the page before, or leave it out to begin anew.",
    ),
    "request.precondition": Guide(
        "If-Match names a state that the row no longer has, or If-None-Match wants a row to be new that is there.",
        "Read the row again, look at what somebody changed meanwhile, and decide anew with its new ETag.",
    ),
    "request.too_large": Guide(
        "The body has more than 4 MiB (an event 256 KiB).",
        "Send fewer rows at once, or drop a file in the bucket, which may have any size.",
    ),
    "request.media_type": Guide(
        "Content-Type names something that the operation does not take, or another encoding than UTF-8.",
        "The header Accept-Post lists what is taken; application/json always is.",
    ),
    "request.not_acceptable": Guide(
        "Accept names no representation that is offered.",
        "Leave Accept out for JSON; lists are offered as text/csv and application/x-ndjson too, metrics as text/csv.",
    ),
    "request.method": Guide(
        "The path exists, but not with this method.",
        "The header Allow lists the methods that it knows.",
    ),
    "route.not_found": Guide(
        "No route has this path. A year has four digits.",
        "The page /docs lists every path.",
    ),
    "row.not_found": Guide(
        "The table has no row of this id, or no row can have it.",
        "List the table to see its rows. PUT makes a row of an id that is not there.",
    ),
    "row.in_use": Guide(
        "Other rows refer to the row, so that it cannot be removed.",
        "in_use says how many of which table and column. Give them another parent, or remove them first.",
    ),
    "row.invalid": Guide(
        "The row breaks rules of the data dictionary, or one of the database's own. Nothing was changed.",
        "errors has every reason with a pointer into the body; mend all of them, and send the row again.",
    ),
    "row.exists": Guide(
        "A row of this key is there already.",
        "Change it with PUT or PATCH, or take another id.",
    ),
    "batch.size": Guide(
        "The batch has no row, or more than 1000 in all.",
        "Send it in parts of 1 to 1000 rows, or drop a file in the bucket, which may have any number.",
    ),
    "batch.rejected": Guide(
        "Prefer: handling=strict asked for all rows or none, and some break the rules. Nothing was written; the"
        " rejected rows are kept.",
        "errors has each row and reason. Mend them, or leave the preference out to have the good rows in.",
    ),
    "load.not_found": Guide(
        "History has no load of this id, or none that was read as rows.",
        "GET /api/ingests lists the loads. After the time of retention their rows are forgotten.",
    ),
    "reject.not_open": Guide(
        "A reject that the request names was mended, judged again or dismissed already, waits for its parent, or never"
        " was. None of those named is judged.",
        "GET /api/rejects lists those that are open. Leave the closed ones out.",
    ),
    "event.refused": Guide(
        "What was posted is no event, lacks id, source or type, or holds what cannot be kept.",
        "This path is for the platform. detail says what is missing.",
    ),
    "dead_letter.not_found": Guide(
        "There is no dead letter of this id; they go 90 days after they came.",
        "GET /api/dead-letters lists what there is.",
    ),
    "dead_letter.not_replayable": Guide(
        "The event is of a type that no function here takes.",
        "Send it again from where it came, once that is mended.",
    ),
    "idempotency.reused": Guide(
        "The Idempotency-Key came before with another method, path, query or body.",
        "Take a new key for each new request, and the same one only to repeat a request unchanged.",
    ),
    "idempotency.in_flight": Guide(
        "The first request of this Idempotency-Key has not been answered yet.",
        "Wait as long as Retry-After says, and send the same again: its answer is given.",
    ),
    "access.unauthenticated": Guide(
        "No key or token was sent, or it is unknown, ended or revoked.",
        "Send X-API-Key, or Authorization: Bearer. An operator makes keys with the command rowdock api-keys.",
    ),
    "access.forbidden": Guide(
        "The caller is known, but lacks the scope; or the API runs without keys and answers its own machine alone.",
        "Ask for a key with the scope that WWW-Authenticate names.",
    ),
    "unavailable": Guide(
        "The database or the events' receiver does not answer, the database lacks migrations, or the connection was"
        " lost on the way back: then a write may have been done, and detail says so.",
        "Try again after Retry-After seconds; a write whose end is unknown with the same Idempotency-Key, or after a"
        " look at the row. If it lasts, an operator finds the cause in the log, and at /ready.",
    ),
    "busy": Guide(
        "Other writers held the same rows for longer than a request waits. Nothing was changed.",
        "Try again after Retry-After seconds.",
    ),
    "deadline": Guide(
        "The request reached its time limit, and the database ended it. Nothing was changed.",
        "Ask for less at once: a smaller page, fewer rows, a narrower filter.",
    ),
    "defect": Guide(
        "Rowdock failed at something that it should do.",
        "Tell an operator the request's id, the last part of instance: the log has the rest under it.",
    ),
    "not_built": Guide(
        "This version does not have the part yet.",
        "CHANGELOG.md says which version has it.",
    ),
}
