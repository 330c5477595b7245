"""The judge: blocks of a file, or single records, in; out comes which rows may go in, why not, and COPY tuples."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import numpy as np

from functions.ingest import lines, vectors
from functions.ingest.copy_binary import Data, Ints, column_of, joined, no_values
from functions.ingest.dialect import REJECT_ID, Dialect
from functions.ingest.fields import Unread
from functions.ingest.judged import ACCEPTED, NO_ROWS, PENDING, REJECTED, Judged
from functions.ingest.lines import Lines
from functions.ingest.parents import Parents, Present
from functions.ingest.peeked import Readable
from functions.ingest.records import SHOWN_BYTES, RecordReader, parse_reject_id
from functions.ingest.resolve import Records, resolve
from functions.ingest.window import PAD, Window
from shared import reasons
from shared.dictionary import Column, Table

__all__ = ["ACCEPTED", "PENDING", "REJECTED", "Judge", "Judged"]

BLOCK_BYTES = 1 << 20
HIGHEST_ASCII = 127


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
        judged = Judged(
            self._table, np.frombuffer(head + bytes(PAD), np.uint8), np.zeros(1, np.int64), np.full(1, len(head))
        )
        judged.why.add(np.zeros(1, np.int64), [(reasons.RECORD_TOO_LONG,)])
        judged.settle([no_values(column, 0) for column in self._table.columns], np.full(1, -1), np.full(1, -1))
        self._number(judged, np.zeros(1, np.int64), offset)
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
        is_ascii = self._note_characters(window, records, judged)
        for rows, reason in (
            (records.too_long, reasons.RECORD_TOO_LONG),
            (records.broken, reasons.RECORD_QUOTE),
            (records.miscounted, reasons.RECORD_COLUMN_COUNT),
        ):
            judged.why.add(rows, [(reason,)])
        columns, slots = self._columns(window, records, found, judged, is_ascii)
        judged.settle(columns, slots, self._waits(columns, slots, judged))
        return judged

    def _note_characters(self, window: Window, records: Records, judged: Judged) -> bool:
        """Note the records with a NUL and those that are no UTF-8, careful ones aside; returns whether all is ASCII."""
        if not judged.n:
            return True
        end = int(records.ends[-1])
        text = window.array[:end]
        is_ascii = int(text[PAD:].max(initial=0)) <= HIGHEST_ASCII
        has_nul = window.buffer.find(b"\0", PAD, end) >= 0
        if is_ascii and not has_nul:
            return True
        plain = np.ones(judged.n, bool)
        plain[records.too_long] = False
        plain[list(records.verdicts)] = False
        if has_nul:
            smallest = np.minimum.reduceat(text, np.minimum(records.starts, end - 1))
            judged.why.add(np.flatnonzero(plain & (smallest == 0)), [(reasons.RECORD_NUL,)])
        if not is_ascii and not _is_utf8(window.buffer, PAD, end):
            largest = np.maximum.reduceat(text, np.minimum(records.starts, end - 1))
            rows = np.flatnonzero(plain & (largest > HIGHEST_ASCII)).tolist()
            wrong = [row for row in rows if not _is_utf8(window.buffer, records.starts[row], records.ends[row])]
            judged.why.add(np.array(wrong, np.int64), [(reasons.RECORD_ENCODING,)])
        return is_ascii

    def _columns(
        self, window: Window, records: Records, found: Lines | None, judged: Judged, is_ascii: bool
    ) -> tuple[list[Data], Ints | None]:
        """All columns: first the values of the records judged at once, then those that the careful path judged."""
        vector = np.arange(judged.n) if records.vector is None else records.vector
        columns: list[Data] = [no_values(column, 0) for column in self._table.columns]
        reject_ids: dict[int, tuple[int, int]] = {}
        if found is not None and len(vector):
            columns = self._judge_vector(window, records, found, judged, vector, is_ascii, reject_ids)
        careful = [row for row, verdict in records.verdicts.items() if verdict.values is not None]
        self._note_verdicts(records, judged, reject_ids)
        if careful:
            columns = [
                joined(data, column_of(column, [(records.verdicts[row].values or ())[place] for row in careful]))
                for place, (column, data) in enumerate(zip(self._table.columns, columns, strict=True))
            ]
        judged.reject_id_rows = np.array(sorted(reject_ids), np.int64)
        judged.reject_ids = [reject_ids[row] for row in sorted(reject_ids)]
        if records.vector is None:
            return columns, None
        slots = np.full(judged.n, -1)
        slots[vector] = np.arange(len(vector))
        slots[careful] = len(vector) + np.arange(len(careful))
        return columns, slots

    def _note_verdicts(self, records: Records, judged: Judged, reject_ids: dict[int, tuple[int, int]]) -> None:
        verdicts = records.verdicts
        sets = list({verdict.reasons: None for verdict in verdicts.values()})
        number = {reasons: which for which, reasons in enumerate(sets)}
        which = np.array([number[verdict.reasons] for verdict in verdicts.values()], np.int64)
        judged.why.add(np.array(list(verdicts), np.int64), sets, which)
        reject_ids.update((row, verdict.reject_id) for row, verdict in verdicts.items() if verdict.reject_id)

    def _judge_vector(
        self,
        window: Window,
        records: Records,
        found: Lines,
        judged: Judged,
        vector: Ints,
        is_ascii: bool,
        reject_ids: dict[int, tuple[int, int]],
    ) -> list[Data]:
        """Judge the fields of the records ``vector``, column by column; reasons go to ``judged``."""
        all_lines = records.vector is None
        starts, ends = found.fields(None if all_lines else records.line[vector], len(self._fields))
        if window.buffer.find(b'"', PAD, int(found.feeds[-1])) >= 0:
            _unquote(window, starts, ends)
        suspects = np.flatnonzero(judged.why.of_row[vector])  # so far only their characters can be wrong
        block = vectors.Block(window.buffer, window.array, is_ascii, suspects)
        columns = []
        for column in self._table.columns:
            if column.name not in self._fields:
                columns.append(no_values(column, len(vector)))
                continue
            place = self._fields.index(column.name)
            data, codes = vectors.judge(column, block, starts[place], ends[place])
            columns.append(data)
            if codes is not None:
                rows = np.flatnonzero(codes)
                judged.why.add(vector[rows], _reasons_of(column), codes[rows])
        if REJECT_ID in self._fields:
            place = self._fields.index(REJECT_ID)
            texts = map(block.text, starts[place].tolist(), ends[place].tolist())
            found_ids = zip(vector.tolist(), map(parse_reject_id, texts), strict=True)
            reject_ids.update((row, reject_id) for row, reject_id in found_ids if reject_id)
        return columns

    def _waits(self, columns: list[Data], slots: Ints | None, judged: Judged) -> Ints:
        """For each record the first column whose parent is missing and may still come, else -1.

        Where a missing parent is no matter of time it becomes a reason.
        """
        waits = np.full(judged.n, -1)
        for place, parents in self._parents.items():
            column = self._table.columns[place]
            missing = parents.missing(columns[place])
            if not missing.any():
                continue
            has_values = np.arange(judged.n) if slots is None else np.flatnonzero(slots >= 0)
            rows = has_values[missing if slots is None else missing[slots[has_values]]]
            if column.parent_missing == "reject":
                judged.why.add(rows, [(f"{column.name}.{reasons.PARENT_MISSING}",)])
            else:
                waits[rows] = np.where(waits[rows] < 0, place, waits[rows])
        return waits


def _reasons_of(column: Column) -> list[tuple[str, ...]]:
    return [(f"{column.name}.{code}",) if code else () for code in vectors.CODES]


def _is_utf8(buffer: bytearray, start: int, end: int) -> bool:
    try:
        buffer[start:end].decode()
    except UnicodeDecodeError:
        return False
    return True


def _unquote(window: Window, starts: list[Ints], ends: list[Ints]) -> None:
    """Take the quotes off quoted fields; only simple ones are here, with a quote at either end and none between."""
    for place, (start, end) in enumerate(zip(starts, ends, strict=True)):
        quoted = (start < end) & (window.array[start] == lines.QUOTE)
        starts[place], ends[place] = start + quoted, end - quoted
