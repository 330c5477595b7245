"""One delivery in a process of its own, which a test kills: ``python worker.py`` reads its orders as JSON from stdin.

Prints ``ready`` before it loads; ``done``, its peak memory in KiB and the processor seconds since ``ready`` after. With
``die_at`` it kills itself at that point, as bad luck would.
"""

from __future__ import annotations

import itertools
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from functions.ingest import history, load, sender, work
from functions.ingest.sender import Sender
from functions.ingest.services import Services
from shared import dictionary, events, objectstore, settings
from shared.postgres import Database
from tests.dying import after, before, die


def when_asked_for_more(dies: Callable[[dict[str, int], str], bool]) -> Callable[[Sender, str], bytes | None]:
    """Wrap ``Sender._next``: what it gave before is with PostgreSQL when COPY asks it for the next piece.

    Args:
        dies: told how many pieces (of one block each) COPY got of each kind, and which kind it asks for now.
    """
    following, given = Sender._next, dict[str, int]()

    def wrapped(this: Sender, kind: str) -> bytes | None:
        if dies(given, kind):
            die()
        piece = following(this, kind)
        given[kind] = given.get(kind, 0) + (piece is not None)
        return piece

    return wrapped


def hold_second_block_until_target_changes() -> None:
    """However fast rows are judged, COPY leaves ``rows`` for another kind after one block, and comes back."""
    changed, put, copy, blocks = threading.Event(), Sender.put, Sender._copy, itertools.count()

    def held(this: Sender, kind: str, data: bytes) -> None:
        if kind == "rows" and next(blocks) == 1 and not changed.wait(30):
            raise TimeoutError("COPY did not change its target")
        put(this, kind, data)

    def noted(this: Sender, kind: str) -> None:
        if kind != "rows":
            changed.set()
        copy(this, kind)

    sender.SWITCH_BYTES = 1 << 12
    Sender.put, Sender._copy = held, noted  # type: ignore[method-assign]


def arm(point: str) -> None:
    """Choose where to die."""
    if point == "after the claim":
        history.claim = after(history.claim)
    elif point == "after COPY got its first block":
        Sender._next = when_asked_for_more(lambda given, kind: given == {"rows": 1})  # type: ignore[method-assign]
    elif point == "in the middle of COPY, several blocks in":
        Sender._next = when_asked_for_more(lambda given, kind: given == {"rows": 2})  # type: ignore[method-assign]
    elif point == "after COPY changed its target":
        Sender._next = when_asked_for_more(  # type: ignore[method-assign]
            lambda given, kind: kind != "rows" and given.get(kind, 0) > 0
        )
    elif point == "after COPY came back to its first target":
        hold_second_block_until_target_changes()
        Sender._next = when_asked_for_more(  # type: ignore[method-assign]
            lambda given, kind: kind == "rows" and given.get(kind, 0) > 1
        )
    elif point == "after the last COPY":
        Sender.finish = after(Sender.finish)  # type: ignore[method-assign]
    elif point == "after the merge":
        load.merge_stage = after(load.merge_stage)
    elif point == "before the history":
        history.record = before(history.record)
    elif point == "after the history, before COMMIT":
        history.record = after(history.record)
    elif point == "after COMMIT, before the answer":
        load._Loading._wake = before(load._Loading._wake)  # type: ignore[method-assign]
    elif point:
        raise ValueError(point)


def peak_kib() -> int:
    """Most memory that was resident at once; ``ru_maxrss`` would count the parent's, from before exec."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1])


def main() -> None:
    orders = json.load(sys.stdin)
    services = Services(
        settings=settings.load({"ROWDOCK_ENVIRONMENT": "emulator", "CALLER_AUTH": "off"}),
        dictionary=dictionary.load(),
        database=Database(orders["database_url"], application_name="worker", pool_size=4),
        store=objectstore.connect(orders["storage_url"]),
        send=lambda event: None,
    )
    arm(orders["die_at"])
    print("ready", flush=True)
    began_s = time.process_time()
    work.handle(services, events.Event(**orders["event"]))
    print("done", peak_kib(), time.process_time() - began_s, flush=True)


if __name__ == "__main__":
    main()
