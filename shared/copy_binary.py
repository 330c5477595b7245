"""COPY BINARY: columns of values laid out as PostgreSQL's tuples, a whole block at a time.

A tuple is int16 field count, then for each field int32 length (-1: NULL) and that many bytes, all big-endian
(PostgreSQL manual, COPY, "Binary Format"). Between two fields of varying length everything has a fixed place, a "run":
it is one record of a packed dtype. Runs and texts are put in place by fancy indexing over overlapping spans of the
output; numpy moves 64 bytes so in the time of 8, which decides how fast a file loads.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from shared.dictionary import Column
from shared.rules import Value

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]
Words = NDArray[np.uint64]
Spans = NDArray[np.void]
Mask = NDArray[np.bool_]

SPAN = 64  # bytes of text that are copied at a time
PAD = SPAN  # a source of texts has so many bytes after its last one, so that a span may be read across the end
COPIED_ALONE = 512  # bytes of a text from which on a copy of its own costs less than spans
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
EPOCH_DATE = date(2000, 1, 1)
MICROSECOND = timedelta(microseconds=1)
WIDTH = {"integer": 4, "bigint": 8, "timestamptz": 8, "date": 4, "boolean": 1}
JSONB_VERSION = b"\1"
# The stream's beginning (signature, flags, length of an extension) and end (a field count of -1).
COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_TRAILER = b"\xff\xff"
DECIMAL_WIDTH = 20  # digits and sign of any int64


@dataclass(frozen=True, slots=True)
class Fixed:
    """A column of numbers: ``values`` int64 ``(n,)``, sent ``width`` bytes wide, NULL where ``nulls`` is set."""

    values: Ints
    width: int
    nulls: Mask | None = None

    def take(self, rows: Ints) -> Fixed:
        """The column of these rows only."""
        nulls = None if self.nulls is None else self.nulls[rows]
        return Fixed(self.values[rows], self.width, nulls if nulls is not None and nulls.any() else None)

    def join(self, other: Fixed) -> Fixed:
        """This column with ``other``'s rows after its own."""
        nulls = None
        if self.nulls is not None or other.nulls is not None:
            nulls = np.concatenate([self.absent(), other.absent()])
        return Fixed(np.concatenate([self.values, other.values]), self.width, nulls)

    def absent(self) -> Mask:
        """Where there is no value."""
        return np.zeros(len(self.values), bool) if self.nulls is None else self.nulls

    def as_var(self) -> Var:
        """The same column with its values as bytes, so that NULLs take no room."""
        count = len(self.values)
        source = np.zeros(count * self.width + PAD, np.uint8)
        source[: count * self.width] = self.values.astype(f">i{self.width}").view(np.uint8)
        lengths = np.where(self.absent(), -1, self.width)
        return Var(source, np.arange(count, dtype=np.int64) * self.width, lengths.astype(np.int64))


@dataclass(frozen=True, slots=True)
class Var:
    """A column of byte strings: row i is ``source[starts[i]:][:lengths[i]]``, NULL where the length is -1.

    ``source`` has ``PAD`` bytes more than any text needs; ``starts`` and ``lengths`` are int64 ``(n,)``.
    """

    source: Bytes
    starts: Ints
    lengths: Ints

    @classmethod
    def of(cls, texts: Iterable[bytes | None]) -> Var:
        """A column of these byte strings."""
        listed = list(texts)
        lengths = np.array([-1 if text is None else len(text) for text in listed], np.int64)
        source = np.frombuffer(b"".join([text or b"" for text in listed]) + bytes(PAD), np.uint8)
        ends = np.cumsum(np.maximum(lengths, 0))
        return cls(source, ends - np.maximum(lengths, 0), lengths)

    def take(self, rows: Ints) -> Var:
        """The column of these rows only."""
        return Var(self.source, self.starts[rows], self.lengths[rows])

    def join(self, other: Var) -> Var:
        """This column with ``other``'s rows after its own."""
        return Var(
            np.concatenate([self.source, other.source]),
            np.concatenate([self.starts, other.starts + len(self.source)]),
            np.concatenate([self.lengths, other.lengths]),
        )

    def absent(self) -> Mask:
        """Where there is no value."""
        return self.lengths < 0

    def texts(self) -> list[bytes]:
        """Every row's bytes; NULL gives b""."""
        view = memoryview(self.source)  # type: ignore[arg-type]  # arrays do offer the buffer protocol
        pairs = zip(self.starts.tolist(), self.lengths.tolist(), strict=True)
        return [bytes(view[start : start + max(length, 0)]) for start, length in pairs]


@dataclass(frozen=True, slots=True)
class Constant:
    """A column that has the same value, given as its bytes, in every row."""

    value: bytes


Data = Fixed | Var


def joined(first: Data, second: Data) -> Data:
    """The rows of ``first``, then those of ``second``, a column of the same kind."""
    return first.join(second)  # type: ignore[arg-type]  # one kind of column is always one kind of data


def column_of(column: Column, values: Sequence[Value | None]) -> Data:
    """A column of values as ``shared.rules`` gives them; None is NULL."""
    if column.kind not in WIDTH:
        encode = VAR_ENCODERS[column.kind]
        return Var.of(None if value is None else encode(value) for value in values)
    number = FIXED_ENCODERS[column.kind]
    nulls = np.array([value is None for value in values], bool)
    numbers = np.array([0 if value is None else number(value) for value in values], np.int64)
    return Fixed(numbers, WIDTH[column.kind], nulls if nulls.any() else None)


def no_values(column: Column, count: int) -> Data:
    """A column of ``count`` NULLs."""
    if column.kind in WIDTH:
        return Fixed(np.zeros(count, np.int64), WIDTH[column.kind], np.ones(count, bool) if count else None)
    return Var(np.zeros(PAD, np.uint8), np.zeros(count, np.int64), np.full(count, -1))


def numeric_binary(value: Decimal) -> bytes:
    """PostgreSQL's numeric_send: digit groups of base 10,000, weight of the first, sign, digits after the point."""
    sign, digits, exponent = value.as_tuple()
    scale = -int(exponent)
    text = "".join(map(str, digits)).rjust(scale + 1, "0")
    whole, fraction = text[: len(text) - scale], text[len(text) - scale :]
    whole = whole.rjust(-(-len(whole) // 4) * 4, "0")
    padded = whole + fraction.ljust(-(-len(fraction) // 4) * 4, "0")
    groups = [int(padded[i : i + 4]) for i in range(0, len(padded), 4)]
    weight = len(whole) // 4 - 1
    while groups and groups[0] == 0:
        groups.pop(0)
        weight -= 1
    while groups and groups[-1] == 0:
        groups.pop()
    return struct.pack(
        f">hhHh{len(groups)}h", len(groups), weight if groups else 0, 0x4000 if sign and groups else 0, scale, *groups
    )


def numeric_text(sent: bytes) -> str:
    """The plain decimal text of what ``numeric_binary`` made."""
    count, weight, sign, scale = struct.unpack_from(">hhHh", sent)
    groups = struct.unpack_from(f">{count}h", sent, 8)
    before = "".join(f"{groups[i]:04}" if i < count else "0000" for i in range(weight + 1)).lstrip("0")
    after = "0000" * max(-weight - 1, 0) + "".join(f"{group:04}" for group in groups[max(weight + 1, 0) :])
    text = (before or "0") + ("." + after.ljust(scale, "0")[:scale] if scale else "")
    return "-" + text if sign else text


VAR_ENCODERS: dict[str, Callable[..., bytes]] = {
    "text": str.encode,
    "uuid": lambda value: value.bytes,
    "numeric": numeric_binary,
    "jsonb": lambda value: JSONB_VERSION + value.encode(),
}
FIXED_ENCODERS: dict[str, Callable[..., int]] = {
    "integer": int,
    "bigint": int,
    "boolean": int,
    "date": lambda value: (value - EPOCH_DATE).days,
    "timestamptz": lambda value: (value - EPOCH) // MICROSECOND,
}


def values_of(column: Column, data: Data) -> list[int | str]:
    """The values as keys are told: numbers for integer kinds, else the canonical text (``shared.rules.canonical``).

    Where there is no value, a number or text that means nothing stands.
    """
    if isinstance(data, Fixed):
        return [FIXED_DECODERS[column.kind](number) for number in data.values.tolist()]
    decode = VAR_DECODERS[column.kind]
    return ["" if gone else decode(text) for text, gone in zip(data.texts(), data.absent().tolist(), strict=True)]


def _timestamp_text(microseconds: int) -> str:
    return (EPOCH + timedelta(microseconds=microseconds)).isoformat().replace("+00:00", "Z")


VAR_DECODERS: dict[str, Callable[[bytes], str]] = {
    "text": bytes.decode,
    "uuid": lambda sent: str(UUID(bytes=sent)),
    "numeric": numeric_text,
    "jsonb": lambda sent: sent[1:].decode(),
}
FIXED_DECODERS: dict[str, Callable[[int], int | str]] = {
    "integer": int,
    "bigint": int,
    "boolean": lambda number: "true" if number else "false",
    "date": lambda days: (EPOCH_DATE + timedelta(days=days)).isoformat(),
    "timestamptz": _timestamp_text,
}


def decimal(values: Ints) -> Var:
    """The decimal texts of integers, as a column."""
    rest = np.where(values < 0, np.negative(values), values).view(np.uint64)  # the smallest int64 is its own negative
    digits = np.zeros((len(values), DECIMAL_WIDTH), np.uint8)
    lengths = np.zeros(len(values), np.int64)
    place = DECIMAL_WIDTH
    while place == DECIMAL_WIDTH or rest.any():
        place -= 1
        tens = rest // np.uint64(10)
        digits[:, place] = (rest - tens * np.uint64(10)) + np.uint64(48)
        lengths += (rest > 0) | (place == DECIMAL_WIDTH - 1)
        rest = tens
    negative = np.flatnonzero(values < 0)
    digits[negative, DECIMAL_WIDTH - 1 - lengths[negative]] = ord("-")
    lengths[negative] += 1
    starts = np.arange(1, len(values) + 1, dtype=np.int64) * DECIMAL_WIDTH - lengths
    return Var(np.concatenate([digits.ravel(), np.zeros(PAD, np.uint8)]), starts, lengths)


def text_array(items: Sequence[str]) -> bytes:
    """The binary form of a ``text[]``: dimensions, no NULLs, element type (25: text), size, lower bound, items."""
    encoded = [item.encode() for item in items]
    head = struct.pack(">iiIii", 1, 0, 25, len(encoded), 1) if encoded else struct.pack(">iiI", 0, 0, 25)
    return head + b"".join(struct.pack(">i", len(item)) + item for item in encoded)


@dataclass(slots=True)
class _Run:
    """What stands at fixed places between two texts: formats of numpy, and the value or values of each."""

    formats: list[str] = field(default_factory=list)
    values: list[int | Ints | np.void] = field(default_factory=list)

    def add(self, format_: str, value: int | Ints | np.void) -> None:
        self.formats.append(format_)
        self.values.append(value)

    @property
    def dtype(self) -> np.dtype[np.void]:
        return np.dtype({"names": [f"f{i}" for i in range(len(self.formats))], "formats": self.formats})

    def write(self, out: Bytes, places: Ints) -> None:
        """Put the run at each of ``places``."""
        if not self.formats:
            return
        records = np.empty(len(places), self.dtype)
        for name, value in zip(records.dtype.names or (), self.values, strict=True):
            records[name] = value
        size = records.dtype.itemsize
        spans(out, size)[places] = records.view(f"V{size}")


def tuples(columns: Sequence[Fixed | Var | Constant], count: int) -> bytes:
    """``count`` rows of ``columns`` as COPY BINARY tuples, without the stream's header and trailer."""
    if not count:
        return b""
    runs, texts = _layout([c.as_var() if isinstance(c, Fixed) and c.nulls is not None else c for c in columns])
    sizes = [np.maximum(text.lengths, 0) for text in texts]
    run_sizes = [run.dtype.itemsize for run in runs]
    row_sizes = sum(sizes, np.full(count, sum(run_sizes), np.int64))
    ends = np.cumsum(row_sizes)
    out = np.empty(int(ends[-1]) + SPAN, np.uint8)
    # The span that ends a text runs over into what follows. In the same row that is written later, and so are all runs.
    # The first text of the next row is not, so a span may not reach it: the runs between them are its limit.
    step = min(SPAN, run_sizes[0] + run_sizes[-1])
    places = [ends - row_sizes]
    for run_size, text, size in zip(run_sizes, texts, sizes, strict=False):
        at = places[-1] + run_size
        _copy_texts(out, at, text, size, step)
        places.append(at + size)
    for run, place in zip(runs, places, strict=True):
        run.write(out, place)
    return out[:-SPAN].tobytes()


def _layout(columns: Sequence[Fixed | Var | Constant]) -> tuple[list[_Run], list[Var]]:
    """The runs before, between and behind the texts, one more than texts."""
    runs, texts = [_Run()], []
    runs[0].add(">i2", len(columns))
    for column in columns:
        run = runs[-1]
        if isinstance(column, Constant):
            run.add(">i4", len(column.value))
            run.add(f"V{len(column.value)}", np.void(column.value))
        elif isinstance(column, Fixed):
            run.add(">i4", column.width)
            run.add(f">i{column.width}", column.values)
        else:
            run.add(">i4", column.lengths)
            texts.append(column)
            runs.append(_Run())
    return runs, texts


def spans(array: Bytes, size: int) -> Spans:
    """Every ``size`` bytes of ``array``, beginning at each byte: a view, for reads and writes by fancy indexing."""
    return np.ndarray((max(len(array) - size + 1, 0),), f"V{size}", array, strides=(1,))


def _copy_texts(out: Bytes, at: Ints, text: Var, sizes: Ints, step: int) -> None:
    target, source = spans(out, step), spans(text.source, step)
    shortest, longest = int(sizes.min()), int(sizes.max())
    for done in range(0, longest, step):
        if done < shortest:
            target[done:][at] = source[done:][text.starts]
        else:
            rest = np.flatnonzero(sizes > done)
            target[done:][at[rest]] = source[done:][text.starts[rest]]


def copy_rest(out: Bytes, places: Ints, text: Var, done: int) -> None:
    """Copy what is behind the first ``done`` bytes of each text to its place, and nothing beyond its end."""
    rows = np.flatnonzero(text.lengths > done)
    alone = text.lengths[rows] > COPIED_ALONE
    for row in rows[alone].tolist():
        start, place, length = int(text.starts[row]), int(places[row]), int(text.lengths[row])
        out[place : place + length] = text.source[start : start + length]
    rows = rows[~alone]
    target, source = spans(out, done), spans(text.source, done)
    at = done
    while len(rows):
        offsets = np.minimum(text.lengths[rows] - done, at)  # the last span ends where its text does
        target[places[rows] + offsets] = source[text.starts[rows] + offsets]
        at += done
        rows = rows[text.lengths[rows] > at]
