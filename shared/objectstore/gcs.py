"""Google Cloud Storage through google-cloud-storage, and servers that speak its API (fake-gcs-server).

Bodies are read straight from the media address, with the session class that the library itself uses: its own downloads
push 8 KiB at a time into a file or hold whole chunks in memory, where a load pulls into a buffer (decision 0004).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import google.auth
import google_crc32c
import requests
import urllib3.exceptions
from google.api_core.exceptions import GoogleAPICallError, RetryError, from_http_response
from google.auth.credentials import AnonymousCredentials, Credentials
from google.auth.exceptions import GoogleAuthError, TransportError
from google.auth.transport.requests import AuthorizedSession
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
from google.cloud.storage.retry import DEFAULT_RETRY
from requests.adapters import HTTPAdapter

from shared.errors import ObjectExists, ObjectNotFound, RowdockError, StoreRefused, StoreUnavailable
from shared.objectstore.streams import PART_BYTES, Nothing, ObjectInfo, ObjectReader, ObjectWriter, Opened

SCOPES = ("https://www.googleapis.com/auth/devstorage.read_write",)
BOUNDS: Mapping[str, Any] = {
    "timeout": (5, 30),  # seconds: to connect; between two answers of the server
    "retry": DEFAULT_RETRY.with_delay(initial=0.2, maximum=4).with_timeout(10),  # seconds: a request and its retries
}
READ_RETRY = BOUNDS["retry"].with_timeout(3)  # seconds to open a body; a reader opens again, after a pause
CONNECTIONS = 32

# Marks which write made an object, so that a writer whose answer got lost knows its own work from another's.
WRITE_MARK = "rowdock-write"

TRANSIENT_STATUS = frozenset({408, 409, 425, 429})  # and every 5xx
TRANSIENT_ERRORS = (
    requests.exceptions.RequestException,
    urllib3.exceptions.HTTPError,
    ConnectionError,
    DataCorruption,
    RetryError,
    TransportError,
)


class GcsStore:
    """Google Cloud Storage as an ``ObjectStore``; safe to share between threads.

    Args:
        endpoint: ``http(s)://host:port`` of a server that speaks its API and asks for no credentials, or None for
            Google's own with the platform's credentials. ``STORAGE_EMULATOR_HOST`` is not looked at.
    """

    def __init__(self, endpoint: str | None) -> None:
        self._endpoint = endpoint

    def stat(self, bucket: str, name: str, generation: str | None = None) -> ObjectInfo:
        """As ``ObjectStore.stat``."""
        uri = f"gs://{bucket}/{name}"
        with _errors(uri):
            blob = self.bucket(bucket).get_blob(name, generation=_number(uri, generation), **BOUNDS)
        if blob is None:
            self._require_bucket(bucket)
            raise ObjectNotFound(f"{uri} does not exist" if generation is None else f"{uri}#{generation} is gone")
        return _described(blob)

    def open_read(
        self, bucket: str, name: str, generation: str, start: int = 0, end: int | None = None
    ) -> ObjectReader:
        """As ``ObjectStore.open_read``."""

        def open_range(first: int, last: int | None) -> Opened:
            return self._open_range(bucket, name, generation, first, last)

        return ObjectReader(open_range, start, end, google_crc32c.Checksum())

    def list(self, bucket: str, prefix: str = "") -> Iterator[ObjectInfo]:
        """As ``ObjectStore.list``."""
        with _errors(f"gs://{bucket}", missing=StoreRefused):
            for blob in self.client.list_blobs(bucket, prefix=prefix, **BOUNDS):
                yield _described(blob)

    def create(self, bucket: str, name: str, *, content_type: str = "application/octet-stream") -> ObjectWriter:
        """As ``ObjectStore.create``."""
        return ObjectWriter(_Upload(self, bucket, name, content_type))

    def put(self, bucket: str, name: str, body: bytes, *, content_type: str = "application/octet-stream") -> ObjectInfo:
        """As ``ObjectStore.put``."""
        blob = self.bucket(bucket).blob(name)
        with _errors(f"gs://{bucket}/{name}", missing=StoreRefused):
            blob.upload_from_string(body, content_type=content_type, **BOUNDS)
        return _described(blob)

    def delete(self, bucket: str, name: str, generation: str | None = None) -> None:
        """As ``ObjectStore.delete``."""
        uri = f"gs://{bucket}/{name}"
        with suppress(ObjectNotFound), _errors(uri):
            if generation is not None:
                self.stat(bucket, name, generation)  # fake-gcs-server removes the current one whatever it is asked
            self.bucket(bucket).delete_blob(name, generation=_number(uri, generation), **BOUNDS)

    @cached_property
    def client(self) -> storage.Client:
        """The library's client; made when it is first needed, for the platform's credentials come over the network."""
        options = {"api_endpoint": self._endpoint} if self._endpoint else None
        credentials, project = self._identity
        return storage.Client(project=project, credentials=credentials, _http=self._session, client_options=options)

    def bucket(self, name: str) -> storage.Bucket:
        """The library's handle on a bucket; asks nothing."""
        return self.client.bucket(name)

    @cached_property
    def _identity(self) -> tuple[Credentials, str]:
        if self._endpoint:
            return AnonymousCredentials(), "none"
        with _errors("gs://"):
            credentials, project = google.auth.default(scopes=SCOPES)
        return credentials, project or "none"  # only who creates buckets needs a project

    @cached_property
    def _session(self) -> AuthorizedSession:
        session = AuthorizedSession(self._identity[0])
        session.trust_env = self._endpoint is None  # a server next door is never behind the environment's proxy
        for scheme in ("https://", "http://"):
            session.mount(scheme, HTTPAdapter(pool_maxsize=CONNECTIONS))
        return session

    def _open_range(self, bucket: str, name: str, generation: str, start: int, end: int | None) -> Opened:
        uri = f"gs://{bucket}/{name}"
        if end is not None and end <= start:
            return Opened(self.stat(bucket, name, generation), Nothing())
        span = {"Range": f"bytes={start}-{'' if end is None else end - 1}"} if start or end is not None else {}
        try:
            with _errors(uri):
                response = READ_RETRY(self._get_media)(bucket, name, _number(uri, generation), span)
        except _PastTheEnd:
            return Opened(self.stat(bucket, name, generation), Nothing())
        except ObjectNotFound:
            self._require_bucket(bucket)
            raise
        return Opened(_described_by_headers(bucket, name, response.headers), _Body(uri, response))

    def _require_bucket(self, bucket: str) -> None:
        """Return if there is such a bucket: 404 says of an object that is gone and of a bucket that never was alike.

        Raises:
            StoreRefused: there is none, or its objects may not be listed, so that nobody can tell.
        """
        with _errors(f"gs://{bucket}", missing=StoreRefused):
            next(iter(self.client.list_blobs(bucket, max_results=1, **BOUNDS)), None)

    def _get_media(self, bucket: str, name: str, generation: int, headers: Mapping[str, str]) -> requests.Response:
        response = self._session.get(
            f"{self.client.api_endpoint}/download/storage/v1/b/{quote(bucket, safe='')}/o/{quote(name, safe='')}",
            params={"alt": "media", "generation": str(generation)},
            headers={"Accept-Encoding": "gzip", **headers},  # what is stored as gzip comes as it is stored
            timeout=BOUNDS["timeout"],
            stream=True,
        )
        if response.status_code >= 400:
            raise from_http_response(response)
        return response


class _Upload:
    """One create-only write: ``ifGenerationMatch=0`` on the one request, or on a resumable upload."""

    def __init__(self, store: GcsStore, bucket: str, name: str, content_type: str) -> None:
        self._store = store
        self._bucket = bucket
        self._name = name
        self._content_type = content_type
        self._mark = uuid4().hex
        self._file: Any = None

    def put(self, body: bytes) -> ObjectInfo:
        blob = self._blob()
        with self._creating():
            blob.upload_from_string(body, content_type=self._content_type, if_generation_match=0, **BOUNDS)
        return self._store.stat(self._bucket, self._name)

    def begin(self) -> None:
        with suppress(ObjectNotFound):
            self._store.stat(self._bucket, self._name)
            raise ObjectExists(f"{self._uri} exists")
        self._file = self._blob().open(
            "wb",
            chunk_size=PART_BYTES,
            ignore_flush=True,
            content_type=self._content_type,
            if_generation_match=0,
            **BOUNDS,
        )

    def add(self, part: bytes) -> None:
        with _errors(self._uri, precondition=ObjectExists, missing=StoreRefused):
            self._file.write(part)

    def finish(self) -> ObjectInfo:
        with self._creating():
            self._file.close()
        self._file = None
        return self._store.stat(self._bucket, self._name)

    def abort(self) -> None:
        upload, self._file = self._file, None
        if upload is not None:
            with _errors(self._uri):
                upload.terminate()

    @property
    def _uri(self) -> str:
        return f"gs://{self._bucket}/{self._name}"

    def _blob(self) -> storage.Blob:
        blob = self._store.bucket(self._bucket).blob(self._name)
        blob.metadata = {WRITE_MARK: self._mark}
        return blob

    @contextmanager
    def _creating(self) -> Iterator[None]:
        """Pass over the failure of a request whose own first try had worked, unheard.

        A resumable upload that has ended may be gone: who asks for it again is answered 404, and the object is there.
        """
        try:
            with _errors(self._uri, precondition=ObjectExists, missing=StoreRefused):
                yield
        except (ObjectExists, StoreRefused, StoreUnavailable):
            if not self._is_own():
                raise

    def _is_own(self) -> bool:
        """Whether this very write made the current object."""
        with suppress(RowdockError), _errors(self._uri):
            blob = self._store.bucket(self._bucket).get_blob(self._name, **BOUNDS)
            return blob is not None and (blob.metadata or {}).get(WRITE_MARK) == self._mark
        return False


class _Body:
    """The bytes of an answer as they came; a line that drops raises StoreUnavailable."""

    def __init__(self, uri: str, response: requests.Response) -> None:
        self._uri = uri
        self._response = response

    def readinto(self, buffer: memoryview, /) -> int:
        with _errors(self._uri):
            return self._response.raw.readinto(buffer)  # type: ignore[no-any-return]  # requests leaves raw untyped

    def close(self) -> None:
        self._response.close()


class _PastTheEnd(StoreRefused):
    """The range starts at or behind the object's end."""


@contextmanager
def _errors(
    uri: str, precondition: type[RowdockError] = ObjectNotFound, missing: type[RowdockError] = ObjectNotFound
) -> Iterator[None]:
    """Raise ours for the library's errors.

    Args:
        uri: what the request is about, for the message.
        precondition: what a generation that does not match means here.
        missing: what 404 means here.
    """
    try:
        yield
    except GoogleAPICallError as error:
        raise _refusal(uri, error.code or 0, precondition, missing) from error
    except InvalidResponse as error:
        raise _refusal(uri, error.response.status_code, precondition, missing) from error
    except TRANSIENT_ERRORS as error:
        raise StoreUnavailable(f"{uri}: the store did not answer in full ({type(error).__name__})") from error
    except GoogleAuthError as error:
        family = StoreUnavailable if error.retryable else StoreRefused
        raise family(f"{uri}: no credentials ({type(error).__name__}); check the function's identity") from error


def _refusal(uri: str, status: int, precondition: type[RowdockError], missing: type[RowdockError]) -> RowdockError:
    said = f"{uri}: the store answered {status}"
    if status == 404:
        return missing(f"{said}: {'create the bucket' if missing is StoreRefused else 'it does not exist'}")
    if status == 412:
        return precondition(said)
    if status == 416:
        return _PastTheEnd(said)
    if status >= 500 or status in TRANSIENT_STATUS:
        return StoreUnavailable(said)
    if status in (401, 403):
        return StoreRefused(f"{said}: check the function's identity and what it may do")
    return StoreRefused(said)


def _described(blob: storage.Blob) -> ObjectInfo:
    return ObjectInfo(
        bucket=blob.bucket.name,
        name=blob.name,
        generation=str(blob.generation),
        size=blob.size,
        etag=blob.etag,
        crc32c=blob.crc32c,
        content_type=blob.content_type,
        content_encoding=blob.content_encoding,
        updated=blob.updated,
    )


def _described_by_headers(bucket: str, name: str, headers: Mapping[str, str]) -> ObjectInfo:
    """What the answer to a read says; saves a request for the description."""
    size = headers.get("X-Goog-Stored-Content-Length") or headers.get("Content-Range", "").rpartition("/")[2]
    hashes = dict(part.strip().split("=", 1) for part in headers.get("X-Goog-Hash", "").split(",") if part)
    encoding = headers.get("X-Goog-Stored-Content-Encoding", "identity")
    return ObjectInfo(
        bucket=bucket,
        name=name,
        generation=headers["X-Goog-Generation"],
        size=int(size or headers["Content-Length"]),
        etag=headers["ETag"].strip('"'),
        crc32c=hashes.get("crc32c"),
        content_type=headers.get("Content-Type"),
        content_encoding=None if encoding == "identity" else encoding,
        updated=parsedate_to_datetime(headers["Last-Modified"]),
    )


def _number(uri: str, generation: str | None) -> int | None:
    """A generation of this store is a number; any other text names none."""
    if generation is None:
        return None
    if not (generation.isascii() and generation.isdigit()):
        raise ObjectNotFound(f"{uri} never had generation {generation}")
    return int(generation)
