"""What a unit of work needs from outside, handed to it: the one place where the ingest function wires its adapters."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from shared import dictionary, events, objectstore, postgres, settings
from shared.dictionary import Dictionary
from shared.errors import DatabaseBusy
from shared.settings import Settings

if TYPE_CHECKING:
    from shared.events import Event
    from shared.objectstore import ObjectStore
    from shared.postgres import Database


# A load's own, one beside it, and one for the rejects of a load that is rolled back.
CONNECTIONS_EACH = 3
SLOT_WAIT_S = 10.0


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
    _slots: threading.BoundedSemaphore = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        slots = max(1, self.settings.pool_size // CONNECTIONS_EACH)
        object.__setattr__(self, "_slots", threading.BoundedSemaphore(slots))

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Hold one of as many units of work as the pool has connections for: none waits for what another waits with.

        Raises:
            DatabaseBusy: none came free in ``SLOT_WAIT_S`` seconds.
        """
        if not self._slots.acquire(timeout=SLOT_WAIT_S):
            raise DatabaseBusy("this process does as much at once as its connections allow; raise POOL_SIZE for more")
        try:
            yield
        finally:
            self._slots.release()


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
