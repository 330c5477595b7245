"""Object stores behind one small interface: Google Cloud Storage, and S3 with its like (MinIO, SeaweedFS, moto).

``connect`` imports the client library of the store that its URL names, and no other: importing this package costs
neither boto3 nor google-cloud-storage.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from shared.errors import SettingsError
from shared.objectstore.streams import PART_BYTES, ObjectInfo, ObjectReader, ObjectWriter

__all__ = ["PART_BYTES", "ObjectInfo", "ObjectReader", "ObjectStore", "ObjectWriter", "connect"]

URL_FORMS = "gs://, gs+http://HOST:PORT, s3://, s3://KEY:SECRET@HOST:PORT or s3+http://KEY:SECRET@HOST:PORT"


class ObjectStore(Protocol):
    """Buckets of objects, each with one current generation.

    Every call is bounded in time and in retries. All of them raise StoreUnavailable (transient) if the store does not
    answer or says that it cannot now, and StoreRefused (permanent) if it answers that it will not: rights, a bucket
    that does not exist, a name it does not take.
    """

    def stat(self, bucket: str, name: str, generation: str | None = None) -> ObjectInfo:
        """Describe ``generation``, or the current one when None.

        Raises:
            ObjectNotFound: the store has no such object, or no longer that generation.
        """

    def open_read(
        self, bucket: str, name: str, generation: str, start: int = 0, end: int | None = None
    ) -> ObjectReader:
        """Read bytes ``start`` (included) to ``end`` (not included; the object's end when None), exactly as stored.

        An overwrite on the way never mixes two generations: the read goes on in this one, or raises.

        Raises:
            ObjectNotFound: the store has no such object, or no longer that generation.
        """

    def list(self, bucket: str, prefix: str = "") -> Iterator[ObjectInfo]:
        """The current generations whose name starts with ``prefix``, by name, page by page as they are asked for."""

    def create(self, bucket: str, name: str, *, content_type: str = "application/octet-stream") -> ObjectWriter:
        """Write an object that does not exist yet; of several writers at once exactly one wins.

        The others raise ObjectExists, when they commit at the latest. An exception inside the context leaves nothing.
        """

    def put(self, bucket: str, name: str, body: bytes, *, content_type: str = "application/octet-stream") -> ObjectInfo:
        """Write ``body`` in one request, over what is there; for what fits in memory."""

    def delete(self, bucket: str, name: str, generation: str | None = None) -> None:
        """Remove the current object, or ``generation`` for good; what is not there is no error."""


def connect(url: str) -> ObjectStore:
    """The store that ``url`` names (``Settings.storage_url``); nothing is sent before the first call.

    ``gs://`` is Google Cloud Storage and ``s3://`` AWS, both with the credentials of the platform. With a host it is a
    server that speaks that API: ``gs+http://host:port``; ``s3://key:secret@host:port`` over TLS, ``s3+http://`` in
    clear. Key and secret are percent-encoded. ``?region=`` names the region, ``us-east-1`` otherwise.

    Raises:
        SettingsError: the URL has none of these forms; the message does not repeat it, for it holds the secret.
    """
    try:
        parts = urlsplit(url)
        endpoint = _endpoint(parts)
    except ValueError:  # a port that is no number; the message of urlsplit repeats what it was given
        raise SettingsError(f"STORAGE_URL takes {URL_FORMS}") from None
    match parts.scheme:
        case "gs" | "gs+http" | "gs+https":
            from shared.objectstore.gcs import GcsStore

            return GcsStore(endpoint)
        case "s3" | "s3+http" | "s3+https":
            from shared.objectstore.s3 import S3Store

            region = parse_qs(parts.query).get("region", [None if endpoint is None else "us-east-1"])[0]
            key, secret = (unquote(part) if part else None for part in (parts.username, parts.password))
            return S3Store(endpoint, key, secret, region)
    raise SettingsError(f"STORAGE_URL takes {URL_FORMS}")


def _endpoint(parts: SplitResult) -> str | None:
    """``http(s)://host:port``, or None for the platform's own store."""
    if not parts.hostname:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = f":{parts.port}" if parts.port else ""
    return f"{'http' if parts.scheme.endswith('+http') else 'https'}://{host}{port}"
