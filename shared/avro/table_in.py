"""The parts of a backup into a table of PostgreSQL: each byte, row and datum is summed up before COPY ends well."""

from __future__ import annotations

import hashlib
import queue
import threading
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import google_crc32c
import psycopg2
from psycopg2 import sql

from shared.avro.container import Block, Reader
from shared.avro.decode import Damaged, Decoder, SchemaDiffers
from shared.avro.schema import PIN_TEXT_FORMS, Field
from shared.copy_binary import COPY_HEADER, COPY_TRAILER
from shared.errors import BackupDamaged

if TYPE_CHECKING:
    from psycopg2.extensions import connection

    from shared.objectstore import ObjectReader

READ_BYTES = 1 << 20
WAITING_PIECES = 4

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class PartToRead:
    """A part as the manifest describes it.

    Attributes:
        open: opens it for reading, from its first byte to its last.
        rows, bytes, sha256, crc32c, datums_sha256: what ``WrittenPart`` said of it.
        name: for messages.
    """

    open: Callable[[], ObjectReader]
    rows: int
    bytes: int
    sha256: str
    crc32c: str
    datums_sha256: str
    name: str


def copy_in(
    conn: connection,
    target: sql.Composable,
    fields: Sequence[Field],
    parts: Iterable[PartToRead],
    on_progress: Progress = lambda _rows: None,
    *,
    statement_bytes: int | None = None,
) -> int:
    """Copy the parts' rows into ``target``, in their order; returns how many.

    Args:
        conn: in a transaction; how texts are read is set for the rest of it.
        target: a table that has these columns, of these types.
        fields: the columns.
        parts: in their order.
        on_progress: is told the rows sent so far; from another thread.
        statement_bytes: a COPY ends after so many, and another one goes on: the triggers of the one run while the rows
            of the next are read. Not for a table that points to itself, whose rows need each other.

    Raises:
        BackupDamaged: a part is not what it was; the transaction has failed.
        ObjectNotFound, StoreUnavailable, StoreRefused: from the store; likewise.
        psycopg2.Error: from the database.
    """
    with conn.cursor() as cursor:
        cursor.execute(PIN_TEXT_FORMS)
        if all(field.kind != "other" for field in fields):
            return _copied(conn, target, fields, parts, on_progress, statement_bytes)
        stage = sql.Identifier("pg_temp", "rowdock_texts")
        cursor.execute(_create_stage(stage, target, fields))
        rows = _copied(conn, stage, fields, parts, on_progress, None)
        cursor.execute(
            "select attname, format_type(atttypid, atttypmod) from pg_attribute where attrelid = %s::regclass",
            (target.as_string(conn),),
        )
        cursor.execute(_from_stage(stage, target, fields, dict(cursor.fetchall())))
        cursor.execute(sql.SQL("drop table {}").format(stage))
        return rows


def check_part(part: PartToRead, depth: Literal["bytes", "decode"], fields: Sequence[Field]) -> None:
    """Read a part to its end and compare it with what was said of it; ``decode`` looks at each value too.

    Raises:
        BackupDamaged: it is not what it was.
        ObjectNotFound, StoreUnavailable, StoreRefused: from the store.
    """
    with closing(part.open()) as reader:
        summed = _Summed(reader, part)
        if depth == "bytes":
            while summed.read(READ_BYTES):
                pass
            summed.compare_bytes()
            return
        for _ in _tuples(summed, part, fields):
            pass


def _columns(fields: Sequence[Field]) -> sql.Composable:
    return sql.SQL(", ").join(sql.Identifier(field.name) for field in fields)


def _create_stage(stage: sql.Composable, target: sql.Composable, fields: Sequence[Field]) -> sql.Composable:
    """A table in which the columns that go as text are text."""
    selected = sql.SQL(", ").join(
        sql.SQL("{} as {}").format(field.expression(), sql.Identifier(field.name)) for field in fields
    )
    return sql.SQL("create temporary table {} on commit drop as select {} from {} with no data").format(
        sql.Identifier("rowdock_texts"), selected, target
    )


def _from_stage(
    stage: sql.Composable, target: sql.Composable, fields: Sequence[Field], types: dict[str, str]
) -> sql.Composable:
    """The types are the server's own words for the target's columns, not what a manifest says."""
    selected = sql.SQL(", ").join(
        sql.SQL("{}::{}").format(sql.Identifier(f.name), sql.SQL(types[f.name]))
        if f.kind == "other"
        else sql.Identifier(f.name)
        for f in fields
    )
    return sql.SQL("insert into {} ({}) overriding system value select {} from {}").format(
        target, _columns(fields), selected, stage
    )


def _copied(
    conn: connection,
    target: sql.Composable,
    fields: Sequence[Field],
    parts: Iterable[PartToRead],
    on_progress: Progress,
    statement_bytes: int | None,
) -> int:
    source = _Source(fields, parts, on_progress, statement_bytes)
    columns = sql.SQL("({})").format(_columns(fields)) if fields else sql.SQL("")
    statement = sql.SQL("copy {} {} from stdin (format binary)").format(target, columns)
    try:
        with conn.cursor() as cursor:
            while not source.is_at_end:
                cursor.copy_expert(statement, source, READ_BYTES)
    except psycopg2.Error as error:
        source.raise_own()
        if isinstance(error, psycopg2.DataError | psycopg2.IntegrityError):
            source.check_current()  # a damaged byte may have made a value that only the server refuses
        raise
    finally:
        source.close()
    return source.rows


class _Source:
    """The file that psycopg2 reads, one stream for each COPY; another thread reads, checks and decodes ahead of it."""

    def __init__(
        self,
        fields: Sequence[Field],
        parts: Iterable[PartToRead],
        on_progress: Progress,
        statement_bytes: int | None,
    ) -> None:
        self.rows = 0
        self.is_at_end = False
        self._statement_bytes = statement_bytes
        self._sent = 0
        self._rest = [COPY_HEADER]
        self._fields, self._parts, self._on_progress = fields, parts, on_progress
        self._current: PartToRead | None = None
        self._error: BaseException | None = None
        self._closed = threading.Event()
        self._pieces: queue.Queue[bytes] = queue.Queue(WAITING_PIECES)
        self._thread = threading.Thread(target=self._run, name="avro-decoder", daemon=True)
        self._thread.start()

    def read(self, _size: int = -1) -> bytes:
        """The next piece of the stream, however long; empty at its end."""
        if self._rest:
            return self._rest.pop()
        if self._statement_bytes is not None and self._sent >= self._statement_bytes:
            self._sent, self._rest = 0, [COPY_HEADER, b""]
            return COPY_TRAILER
        piece = self._pieces.get()
        if self._error is not None:
            raise self._error
        if not piece:
            self.is_at_end, self._rest = True, [b""]
            return COPY_TRAILER
        self._sent += len(piece)
        return piece

    def readline(self, _size: int = -1) -> bytes:
        """Never called: psycopg2 asks for it when it copies text by lines."""
        raise NotImplementedError

    def raise_own(self) -> None:
        """Raise what ended the stream, if anything did."""
        if self._error is not None:
            raise self._error from None

    def check_current(self) -> None:
        """Raise BackupDamaged if the part that is being read is not what it was."""
        self.close()
        if self._current is not None:
            check_part(self._current, "bytes", self._fields)

    def close(self) -> None:
        """End the other thread."""
        self._closed.set()
        while self._thread.is_alive():
            self._drain()
            self._thread.join(0.01)

    def _drain(self) -> None:
        try:
            while True:
                self._pieces.get_nowait()
        except queue.Empty:
            pass

    def _run(self) -> None:
        try:
            for part in self._parts:
                self._current = part
                self._send(part)
        except BaseException as error:  # noqa: BLE001  # handed to the thread that reads, which raises it
            self._error = error
        self._put(b"")

    def _send(self, part: PartToRead) -> None:
        with closing(part.open()) as reader:
            for piece, rows in _tuples(_Summed(reader, part), part, self._fields):
                if self._closed.is_set():
                    return
                self._put(piece)
                self.rows += rows
                self._on_progress(self.rows)

    def _put(self, piece: bytes) -> None:
        if not self._closed.is_set():
            self._pieces.put(piece)


class _Summed:
    """Reads a part and sums its bytes up."""

    def __init__(self, reader: ObjectReader, part: PartToRead) -> None:
        self._reader, self._part = reader, part
        self._bytes = 0
        self._sha256, self._crc32c = hashlib.sha256(), google_crc32c.Checksum()

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes, fewer only at the end."""
        data = self._reader.read(size)
        self._sha256.update(data)
        self._crc32c.update(data)
        self._bytes += len(data)
        return data

    def compare_bytes(self) -> None:
        """At the end: they are what was stored."""
        _compare(self._part, "bytes", self._part.bytes, self._bytes)
        _compare(self._part, "SHA-256", self._part.sha256, self._sha256.hexdigest())
        _compare(self._part, "CRC32C", self._part.crc32c, b64encode(self._crc32c.digest()).decode())


def _compare(part: PartToRead, what: str, said: object, found: object) -> None:
    if said != found:
        raise BackupDamaged(f"{part.name}: {what} {found}, the backup says {said}: take another backup")


def _tuples(summed: _Summed, part: PartToRead, fields: Sequence[Field]) -> Iterator[tuple[bytes, int]]:
    """A part's COPY BINARY tuples; the last ones have come only when everything about it was compared."""
    reader = Reader(summed.read, part.name)
    datums, total = hashlib.sha256(), 0

    def blocks() -> Iterator[Block]:
        for block in reader.blocks():
            datums.update(block.data)
            yield block

    try:
        for piece, rows in Decoder(fields, reader.schema).batches(blocks()):
            total += rows
            yield piece, rows
    except SchemaDiffers as error:
        raise reader.damaged("its schema is not the table's") from error
    except Damaged as error:
        raise reader.damaged(str(error)) from error
    summed.compare_bytes()
    _compare(part, "rows", part.rows, total)
    _compare(part, "SHA-256 of the datums", part.datums_sha256, datums.hexdigest())
