"""Which of a block's keys the table holds already, so that rows that are new by id are written once, straight."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from psycopg2 import sql

from shared.copy_binary import COPY_HEADER, COPY_TRAILER

if TYPE_CHECKING:
    from psycopg2.extensions import connection

    from functions.ingest.judge import Judged
    from functions.ingest.statements import Statements

# A block whose keys span at most so many times their number is compared with the table's keys in that span, read as one
# index scan; a sparser one is probed key by key.
DENSE = 8


class LiveKeys:
    """Look-ups on a connection beside the load's own, which is busy with COPY; committed rows only.

    A key that another transaction adds meanwhile is found by the primary key: the load fails and is tried again.
    """

    def __init__(self, side: connection, statements: Statements) -> None:
        self._side = side
        self._statements = statements
        self._ranges = self._read_ranges()

    def which(self, block: Judged, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Mask over ``rows`` (indices into ``block``): the table has a row of that key."""
        found = np.zeros(len(rows), bool)
        if not len(rows) or not self._ranges:
            return found
        if not block.keys_exact:
            keys = block.keys(rows)
            live = self._probe(keys)
            return np.fromiter((key in live for key in keys), bool, len(keys))
        codes = block.key_codes[rows]
        for low, high in self._ranges:
            inside = np.flatnonzero((codes >= low) & (codes <= high))
            if len(inside):
                found[inside] = self._held(codes[inside])
        return found

    def _held(self, codes: NDArray[np.int64]) -> NDArray[np.bool_]:
        low, high = int(codes.min()), int(codes.max())
        if high - low < DENSE * len(codes):
            return np.isin(codes, self._scan(low, high))
        return np.isin(codes, np.fromiter(self._probe(codes.tolist()), np.int64))

    def _read_ranges(self) -> list[tuple[int, int]]:
        """Spans of keys that the table's rows lie in: those from files, and those that the identity gave out."""
        s = self._statements
        if s.table.key_column.kind not in ("integer", "bigint"):
            query = sql.SQL("select 0, 0 from {name} limit 1").format(name=s.name)
        else:
            query = sql.SQL(
                "select min({key}), max({key}) from {name} where {key} < {start}"
                " union all select min({key}), max({key}) from {name} where {key} >= {start}"
            ).format(key=s.key, name=s.name, start=sql.Literal(s.table.identity_start))
        with self._side.cursor() as cursor:
            cursor.execute(query)
            return [(low, high) for low, high in cursor.fetchall() if low is not None]

    def _probe(self, keys: list[int] | list[int | str]) -> set[int | str]:
        with self._side.cursor() as cursor:
            cursor.execute(self._statements.present_keys(), (keys,))
            return {key for (key,) in cursor.fetchall()}

    def _scan(self, low: int, high: int) -> NDArray[np.int64]:
        s = self._statements
        query = sql.SQL(
            "copy (select {key} from {name} where {key} between {low} and {high}) to stdout (format binary)"
        ).format(key=s.key, name=s.name, low=sql.Literal(low), high=sql.Literal(high))
        out = io.BytesIO()
        with self._side.cursor() as cursor:
            cursor.copy_expert(query, out)
        width = 4 if s.table.key_column.kind == "integer" else 8
        tuples = np.frombuffer(out.getbuffer(), np.uint8)[len(COPY_HEADER) : -len(COPY_TRAILER)]
        values = tuples.reshape(-1, 6 + width)[:, 6:]  # int16 field count, int32 length, the value: all big-endian
        return np.ascontiguousarray(values).view(f">i{width}").ravel().astype(np.int64)
