"""The stretch of a file that is in memory: one buffer, filled from a reader, emptied from its start."""

from __future__ import annotations

import numpy as np

from functions.ingest.fields import CARRIAGE_RETURN, LINE_FEED
from functions.ingest.peeked import Readable
from shared.copy_binary import Bytes

PAD = 64  # zero bytes before and after the text, so that words may be read across its ends


class Window:
    """Bytes of a stream, at ``buffer[start:stop]``; the last line of the file always ends in a line feed.

    Attributes:
        buffer: the bytes; ``array`` is a view of the same memory.
        start: where the text begins, always ``PAD``.
        stop: where it ends.
        offset: place of ``start`` in the stream, in bytes.
        at_end: whether the reader has no more.
    """

    start = PAD

    def __init__(self, reader: Readable, block_bytes: int, max_record_bytes: int, offset: int = 0) -> None:
        # A record of the greatest length has its end, and the byte after that, in view.
        self._capacity = max(block_bytes, max_record_bytes + 2)
        self._block_bytes = block_bytes
        self._reader = reader
        self.buffer = bytearray(PAD + self._capacity + 1 + PAD)
        self.array: Bytes = np.frombuffer(self.buffer, np.uint8)
        self._view = memoryview(self.buffer)
        self.stop = PAD
        self.offset = offset
        self.at_end = False

    def fill(self) -> None:
        """Read until a block is there, or the file ends."""
        self._fill_to(self._block_bytes)

    def grow(self) -> bool:
        """Read on, past a block; returns False if the buffer is full, so that no more can come."""
        before = self.stop
        self._fill_to(min(2 * (self.stop - PAD) + 1, self._capacity))
        return self.at_end or self.stop > before

    def _fill_to(self, size: int) -> None:
        while not self.at_end and self.stop - PAD < size:
            got = self._reader.readinto(self._view[self.stop : PAD + size])
            self.stop += got
            if not got:
                self.at_end = True
                if self.stop > PAD and self.buffer[self.stop - 1] != LINE_FEED:
                    self.buffer[self.stop] = LINE_FEED
                    self.stop += 1

    def whole_lines_end(self) -> int:
        """The place after the last line feed; ``start`` if there is none."""
        return max(self.buffer.rfind(b"\n", PAD, self.stop) + 1, PAD)

    def drop(self, end: int) -> None:
        """Forget the text before ``end``, a place in the buffer."""
        rest = self.stop - end
        self._view[PAD : PAD + rest] = self._view[end : self.stop]
        self.offset += end - PAD
        self.stop = PAD + rest

    def drop_line(self, head_bytes: int) -> tuple[bytes, int]:
        """Forget the first line, which may be longer than the buffer.

        Returns:
            Its first ``head_bytes``, and its whole length; both without its line end.
        """
        head, length, last = b"", 0, 0
        while True:
            feed = self.buffer.find(b"\n", PAD, self.stop)
            end = feed if feed >= 0 else self.stop
            if end > PAD:
                head += self.buffer[PAD : min(end, PAD + head_bytes - len(head))]
                length, last = length + end - PAD, self.buffer[end - 1]
            self.drop(feed + 1 if feed >= 0 else end)
            if feed >= 0 or self.at_end:
                length -= last == CARRIAGE_RETURN
                return head[:length], length
            self.fill()
