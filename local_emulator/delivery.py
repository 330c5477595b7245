"""From the queue to the functions: signed, at most as many at a time as deploy.yaml allows, tried again, given up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from local_emulator.event_queue import EventQueue
from local_emulator.gateway import Upstream
from local_emulator.manifest import Manifest, Schedule
from shared import events
from shared.events import Event

LONGEST_NAP_S = 60.0  # a clock that was set back must not stop deliveries for longer


@dataclass(slots=True)
class Deliveries:
    """One loop for each function; an event put into the queue is on its way as soon as ``wake`` is called.

    Args:
        sign: returns the identity token for a function of that name.
        say: takes the line that reports a delivery.
        time_scale: what pauses before retries are multiplied with.
    """

    queue: EventQueue
    manifest: Manifest
    upstreams: Mapping[str, Upstream]
    sign: Callable[[str], str]
    say: Callable[[str, str], None]
    time_scale: float = 1.0
    _wakers: dict[str, asyncio.Event] = field(default_factory=dict)
    _under_way: dict[str, set[asyncio.Task[None]]] = field(default_factory=dict)

    def route(self, event: Event) -> list[tuple[str, str]]:
        """Return (trigger, function) for each trigger whose filter ``event`` meets."""
        attributes = {"type": event.type, "source": event.source, "subject": event.subject, **event.attributes}
        return [
            (trigger.name, trigger.function)
            for trigger in self.manifest.triggers
            if all(attributes.get(name) == value for name, value in trigger.filter.items())
        ]

    def accept(self, event: Event, *, seen: tuple[str, str, str] | None = None) -> bool:
        """Store ``event`` and set out to deliver it; on return it is on disk. Returns whether it is new."""
        routes = self.route(event)
        new = self.queue.put(event, routes, seen=seen)
        self.wake(function for _, function in routes)
        return new

    def call(self, schedule: Schedule, event: Event) -> int:
        """Store a scheduled call and set out to make it, once more if it was made before; returns its delivery."""
        new = self.queue.put(event, [(schedule.name, schedule.function)])
        delivery = self.queue.delivery_of(event, schedule.name)
        if not new:
            self.queue.replay(delivery)
        self.wake([schedule.function])
        return delivery

    def wake(self, functions: Iterable[str] | None = None) -> None:
        """Look into the queue again for ``functions`` (all of them when None)."""
        for name in self.upstreams if functions is None else functions:
            if name in self._wakers:
                self._wakers[name].set()

    async def run(self) -> None:
        """Deliver until cancelled; what is under way then is due again at the next start."""
        self._wakers = {name: asyncio.Event() for name in self.upstreams}
        self._under_way = {name: set() for name in self.upstreams}
        async with asyncio.TaskGroup() as group:
            for name in self.upstreams:
                group.create_task(self._serve(name), name=f"deliver to {name}")

    async def _serve(self, function: str) -> None:
        waker, under_way, upstream = self._wakers[function], self._under_way[function], self.upstreams[function]
        try:
            while True:
                waker.clear()
                for delivery, trigger, attempt, event in self.queue.take(function, upstream.limit - len(under_way)):
                    task = asyncio.create_task(self._deliver(upstream, delivery, trigger, attempt, event))
                    under_way.add(task)
                    task.add_done_callback(under_way.discard)
                    task.add_done_callback(lambda _: waker.set())
                await self._nap(waker, function, full=len(under_way) >= upstream.limit)
        finally:
            for task in under_way:
                task.cancel()

    async def _nap(self, waker: asyncio.Event, function: str, *, full: bool) -> None:
        """Sleep until woken, or until the next delivery is due."""
        due_at = None if full else self.queue.next_due_at(function)
        nap_s = LONGEST_NAP_S if due_at is None else min(max(due_at - time.time(), 0.0), LONGEST_NAP_S)
        try:
            async with asyncio.timeout(nap_s):
                await waker.wait()
        except TimeoutError:
            return

    async def _deliver(self, upstream: Upstream, delivery: int, name: str, attempt: int, event: Event) -> None:
        began = time.monotonic()
        status, answer = await self._post(upstream, name, event)
        if status is not None and 200 <= status < 300:
            self.queue.done(delivery, status, answer)
            outcome = str(status)
        else:
            outcome = f"{status or 'no answer'}  {self._failed(delivery, name, attempt, status, answer)}"
        took_ms = (time.monotonic() - began) * 1000
        what = event.subject or event.type
        self.say(upstream.name, f"{took_ms:.0f} ms  {outcome}  {what}  delivery {delivery}, attempt {attempt}")

    def _failed(self, delivery: int, name: str, attempt: int, status: int | None, error: str) -> str:
        """Decide what comes after a failed attempt; return it in words."""
        trigger = next((trigger for trigger in self.manifest.triggers if trigger.name == name), None)
        schedule = next((schedule for schedule in self.manifest.schedules if schedule.name == name), None)
        retries = trigger.retries if trigger else schedule.retries if schedule else 0
        if attempt > retries:
            self.queue.give_up(delivery, status, error, state="dead" if trigger else "failed")
            return f"{_first_line(error)}; given up after {attempt} attempts" + (
                ", now a dead letter" if trigger else ""
            )
        pause_s = (trigger.pause_s(attempt) if trigger else 30.0) * self.time_scale
        self.queue.retry(delivery, status, error, pause_s=pause_s)
        return f"{_first_line(error)}; again in {pause_s:.1f} s"

    async def _post(self, upstream: Upstream, name: str, event: Event) -> tuple[int | None, str]:
        """Make one attempt; return the status, or None, and what the function said or what went wrong."""
        headers, body = events.binary(event)
        headers["authorization"] = f"Bearer {self.sign(upstream.name)}"
        if event.type == events.KNATIVE_PING:
            headers |= {"x-cloudscheduler": "true", "x-cloudscheduler-jobname": name}
            headers |= {"x-cloudscheduler-scheduletime": event.time or ""}
        try:
            async with upstream.slot(None):
                return await upstream.post(self._path(name), headers, body, self._timeout_s(name, upstream))
        except TimeoutError:
            return 504, f"no answer within {self._timeout_s(name, upstream):g} s; it may still be running"
        except (OSError, EOFError, ValueError) as failure:
            return None, f"{upstream.name} is not there ({type(failure).__name__})"

    def _path(self, name: str) -> str:
        """Return where the trigger or schedule of that name posts to; ``/`` for one that deploy.yaml has no more."""
        senders = [*self.manifest.triggers, *self.manifest.schedules]
        return next((sender.path for sender in senders if sender.name == name), "/")

    def _timeout_s(self, name: str, upstream: Upstream) -> float:
        limits = [trigger.timeout_s for trigger in self.manifest.triggers if trigger.name == name]
        return min([upstream.timeout_s, *limits])


def _first_line(text: str) -> str:
    """Return the beginning of what a function answered; all of it is in ``events show``."""
    return next((line for line in text.splitlines() if line.strip()), "no text")[:160]
