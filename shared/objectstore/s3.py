"""S3 and its like (MinIO, SeaweedFS, moto) through boto3.

The generation is the version id where the bucket is versioned; else ``<etag>-<size>-<second it was written>``, which
is pinned by ``If-Match`` and compared with what the answer says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import boto3
import google_crc32c
import urllib3.exceptions
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    IncompleteReadError,
    ResponseStreamingError,
)

from shared.errors import ObjectExists, ObjectNotFound, RowdockError, StoreRefused, StoreUnavailable
from shared.objectstore.streams import Nothing, ObjectInfo, ObjectReader, ObjectWriter, Opened

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 30
ATTEMPTS = 3  # of each request, with boto3's back-off between them

# Ten digits of seconds: no version id of the stores we know ends so (MinIO's end in twelve characters).
MADE_UP_GENERATION = re.compile(r"(?P<etag>.+)-\d+-\d{10}")

# Marks which write made an object, so that a writer whose answer got lost knows its own work from another's.
WRITE_MARK = "rowdock-write"

TRANSIENT_STATUS = frozenset({408, 409, 425, 429})  # and every 5xx; 409 is a conflict with a write under way
TRANSIENT_ERRORS = (
    ConnectionError,
    HTTPClientError,
    IncompleteReadError,
    ResponseStreamingError,
    urllib3.exceptions.HTTPError,
)


class S3Store:
    """An S3 service as an ``ObjectStore``; safe to share between threads.

    Args:
        endpoint: ``http(s)://host:port``, or None for AWS.
        key: access key id; with None the platform's credentials are used.
        secret: its secret.
        region: its region, or None for the platform's.
    """

    def __init__(self, endpoint: str | None, key: str | None, secret: str | None, region: str | None) -> None:
        self._client: S3Client = boto3.session.Session().client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            region_name=region,
            config=_config(endpoint),
        )

    def stat(self, bucket: str, name: str, generation: str | None = None) -> ObjectInfo:
        """As ``ObjectStore.stat``."""
        uri = f"s3://{bucket}/{name}"
        try:
            with _errors(uri):
                answer = self._client.head_object(Bucket=bucket, Key=name, ChecksumMode="ENABLED", **_pin(generation))
        except ObjectNotFound:
            self._require_bucket(bucket)
            raise
        return _described(bucket, name, answer, answer["ContentLength"], generation)

    def open_read(
        self, bucket: str, name: str, generation: str, start: int = 0, end: int | None = None
    ) -> ObjectReader:
        """As ``ObjectStore.open_read``."""

        def open_range(first: int, last: int | None) -> Opened:
            return self._open_range(bucket, name, generation, first, last)

        return ObjectReader(open_range, start, end, google_crc32c.Checksum())

    def list(self, bucket: str, prefix: str = "") -> Iterator[ObjectInfo]:
        """As ``ObjectStore.list``."""
        with _errors(f"s3://{bucket}"):
            if self._client.get_bucket_versioning(Bucket=bucket).get("Status"):
                yield from self._list_versions(bucket, prefix)
            else:
                yield from self._list_plain(bucket, prefix)

    def create(self, bucket: str, name: str, *, content_type: str = "application/octet-stream") -> ObjectWriter:
        """As ``ObjectStore.create``."""
        return ObjectWriter(_Upload(self, self._client, bucket, name, content_type))

    def put(self, bucket: str, name: str, body: bytes, *, content_type: str = "application/octet-stream") -> ObjectInfo:
        """As ``ObjectStore.put``."""
        with _errors(f"s3://{bucket}/{name}"):
            answer = self._client.put_object(Bucket=bucket, Key=name, Body=body, ContentType=content_type)
        return self.stat(bucket, name, _version(answer.get("VersionId")))

    def delete(self, bucket: str, name: str, generation: str | None = None) -> None:
        """As ``ObjectStore.delete``; without versions a generation is compared first, and only then removed."""
        pin = _pin(generation)
        with suppress(ObjectNotFound), _errors(f"s3://{bucket}/{name}"):
            if "IfMatch" in pin:
                self.stat(bucket, name, generation)
                pin = {}
            self._client.delete_object(Bucket=bucket, Key=name, **pin)

    def _require_bucket(self, bucket: str) -> None:
        """Return if there is such a bucket: the answer to HEAD has no body, and so no code that tells what is missing.

        Raises:
            StoreRefused: there is none, or it may not be looked at, so that nobody can tell.
        """
        try:
            with _errors(f"s3://{bucket}"):
                self._client.head_bucket(Bucket=bucket)
        except ObjectNotFound as error:
            raise StoreRefused(f"{error}: create the bucket") from error

    def _open_range(self, bucket: str, name: str, generation: str, start: int, end: int | None) -> Opened:
        uri = f"s3://{bucket}/{name}"
        if end is not None and end <= start:
            return Opened(self.stat(bucket, name, generation), Nothing())
        span: dict[str, Any] = {}
        if start or end is not None:
            span["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        try:
            with _errors(uri):
                answer = self._client.get_object(
                    Bucket=bucket, Key=name, ChecksumMode="ENABLED", **_pin(generation), **span
                )
        except _PastTheEnd:
            return Opened(self.stat(bucket, name, generation), Nothing())
        except ObjectNotFound:  # SeaweedFS says so of a bucket, too
            self._require_bucket(bucket)
            raise
        size = int(answer["ContentRange"].rpartition("/")[2]) if span else answer["ContentLength"]
        body = _Body(uri, answer["Body"])
        try:
            return Opened(_described(bucket, name, answer, size, generation), body)
        except ObjectNotFound:
            body.close()
            raise

    def _list_versions(self, bucket: str, prefix: str) -> Iterator[ObjectInfo]:
        pages = self._client.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix)
        for page in pages:
            for item in page.get("Versions", ()):
                if item["IsLatest"]:
                    yield _listed(bucket, item)

    def _list_plain(self, bucket: str, prefix: str) -> Iterator[ObjectInfo]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        for page in pages:
            for item in page.get("Contents", ()):
                yield _listed(bucket, item)


class _Upload:
    """One create-only write: ``If-None-Match: *`` on the one request, or on the one that ends a multipart upload."""

    def __init__(self, store: S3Store, client: S3Client, bucket: str, name: str, content_type: str) -> None:
        self._store = store
        self._client = client
        self._bucket = bucket
        self._name = name
        self._content_type = content_type
        self._mark = uuid4().hex
        self._upload_id: str | None = None
        self._parts: list[CompletedPartTypeDef] = []

    def put(self, body: bytes) -> ObjectInfo:
        return self._created(
            lambda: self._client.put_object(
                Bucket=self._bucket,
                Key=self._name,
                Body=body,
                ContentType=self._content_type,
                Metadata={WRITE_MARK: self._mark},
                IfNoneMatch="*",
            )
        )

    def begin(self) -> None:
        with suppress(ObjectNotFound):
            self._store.stat(self._bucket, self._name)
            raise ObjectExists(f"{self._uri} exists")
        with _errors(self._uri):
            self._upload_id = self._client.create_multipart_upload(
                Bucket=self._bucket,
                Key=self._name,
                ContentType=self._content_type,
                Metadata={WRITE_MARK: self._mark},
            )["UploadId"]

    def add(self, part: bytes) -> None:
        number = len(self._parts) + 1
        with _errors(self._uri):
            answer = self._client.upload_part(
                Bucket=self._bucket, Key=self._name, UploadId=str(self._upload_id), PartNumber=number, Body=part
            )
        self._parts.append({"PartNumber": number, "ETag": answer["ETag"]})

    def finish(self) -> ObjectInfo:
        info = self._created(
            lambda: self._client.complete_multipart_upload(
                Bucket=self._bucket,
                Key=self._name,
                UploadId=str(self._upload_id),
                MultipartUpload={"Parts": self._parts},
                IfNoneMatch="*",
            )
        )
        self._upload_id = None
        return info

    def abort(self) -> None:
        upload_id, self._upload_id = self._upload_id, None
        if upload_id is not None:
            with _errors(self._uri):
                self._client.abort_multipart_upload(Bucket=self._bucket, Key=self._name, UploadId=upload_id)

    @property
    def _uri(self) -> str:
        return f"s3://{self._bucket}/{self._name}"

    def _created(self, request: Callable[[], Mapping[str, Any]]) -> ObjectInfo:
        """Send ``request``; one that failed because its own first try had worked, unheard, has worked."""
        try:
            with _errors(self._uri, precondition=ObjectExists):
                answer = request()
        except (ObjectExists, ObjectNotFound, StoreUnavailable):  # not found: the upload, which has ended
            if (own := self._own()) is None:
                raise
            return own
        return self._store.stat(self._bucket, self._name, _version(answer.get("VersionId")))

    def _own(self) -> ObjectInfo | None:
        """The current object, if this very write made it."""
        with suppress(RowdockError), _errors(self._uri):
            answer = self._client.head_object(Bucket=self._bucket, Key=self._name)
            if answer["Metadata"].get(WRITE_MARK) == self._mark:
                return _described(self._bucket, self._name, answer, answer["ContentLength"], None)
        return None


class _Body:
    """The bytes of an answer; a line that drops raises StoreUnavailable."""

    def __init__(self, uri: str, body: StreamingBody) -> None:
        self._uri = uri
        self._body = body

    def readinto(self, buffer: memoryview, /) -> int:
        with _errors(self._uri):
            return self._body.readinto(buffer)  # type: ignore[arg-type]  # the stub says IO; it is a buffer

    def close(self) -> None:
        self._body.close()


class _PastTheEnd(StoreRefused):
    """The range starts at or behind the object's end."""


@contextmanager
def _errors(uri: str, precondition: type[RowdockError] = ObjectNotFound) -> Iterator[None]:
    """Raise ours for boto3's errors.

    Args:
        uri: what the request is about, for the message.
        precondition: what a failed ``If-Match`` or ``If-None-Match`` means here.
    """
    try:
        yield
    except ClientError as error:
        raise _refusal(uri, error, precondition) from error
    except TRANSIENT_ERRORS as error:
        raise StoreUnavailable(f"{uri}: the store did not answer in full ({type(error).__name__})") from error
    except BotoCoreError as error:
        said = f"{uri}: no request can be made ({type(error).__name__})"
        raise StoreRefused(f"{said}; check the name, the credentials and the region") from error


def _refusal(uri: str, error: ClientError, precondition: type[RowdockError]) -> RowdockError:
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = error.response.get("Error", {}).get("Code", "")
    said = f"{uri}: the store answered {status}" + (f" {code}" if code != str(status) else "")
    if code == "NoSuchBucket":
        return StoreRefused(f"{said}: create the bucket")
    if status in (404, 405):  # 405: the version asked for is a delete marker
        return ObjectNotFound(said)
    if status == 412:
        return precondition(said)
    if status == 416:
        return _PastTheEnd(said)
    if status >= 500 or status in TRANSIENT_STATUS or status < 300:  # an error inside a 200 (CompleteMultipartUpload)
        return StoreUnavailable(said)
    if status in (401, 403):
        return StoreRefused(f"{said}: check the credentials and what they may do")
    return StoreRefused(said)


def _described(bucket: str, name: str, answer: Mapping[str, Any], size: int, generation: str | None) -> ObjectInfo:
    """What the headers of a HEAD or GET say; raises ObjectNotFound if it is another generation than the one asked."""
    etag, updated = answer["ETag"].strip('"'), answer["LastModified"]
    crc32c = answer.get("ChecksumCRC32C")
    info = ObjectInfo(
        bucket=bucket,
        name=name,
        generation=_version(answer.get("VersionId")) or _made_up(etag, size, updated),
        size=size,
        etag=etag,
        crc32c=crc32c if crc32c and "-" not in crc32c else None,  # with a dash: a checksum of the parts' checksums
        content_type=answer.get("ContentType"),
        content_encoding=answer.get("ContentEncoding"),
        updated=updated,
    )
    if generation not in (None, info.generation):
        raise ObjectNotFound(f"s3://{bucket}/{name} has generation {info.generation}; {generation} is gone")
    return info


def _listed(bucket: str, item: Mapping[str, Any]) -> ObjectInfo:
    etag, size, updated = item["ETag"].strip('"'), item["Size"], item["LastModified"]
    generation = _version(item.get("VersionId")) or _made_up(etag, size, updated)
    return ObjectInfo(bucket, item["Key"], generation, size, etag, None, None, None, updated)


def _version(version_id: str | None) -> str | None:
    """``null`` is the one version that an overwrite without versioning replaces: it names no generation."""
    return None if version_id == "null" else version_id


def _made_up(etag: str, size: int, updated: datetime) -> str:
    return f"{etag}-{size}-{int(updated.timestamp())}"


def _pin(generation: str | None) -> dict[str, Any]:
    """The parameters that hold a request to ``generation``."""
    if generation is None:
        return {}
    if made_up := MADE_UP_GENERATION.fullmatch(generation):
        return {"IfMatch": f'"{made_up["etag"]}"'}
    return {"VersionId": generation}


def _config(endpoint: str | None) -> Config:
    in_clear = endpoint is not None and endpoint.startswith("http:")
    return Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        max_pool_connections=32,
        tcp_keepalive=True,
        signature_version="s3v4",
        s3={"addressing_style": "path" if endpoint else "auto"},
        proxies={} if in_clear else None,  # a server next door is never behind the environment's proxy
        request_checksum_calculation="when_required",  # the stores beside AWS do not all take trailing checksums
        response_checksum_validation="when_required",
    )
