"""COPY BINARY tuples become AVRO datums, a chunk of rows at a time.

Reading: tuples whose lengths are known are walked column by column. Between two columns of varying length all has a
fixed place, a "stretch", which one fancy index fetches for all rows.

Writing: each row becomes a few pieces of at most ``PIECE`` bytes, put down in the order of the output as spans of
always ``PIECE`` bytes. What a span has too much lies where the next piece goes, which is written after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from shared.avro.schema import Field
from shared.avro.varints import WORD, Part, encoded, encoded_codes
from shared.copy_binary import PAD, Bytes, Ints, Mask, Var, Words, copy_rest, spans
from shared.errors import DatabaseMisuse, NotRepresentable

PIECE = 32
SLICE = 16_384  # rows whose arrays stay in a core's cache
SLICE_BYTES = 8 << 20

FIXED = {  # kind → bytes on PostgreSQL's side, as numpy reads them
    "smallint": ">i2",
    "integer": ">i4",
    "bigint": ">i8",
    "boolean": "u1",
    "date": ">i4",
    "timestamptz": ">i8",
    "timestamp": ">i8",
    "time": ">i8",
    "real": ">u4",
    "double": ">u8",
    "uuid": "V16",
}
EPOCH_DAYS = 10_957  # from AVRO's 1970-01-01 to PostgreSQL's 2000-01-01
EPOCH_MICROSECONDS = EPOCH_DAYS * 86_400_000_000
DATE_INFINITY = (-(2**31), 2**31 - 1)
TIMESTAMP_INFINITY = (-(2**63), 2**63 - 1)

UUID_TEXT = 36
HEX = np.array([int.from_bytes(b"%02x" % byte, "little") for byte in range(256)], "<u2")
UUID_PLACES = np.array([0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34])
UUID_DASHES = (8, 13, 18, 23)

NUMERIC_HEAD = 8
NUMERIC_NAN = 0xC000
NUMERIC_NEGATIVE = 0x4000
DIGITS_IN_WORD = 18  # of a decimal that int64 holds
JSONB_VERSION = 1


@dataclass(frozen=True, slots=True)
class Datums:
    """Rows as AVRO datums.

    Attributes:
        data: all rows' bytes, one after the other.
        ends: where each row ends, int64 ``(n,)``.
        infinities: names of the date and timestamp columns that hold infinity.
    """

    data: Bytes
    ends: Ints
    infinities: frozenset[str] = frozenset()


_Item = Part | Var  # what a row is made of; of a text that is NULL the length is 0, never -1


@dataclass(frozen=True, slots=True)
class _Column:
    """One column's values as PostgreSQL sent them.

    Attributes:
        numbers: of a fixed width.
        starts, lengths: where the others lie in the tuples; NULL has no length.
        there: where there is a value; None where there always is.
    """

    numbers: Ints | Words | None
    starts: Ints
    lengths: Ints
    there: Mask | None


class Encoder:
    """Encodes tuples of these columns."""

    def __init__(self, fields: Sequence[Field]) -> None:
        self._fields = list(fields)
        self._stretches = _stretches(self._fields)

    def encode(self, tuples: list[bytes]) -> Datums:
        """The rows as datums; each tuple is one row, without the stream's header and trailer.

        Raises:
            NotRepresentable: a value that the column's AVRO type cannot hold.
            DatabaseMisuse: the tuples are not of these columns.
        """
        lengths = np.fromiter(map(len, tuples), np.int64, len(tuples))
        parts = [
            self._encode(b"".join([*tuples[first:last], bytes(PAD)]), lengths[first:last])
            for first, last in _slices(lengths)
        ]
        if len(parts) == 1:
            return parts[0]
        starts = np.cumsum([0, *[len(part.data) for part in parts]])
        return Datums(
            np.concatenate([np.zeros(0, np.uint8), *[part.data for part in parts]]),
            np.concatenate([np.zeros(0, np.int64), *[p.ends + s for p, s in zip(parts, starts, strict=False)]]),
            frozenset().union(*[part.infinities for part in parts]),
        )

    def _encode(self, joined: bytes, lengths: Ints) -> Datums:
        tuples = np.frombuffer(joined, np.uint8)
        ends = np.cumsum(lengths)
        columns, at = self._read(tuples, ends - lengths)
        if not np.array_equal(at, ends):
            raise DatabaseMisuse("COPY sent rows that do not have the columns that were asked for: copy it again")
        items: list[_Item] = []
        for field, column in zip(self._fields, columns, strict=True):
            items += self._items(field, tuples, column)
        pairs = zip(self._fields, columns, strict=True)
        infinities = frozenset(field.name for field, column in pairs if _has_infinity(field, column))
        return _written(items, len(lengths), infinities)

    def _read(self, tuples: Bytes, at: Ints) -> tuple[list[_Column], Ints]:
        """Every column, and where each row's reading ended."""
        columns = []
        for stretch in self._stretches:
            record = spans(tuples, stretch.size)[at].view(stretch.dtype)
            at = at + stretch.size
            for name in stretch.numbers:
                columns.append(_Column(record[name], at, at, None))
            if stretch.ends_in is not None:
                sent = record["length"].astype(np.int64)
                there = sent >= 0 if stretch.ends_in.nullable else None
                lengths = sent if there is None else np.maximum(sent, 0)
                columns.append(_variable(stretch.ends_in, tuples, at, lengths, there))
                at = at + lengths
        return columns, at

    def _items(self, field: Field, tuples: Bytes, column: _Column) -> list[_Item]:
        try:
            items = CONVERTERS[field.kind](tuples, column, field)
        except _CannotHold as error:
            raise NotRepresentable(f"column {field.name}: {error}") from None
        if column.there is None:
            return items
        branch = Part(np.where(column.there, np.uint64(2), np.uint64(0)), 1, 1)
        return [branch, *[i.only(column.there) if isinstance(i, Part) else i for i in items]]


INFINITY = {"date": DATE_INFINITY, "timestamptz": TIMESTAMP_INFINITY, "timestamp": TIMESTAMP_INFINITY}


def _has_infinity(field: Field, column: _Column) -> bool:
    numbers = column.numbers
    if field.kind not in INFINITY or numbers is None or not len(numbers):
        return False
    least, greatest = INFINITY[field.kind]
    return bool(numbers.min() == least or numbers.max() == greatest)


class _CannotHold(Exception):  # never leaves this module: it is told with the column's name
    """What AVRO cannot hold, and what to do."""


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Fields at fixed places from each row's place on, and the length of the field that ends it, if any does."""

    dtype: np.dtype[np.void]
    numbers: tuple[str, ...]
    ends_in: Field | None

    @property
    def size(self) -> int:
        """Bytes."""
        return self.dtype.itemsize


def _stretches(fields: Sequence[Field]) -> list[_Stretch]:
    made: list[_Stretch] = []
    offset, numbers = 2, dict[str, tuple[str, int]]()  # the field count comes first
    for number, field in enumerate(fields):
        if field.kind in FIXED and not field.nullable:
            numbers[str(number)] = (FIXED[field.kind], offset + 4)
            offset += 4 + np.dtype(FIXED[field.kind]).itemsize
        else:
            made.append(_stretch(numbers | {"length": (">i4", offset)}, offset + 4, field))
            offset, numbers = 0, {}
    return [*made, _stretch(numbers, offset, None)] if offset else made


def _stretch(places: dict[str, tuple[str, int]], size: int, ends_in: Field | None) -> _Stretch:
    described = {
        "names": list(places),
        "formats": [format_ for format_, _ in places.values()],
        "offsets": [offset for _, offset in places.values()],
        "itemsize": size,
    }
    return _Stretch(np.dtype(described), tuple(name for name in places if name != "length"), ends_in)  # type: ignore[call-overload]


def _variable(field: Field, tuples: Bytes, starts: Ints, lengths: Ints, there: Mask | None) -> _Column:
    """A column that may be NULL or has no fixed width. Where there is no number, zero stands."""
    if field.kind not in FIXED:
        return _Column(None, starts, lengths, there)
    width = np.dtype(FIXED[field.kind]).itemsize
    numbers = spans(tuples, width)[starts].view(FIXED[field.kind])
    if there is not None:
        numbers[~there] = np.zeros((), numbers.dtype)
    return _Column(numbers, starts, lengths, there)


def _slices(lengths: Ints) -> list[tuple[int, int]]:
    """From which to which row is encoded at a time: so many rows, or so many bytes."""
    ends, count, first, found = np.cumsum(lengths), len(lengths), 0, list[tuple[int, int]]()
    while first < count:
        before = ends[first - 1] if first else 0
        fits = int(np.searchsorted(ends, before + SLICE_BYTES, "right"))
        last = min(first + SLICE, max(fits, first + 1), count)
        found.append((first, last))
        first = last
    return found


def _integers(_tuples: Bytes, column: _Column, _field: Field) -> list[_Item]:
    return [*encoded(_int64(column))]


def _int64(column: _Column) -> Ints:
    assert column.numbers is not None  # noqa: S101  # kinds in FIXED always have them
    return column.numbers.astype(np.int64)


def _booleans(_tuples: Bytes, column: _Column, _field: Field) -> list[_Item]:
    return [Part(_int64(column).view(np.uint64), 1, 1)]


def _floats(width: int) -> Callable[[Bytes, _Column, Field], list[_Item]]:
    def convert(_tuples: Bytes, column: _Column, _field: Field) -> list[_Item]:
        assert column.numbers is not None  # noqa: S101  # as above
        return [Part(column.numbers.astype(np.uint64), width, width)]

    return convert


def _dates(_tuples: Bytes, column: _Column, _field: Field) -> list[_Item]:
    days = _int64(column)
    return [*encoded(np.where(_finite(days, DATE_INFINITY), days + EPOCH_DAYS, days))]


def _timestamps(_tuples: Bytes, column: _Column, _field: Field) -> list[_Item]:
    sent = _int64(column)
    finite = _finite(sent, TIMESTAMP_INFINITY)
    if np.any(finite & (sent >= TIMESTAMP_INFINITY[1] - EPOCH_MICROSECONDS)):
        raise _CannotHold("an instant after 294247-01-10 04:00:54.775806, which AVRO cannot hold: change or remove it")
    return [*encoded(np.where(finite, sent + EPOCH_MICROSECONDS, sent))]


def _finite(numbers: Ints, infinity: tuple[int, int]) -> Mask:
    finite: Mask = (numbers != infinity[0]) & (numbers != infinity[1])
    return finite


def _uuids(_tuples: Bytes, column: _Column, _field: Field) -> list[_Item]:
    assert column.numbers is not None  # noqa: S101  # as above
    count = len(column.numbers)
    sent = np.ascontiguousarray(column.numbers).view(np.uint8).reshape(count, 16)
    text = np.full((count, UUID_TEXT), ord("-"), np.uint8)
    for place, byte in zip(UUID_PLACES, sent.T, strict=True):
        text[:, place : place + 2] = HEX[byte].view(np.uint8).reshape(count, 2)
    source = np.concatenate([text.ravel(), np.zeros(PAD, np.uint8)])
    lengths = np.full(count, UUID_TEXT) if column.there is None else np.where(column.there, UUID_TEXT, 0)
    size = Part(np.full(count, 2 * UUID_TEXT, np.uint64), 1, 1)
    return [size, Var(source, np.arange(count, dtype=np.int64) * UUID_TEXT, lengths.astype(np.int64))]


def _texts(tuples: Bytes, column: _Column, _field: Field) -> list[_Item]:
    return [*_sizes(column.lengths), Var(tuples, column.starts, column.lengths)]


def _sizes(lengths: Ints) -> list[Part]:
    return encoded_codes(lengths.view(np.uint64) << np.uint64(1))


def _jsonbs(tuples: Bytes, column: _Column, field: Field) -> list[_Item]:
    """jsonb_send is a version, then the text."""
    there = column.lengths > 0
    if not np.all((tuples[column.starts] == JSONB_VERSION) | ~there):
        raise _CannotHold("jsonb of a version that Rowdock does not know: use a newer Rowdock")
    lengths = column.lengths - there
    return _texts(tuples, _Column(None, column.starts + there, lengths, column.there), field)


def _numerics(tuples: Bytes, column: _Column, field: Field) -> list[_Item]:
    """numeric_send: digit groups of base 10,000, their count, weight of the first, sign, scale (copy_binary)."""
    there = column.lengths > 0
    signs = np.where(there, _shorts(tuples, column.starts + 4), 0)
    if np.any(signs >= NUMERIC_NAN):
        raise _CannotHold(
            "NaN, which a decimal of AVRO cannot hold: change it, or make the column's type numeric without digits"
        )
    precision, scale = field.digits or (0, 0)
    if precision > DIGITS_IN_WORD:
        return _long_numerics(tuples, column, scale)
    unscaled = _unscaled(tuples, column, there, scale)
    widths = np.where(there, _decimal_widths(unscaled), 0)
    signed = np.where(signs == NUMERIC_NEGATIVE, -unscaled, unscaled)
    words = signed.view(np.uint64).byteswap() >> (8 * (WORD - np.maximum(widths, 1))).view(np.uint64)
    return [Part((widths << 1).view(np.uint64), 1, 1), Part(words, widths, WORD)]


def _decimal_widths(unscaled: Ints) -> Ints:
    """Bytes of each magnitude with a bit for its sign."""
    widths = np.ones(len(unscaled), np.int64)
    for width in range(1, WORD):
        widths += unscaled >= 1 << (8 * width - 1)
    return widths


def _shorts(tuples: Bytes, places: Ints) -> Ints:
    return spans(tuples, 2)[places].view(">u2").astype(np.int64)


def _unscaled(tuples: Bytes, column: _Column, there: Mask, scale: int) -> Ints:
    """The magnitudes, times ten to the scale."""
    groups = np.where(there, _shorts(tuples, column.starts), 0)
    weights = _shorts(tuples, column.starts + 2).astype(np.int16).astype(np.int64)
    unscaled = np.zeros(len(groups), np.int64)
    for place in range(int(groups.max(initial=0))):
        rows = np.flatnonzero(groups > place)
        digits = _shorts(tuples, column.starts[rows] + NUMERIC_HEAD + 2 * place)
        power = 4 * (weights[rows] - place) + scale
        unscaled[rows] += digits * 10 ** np.maximum(power, 0) // 10 ** np.maximum(-power, 0)
    return unscaled


def _long_numerics(tuples: Bytes, column: _Column, scale: int) -> list[_Item]:
    """Of more digits than an int64 has: one by one."""
    view = tuples.tobytes()
    places = zip(column.starts.tolist(), column.lengths.tolist(), strict=True)
    encoded_ = [_long_numeric(view[start : start + length], scale) if length else b"" for start, length in places]
    lengths = np.fromiter(map(len, encoded_), np.int64, len(encoded_))
    source = np.frombuffer(b"".join([*encoded_, bytes(PAD)]), np.uint8)
    return [*_sizes(lengths), Var(source, np.cumsum(lengths) - lengths, lengths)]


def _long_numeric(sent: bytes, scale: int) -> bytes:
    count, weight, sign = (int.from_bytes(sent[i : i + 2], "big", signed=i == 2) for i in (0, 2, 4))
    number = int("".join(f"{int.from_bytes(sent[i : i + 2], 'big'):04}" for i in range(8, 8 + 2 * count, 2)) or "0")
    power = 4 * (weight - count + 1) + scale
    number = number * _power(power) // _power(-power)
    width = (number.bit_length() + 8) // 8
    return (-number if sign == NUMERIC_NEGATIVE else number).to_bytes(width, "big", signed=True)


def _power(exponent: int) -> int:
    """Ten to it, or one where it is negative."""
    return int(10 ** max(exponent, 0))


CONVERTERS: dict[str, Callable[[Bytes, _Column, Field], list[_Item]]] = {
    "smallint": _integers,
    "integer": _integers,
    "bigint": _integers,
    "boolean": _booleans,
    "text": _texts,
    "other": _texts,
    "bytea": _texts,
    "date": _dates,
    "timestamptz": _timestamps,
    "timestamp": _timestamps,
    "time": _integers,
    "real": _floats(4),
    "double": _floats(8),
    "uuid": _uuids,
    "jsonb": _jsonbs,
    "numeric": _numerics,
}


class _Pieces:
    """The pieces of ``count`` rows, side by side: row i's j-th is ``PIECE`` bytes at ``(i * pieces + j) * PIECE``."""

    def __init__(self, pieces: int, count: int) -> None:
        self._pieces, self._count = pieces, count
        self.bytes = np.empty(pieces * count * PIECE, np.uint8)
        self.lengths = np.zeros((count, pieces), np.int64)

    def put_text(self, piece: int, text: Var) -> None:
        """The first ``PIECE`` bytes of each text."""
        self._column(piece * PIECE, f"V{PIECE}")[:] = spans(text.source, PIECE)[text.starts]
        self.lengths[:, piece] = text.lengths

    def put_parts(self, piece: int, parts: Sequence[Part]) -> None:
        """These parts, each behind the one before it."""
        offset: Ints | int = 0
        for part in _packed(parts):
            if isinstance(offset, int):
                self._column(piece * PIECE + offset, "<u8")[:] = part.words
            else:
                rows = np.arange(self._count, dtype=np.int64) * (self._pieces * PIECE)
                spans(self.bytes, WORD)[rows + (piece * PIECE + offset)] = part.words.view(f"V{WORD}")
            offset = offset + part.lengths
        self.lengths[:, piece] = offset

    def _column(self, offset: int, format_: str) -> np.ndarray[tuple[int], np.dtype[np.void]]:
        return np.ndarray((self._count,), format_, self.bytes, offset, (self._pieces * PIECE,))


def _packed(parts: Sequence[Part]) -> list[Part]:
    """The same bytes in fewer parts: neighbours that fit into one word together."""
    packed: list[Part] = []
    for part in parts:
        if packed and packed[-1].longest + part.longest <= WORD:
            packed[-1] = _side_by_side(packed[-1], part)
        else:
            packed.append(part)
    return packed


def _side_by_side(first: Part, second: Part) -> Part:
    shift: Words = np.asarray(first.lengths, np.int64).view(np.uint64) << np.uint64(3)
    kept: Words = (np.uint64(1) << shift) - np.uint64(1)
    words = (first.words & kept) | (second.words << shift)
    return Part(words, first.lengths + second.lengths, first.longest + second.longest)


def _grouped(items: Sequence[_Item]) -> list[Var | list[Part]]:
    """The items by pieces: a text is one; parts share one as long as a whole word still fits behind them."""
    groups: list[Var | list[Part]] = []
    room = 0
    for item in items:
        if isinstance(item, Var):
            groups.append(item)
            room = 0
        elif item.longest <= room:
            groups[-1].append(item)  # type: ignore[union-attr]  # there is room in a list of parts alone
            room -= item.longest
        else:
            groups.append([item])
            room = PIECE - WORD - item.longest
    return groups


def _written(items: Sequence[_Item], count: int, infinities: frozenset[str]) -> Datums:
    groups = _grouped(items)
    if not groups:
        return Datums(np.zeros(0, np.uint8), np.zeros(count, np.int64), infinities)
    pieces = _Pieces(len(groups), count)
    for number, group in enumerate(groups):
        if isinstance(group, Var):
            pieces.put_text(number, group)
        else:
            pieces.put_parts(number, group)
    ends = np.cumsum(pieces.lengths.ravel())
    starts = ends - pieces.lengths.ravel()
    out = np.empty(int(ends[-1]) + PIECE, np.uint8)
    spans(out, PIECE)[starts] = pieces.bytes.view(f"V{PIECE}")
    for number, group in enumerate(groups):
        if isinstance(group, Var):
            copy_rest(out, starts[number :: len(groups)], group, PIECE)
    return Datums(out[:-PIECE], ends[len(groups) - 1 :: len(groups)], infinities)
