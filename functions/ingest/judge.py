"""The judge: blocks of a file, or single records, in; out comes which rows may go in, why not, and COPY tuples."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import numpy as np

from functions.ingest import lines
from functions.ingest.block import BlockJudge
from functions.ingest.dialect import Dialect
from functions.ingest.fields import Unread
from functions.ingest.judged import ACCEPTED, NO_ROWS, PENDING, REJECTED, Judged
from functions.ingest.lines import Lines
from functions.ingest.parents import Parents, Present
from functions.ingest.peeked import Readable
from functions.ingest.records import SHOWN_BYTES, RecordReader
from functions.ingest.resolve import Records, resolve
from functions.ingest.window import PAD, Window
from shared import reasons
from shared.copy_binary import Ints, no_values
from shared.dictionary import Table

__all__ = ["ACCEPTED", "PENDING", "REJECTED", "Judge", "Judged"]

BLOCK_BYTES = 1 << 20


class Judge:
    """Judges the rows of one file of ``table``.

    Args:
        present: which of the given keys of a referencing column have a parent; asked once for each distinct key.
        first_line, first_record, first_byte: numbers of the first line, record and byte that ``blocks`` will see.
        block_bytes: how much is judged at a time.
        careful: send every record through the careful path, which the fast one is tested against.
    """

    def __init__(
        self,
        table: Table,
        dialect: Dialect,
        present: Present,
        *,
        first_line: int = 1,
        first_record: int = 1,
        first_byte: int = 0,
        block_bytes: int = BLOCK_BYTES,
        careful: bool = False,
    ) -> None:
        self._table = table
        self._fields = dialect.fields
        self._delimiter = dialect.delimiter[0]
        self._has_header = dialect.has_header
        self._line, self._record, self._byte = first_line, first_record, first_byte
        self._block_bytes = block_bytes
        self._careful = careful
        self._reader = RecordReader(table, dialect)
        self._parents = {
            place: Parents(column, present, keep_absent=column.references != table.key)
            for place, column in enumerate(table.columns)
            if column.references
        }

    def blocks(self, reader: Readable) -> Iterator[Judged]:
        """Judge the whole text that ``reader`` gives, in blocks of whole records; a header is passed over.

        Memory is constant: a block, and the longest record allowed.

        Raises:
            FileRefused: what ``reader`` raises.
        """
        window = Window(reader, self._block_bytes, self._table.max_record_bytes, self._byte)
        window.fill()
        if self._has_header:
            self._skip_header(window)
        while window.stop > PAD:
            end = window.whole_lines_end()
            if end > PAD:
                judged, end, line_count = self._judge_lines(window, end)
                if judged.n:
                    yield judged
                window.drop(end)
                self._line += line_count
            if end > PAD:
                window.fill()
            elif not window.grow():
                yield self._too_long(window)

    def judge_records(self, raws: Sequence[bytes]) -> Judged:
        """Judge records that stand alone, in UTF-8 and without line end, each as one record, by the same rules."""
        text = b"".join([raw + b"\n" for raw in raws])
        window = Window(io.BytesIO(text), len(text), 0)
        window.fill()
        if raws and b'"' not in text and text.count(b"\n") == len(raws) and not any(map(self._reader.is_blank, raws)):
            judged, _, _ = self._judge_lines(window, window.stop)
        else:
            ends = np.cumsum(np.array([len(raw) + 1 for raw in raws], np.int64)) + (PAD - 1)
            starts = ends - np.array([len(raw) for raw in raws], np.int64)
            verdicts = {row: self._reader.judge(raw) for row, raw in enumerate(raws)}
            records = Records(starts, ends, np.arange(len(raws)), NO_ROWS, verdicts)
            judged = self._judged(window, records, None)
        self._line += len(raws)
        return judged

    def _skip_header(self, window: Window) -> None:
        """Pass over blank lines and the first record, which may have several lines."""
        while True:
            end = window.whole_lines_end()
            feed = window.buffer.find(b"\n", PAD, end)
            if feed >= 0 and self._reader.is_blank(window.buffer[PAD:feed]):
                self._pass(window, feed + 1)
                continue
            found = self._reader.read(window.buffer, PAD, end) if feed >= 0 else Unread.OPEN
            if not isinstance(found, Unread):
                self._pass(window, found[0] + 1)
                return
            if found is Unread.BROKEN or not window.grow():
                return  # no header after all: what stands there is judged as rows

    def _pass(self, window: Window, end: int) -> None:
        self._line += window.buffer.count(b"\n", PAD, end)
        window.drop(end)
        window.fill()

    def _too_long(self, window: Window) -> Judged:
        """Reject the first line, which does not fit into the buffer; what a reject shows of it is kept."""
        offset = np.full(1, window.offset)
        head, length = window.drop_line(SHOWN_BYTES)
        source, first = np.frombuffer(head + bytes(PAD), np.uint8), np.zeros(1, np.int64)
        judged = Judged(self._table, source, first, np.full(1, len(head)))
        judged.why.add(first, [(reasons.RECORD_TOO_LONG,)])
        judged.settle([no_values(column, 0) for column in self._table.columns], np.full(1, -1), np.full(1, -1))
        self._number(judged, first, offset)
        judged.byte_lengths = np.full(1, length)
        self._line += 1
        window.fill()
        return judged

    def _number(self, judged: Judged, line: Ints, offsets: Ints) -> None:
        judged.record_numbers = np.arange(self._record, self._record + judged.n)
        judged.line_numbers = line + self._line
        judged.byte_offsets = offsets
        self._record += judged.n

    def _judge_lines(self, window: Window, end: int) -> tuple[Judged, int, int]:
        """Judge the records in the whole lines up to ``end``, and tell where their text ends and its line count."""
        count = len(self._fields)
        found = lines.find(window.buffer, window.array, PAD, end, self._delimiter, count)
        records, settled = resolve(
            self._reader, window, found, count, self._table.max_record_bytes, careful=self._careful
        )
        judged = self._judged(window, records, found)
        return judged, end if settled == len(found.feeds) else int(found.starts[settled]), settled

    def _judged(self, window: Window, records: Records, found: Lines | None) -> Judged:
        judged = Judged(self._table, window.array, records.starts, records.ends)
        self._number(judged, records.line, records.starts + (window.offset - PAD))
        BlockJudge(self._table, self._fields, self._parents, window, records, found, judged).run()
        return judged
