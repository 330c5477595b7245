"""What each event asks of the ingest function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

from functions.ingest.drain import drain
from functions.ingest.load import load_object
from functions.ingest.reconcile import reconcile
from functions.ingest.redrive import redrive
from functions.ingest.sweep import sweep
from shared import events
from shared.dictionary import INTEGER_RANGE
from shared.errors import EventRefused
from shared.events import Event, ObjectFinalized

if TYPE_CHECKING:
    from functions.ingest.services import Services

MIN_AGE_S = 60.0  # younger objects have an event of their own on its way
LONGEST_AGE_S = 1e9
LARGEST_NUMBER = INTEGER_RANGE["bigint"][1]  # of a load or a record


def handle(services: Services, event: Event) -> dict[str, Any]:
    """Do what ``event`` asks; returns fields for the log line.

    Raises:
        EventRefused: a type, or data, that this function does not know.
        TransientError: deliver the same event again later.
    """
    work = WORK_BY_TYPE.get(event.type)
    if work is None:
        raise EventRefused(f"event type {event.type!r} is not one of {', '.join(WORK_BY_TYPE)}")
    with services.slot():
        return work(services, event)


def _finalized(services: Services, event: Event) -> dict[str, Any]:
    return load_object(services, ObjectFinalized.of(event))


def _load(services: Services, event: Event) -> dict[str, Any]:
    generation = event.data.get("generation")
    wanted = ObjectFinalized(
        bucket=_text(event.data, "bucket"),
        name=_text(event.data, "name"),
        generation=None if generation in (None, "") else str(generation),
        event_id=event.id,
        event_source=event.source,
    )
    return load_object(services, wanted, force=event.data.get("force") is True)


def _redrive(services: Services, event: Event) -> dict[str, Any]:
    load_id, records = event.data.get("load_id"), event.data.get("records")
    after = event.data.get("after", 0)
    if not (_is_number(load_id) and (records is None or _are_numbers(records)) and _is_number(after)):
        raise EventRefused(
            "a re-drive needs load_id, a number, and records, a list of numbers or null;"
            f" after, the record that the last one ended with, is a number too; each is 0 to {LARGEST_NUMBER}"
        )
    return redrive(services, load_id, records, after)


def _reconcile(services: Services, event: Event) -> dict[str, Any]:
    min_age_s = event.data.get("min_age_s", MIN_AGE_S)
    if type(min_age_s) not in (int, float) or not abs(min_age_s) <= LONGEST_AGE_S:  # nor is NaN
        raise EventRefused(f"min_age_s takes a number of seconds, up to {LONGEST_AGE_S:.0f}")
    return reconcile(services, event.data.get("bucket") or None, min_age_s)


def _is_number(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= LARGEST_NUMBER


def _are_numbers(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(map(_is_number, value))


def _text(data: Mapping[str, Any], name: str) -> str:
    value = data.get(name)
    if not isinstance(value, str) or not value:
        raise EventRefused(f"the event's data lacks {name!r}")
    return value


WORK_BY_TYPE: dict[str, Callable[[Services, Event], dict[str, Any]]] = {
    events.OBJECT_FINALIZED: _finalized,
    events.LOAD: _load,
    events.PENDING_DRAIN: lambda services, _event: drain(services),
    events.SWEEP: lambda services, _event: sweep(services),
    events.RECONCILE: _reconcile,
    events.REDRIVE: _redrive,
}
