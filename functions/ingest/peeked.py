"""A reader whose first bytes can be looked at before they are read."""

from __future__ import annotations

from typing import Protocol


class Readable(Protocol):
    """What a load reads from: fills a buffer, 0 at the end."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill ``buffer`` from its start; returns the bytes filled, 0 at the end."""


class Peeked:
    """Reads the first ``head_bytes`` at once; ``readinto`` then gives the whole stream from its start.

    Attributes:
        head: the first bytes, at most ``head_bytes``.
        at_end: whether ``head`` is all there is.
        bytes_read: bytes that ``readinto`` has given so far.
    """

    def __init__(self, reader: Readable, head_bytes: int) -> None:
        self._reader = reader
        buffer = bytearray(head_bytes)
        filled, got = 0, -1
        while filled < head_bytes and got:
            got = reader.readinto(memoryview(buffer)[filled:])
            filled += got
        self.head = bytes(buffer[:filled])
        self.at_end = got == 0
        self.bytes_read = 0

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill ``buffer`` from the stream; returns the bytes filled, 0 at the end."""
        rest = self.head[self.bytes_read : self.bytes_read + len(buffer)] if self.bytes_read < len(self.head) else b""
        if rest:
            buffer[: len(rest)] = rest
            self.bytes_read += len(rest)
            return len(rest)
        got = self._reader.readinto(buffer)
        self.bytes_read += got
        return got
