"""What the judge found out about one block of records, and their COPY tuples."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from functions.ingest.reason_sets import ReasonSets
from functions.ingest.records import RAW_CHARACTERS, shown
from shared import reasons
from shared.copy_binary import (
    Bytes,
    Constant,
    Data,
    Fixed,
    Ints,
    Var,
    decimal,
    text_array,
    tuples,
    values_of,
)
from shared.dictionary import Column, Table

ACCEPTED, PENDING, REJECTED = 0, 1, 2
INT32_MAX = 2**31 - 1  # byte_length is an integer in PostgreSQL
NO_ROWS: Ints = np.zeros(0, np.int64)


class Judged:
    """One block of records, judged. It is good until the next block is asked for; what it encodes stays.

    Arrays have one element for each of the ``n`` records, in the order of the file; ``rows`` are int64 indices.

    Attributes:
        record_numbers: from 1, header and blank lines left out.
        line_numbers: the line that the record begins on, from 1.
        byte_offsets, byte_lengths: where its text lies in the decoded stream, without line end.
        status: uint8, ACCEPTED, PENDING (it keeps all rules, but a parent is not there yet) or REJECTED.
        key_codes: int64, of accepted and pending rows: the primary key itself where ``keys_exact``, else its hash,
            which is the same only within one process.
        keys_exact: whether the primary key is an integer.
        why: the reasons of each record.
        reject_ids: (load id, record number) of the rejects that records of a mended file name.
        reject_id_rows: the record of each of them.
    """

    def __init__(self, table: Table, source: Bytes, starts: Ints, ends: Ints) -> None:
        self.n = len(starts)
        self.record_numbers: Ints = np.arange(1, self.n + 1)
        self.line_numbers = self.record_numbers
        self.byte_offsets = starts
        self.byte_lengths = ends - starts
        self.status: NDArray[np.uint8] = np.zeros(self.n, np.uint8)
        self.key_codes: Ints = np.zeros(self.n, np.int64)
        self.keys_exact = table.key_column.kind in ("integer", "bigint")
        self.reject_ids: list[tuple[int, int]] = []
        self.reject_id_rows: Ints = NO_ROWS
        self.why = ReasonSets(self.n)
        self._table = table
        self._source = source
        self._starts, self._lengths = starts, ends - starts
        self._columns: list[Data] = []
        self._slots: Ints | None = None  # where in the columns each record's values are; None: at its own index
        self._waits: Ints = np.full(self.n, -1, np.int64)  # index of the column whose parent is not there

    def settle(self, columns: list[Data], slots: Ints | None, waits: Ints) -> None:
        """Take the judge's findings: columns in the table's order, and what status and keys follow from them.

        Args:
            slots: for each record where in the columns its values are, -1 for none; None: at the record's own index.
            waits: index of the first column whose parent a record waits for, else -1.
        """
        self._columns, self._slots, self._waits = columns, slots, waits
        self.status[waits >= 0] = PENDING
        self.status[self.why.of_row > 0] = REJECTED
        keys = columns[self._table.columns.index(self._table.key_column)]
        usable = np.flatnonzero(self.status != REJECTED)
        if self.keys_exact and isinstance(keys, Fixed):
            self.key_codes[usable] = keys.values[self._places(usable)]
        else:
            self.key_codes[usable] = [hash(key) for key in self.keys(usable)]

    def keys(self, rows: Ints) -> list[int | str]:
        """The primary keys of ``rows``, none of them rejected: numbers for integer kinds, else canonical text."""
        place = self._table.columns.index(self._table.key_column)
        return values_of(self._table.key_column, self._columns[place].take(self._places(rows)))

    def reason_counts(self) -> Counter[str]:
        """How many rows have each reason; a row counts once for each of its reasons."""
        return self.why.counts()

    def reasons(self, row: int) -> tuple[str, ...]:
        """All reasons for which one row is rejected."""
        return self.why.sets[int(self.why.of_row[row])]

    def reject(self, rows: Ints, reason: str) -> None:
        """Mark ``rows`` as rejected for one more reason."""
        self.why.add(rows, [(reason,)])
        self.status[rows] = REJECTED

    def encode_rows(self, rows: Ints) -> bytes:
        """COPY tuples of ``rows``, none of them rejected: the columns in the table's order."""
        return tuples(self._values(rows), len(rows))

    def encode_staged(self, rows: Ints) -> bytes:
        """The same, and ``record_number int8``; of a table that only adds all that ``encode_doubles`` gives."""
        if self._table.load_mode == "add":
            return self.encode_doubles(rows)
        return tuples([*self._values(rows), Fixed(self.record_numbers[rows], 8)], len(rows))

    def encode_doubles(self, rows: Ints) -> bytes:
        """The same, and line_number int8, byte_offset int8, byte_length int4, raw text (cut as that of a reject)."""
        return tuples([*self._values(rows), *self._place_in_file(rows), self._shown(rows)], len(rows))

    def encode_rejects(self, rows: Ints, load_id: int) -> bytes:
        """COPY tuples for the first seven columns of ``ingest_status.rejects``."""
        why = self.why.encoded(rows, text_array)
        load = Constant(load_id.to_bytes(8, "big", signed=True))
        return tuples([load, *self._place_in_file(rows), why, self._shown(rows)], len(rows))

    def encode_pending(self, rows: Ints, load_id: int) -> bytes:
        """COPY tuples for ``ingest_status.pending``, ``load_id`` to ``raw``, of rows that wait for a parent."""
        columns: list[Data | Constant] = [
            Constant(load_id.to_bytes(8, "big", signed=True)),
            *self._place_in_file(rows),
            Constant(self._table.key.encode()),
            self._key_texts(self._table.key_column, rows),
            Var.of(column.name.encode() for column in self._table.columns).take(self._waits[rows]),
            self._waits_for(rows),
            Var(self._source, self._starts[rows], self._lengths[rows]),
        ]
        return tuples(columns, len(rows))

    def _places(self, rows: Ints) -> Ints:
        return rows if self._slots is None else self._slots[rows]

    def _values(self, rows: Ints) -> list[Data]:
        if self._slots is None and len(rows) == self.n:
            return self._columns  # rows are indices in order, each once: all of them
        places = self._places(rows)
        return [data.take(places) for data in self._columns]

    def _place_in_file(self, rows: Ints) -> list[Fixed]:
        return [
            Fixed(self.record_numbers[rows], 8),
            Fixed(self.line_numbers[rows], 8),
            Fixed(self.byte_offsets[rows], 8),
            Fixed(np.minimum(self.byte_lengths[rows], INT32_MAX), 4),
        ]

    def _shown(self, rows: Ints) -> Var:
        """The records as a reject keeps them."""
        raw = Var(self._source, self._starts[rows], self._lengths[rows])
        odd = raw.lengths > RAW_CHARACTERS
        odd |= self.why.having(reasons.RECORD_NUL, reasons.RECORD_ENCODING, reasons.RECORD_TOO_LONG)[rows]
        places = np.flatnonzero(odd)
        if not len(places):
            return raw
        order = np.arange(len(rows))
        order[places] = len(rows) + np.arange(len(places))
        return raw.join(Var.of(map(shown, raw.take(places).texts()))).take(order)

    def _key_texts(self, column: Column, rows: Ints) -> Var:
        data = self._columns[self._table.columns.index(column)].take(self._places(rows))
        if isinstance(data, Fixed) and column.kind in ("integer", "bigint"):
            return decimal(data.values)
        return Var.of(str(value).encode() for value in values_of(column, data))

    def _waits_for(self, rows: Ints) -> Var:
        """The key of the first missing parent of each row, as text."""
        waits = self._waits[rows]
        found, order = None, np.zeros(len(rows), np.int64)
        for place in np.unique(waits).tolist():
            chosen = np.flatnonzero(waits == place)
            texts = self._key_texts(self._table.columns[place], rows[chosen])
            order[chosen] = np.arange(len(chosen)) + (len(found.lengths) if found else 0)
            found = found.join(texts) if found else texts
        return found.take(order) if found else Var.of([])
