"""Dead letters: the platform posts events here that it gave up after their last delivery; an admin replays them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from functions.api import pages, parameters
from functions.api.messages import Response
from functions.api.pages import Page
from functions.api.problems import Problem
from functions.api.routes import Route
from shared import events
from shared.errors import EventRefused
from shared.events import Event, ObjectFinalized

if TYPE_CHECKING:
    from functions.api.messages import Call

LONGEST_NAME_BYTES = 1024  # of an event's id and source: both together fit into an entry of an index
LONGEST_EVENT = 256 << 10  # bytes; an object's resource has up to about 10,000
MOST_ROWS = 100  # of a page: all of it is in memory at once
STATES = ("open", "replayed", "all")
COLUMNS = (
    "id", "event_id", "event_source", "event_type", "subject", "data", "attributes", "received_at", "replayed_at",
)  # fmt: skip  # one row of names reads better than nine lines

TAKE = """
    insert into ingest_status.dead_letters (event_id, event_source, event_type, subject, data, attributes)
    values (%s, %s, %s, %s, %s, %s) on conflict (event_source, event_id) do nothing
"""
LIST = """
    select id, event_id, event_source, event_type, subject, data, attributes, received_at, replayed_at
    from ingest_status.dead_letters
    where (%(replayed)s::boolean is null or (replayed_at is not null) = %(replayed)s)
      and (%(before)s::bigint is null or id < %(before)s)
    order by id desc limit %(limit)s
"""


def take(call: Call) -> Response:
    """Keep an event that was given up, in any form that ``events.parse`` knows; the same one twice is kept once.

    Raises:
        Problem: 400 for what is no event, or holds what cannot be kept; 413 for more than ``LONGEST_EVENT``.
    """
    if len(call.request.body) > LONGEST_EVENT:
        raise Problem(413, "request.too_large", f"A dead letter has up to {LONGEST_EVENT} bytes.")
    try:
        event = events.parse(call.request.headers, call.request.body)
    except EventRefused as refusal:
        raise Problem(400, "event.refused", _sentence(str(refusal))) from None
    call.line.update(event_type=event.type if event.type in KNOWN_TYPES else "unknown")
    call.rows(TAKE, _storable(event))
    return Response(204)


def _sentence(text: str) -> str:
    return text[:500].encode("utf-8", "replace").decode()


def _storable(event: Event) -> tuple[Any, ...]:
    """The columns of ``event``.

    Raises:
        Problem: 400; PostgreSQL could not hold a text of it, or JSON does not know a number of it.
    """
    named = (event.id, event.source, event.type, event.subject)
    if not all(
        text is None or (parameters.is_text(text) and len(text.encode()) <= LONGEST_NAME_BYTES) for text in named
    ):
        detail = f"id, source, type and subject have up to {LONGEST_NAME_BYTES} bytes, without NUL and half characters."
        raise Problem(400, "event.refused", detail)
    try:  # ASCII: whatever a text holds stands as an escape, which the type json keeps as it is
        return (*named, json.dumps(event.data, allow_nan=False), json.dumps(dict(event.attributes)))
    except (ValueError, RecursionError):
        raise Problem(400, "event.refused", "The event's data is no JSON that could be kept.") from None


def list_dead_letters(call: Call) -> Response:
    """Dead letters, the newest first; those that were not replayed unless ``state`` says otherwise.

    Raises:
        Problem: 400 for a parameter.
    """
    given = parameters.once(call.request.query, ("state", *pages.PARAMETERS))
    page = Page.of(call.request, given, keys=1, most=MOST_ROWS)
    state = parameters.one_of(given, "state", STATES) or "open"
    replayed = {"open": False, "replayed": True, "all": None}[state]
    before = page.after[0] if page.after else None
    found = call.rows(LIST, {"replayed": replayed, "before": before, "limit": page.size + 1})
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in found]
    return page.answer(rows, [(row["id"],) for row in rows])


def replay(call: Call) -> Response:
    """Send a dead letter again, under an id of its own, so that it is known should it be given up again: 202.

    Raises:
        Problem: 404 without such a dead letter, 409 when nothing of ours takes its type.
        TransientError: nothing took the event; it stays open.
    """
    parameters.once(call.request.query, ())
    number = parameters.as_id(call.parameters["id"])
    found = call.rows(
        "select event_id, event_source, event_type, subject, data from ingest_status.dead_letters where id = %s",
        (number,),
    )
    if not found:
        raise Problem(404, "dead_letter.not_found", "There is no such dead letter; GET /api/dead-letters lists them.")
    event_id, source, type_, subject, data = found[0]
    again = _again(Event(event_id, source, type_, subject, data=data))
    call.services.send(again)
    call.rows("update ingest_status.dead_letters set replayed_at = clock_timestamp() where id = %s", (number,))
    call.line.update(event_type=again.type, event_id=again.id)
    answer = {"id": number, "event_id": again.id, "event_type": again.type}
    return Response(202, pages.as_json({"data": answer}))


def _again(dead: Event) -> Event:
    """The event to send for ``dead``: our own as it was, an object's announcement as the request to load it.

    An announcement is the platform's, and is routed by its source; a load that history has is not made twice.
    """
    if dead.type in events.OWN_TYPES:
        return events.make(dead.type, dead.data, subject=dead.subject)
    try:
        announced = ObjectFinalized.of(dead)
    except EventRefused as refusal:
        raise Problem(409, "dead_letter.not_replayable", _sentence(str(refusal))) from None
    data = {"bucket": announced.bucket, "name": announced.name, "generation": announced.generation}
    return events.make(events.LOAD, data, subject=dead.subject)


KNOWN_TYPES = events.OWN_TYPES | {events.OBJECT_FINALIZED}  # any other is a stranger's text, which no log gets

ROUTES = (
    Route("POST", "/dead-letters", "dead_letters.take", "platform", take),
    Route("GET", "/api/dead-letters", "dead_letters.list", "admin", list_dead_letters),
    Route("POST", "/api/dead-letters/<id>/replay", "dead_letters.replay", "admin", replay),
)
