"""What both stores share: an object's description, reading one that survives a dropped line, writing one or none."""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Protocol, Self

from shared.errors import RowdockError, StoreUnavailable

# 8 MiB: a multiple of GCS's 256 KiB upload quantum, above S3's 5 MiB minimum part; its 10,000 parts make 78 GiB.
PART_BYTES = 8 * 1024 * 1024

# A line that drops is taken up again at the next byte, after these pauses; any byte that arrives resets the count.
RESUME_PAUSES_S = (0.1, 1.0)


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One generation of one object.

    Attributes:
        bucket: its bucket.
        name: its name in the bucket, as text; never URL-encoded.
        generation: opaque; another one means that the object was written again.
        size: bytes as stored.
        etag: the store's entity tag, without quotes.
        crc32c: base64 of the big-endian CRC32C of all bytes, where the store tells it.
        content_type: media type, where the store tells it (an S3 listing does not).
        content_encoding: ``gzip`` and the like, where the store tells it; nothing is ever decoded here.
        updated: when this generation was written, with zone; some stores cut it to whole seconds.
    """

    bucket: str
    name: str
    generation: str
    size: int
    etag: str
    crc32c: str | None
    content_type: str | None
    content_encoding: str | None
    updated: datetime


class Checksum(Protocol):
    """A running CRC32C (``google_crc32c.Checksum``)."""

    def update(self, data: bytes, /) -> None:
        """Take ``data`` in."""

    def digest(self) -> bytes:
        """The checksum so far: four bytes, big-endian."""


class ByteStream(Protocol):
    """The body of one answer. Raises StoreUnavailable if the line drops; gives 0 at its end."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill ``buffer`` from its start."""

    def close(self) -> None:
        """Let the connection go."""


class Nothing:
    """The bytes of an empty range."""

    def readinto(self, _buffer: memoryview, /) -> int:
        """Give nothing."""
        return 0

    def close(self) -> None:
        """Nothing is open."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What a store answers to a read of a range.

    Attributes:
        info: the object's generation as it was asked for.
        stream: the bytes of the range.
    """

    info: ObjectInfo
    stream: ByteStream


class ObjectReader:
    """Reads one generation's bytes, from ``start`` up to ``end``; a context manager.

    No thread reads ahead: one that did won nothing (decision 0004). A line that drops is taken up again where it broke,
    in the same generation.

    Attributes:
        info: the generation that is read.
    """

    def __init__(
        self, open_range: Callable[[int, int | None], Opened], start: int, end: int | None, checksum: Checksum | None
    ) -> None:
        self._open_range = open_range
        opened = open_range(start, end)
        self.info = opened.info
        self._stream: ByteStream | None = opened.stream
        self._closed = False
        self._end = self.info.size if end is None else min(end, self.info.size)
        self._at = min(start, self._end)
        whole = self._at == 0 and self._end == self.info.size
        self._checksum = checksum if whole and self.info.crc32c else None

    def readinto(self, buffer: memoryview) -> int:
        """Fill ``buffer`` from its start; returns the bytes filled, 0 at the end.

        Raises:
            StoreUnavailable: the store did not give every byte, or gave others than it promised (CRC32C).
            ObjectNotFound: the line dropped, and meanwhile the generation was removed.
            StoreRefused: the line dropped, and meanwhile the right to read was taken away.
            ValueError: the reader was closed.
        """
        if self._closed:
            raise ValueError("read from an object that was closed")
        wanted = min(len(buffer), self._end - self._at)
        if not wanted:
            return 0
        got = self._filled(buffer[:wanted])
        self._at += got
        if self._checksum:
            self._checksum.update(bytes(buffer[:got]))  # google_crc32c takes immutable bytes alone
            if self._at == self._end:
                self._compare(self._checksum)
        return got

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes, fewer only at the end; all that is left when ``size`` is negative.

        Raises:
            StoreUnavailable, ObjectNotFound, StoreRefused: as ``readinto``.
        """
        left = self._end - self._at
        buffer = bytearray(left if size < 0 else min(size, left))
        filled = 0
        while filled < len(buffer):
            filled += self.readinto(memoryview(buffer)[filled:])
        return bytes(buffer)

    def close(self) -> None:
        """Let the connection go; what was not read stays unread."""
        self._drop()
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _filled(self, buffer: memoryview) -> int:
        """At least one byte into ``buffer``, over as many connections as the pauses allow."""
        pauses_s = iter(RESUME_PAUSES_S)
        while True:
            try:
                return self._some(buffer)
            except StoreUnavailable:
                self._drop()
                pause_s = next(pauses_s, None)
                if pause_s is None:
                    raise
                time.sleep(pause_s)

    def _some(self, buffer: memoryview) -> int:
        if self._stream is None:
            self._stream = self._open_range(self._at, self._end).stream
        got = self._stream.readinto(buffer)
        if not got:
            raise StoreUnavailable(f"{self._where()} ended at byte {self._at:,} of {self._end:,}")
        return got

    def _drop(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def _compare(self, checksum: Checksum) -> None:
        found = b64encode(checksum.digest()).decode()
        if found != self.info.crc32c:
            raise StoreUnavailable(f"{self._where()} arrived with CRC32C {found}, the store has {self.info.crc32c}")

    def _where(self) -> str:
        return f"{self.info.bucket}/{self.info.name} (generation {self.info.generation})"


class Upload(Protocol):
    """One object on its way into a store: either ``put`` alone, or ``begin``, ``add`` in order, ``finish``."""

    def put(self, body: bytes) -> ObjectInfo:
        """Create the object in one request; raises ObjectExists."""

    def begin(self) -> None:
        """Start an upload in parts; raises ObjectExists if it is plain already that it cannot end well."""

    def add(self, part: bytes) -> None:
        """Send the next part: ``PART_BYTES``, but for the last."""

    def finish(self) -> ObjectInfo:
        """Make the parts an object; raises ObjectExists."""

    def abort(self) -> None:
        """Remove what was sent; does nothing before ``begin`` or after ``finish``."""


class ObjectWriter:
    """Writes one new object, or none; a context manager that commits at its end and aborts on an exception.

    What fits in one part goes in one request. More goes in parts: one is sent by a thread while the next one fills,
    so that at most three of them (24 MiB) are in memory.

    Attributes:
        info: the object as it was created; None until ``commit``.
    """

    def __init__(self, upload: Upload) -> None:
        self._upload = upload
        self._buffer = bytearray()
        self._sender: ThreadPoolExecutor | None = None
        self._sending: Future[None] | None = None
        self._closed = False
        self.info: ObjectInfo | None = None

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Take ``data`` in; returns its length.

        Raises:
            ObjectExists: more than one part was written, and an object of that name is there.
            StoreUnavailable, StoreRefused: the store did not take an earlier part.
            ValueError: the object was committed or aborted before.
        """
        if self._closed:
            raise ValueError("write to an object that was committed or aborted")
        self._buffer += data
        while len(self._buffer) > PART_BYTES:  # the last part is never empty
            self._send(bytes(memoryview(self._buffer)[:PART_BYTES]))
            del self._buffer[:PART_BYTES]
        return len(data)

    def flush(self) -> None:
        """Do nothing: a part goes when it is full. Writers of file formats call this."""

    def commit(self) -> ObjectInfo:
        """Make what was written an object.

        Raises:
            ObjectExists: an object of that name is there; it stays as it was.
            StoreUnavailable, StoreRefused: the store did not take it; nothing is left.
        """
        try:
            if self._sender is None:
                self.info = self._upload.put(bytes(self._buffer))
            else:
                self._send(bytes(self._buffer))
                self._settle()
                self.info = self._upload.finish()
        except BaseException:
            self.abort()
            raise
        self._close()
        return self.info

    def abort(self) -> None:
        """Leave nothing behind. A store that does not answer keeps the parts until its lifecycle rule removes them."""
        with suppress(RowdockError):
            self._settle()
        if not self._closed:
            with suppress(RowdockError):
                self._upload.abort()
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self.abort()
        elif not self._closed:
            self.commit()

    def _send(self, part: bytes) -> None:
        if self._sender is None:
            self._upload.begin()
            self._sender = ThreadPoolExecutor(1, thread_name_prefix="upload")
        self._settle()
        self._sending = self._sender.submit(self._upload.add, part)

    def _settle(self) -> None:
        """Wait for the part that is being sent; raises what its sending raised."""
        sending, self._sending = self._sending, None
        if sending is not None:
            sending.result()

    def _close(self) -> None:
        self._closed = True
        self._buffer = bytearray()
        if self._sender is not None:
            self._sender.shutdown()
