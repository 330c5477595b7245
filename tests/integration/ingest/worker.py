"""One delivery in a process of its own, which a test kills: ``python worker.py`` reads its orders as JSON from stdin.

Prints ``ready`` before it loads; ``done`` and its peak memory in KiB after. With ``die_at`` it kills itself at that
point, as bad luck would.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from functions.ingest import history, load, work
from functions.ingest.sender import Sender
from functions.ingest.services import Services
from shared import dictionary, events, objectstore, settings
from shared.postgres import Database


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def after(call: Callable[..., Any], times: int = 1) -> Callable[..., Any]:
    """Wrap ``call`` so that its ``times``-th return is the last thing that happens."""
    left = [times]

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = call(*args, **kwargs)
        left[0] -= 1
        if left[0] == 0:
            die()
        return result

    return wrapped


def before(call: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        die()
        return call(*args, **kwargs)

    return wrapped


def arm(point: str) -> None:
    """Choose where to die."""
    if point == "after the claim":
        history.claim = after(history.claim)
    elif point == "after the first block was handed to COPY":
        Sender.put = after(Sender.put)  # type: ignore[method-assign]
    elif point == "in the middle of COPY":
        Sender.put = after(Sender.put, 3)  # type: ignore[method-assign]
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
    work.handle(services, events.Event(**orders["event"]))
    print("done", peak_kib(), flush=True)


if __name__ == "__main__":
    main()
