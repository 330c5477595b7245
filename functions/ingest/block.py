"""One block's records, judged: characters, quotes, counts, then each column at once, then parents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from functions.ingest import lines, vectors
from functions.ingest.dialect import REJECT_ID
from functions.ingest.judged import Judged
from functions.ingest.lines import Lines
from functions.ingest.parents import Parents
from functions.ingest.records import parse_reject_id
from functions.ingest.resolve import Records
from functions.ingest.window import PAD, Window
from shared import reasons
from shared.copy_binary import Data, Ints, Mask, column_of, joined, no_values
from shared.dictionary import Column, Table

HIGHEST_ASCII = 127


@dataclass
class BlockJudge:
    """Fills in ``judged`` from the ``records`` of a block.

    Attributes:
        fields: the column that each field of a record is.
        parents: by place of the column in the table.
        found: the lines of the block; None if the careful path judged all of it.
    """

    table: Table
    fields: tuple[str | None, ...]
    parents: Mapping[int, Parents]
    window: Window
    records: Records
    found: Lines | None
    judged: Judged
    _reject_ids: dict[int, tuple[int, int]] = field(default_factory=dict)

    def run(self) -> None:
        """Judge; all that is found out is in ``judged`` then."""
        why, records = self.judged.why, self.records
        self._note_characters()
        why.add(records.too_long, [(reasons.RECORD_TOO_LONG,)])
        why.add(records.broken, [(reasons.RECORD_QUOTE,)])
        why.add(records.miscounted, [(reasons.RECORD_COLUMN_COUNT,)])
        columns = self._vector_columns()
        self._note_verdicts()
        columns, slots = self._with_careful(columns)
        self.judged.settle(columns, slots, self._waits(columns, slots))
        self.judged.reject_id_rows = np.array(sorted(self._reject_ids), np.int64)
        self.judged.reject_ids = [self._reject_ids[row] for row in sorted(self._reject_ids)]

    @cached_property
    def _vector(self) -> Ints:
        """The records whose fields are judged all at once."""
        return np.arange(self.judged.n) if self.records.vector is None else self.records.vector

    @cached_property
    def _end(self) -> int:
        return int(self.records.ends[-1]) if self.judged.n else PAD

    @cached_property
    def _is_ascii(self) -> bool:
        return int(self.window.array[PAD : self._end].max(initial=0)) <= HIGHEST_ASCII

    def _note_characters(self) -> None:
        """Note the records with a NUL and those that are no UTF-8; careful verdicts have that already."""
        why, buffer = self.judged.why, self.window.buffer
        if buffer.find(b"\0", PAD, self._end) >= 0:
            why.add(np.flatnonzero(self._plain() & (self._extreme(np.minimum) == 0)), [(reasons.RECORD_NUL,)])
        if self._is_ascii or _is_utf8(buffer, PAD, self._end):
            return
        rows = np.flatnonzero(self._plain() & (self._extreme(np.maximum) > HIGHEST_ASCII))
        places = zip(self.records.starts[rows].tolist(), self.records.ends[rows].tolist(), strict=True)
        wrong = [not _is_utf8(buffer, start, end) for start, end in places]
        why.add(rows[wrong], [(reasons.RECORD_ENCODING,)])

    def _plain(self) -> Mask:
        plain = np.ones(self.judged.n, bool)
        plain[self.records.too_long] = False
        plain[list(self.records.verdicts)] = False
        return plain

    def _extreme(self, pick: np.ufunc) -> Ints:
        """The smallest or largest byte from each record's start to the next one's: between them are blanks only."""
        starts = np.minimum(self.records.starts, self._end - 1)  # a record judged alone may be empty
        extreme: Ints = pick.reduceat(self.window.array[: self._end], starts)
        return extreme

    def _vector_columns(self) -> list[Data]:
        """Judge the fields of the records ``_vector``, column by column."""
        if self.found is None or not len(self._vector):
            return [no_values(column, 0) for column in self.table.columns]
        chosen = None if self.records.vector is None else self.records.line[self._vector]
        starts, ends = self.found.fields(chosen, len(self.fields))
        if self.window.buffer.find(b'"', PAD, self._end) >= 0:
            _unquote(self.window, starts, ends)
        suspects = np.flatnonzero(self.judged.why.of_row[self._vector])  # so far only their characters can be wrong
        block = vectors.Block(self.window.buffer, self.window.array, self._is_ascii, suspects)
        if REJECT_ID in self.fields:
            place = self.fields.index(REJECT_ID)
            self._note_reject_ids(block, starts[place], ends[place])
        return [self._column(column, block, starts, ends) for column in self.table.columns]

    def _column(self, column: Column, block: vectors.Block, starts: list[Ints], ends: list[Ints]) -> Data:
        if column.name not in self.fields:
            return no_values(column, len(self._vector))
        place = self.fields.index(column.name)
        data, codes = vectors.judge(column, block, starts[place], ends[place])
        if codes is not None:
            rows = np.flatnonzero(codes)
            whys = [(f"{column.name}.{code}",) for code in vectors.CODES]
            self.judged.why.add(self._vector[rows], whys, codes[rows])
        return data

    def _note_reject_ids(self, block: vectors.Block, starts: Ints, ends: Ints) -> None:
        texts = map(block.text, starts.tolist(), ends.tolist())
        found = zip(self._vector.tolist(), map(parse_reject_id, texts), strict=True)
        self._reject_ids.update((row, reject_id) for row, reject_id in found if reject_id)

    def _note_verdicts(self) -> None:
        """Take over what the careful path says."""
        verdicts = self.records.verdicts
        sets = list({verdict.reasons: None for verdict in verdicts.values()})
        number = {reasons: which for which, reasons in enumerate(sets)}
        which = np.array([number[verdict.reasons] for verdict in verdicts.values()], np.int64)
        self.judged.why.add(np.array(list(verdicts), np.int64), sets, which)
        self._reject_ids.update((row, verdict.reject_id) for row, verdict in verdicts.items() if verdict.reject_id)

    def _with_careful(self, columns: list[Data]) -> tuple[list[Data], Ints | None]:
        """The columns with the careful path's values behind the others, and where in them each record's are."""
        if self.records.vector is None:
            return columns, None
        values = {row: verdict.values for row, verdict in self.records.verdicts.items() if verdict.values is not None}
        if values:
            by_column = zip(self.table.columns, columns, zip(*values.values(), strict=True), strict=True)
            columns = [joined(data, column_of(column, more)) for column, data, more in by_column]
        slots = np.full(self.judged.n, -1)
        slots[self._vector] = np.arange(len(self._vector))
        slots[list(values)] = len(self._vector) + np.arange(len(values))
        return columns, slots

    def _waits(self, columns: list[Data], slots: Ints | None) -> Ints:
        """For each record the place of the first column whose parent is missing and may still come, else -1.

        Where a missing parent is no matter of time it becomes a reason.
        """
        waits = np.full(self.judged.n, -1)
        for place, parents in self.parents.items():
            column = self.table.columns[place]
            missing = parents.missing(columns[place])
            if not missing.any():
                continue
            rows = np.flatnonzero(missing if slots is None else (slots >= 0) & missing[slots])
            if column.parent_missing == "reject":
                self.judged.why.add(rows, [(f"{column.name}.{reasons.PARENT_MISSING}",)])
            else:
                waits[rows] = np.where(waits[rows] < 0, place, waits[rows])
        return waits


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
