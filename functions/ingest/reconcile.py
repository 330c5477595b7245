"""Reconcile: list the bucket against history, and send an event for every generation that has none."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

from shared import events

if TYPE_CHECKING:
    from psycopg2.extensions import connection

    from functions.ingest.services import Services
    from shared.objectstore import ObjectInfo

OBJECTS_AT_ONCE = 1_000


def reconcile(services: Services, bucket: str | None, min_age_s: float) -> dict[str, Any]:
    """Send a load event for every object whose current generation history does not know.

    Args:
        bucket: the upload bucket when None.
        min_age_s: younger objects are left to their own event, which is on its way.

    Returns:
        Fields for the log line: objects listed, events sent.

    Raises:
        TransientError: the store, the database or the receiver of events failed; the next run sends the rest.
    """
    bucket = bucket or services.settings.upload_bucket
    newest = datetime.now(UTC) - timedelta(seconds=min_age_s)
    listing = iter(services.store.list(bucket))
    listed = sent = 0
    with services.database.connection() as side:
        while page := list(islice(listing, OBJECTS_AT_ONCE)):
            listed += len(page)
            for info in _unknown(side, [info for info in page if info.updated <= newest]):
                services.send(events.make(events.LOAD, {"bucket": bucket, "name": info.name, "force": False}))
                sent += 1
    return {"bucket": bucket, "objects_listed": listed, "events_sent": sent}


def _unknown(side: connection, page: list[ObjectInfo]) -> list[ObjectInfo]:
    """Those of ``page`` whose generation has no history, or one of a time when it was not, or did not seem, current."""
    if not page:
        return []
    with side.cursor() as cursor:
        cursor.execute(
            "select object_name, generation from ingest_status.ingest_status"
            " where bucket = %s and state <> 'superseded'"
            " and (object_name, generation) in (select * from unnest(%s::text[], %s::text[]))",
            (page[0].bucket, [i.name for i in page], [i.generation for i in page]),
        )
        known = set(cursor.fetchall())
    return [info for info in page if (info.name, info.generation) not in known]
