"""No upload is missed: webhooks make it quick, and listing the bucket finds what no webhook told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from local_emulator import object_events
from local_emulator.delivery import Deliveries
from local_emulator.object_events import Announcement
from shared.errors import ObjectNotFound, RowdockError, TransientError
from shared.objectstore import ObjectInfo, ObjectStore


@dataclass(slots=True)
class BucketWatch:
    """Turns objects of one bucket into events, each generation once.

    Args:
        interval_s: between two listings.
    """

    store: ObjectStore
    bucket: str
    deliveries: Deliveries
    say: Callable[[str, str], None]
    interval_s: float

    async def take(self, announcements: Iterable[Announcement]) -> None:
        """Store an event for each object that was announced; on return they are on disk.

        Raises:
            TransientError: the store does not tell now what the object is; a listing will find it.
        """
        for announcement in announcements:
            if announcement.bucket != self.bucket:
                continue
            try:
                info = await asyncio.to_thread(
                    self.store.stat, announcement.bucket, announcement.name, announcement.generation
                )
            except ObjectNotFound:
                continue  # overwritten or deleted meanwhile; what stands there now is announced by itself
            self._accept(info)

    async def run(self) -> None:
        """List the bucket again and again, until cancelled; at most a tenth of the time goes into it."""
        failing = False
        while True:
            began = time.monotonic()
            try:
                await self.reconcile()
                failing = False
            except RowdockError as error:
                if not failing:
                    self.say("store", f"the bucket cannot be listed: {error}")
                failing = True
            await asyncio.sleep(max(self.interval_s, 9 * (time.monotonic() - began)))

    async def reconcile(self) -> int:
        """List the bucket once, store an event for each generation that the ledger lacks, and return how many.

        Raises:
            RowdockError: the store cannot be listed.
        """
        listed = await asyncio.to_thread(lambda: list(self.store.list(self.bucket)))
        known = self.deliveries.queue.seen(self.bucket)
        gone = known.keys() - {info.name for info in listed}
        if gone:
            self.deliveries.queue.forget_objects(self.bucket, sorted(gone))
        missed = [info for info in listed if known.get(info.name) != info.generation]
        return sum([await self._found(info) for info in missed])

    async def _found(self, info: ObjectInfo) -> bool:
        """A listing tells less than the object itself: ask for all of it."""
        try:
            whole = await asyncio.to_thread(self.store.stat, info.bucket, info.name, info.generation)
        except (ObjectNotFound, TransientError):
            return False
        return self._accept(whole)

    def _accept(self, info: ObjectInfo) -> bool:
        return self.deliveries.accept(object_events.finalized(info), seen=(info.bucket, info.name, info.generation))
