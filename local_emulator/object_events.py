"""From an object in the bucket to the event that production sends for it, and from a store's webhook to the object."""

from __future__ import annotations

import binascii
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, unquote_plus

from shared.events import OBJECT_FINALIZED, Event, object_event_id, storage_source
from shared.objectstore import ObjectInfo

SEAWEED_BUCKETS = "/buckets/"
SEAWEED_PARTS = ".uploads"  # parts of an upload that goes on; the finished object is announced by itself


@dataclass(frozen=True, slots=True)
class Announcement:
    """A store says that an object was written; ``generation`` is None where the store does not say which."""

    bucket: str
    name: str
    generation: str | None = None


def finalized(info: ObjectInfo) -> Event:
    """Return the event that Eventarc delivers for ``info``: the same attributes, the same fields, the same types.

    What an S3-like store does not know is left out, as Cloud Storage leaves out the MD5 of a composed object.
    """
    written = info.updated.astimezone(UTC)
    return Event(
        id=object_event_id(info.bucket, info.name, info.generation),
        source=storage_source(info.bucket),
        type=OBJECT_FINALIZED,
        subject=f"objects/{info.name}",
        time=_rfc3339(written, "microseconds"),
        data={name: value for name, value in _storage_object_data(info, written).items() if value is not None},
        attributes={"bucket": info.bucket},
    )


def _storage_object_data(info: ObjectInfo, written: datetime) -> dict[str, str | None]:
    place = f"{quote(info.bucket, safe='')}/o/{quote(info.name, safe='')}"
    time = _rfc3339(written, "milliseconds")
    return {
        "kind": "storage#object",
        "id": f"{info.bucket}/{info.name}/{info.generation}",
        "selfLink": f"https://www.googleapis.com/storage/v1/b/{place}",
        "name": info.name,
        "bucket": info.bucket,
        "generation": info.generation,
        "metageneration": "1",
        "contentType": info.content_type,
        "contentEncoding": info.content_encoding,
        "timeCreated": time,
        "updated": time,
        "storageClass": "STANDARD",
        "timeStorageClassUpdated": time,
        "size": str(info.size),
        "md5Hash": _md5_of_etag(info.etag),
        "mediaLink": f"https://storage.googleapis.com/download/storage/v1/b/{place}"
        f"?generation={quote(info.generation, safe='')}&alt=media",
        "crc32c": info.crc32c,
        "etag": info.etag,
    }


def _rfc3339(moment: datetime, timespec: str) -> str:
    return moment.isoformat(timespec=timespec).replace("+00:00", "Z")


def _md5_of_etag(etag: str) -> str | None:
    """Return base64 of the MD5 that an S3 ETag is, or None for the ETag of a multipart upload."""
    try:
        digest = binascii.unhexlify(etag)
    except ValueError:
        return None
    return b64encode(digest).decode() if len(digest) == 16 else None


def announced_by_s3(body: Mapping[str, Any]) -> Iterator[Announcement]:
    """Yield what a webhook in S3's own form says was created: MinIO, Silo, RustFS, versitygw."""
    for record in body.get("Records") or ():
        if str(record.get("eventName", "")).removeprefix("s3:").startswith("ObjectCreated:"):
            s3 = record["s3"]
            version = s3["object"].get("versionId")
            generation = version if version not in (None, "", "null") else None
            yield Announcement(s3["bucket"]["name"], unquote_plus(s3["object"]["key"]), generation)


def announced_by_seaweed(body: Mapping[str, Any]) -> Iterator[Announcement]:
    """Yield the object that a SeaweedFS filer's webhook says was created or overwritten.

    A versioned bucket keeps an object's versions in a folder beside it (``NAME.versions/v_…``): that is the object.
    """
    message = body.get("message") or {}
    entry = message.get("new_entry") or {}
    path = str(body.get("key", ""))
    if body.get("event_type") not in ("create", "update", "rename") or entry.get("is_directory"):
        return
    bucket, _, name = path.removeprefix(SEAWEED_BUCKETS).partition("/")
    folder, _, last = name.rpartition("/")
    if folder.endswith(".versions") and last.startswith("v_"):
        name = folder.removesuffix(".versions")
    if path.startswith(SEAWEED_BUCKETS) and name and SEAWEED_PARTS not in name.split("/"):
        yield Announcement(bucket, name)
