"""Deliveries: what is posted to whom, and what a retry has in common with the call before it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from local_emulator import clock, manifest
from local_emulator.delivery import Deliveries
from local_emulator.event_queue import EventQueue
from local_emulator.gateway import Upstream

ROOT = Path(__file__).parents[3]
MOMENT = datetime(2026, 11, 25, 3, 45, tzinfo=UTC)


@pytest.mark.parametrize(("name", "path"), [("verify-daily", "/verify"), ("backup-nightly", "/")])
def test_a_retry_of_a_scheduled_call_carries_the_same_instant(
    tmp_path: Path, http_server: Any, name: str, path: str
) -> None:
    """It goes to the path that deploy.yaml says, and says the time at which the run was due, not the time of day."""
    found = manifest.load(ROOT / "deploy.yaml")
    (schedule,) = (replace(s, retries=1) for s in found.schedules if s.name == name)
    http_server.answer(path, 503)

    async def call_twice() -> None:
        queue = EventQueue(tmp_path / "events.sqlite")
        upstream = Upstream("backup", http_server.port, limit=1, timeout_s=10)
        once = replace(found, schedules=(schedule,))
        deliveries = Deliveries(queue, once, {"backup": upstream}, lambda _: "token", lambda *_: None, time_scale=0)
        clock.call_now(schedule, deliveries, lambda *_: None, MOMENT)
        async with asyncio.timeout(30):
            running = asyncio.create_task(deliveries.run())
            while queue.unfinished(name):
                await asyncio.sleep(0.01)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    asyncio.run(call_twice())
    assert [call.path for call in http_server.calls] == [path, path]
    told = [(call.headers["ce-time"], call.headers["x-cloudscheduler-scheduletime"]) for call in http_server.calls]
    assert told == [("2026-11-25T03:45:00Z",) * 2] * 2
