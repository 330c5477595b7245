"""A table's rows out of PostgreSQL into the parts of a backup: read, encoded, compressed and stored at one time.

The calling thread reads and encodes; another one compresses, sums up and writes, for all of that is done without the
interpreter's lock. What waits between them is bounded in bytes, whatever the rows are.
"""

from __future__ import annotations

import hashlib
import secrets
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import google_crc32c
from psycopg2 import sql

from shared.avro.container import SYNC_BYTES, header, packed
from shared.avro.encode import Datums, Encoder
from shared.avro.schema import PIN_TEXT_FORMS, Field
from shared.copy_binary import COPY_HEADER, COPY_TRAILER
from shared.errors import StoreUnavailable

if TYPE_CHECKING:
    from psycopg2.extensions import connection

    from shared.objectstore import ObjectInfo, ObjectWriter

PART_BYTES = 128 << 20
CHUNK_BYTES = 1 << 20  # no more than the server may send ahead, so that it goes on while a chunk is encoded
WAITING_BYTES = 8 << 20

NewPart = Callable[[int], AbstractContextManager["ObjectWriter"]]
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class WrittenPart:
    """One file of a table's backup.

    Attributes:
        info: the object as the store knows it.
        rows: how many it has.
        bytes: as stored.
        sha256: of the stored bytes, hexadecimal.
        crc32c: of the stored bytes, base64 of four big-endian bytes, as stores tell it.
        datums_sha256: of the datums before compression, hexadecimal.
        infinities: names of the columns that hold infinity as a sentinel.
    """

    info: ObjectInfo
    rows: int
    bytes: int
    sha256: str
    crc32c: str
    datums_sha256: str
    infinities: frozenset[str]


def copy_out(
    conn: connection,
    query: sql.Composable,
    fields: Sequence[Field],
    record_schema: dict[str, Any],
    new_part: NewPart,
    *,
    part_bytes: int = PART_BYTES,
    on_progress: Progress = lambda _rows: None,
) -> list[WrittenPart]:
    """Write what ``query`` selects, which is each field's ``expression()``; a table without rows is one part too.

    Args:
        conn: in a transaction; how texts are written is set for the rest of it.
        query: a SELECT.
        fields: its columns.
        record_schema: of the records.
        new_part: opens the part of that number, from 0.
        part_bytes: a part that has so many as stored is followed by another one, for the next chunk of rows.
        on_progress: is told the rows read so far.

    Raises:
        NotRepresentable: a value that AVRO cannot hold; nothing of the last part is left.
        ObjectExists, StoreUnavailable, StoreRefused: from the store.
        psycopg2.Error: from the database.
    """
    parts = _Parts(record_schema, new_part, part_bytes)
    with ThreadPoolExecutor(1, "avro-parts") as packer:
        try:
            rows = _Rows(Encoder(fields), parts.add, packer, on_progress)
            with conn.cursor() as cursor:
                cursor.execute(PIN_TEXT_FORMS)
                cursor.copy_expert(sql.SQL("copy ({}) to stdout (format binary)").format(query), rows)
            rows.finish()
            return packer.submit(parts.finish).result()
        except BaseException as error:
            packer.submit(parts.abort, error).result()
            raise


def read_back(conn: connection, query: sql.Composable, fields: Sequence[Field], rows: Sequence[int]) -> list[str]:
    """What ``datums_sha256`` of parts of so many rows each would be; ``query`` as for ``copy_out``.

    Rows beyond those of the last part count to it.

    Raises:
        NotRepresentable: a value that AVRO cannot hold.
        psycopg2.Error: from the database.
    """
    sums = _Sums(rows)
    with ThreadPoolExecutor(1, "avro-sums") as packer, conn.cursor() as cursor:
        read = _Rows(Encoder(fields), sums.add, packer, lambda _rows: None)
        cursor.execute(PIN_TEXT_FORMS + "; set local synchronize_seqscans = off")
        cursor.copy_expert(sql.SQL("copy ({}) to stdout (format binary)").format(query), read)
        read.finish()
    return [each.hexdigest() for each in sums.sums]


class _Sums:
    """Sums up datums by parts of given numbers of rows."""

    def __init__(self, rows: Sequence[int]) -> None:
        self.sums = [hashlib.sha256() for _ in rows]
        self._left = deque(rows)

    def add(self, datums: Datums) -> None:
        """Take the datums of the next rows in."""
        row, at, ends = 0, 0, datums.ends
        while row < len(ends) and self._left:
            last = len(self._left) == 1
            count = len(ends) - row if last else min(self._left[0], len(ends) - row)
            end = int(ends[row + count - 1]) if count else at
            self.sums[-len(self._left)].update(datums.data[at:end].tobytes())
            row, at = row + count, end
            self._left[0] -= count
            if not last and not self._left[0]:
                self._left.popleft()


class _Rows:
    """The file that psycopg2 writes COPY's messages to: the header with the first row, each row, the trailer.

    Attributes:
        write: takes one message; a generator's ``send``, for a method of ours would cost more than to read the row.
    """

    def __init__(
        self, encoder: Encoder, add: Callable[[Datums], None], packer: ThreadPoolExecutor, on_progress: Progress
    ) -> None:
        self._encoder, self._add, self._packer, self._on_progress = encoder, add, packer, on_progress
        self._rows: list[bytes] = []
        self._total = 0
        self._waiting: deque[tuple[Future[None], int]] = deque()
        messages = self._messages()
        next(messages)
        self.write = messages.send

    def _messages(self) -> Generator[None, bytes, None]:
        self._rows.append((yield).removeprefix(COPY_HEADER))
        while True:
            rows, size = self._rows, 0
            while size < CHUNK_BYTES:
                message = yield
                rows.append(message)
                size += len(message)
            self._encode()

    def finish(self) -> None:
        """Encode what is left and wait until all is written."""
        if self._rows and self._rows[-1] == COPY_TRAILER:
            self._rows.pop()
        self._encode()
        self._wait_for_all_but(0)

    def _encode(self) -> None:
        rows, self._rows = self._rows, []
        if rows[-1:] == [COPY_TRAILER]:
            self._rows.append(rows.pop())
        datums = self._encoder.encode(rows)
        self._waiting.append((self._packer.submit(self._add, datums), len(datums.data)))
        self._wait_for_all_but(WAITING_BYTES)
        self._total += len(rows)
        self._on_progress(self._total)

    def _wait_for_all_but(self, size: int) -> None:
        while self._waiting and sum(each for _, each in self._waiting) > size:
            self._waiting.popleft()[0].result()


class _Parts:
    """Writes parts, one after the other; all calls come from one thread."""

    def __init__(self, schema: dict[str, Any], new_part: NewPart, part_bytes: int) -> None:
        self._schema, self._new_part, self._part_bytes = schema, new_part, part_bytes
        self._sync = secrets.token_bytes(SYNC_BYTES)
        self._open: _OpenPart | None = None
        self._written: list[WrittenPart] = []

    def add(self, datums: Datums) -> None:
        """Write the rows; parts end as they are full."""
        if self._part().bytes >= self._part_bytes:
            self._close()
        self._part().add(datums, self._sync)

    def finish(self) -> list[WrittenPart]:
        """Commit the last part."""
        if self._open is not None or not self._written:
            self._part()
            self._close()
        return self._written

    def abort(self, error: BaseException) -> None:
        """Leave nothing of the part that is open."""
        if self._open is not None:
            self._open.context.__exit__(type(error), error, error.__traceback__)
            self._open = None

    def _part(self) -> _OpenPart:
        if self._open is None:
            self._open = _OpenPart(self._new_part(len(self._written)), self._schema, self._sync)
        return self._open

    def _close(self) -> None:
        part, self._open = self._part(), None
        self._written.append(part.close())


class _OpenPart:
    """A part that is being written, and the sums over it."""

    def __init__(self, context: AbstractContextManager[ObjectWriter], schema: dict[str, Any], sync: bytes) -> None:
        self.context = context
        self.bytes = 0
        self._rows = 0
        self._stored, self._crc32c, self._datums = hashlib.sha256(), google_crc32c.Checksum(), hashlib.sha256()
        self._infinities: frozenset[str] = frozenset()
        self._writer = context.__enter__()
        self._write(header(schema, sync))

    def add(self, datums: Datums, sync: bytes) -> None:
        """Write some blocks."""
        self._datums.update(datums.data)  # type: ignore[arg-type]  # arrays do offer the buffer protocol
        self._rows += len(datums.ends)
        self._infinities |= datums.infinities
        self._write(packed(datums, sync))

    def close(self) -> WrittenPart:
        """Commit the object, and compare what the store says of it."""
        self.context.__exit__(None, None, None)
        info = self._writer.info
        crc32c = b64encode(self._crc32c.digest()).decode()
        assert info is not None  # noqa: S101  # a writer that committed has it
        if info.size != self.bytes or info.crc32c not in (None, crc32c):
            raise StoreUnavailable(
                f"{info.name}: the store has {info.size:,} bytes with CRC32C {info.crc32c},"
                f" sent were {self.bytes:,} with {crc32c}"
            )
        return WrittenPart(
            info, self._rows, self.bytes, self._stored.hexdigest(), crc32c, self._datums.hexdigest(), self._infinities
        )

    def _write(self, data: bytes) -> None:
        self._stored.update(data)
        self._crc32c.update(data)
        self.bytes += len(data)
        self._writer.write(data)
