"""The scheduler: each PingSource of deploy.yaml, on time, never twice at once."""

from __future__ import annotations

import asyncio
import datetime
import json
from collections.abc import Callable

from local_emulator.delivery import Deliveries
from local_emulator.manifest import Schedule
from shared.events import KNATIVE_PING, Event

LONGEST_NAP_S = 60.0  # so that a laptop that slept, or whose clock was set, notices


def ping(schedule: Schedule, moment: datetime.datetime) -> Event:
    """Return the event of the run that is due at ``moment``; the same run has the same id."""
    time = moment.astimezone(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    source = f"/apis/v1/namespaces/default/pingsources/{schedule.name}"
    return Event(f"{schedule.name}@{time}", source, KNATIVE_PING, None, time, json.loads(schedule.body or "{}"))


async def run(schedules: tuple[Schedule, ...], deliveries: Deliveries, say: Callable[[str, str], None]) -> None:
    """Make the calls when they are due, until cancelled. Runs that were due while nothing ran are not made up for."""
    async with asyncio.TaskGroup() as group:
        for schedule in schedules:
            group.create_task(_keep_time(schedule, deliveries, say), name=f"schedule {schedule.name}")


async def _keep_time(schedule: Schedule, deliveries: Deliveries, say: Callable[[str, str], None]) -> None:
    while True:
        moment = next(schedule.runs_after(datetime.datetime.now(datetime.UTC)))
        await _until(moment)
        call_now(schedule, deliveries, say, moment)


async def _until(moment: datetime.datetime) -> None:
    while (left_s := (moment - datetime.datetime.now(datetime.UTC)).total_seconds()) > 0:
        await asyncio.sleep(min(left_s, LONGEST_NAP_S))


def call_now(
    schedule: Schedule, deliveries: Deliveries, say: Callable[[str, str], None], moment: datetime.datetime
) -> int | None:
    """Make the call of ``moment``; returns its delivery, None if the one before is still under way."""
    if deliveries.queue.unfinished(schedule.name):
        say("schedule", f"{schedule.name}: the call before is still under way; this one is left out")
        return None
    delivery = deliveries.call(schedule, ping(schedule, moment))
    deliveries.queue.ran(schedule.name, datetime.datetime.now(datetime.UTC).timestamp())
    return delivery
