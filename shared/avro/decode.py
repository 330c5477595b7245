"""AVRO datums become COPY BINARY tuples, a batch of blocks at a time.

Rows have no length in AVRO, but blocks know where they begin: row k of all the blocks of a batch is passed over at
once, which finds where the rows begin. From then on a batch is a table, and its columns are read whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np

from shared.avro.container import Block
from shared.avro.encode import (
    DATE_INFINITY,
    DIGITS_IN_WORD,
    EPOCH_DAYS,
    EPOCH_MICROSECONDS,
    JSONB_VERSION,
    TIMESTAMP_INFINITY,
    UUID_DASHES,
    UUID_PLACES,
    UUID_TEXT,
)
from shared.avro.schema import Field
from shared.avro.varints import GATHER, HIGH_BITS, ONE, WORD, unzigzag, words_at
from shared.copy_binary import PAD, Bytes, Data, Fixed, Ints, Mask, Var, Words, copy_rest, numeric_binary, spans, tuples

BATCH_BLOCKS = 1024
BATCH_BYTES = 20 << 20
FEW_BLOCKS = 24  # up to so many are passed over one after the other
MOST_PLACES = 1 << 25  # of blocks times the rows of the longest, beyond which they are so too: that takes memory
SLICE_ROWS = 16_384
SLICE_BYTES = 8 << 20

LONGEST_INT, LONGEST_LONG = 5, 10
MOST_TEXT_BYTES = 1 << 30
NO_HEX = 255
HEX_VALUES = np.full(256, NO_HEX, np.uint8)
HEX_VALUES[list(b"0123456789")] = range(10)
HEX_VALUES[list(b"abcdef")] = HEX_VALUES[list(b"ABCDEF")] = range(10, 16)
POWERS = [10**n for n in range(DIGITS_IN_WORD + 1)]

NO_BRANCH = "a union has a branch that it does not have"
INTEGER_WIDTHS = {"smallint": 2, "integer": 4, "bigint": 8}
INTEGER_LIMITS = {"smallint": 1 << 15, "integer": 1 << 31, "bigint": 1 << 63}
DAY_MICROSECONDS = 86_400_000_000


class Damaged(Exception):  # named as BackupDamaged is, which it becomes where the file's name is known
    """What in the datums is not what it must be."""


class SchemaDiffers(Exception):  # named by what happened
    """The file's schema is not one of these columns; the message says where."""


@dataclass(frozen=True, slots=True)
class _Column:
    """One column of the file, in the file's order.

    Attributes:
        field: which column of the table it is.
        avro: the type's name: int, long, float, double, boolean, string, bytes.
        null_branch: which branch of its union is null; None for a type that is no union.
    """

    field: Field
    avro: str
    null_branch: int | None


class Decoder:
    """Decodes records into tuples of ``fields``.

    Args:
        fields: the table's columns, in the order of the tuples.
        schema: of the file, if it may be another one than ``record_schema`` gives: columns in any order, null in
            any place of a union, integers of any width that takes all their values.

    Raises:
        SchemaDiffers: the schema has other columns, or columns of other types.
    """

    def __init__(self, fields: Sequence[Field], schema: dict[str, Any] | None = None) -> None:
        self._fields = list(fields)
        if schema is None:
            schema = {"fields": [{"name": f.avro_name, "type": f.avro_type} for f in fields]}
        self._columns = _columns(self._fields, schema)
        places = {column.field.name: place for place, column in enumerate(self._columns)}
        # Only texts are compared with the end of their block at once: all else of a row may be read beyond it.
        self._pad = PAD + 2 * WORD + (LONGEST_LONG + 1) * len(self._columns)
        self._order = [places[field.name] for field in self._fields]

    def batches(self, blocks: Iterable[Block]) -> Iterator[tuple[bytes, int]]:
        """COPY BINARY tuples of all blocks' rows, in their order, and how many, piece by piece.

        Raises:
            Damaged: a block does not end where its last row does, or has a value that its column cannot hold.
        """
        for batch in _batched(blocks):
            yield from self._decoded(batch)

    def _decoded(self, batch: list[Block]) -> Iterator[tuple[bytes, int]]:
        source = np.frombuffer(bytearray().join([*[block.data for block in batch], bytes(self._pad)]), np.uint8)
        ends = np.cumsum([len(block.data) for block in batch])
        starts = ends - [len(block.data) for block in batch]
        rows = np.array([block.rows for block in batch], np.int64)
        places = self._row_starts(source, starts, ends, rows)
        for first, last in _slices(places, int(ends[-1])):
            at = places[first:last]
            columns: list[Data] = []
            for column in self._columns:
                data, at = _read(column, source, at)
                columns.append(data)
            yield tuples([columns[place] for place in self._order], last - first), last - first

    def _row_starts(self, source: Bytes, starts: Ints, ends: Ints, rows: Ints) -> Ints:
        """Where each row begins; every block was passed over to its exact end."""
        if len(rows) <= FEW_BLOCKS or len(rows) * int(rows.max()) > MOST_PLACES:
            return self._one_by_one(source, starts, ends, rows)
        order = np.argsort(-rows, kind="stable")
        at, limits, counts = starts[order], ends[order], rows[order]
        most = int(counts[0])
        found = np.empty((len(rows), most), np.int64)
        left = len(rows) - np.searchsorted(counts[::-1], np.arange(most), "right")  # blocks with more than k rows
        for row, active in enumerate(left.tolist()):
            at, limits = at[:active], limits[:active]
            found[:active, row] = at
            at = self._passed(source, at, limits)
            _end_here(at[counts[:active] == row + 1], limits[counts[:active] == row + 1])
        _end_here(starts[rows == 0], ends[rows == 0])
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return found[back][np.arange(most) < rows[:, None]]

    def _passed(self, source: Bytes, at: Ints, limits: Ints) -> Ints:
        """Behind the next row."""
        for column in self._columns:
            at = _skip(column, source, at, limits)
        if np.any(at > limits):
            raise Damaged("a row goes on behind the end of its block")
        return at

    def _one_by_one(self, source: Bytes, starts: Ints, ends: Ints, rows: Ints) -> Ints:
        try:
            return self._walked(source.tobytes(), starts, ends, rows)
        except IndexError:  # behind the end of all blocks
            raise Damaged("a row goes on behind the end of its block") from None

    def _walked(self, data: bytes, starts: Ints, ends: Ints, rows: Ints) -> Ints:
        skips = [_SCALAR_SKIPS[column.avro] for column in self._columns]
        nulls = [column.null_branch for column in self._columns]
        found: list[int] = []
        for place, end, count in zip(starts.tolist(), ends.tolist(), rows.tolist(), strict=True):
            for _ in range(count):
                found.append(place)
                for skip, null in zip(skips, nulls, strict=True):
                    if null is not None:
                        branch, place = data[place], place + 1  # place walks through the block
                        if branch not in (0, 2):
                            raise Damaged(NO_BRANCH)
                        if branch == 2 * null:
                            continue
                    place = skip(data, place)
                if place > end:
                    raise Damaged("a row goes on behind the end of its block")
            if place != end:
                raise Damaged("a block does not end where its last row does")
        return np.array(found, np.int64)


def _columns(fields: Sequence[Field], schema: dict[str, Any]) -> list[_Column]:
    try:
        return _matched(fields, schema)
    except (KeyError, TypeError, AttributeError, ValueError):  # some other JSON than a record's schema
        raise SchemaDiffers("the file's schema is not that of a record") from None


def _matched(fields: Sequence[Field], schema: dict[str, Any]) -> list[_Column]:
    by_name = {field.avro_name: field for field in fields}
    found = []
    for described in schema.get("fields", ()):
        name = described["name"]
        field = by_name.pop(name, None)
        if field is None:
            raise SchemaDiffers(f"the file has a column {name!a} that the table does not have")
        found.append(_column(field, described["type"]))
    if by_name:
        raise SchemaDiffers(f"the file lacks the columns {', '.join(sorted(by_name))}")
    return found


def _column(field: Field, described: Any) -> _Column:
    null_branch = None
    if isinstance(described, list):
        if len(described) != 2 or "null" not in described:
            raise SchemaDiffers(f"column {field.avro_name} is a union of other than null and one type")
        null_branch = described.index("null")
        described = described[1 - null_branch]
    plain = described if isinstance(described, dict) else {"type": described}
    if not _takes(field, plain):
        raise SchemaDiffers(f"column {field.avro_name} is {plain!a} in the file, {field.sql_type} in the table")
    return _Column(field, plain["type"], null_branch)


def _takes(field: Field, plain: dict[str, Any]) -> bool:
    """Whether the column takes this type's values as they are."""
    own = field.avro_type[1] if field.nullable else field.avro_type
    own = own if isinstance(own, dict) else {"type": own}
    if field.kind in INTEGER_LIMITS:
        return plain["type"] in ("int", "long") and "logicalType" not in plain
    meaning = ("type", "logicalType", "precision", "scale")
    return all(plain.get(key) == own.get(key) for key in meaning)


def _batched(blocks: Iterable[Block]) -> Iterator[list[Block]]:
    batch: list[Block] = []
    size = 0
    for block in blocks:
        if batch and (len(batch) == BATCH_BLOCKS or size + len(block.data) > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(block)
        size += len(block.data)
    if batch:
        yield batch


def _slices(places: Ints, end: int) -> Iterator[tuple[int, int]]:
    first, count = 0, len(places)
    while first < count:
        fits = int(np.searchsorted(places, places[first] + SLICE_BYTES))
        last = min(first + SLICE_ROWS, max(fits, first + 1), count)
        yield first, last
        first = last


def _end_here(at: Ints, limits: Ints) -> None:
    if not np.array_equal(at, limits):
        raise Damaged("a block does not end where its last row does")


# Passing over: only as much of a value is looked at as its length takes.


def _skip(column: _Column, source: Bytes, at: Ints, limits: Ints) -> Ints:
    skip = _SKIPS[column.avro]
    if column.null_branch is None:
        return skip(source, at, limits)
    there = _there(column.null_branch, source[at])
    at = at + 1
    if there.all():
        return skip(source, at, limits)
    rows = np.flatnonzero(there)
    at[rows] = skip(source, at[rows], limits[rows])
    return at


def _there(null_branch: int, branches: Bytes) -> Mask:
    """Where a union has a value; raises Damaged for a branch that it does not have."""
    if np.any((branches != 0) & (branches != 2)):
        raise Damaged(NO_BRANCH)
    there: Mask = branches != 2 * null_branch
    return there


def _upto_last(words: Words) -> tuple[Words, Mask]:
    """Of the number at each word's beginning all bits, and where it goes on behind the word."""
    stops = ~words & HIGH_BITS
    return stops ^ (stops - ONE), stops == 0


def _sizes(upto: Words) -> Ints:
    return (np.bitwise_count(upto) >> 3).astype(np.int64)


def _skip_int(source: Bytes, at: Ints, _limits: Ints) -> Ints:
    sizes = _sizes(_upto_last(words_at(source, at))[0])
    if np.any(sizes > LONGEST_INT):
        raise Damaged("an int has more than five bytes")
    return at + sizes


def _skip_long(source: Bytes, at: Ints, _limits: Ints) -> Ints:
    upto, goes_on = _upto_last(words_at(source, at))
    sizes = _sizes(upto)
    if goes_on.any():
        rows = np.flatnonzero(goes_on)
        sizes[rows] += 1 + _has_tenth(source, at[rows])
    return at + sizes


def _has_tenth(source: Bytes, at: Ints) -> Mask:
    """Whether numbers of more than eight bytes have ten, not nine."""
    ten = source[at + 8] > 0x7F
    if np.any(ten & (source[at + 9] > 1)):
        raise Damaged("a long has more than 64 bits")
    return ten


def _skip_bytes(source: Bytes, at: Ints, limits: Ints) -> Ints:
    lengths, at = _lengths(source, at)
    at = at + lengths
    if np.any(at > limits):
        raise Damaged("a text goes on behind the end of its block")
    return at


def _lengths(source: Bytes, at: Ints) -> tuple[Ints, Ints]:
    """The lengths that stand at ``at``, and what follows them."""
    first = source[at]
    if not np.any(first & 0x81):
        return (first >> 1).astype(np.int64), at + 1
    lengths, at = _longs(source, at)
    if np.any((lengths < 0) | (lengths > MOST_TEXT_BYTES)):
        raise Damaged("a text has a length that no text can have")
    return lengths, at


def _longs(source: Bytes, at: Ints) -> tuple[Ints, Ints]:
    """The numbers that stand at ``at``, and what follows them."""
    words = words_at(source, at)
    upto, goes_on = _upto_last(words)
    sizes, codes = _sizes(upto), words & upto
    for stays, moves, far in GATHER:
        codes = (codes & np.uint64(stays)) | ((codes & np.uint64(moves)) >> np.uint64(far))
    if goes_on.any():
        rows = np.flatnonzero(goes_on)
        ten = _has_tenth(source, at[rows])
        sizes[rows] += 1 + ten
        codes[rows] |= (source[at[rows] + 8] & 0x7F).astype(np.uint64) << np.uint64(56)
        codes[rows] |= np.where(ten, source[at[rows] + 9], 0).astype(np.uint64) << np.uint64(63)
    return unzigzag(codes), at + sizes


_SKIPS: dict[str, Callable[[Bytes, Ints, Ints], Ints]] = {
    "int": _skip_int,
    "long": _skip_long,
    "float": lambda _source, at, _limits: at + 4,
    "double": lambda _source, at, _limits: at + 8,
    "boolean": lambda _source, at, _limits: at + 1,
    "string": _skip_bytes,
    "bytes": _skip_bytes,
}


def _skip_one_number(data: bytes, place: int) -> int:
    end = place + LONGEST_LONG
    while data[place] > 0x7F:
        place += 1
        if place == end:
            raise Damaged("a number has more than ten bytes")
    return place + 1


def _skip_one_text(data: bytes, place: int) -> int:
    code = data[place]
    if code > 0x7F:
        after = _skip_one_number(data, place)
        code = sum((byte & 0x7F) << 7 * i for i, byte in enumerate(data[place:after]))
        place = after - 1
    if code & 1:
        raise Damaged("a text has a length that no text can have")
    return place + 1 + (code >> 1)


_SCALAR_SKIPS: dict[str, Callable[[bytes, int], int]] = {
    "int": _skip_one_number,
    "long": _skip_one_number,
    "float": lambda _data, place: place + 4,
    "double": lambda _data, place: place + 8,
    "boolean": lambda _data, place: place + 1,
    "string": _skip_one_text,
    "bytes": _skip_one_text,
}

# Reading: the values of a column, and where the next column begins.


def _read(column: _Column, source: Bytes, at: Ints) -> tuple[Data, Ints]:
    if column.null_branch is None:
        return _read_values(column, source, at)
    there = _there(column.null_branch, source[at])
    at = at + 1
    if there.all():
        return _read_values(column, source, at)
    rows = np.flatnonzero(there)
    data, at[rows] = _read_values(column, source, at[rows])
    return _with_nulls(data, rows, there), at


def _read_values(column: _Column, source: Bytes, at: Ints) -> tuple[Data, Ints]:
    try:
        return _READS[column.avro](column, source, at)
    except Damaged as error:
        raise Damaged(f"column {column.field.avro_name}: {error}") from None


def _with_nulls(data: Data, rows: Ints, there: Mask) -> Data:
    if isinstance(data, Fixed):
        values = np.zeros(len(there), np.int64)
        values[rows] = data.values
        return Fixed(values, data.width, ~there)
    starts, lengths = np.zeros(len(there), np.int64), np.full(len(there), -1, np.int64)
    starts[rows], lengths[rows] = data.starts, data.lengths
    return Var(data.source, starts, lengths)


def _read_integer(column: _Column, source: Bytes, at: Ints) -> tuple[Data, Ints]:
    values, after = _longs(source, at)
    if column.avro == "int":
        if np.any(after - at > LONGEST_INT):
            raise Damaged("an int has more than five bytes")
        _within(values, -(1 << 31), (1 << 31) - 1)
    return _from_integer(column.field.kind, values), after


def _from_integer(kind: str, values: Ints) -> Fixed:
    if kind == "date":
        finite = (values != DATE_INFINITY[0]) & (values != DATE_INFINITY[1])
        days = np.where(finite, values - EPOCH_DAYS, values)
        _within(days, *DATE_INFINITY)
        return Fixed(days, 4)
    if kind in ("timestamptz", "timestamp"):
        finite = (values != TIMESTAMP_INFINITY[0]) & (values != TIMESTAMP_INFINITY[1])
        if np.any(finite & (values < TIMESTAMP_INFINITY[0] + EPOCH_MICROSECONDS)):
            raise Damaged("an instant is outside of what PostgreSQL holds")
        return Fixed(np.where(finite, values - EPOCH_MICROSECONDS, values), 8)
    if kind == "time":
        _within(values, 0, DAY_MICROSECONDS)
        return Fixed(values, 8)
    limit = INTEGER_LIMITS[kind]
    _within(values, -limit, limit - 1)
    return Fixed(values, INTEGER_WIDTHS[kind])


def _within(values: Ints, least: int, greatest: int) -> None:
    if len(values) and not (least <= int(values.min()) and int(values.max()) <= greatest):
        raise Damaged(f"a number is not within {least:,} and {greatest:,}")


def _read_float(_column: _Column, source: Bytes, at: Ints) -> tuple[Data, Ints]:
    return Fixed(spans(source, 4)[at].view("<i4").astype(np.int64), 4), at + 4


def _read_double(_column: _Column, source: Bytes, at: Ints) -> tuple[Data, Ints]:
    return Fixed(spans(source, 8)[at].view("<i8").astype(np.int64), 8), at + 8


def _read_boolean(_column: _Column, source: Bytes, at: Ints) -> tuple[Data, Ints]:
    values = source[at].astype(np.int64)
    _within(values, 0, 1)
    return Fixed(values, 1), at + 1


def _read_bytes(column: _Column, source: Bytes, at: Ints) -> tuple[Data, Ints]:
    lengths, starts = _lengths(source, at)
    return _FROM_BYTES[column.field.kind](column.field, Var(source, starts, lengths)), starts + lengths


def _from_text(_field: Field, text: Var) -> Var:
    _check_texts(text)
    return text


def _check_texts(text: Var) -> None:
    """Each is UTF-8 without NUL, which is what PostgreSQL takes."""
    # A text that is cut within a character must not find its end in the next one: a NUL between them forbids that.
    joined = _joined(text)
    if joined.count(0) != len(text.lengths):
        raise Damaged("a text has a NUL")
    try:
        joined.decode()
    except UnicodeDecodeError as error:
        raise Damaged("a text is not UTF-8") from error


def _joined(text: Var) -> bytes:
    """All texts, with a NUL behind each."""
    if not len(text.lengths):
        return b""
    sizes = text.lengths + 1
    ends = np.cumsum(sizes)
    joined = np.zeros(int(ends[-1]) + PAD, np.uint8)
    spans(joined, PAD)[ends - sizes] = spans(text.source, PAD)[text.starts]  # in order: what is too much is overwritten
    copy_rest(joined, ends - sizes, text, PAD)
    joined[ends - 1] = 0
    return joined[: len(joined) - PAD].tobytes()


def _from_jsonb(_field: Field, text: Var) -> Var:
    """jsonb_recv wants a version before the text: it takes the place of the last byte of the text's length."""
    _check_texts(text)
    text.source[text.starts - 1] = JSONB_VERSION
    return Var(text.source, text.starts - 1, text.lengths + 1)


def _from_bytea(_field: Field, text: Var) -> Var:
    return text


def _from_uuid(_field: Field, text: Var) -> Var:
    if np.any(text.lengths != UUID_TEXT):
        raise Damaged("a uuid has other than 36 characters")
    count = len(text.starts)
    texts = spans(text.source, UUID_TEXT)[text.starts].view(np.uint8).reshape(count, UUID_TEXT)
    high, low = HEX_VALUES[texts[:, UUID_PLACES]], HEX_VALUES[texts[:, UUID_PLACES + 1]]
    if np.any(high == NO_HEX) or np.any(low == NO_HEX) or np.any(texts[:, UUID_DASHES] != ord("-")):
        raise Damaged("a uuid has other than hexadecimal digits and four dashes")
    source = np.concatenate([((high << 4) | low).ravel(), np.zeros(PAD, np.uint8)])
    return Var(source, np.arange(count, dtype=np.int64) * 16, np.full(count, 16, np.int64))


def _from_decimal(field: Field, text: Var) -> Var:
    precision, scale = field.digits or (0, 0)
    if np.any(text.lengths < 1):
        raise Damaged("a decimal has no bytes")
    numbers = [int.from_bytes(number, "big", signed=True) for number in text.texts()]
    if any(abs(number) >= 10**precision for number in numbers):
        raise Damaged(f"a decimal has more than {precision} digits")
    return Var.of(numeric_binary(_decimal(number, scale)) for number in numbers)


def _decimal(unscaled: int, scale: int) -> Decimal:
    return Decimal((unscaled < 0, tuple(map(int, str(abs(unscaled)))), -scale))


_READS: dict[str, Callable[[_Column, Bytes, Ints], tuple[Data, Ints]]] = {
    "int": _read_integer,
    "long": _read_integer,
    "float": _read_float,
    "double": _read_double,
    "boolean": _read_boolean,
    "string": _read_bytes,
    "bytes": _read_bytes,
}
_FROM_BYTES: dict[str, Callable[[Field, Var], Var]] = {
    "text": _from_text,
    "other": _from_text,
    "jsonb": _from_jsonb,
    "bytea": _from_bytea,
    "uuid": _from_uuid,
    "numeric": _from_decimal,
}
