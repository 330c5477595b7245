"""AVRO object container files: a header, then blocks of whole rows, each closed by the header's sync marker.

Blocks are small, about ``BLOCK_BYTES`` before compression, for they are what can be decoded side by side. The reader
takes the codecs null and deflate and nothing that the specification does not allow.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from isal import isal_zlib

from shared.avro.encode import Datums
from shared.copy_binary import Ints
from shared.errors import BackupDamaged

MAGIC = b"Obj\x01"
SYNC_BYTES = 16
BLOCK_BYTES = 16_000
BLOCK_ROWS = 65_536  # of a table without columns, whose rows have no bytes
LEVEL = 2
RAW_DEFLATE = -15

# What a reader takes. A row of PostgreSQL's may have 1 GB, but no larger part than this is worth its memory.
MOST_BLOCK_BYTES = 1 << 30
MOST_HEADER_BYTES = 16 << 20
READ_BYTES = 1 << 20
MOST_RATIO = 1032  # deflate's own limit


def varint(number: int) -> bytes:
    """AVRO's long."""
    code = (number << 1) ^ (number >> 63)
    encoded = bytearray()
    while code > 0x7F:
        encoded.append(code & 0x7F | 0x80)
        code >>= 7
    encoded.append(code)
    return bytes(encoded)


def header(schema: dict[str, Any], sync: bytes) -> bytes:
    """A file's beginning."""
    described = json.dumps(schema, separators=(",", ":"), ensure_ascii=False).encode()
    entries = {b"avro.codec": b"deflate", b"avro.schema": described}
    packed = b"".join(varint(len(text)) + text for entry in entries.items() for text in entry)
    return MAGIC + varint(len(entries)) + packed + varint(0) + sync


def packed(datums: Datums, sync: bytes) -> bytes:
    """The datums as compressed blocks of nearly one size."""
    view = memoryview(datums.data)  # type: ignore[arg-type]  # arrays do offer the buffer protocol
    pieces: list[bytes] = []
    before, row = 0, 0
    for last in _last_rows(datums.ends):
        end = int(datums.ends[last - 1])
        block = isal_zlib.compress(view[before:end], LEVEL, RAW_DEFLATE)
        pieces += (varint(last - row), varint(len(block)), block, sync)
        before, row = end, last
    return b"".join(pieces)


def _last_rows(ends: Ints) -> list[int]:
    """For each block the number of the row behind its last."""
    count = len(ends)
    if not count:
        return []
    total = int(ends[-1])
    wanted = max(round(total / BLOCK_BYTES), -(-count // BLOCK_ROWS))
    cuts = np.searchsorted(ends, np.arange(1, wanted) * total // max(wanted, 1)) + 1
    if not total:
        cuts = np.arange(1, wanted) * count // wanted
    found: list[int] = np.unique(np.append(cuts[cuts < count], count)).tolist()
    return found


@dataclass(frozen=True, slots=True)
class Block:
    """One block as it is read.

    Attributes:
        rows: how many it says it has.
        data: its datums, no longer compressed.
    """

    rows: int
    data: bytes


class Reader:
    """Reads one file from its beginning.

    Args:
        read: gives up to so many bytes, fewer only at the end of the file.
        name: of the file, for messages.

    Attributes:
        schema: the records' schema as the file says it.
        codec: ``null`` or ``deflate``.

    Raises:
        BackupDamaged: it is no such file.
    """

    def __init__(self, read: Callable[[int], bytes], name: str) -> None:
        self._read, self._name = read, name
        self._buffer, self._place, self._consumed = b"", 0, 0
        if self._take(len(MAGIC)) != MAGIC:
            raise self.damaged("it is no AVRO file: it does not begin with Obj\\x01")
        metadata = self._metadata()
        self.schema: dict[str, Any] = self._schema(metadata)
        self.codec = metadata.get(b"avro.codec", b"null").decode("ascii", "replace")
        if self.codec not in ("null", "deflate"):
            raise self.damaged("its codec is neither null nor deflate")
        self._sync = self._take(SYNC_BYTES)

    def blocks(self) -> Iterator[Block]:
        """Every block, to the end of the file.

        Raises:
            BackupDamaged: the file ends within a block, a block is not what it says, or the sync marker is another.
        """
        while not self._is_at_end():
            rows, size = self._varint(), self._varint()
            if rows < 0 or not 0 <= size <= MOST_BLOCK_BYTES:
                raise self.damaged(f"a block says that it has {rows} rows in {size} bytes")
            data = self._unpacked(self._take(size))
            if self._take(SYNC_BYTES) != self._sync:
                raise self.damaged("the sync marker behind a block is not the header's")
            if rows > len(data) and rows > BLOCK_ROWS:
                raise self.damaged(f"a block says that it has {rows} rows in {len(data)} bytes")
            yield Block(rows, data)

    def damaged(self, what: str) -> BackupDamaged:
        """The error that says where in the file ``what`` was found."""
        return BackupDamaged(f"{self._name}, before byte {self._consumed + self._place:,}: {what}")

    def _unpacked(self, packed: bytes) -> bytes:
        if self.codec == "null":
            return packed
        try:
            if len(packed) * MOST_RATIO <= MOST_BLOCK_BYTES:
                return isal_zlib.decompress(packed, RAW_DEFLATE, 2 * 16_384)
            stream = isal_zlib.decompressobj(RAW_DEFLATE)
            data = stream.decompress(packed, MOST_BLOCK_BYTES)
        except isal_zlib.error as error:  # type: ignore[misc]  # its stub says object
            raise self.damaged(f"a block cannot be decompressed ({error})") from error
        if not stream.eof:
            raise self.damaged(f"a block is cut, or has more than {MOST_BLOCK_BYTES:,} bytes")
        return data

    def _metadata(self) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        while count := self._varint():
            if count < 0:  # then the size of the entries in bytes follows
                count = -count
                self._varint()
            for _ in range(count):
                key = self._take(self._header_size())
                found[key] = self._take(self._header_size())
        return found

    def _header_size(self) -> int:
        size = self._varint()
        if not 0 <= size <= MOST_HEADER_BYTES - self._consumed - self._place:
            raise self.damaged(f"the header has an entry of {size} bytes")
        return size

    def _schema(self, metadata: dict[bytes, bytes]) -> dict[str, Any]:
        try:
            schema = json.loads(metadata.get(b"avro.schema", b""))
        except (ValueError, RecursionError) as error:
            raise self.damaged("its schema is no JSON") from error
        if not isinstance(schema, dict):
            raise self.damaged("its schema is no record")
        return schema

    def _varint(self) -> int:
        code = shift = 0
        while True:
            byte = self._take(1)[0]
            code |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift > 63:
                raise self.damaged("a number has more than ten bytes")
        if code >= 1 << 64:
            raise self.damaged("a number has more than 64 bits")
        return (code >> 1) ^ -(code & 1)

    def _is_at_end(self) -> bool:
        if self._place == len(self._buffer):
            self._fill(1)
        return self._place == len(self._buffer)

    def _take(self, size: int) -> bytes:
        if len(self._buffer) - self._place < size:
            self._fill(size)
        taken = self._buffer[self._place : self._place + size]
        if len(taken) < size:
            raise self.damaged("the file ends here, within a block or its header")
        self._place += size
        return taken

    def _fill(self, size: int) -> None:
        """Have ``size`` bytes in the buffer, or all that is left of the file."""
        self._consumed += self._place
        pieces = [self._buffer[self._place :]]
        got = len(pieces[0])
        while got < size and (piece := self._read(READ_BYTES)):
            pieces.append(piece)
            got += len(piece)
        self._buffer, self._place = b"".join(pieces), 0
