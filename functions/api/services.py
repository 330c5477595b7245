"""What a request needs from outside, handed to it: the one place where the API wires its adapters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from shared import dictionary, events, settings
from shared.dictionary import Dictionary
from shared.settings import Settings

if TYPE_CHECKING:
    from shared.events import Event
    from shared.postgres import Database

LOCK_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Services:
    """Adapters of one process.

    Attributes:
        send: posts an event for another function; raises TransientError when it is not accepted.
    """

    settings: Settings
    dictionary: Dictionary
    database: Database
    send: Callable[[Event], None]


def database(current: Settings) -> Database:
    """The pool of the API: a single statement has the same time limit as a transaction, kept by the server."""
    from shared.postgres import Database

    return Database(
        current.database_url,
        application_name="rowdock-api",
        pool_size=current.pool_size,
        statement_timeout_s=current.deadline_s,
        lock_timeout_s=LOCK_WAIT_S,
    )


@cache
def production() -> Services:
    """The services that the environment describes, made at first use: nothing connects at import."""
    current = settings.load()
    return Services(current, dictionary.load(), database(current), lambda event: events.send(event, current))
