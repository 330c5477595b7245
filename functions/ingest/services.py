"""What a unit of work needs from outside, handed to it: the one place where the ingest function wires its adapters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from shared import dictionary, events, objectstore, postgres, settings
from shared.dictionary import Dictionary
from shared.settings import Settings

if TYPE_CHECKING:
    from shared.events import Event
    from shared.objectstore import ObjectStore
    from shared.postgres import Database


@dataclass(frozen=True, slots=True)
class Services:
    """Adapters of one process.

    Attributes:
        send: posts an event for a later invocation; raises TransientError when it is not accepted.
    """

    settings: Settings
    dictionary: Dictionary
    database: Database
    store: ObjectStore
    send: Callable[[Event], None]


@cache
def production() -> Services:
    """The services that the environment describes, made at first use: nothing connects at import."""
    current = settings.load()
    return Services(
        settings=current,
        dictionary=dictionary.load(),
        database=postgres.database(),
        store=objectstore.connect(current.storage_url),
        send=lambda event: events.send(event, current),
    )
