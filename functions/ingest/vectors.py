"""Judge a column of a block at once, straight from the bytes.

Each kind's engine decides the common shapes, accepted and rejected alike; what it does not know it leaves to
``shared.rules``, value by value. It must agree with those rules on every input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from functions.ingest.fields import BLANK_BYTES
from shared import reasons, rules
from shared.copy_binary import (
    EPOCH,
    MICROSECOND,
    PAD,
    WIDTH,
    Bytes,
    Data,
    Fixed,
    Ints,
    Mask,
    Var,
    Words,
    column_of,
    joined,
    spans,
)
from shared.dictionary import Column
from shared.rules import Value

CODES = (
    "",
    reasons.MISSING,
    reasons.NOT_INTEGER,
    reasons.OUT_OF_RANGE,
    reasons.NOT_TIMESTAMP,
    reasons.NO_ZONE,
    reasons.NO_TIME,
    reasons.NOT_DATE,
    reasons.NOT_NUMERIC,
    reasons.NOT_BOOLEAN,
    reasons.NOT_UUID,
    reasons.NOT_JSON,
    reasons.TOO_LONG,
)
NUMBER_OF = {code: number for number, code in enumerate(CODES)} | {reasons.NUL: 0, reasons.ENCODING: 0}
MISSING, NOT_INTEGER, OUT_OF_RANGE, NOT_TIMESTAMP, NO_ZONE, NO_TIME, NOT_DATE = range(1, 8)
NOT_BOOLEAN, NOT_UUID, TOO_LONG = NUMBER_OF[reasons.NOT_BOOLEAN], NUMBER_OF[reasons.NOT_UUID], len(CODES) - 1

Codes = NDArray[np.uint8]  # (n,), index into CODES; 0 where no rule is broken

IS_BLANK = np.zeros(256, bool)
IS_BLANK[list(BLANK_BYTES)] = True
TRIM_STEPS = 8  # longer runs of blanks are trimmed one value at a time
SECONDS_A_DAY = 86_400
MICROSECONDS = 1_000_000


def u64(value: int) -> np.uint64:
    """A constant for arithmetic on words."""
    return np.uint64(value & 0xFFFF_FFFF_FFFF_FFFF)


@dataclass(frozen=True, slots=True)
class Block:
    """The text that a block's fields lie in.

    Attributes:
        buffer, array: the same bytes, with at least ``window.PAD`` bytes before and after any field.
        ascii: no byte of the block is above 127.
        suspects: rows, of those that are judged, whose record has a NUL or is no UTF-8.
    """

    buffer: bytearray
    array: Bytes
    ascii: bool
    suspects: Ints

    def text(self, start: int, end: int) -> str:
        """The text of one field, as the careful path sees it."""
        return self.buffer[start:end].decode("utf-8", "surrogateescape")


def judge(column: Column, block: Block, starts: Ints, ends: Ints) -> tuple[Data, Codes | None]:
    """Judge the fields ``[starts, ends)``, each ``(n,)``, as values of ``column``; blanks may still be around them.

    Returns:
        The values, and the code of each (None: no rule is broken). A broken value is told as absent where it is NULL.
    """
    if column.kind == "text":
        return _texts(column, block, *trimmed(block, starts, ends))
    if column.kind not in ENGINES:
        return _one_by_one(column, block, starts, ends)
    data, codes = ENGINES[column.kind](column, block, starts, ends)
    if codes is None:
        return data, None
    wrong = np.flatnonzero(codes)
    blank = wrong[_has_blanks(block.array, starts[wrong], ends[wrong])]
    if not len(blank):
        return data, codes
    short_starts, short_ends = trimmed(block, starts[blank], ends[blank])
    again, codes_again = ENGINES[column.kind](column, block, short_starts, short_ends)
    codes[blank] = 0 if codes_again is None else codes_again
    return _replaced(data, blank, again), codes


def _replaced(data: Data, rows: Ints, other: Data) -> Data:
    """``data`` with the values of ``other`` at ``rows``."""
    order = np.arange(len(data.absent()))
    order[rows] = len(order) + np.arange(len(rows))
    return joined(data, other).take(order)


def _has_blanks(array: Bytes, starts: Ints, ends: Ints) -> Mask:
    first, last = array[starts], array[ends - 1]
    return (starts < ends) & (IS_BLANK[first] | IS_BLANK[last])


def trimmed(block: Block, starts: Ints, ends: Ints) -> tuple[Ints, Ints]:
    """The same fields without the blanks around them."""
    rows = np.flatnonzero(_has_blanks(block.array, starts, ends))
    if not len(rows):
        return starts, ends
    starts, ends = starts.copy(), ends.copy()
    for _ in range(TRIM_STEPS):
        first, last = starts[rows], ends[rows]
        leads = (first < last) & IS_BLANK[block.array[first]]
        starts[rows] = first + leads
        trails = (first + leads < last) & IS_BLANK[block.array[last - 1]]
        ends[rows] = last - trails
        rows = rows[leads | trails]
    for row in rows.tolist():
        field = block.buffer[starts[row] : ends[row]]
        kept = field.lstrip(BLANK_BYTES)
        starts[row] += len(field) - len(kept)
        ends[row] = starts[row] + len(kept.rstrip(BLANK_BYTES))
    return starts, ends


def _empty_code(column: Column) -> int:
    return MISSING if column.required else 0


def _one_by_one(column: Column, block: Block, starts: Ints, ends: Ints) -> tuple[Data, Codes | None]:
    values: list[Value | None] = []
    codes = np.zeros(len(starts), np.uint8)
    for row, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        value, code = rules.judge(column, block.text(start, end))
        values.append(value)
        codes[row] = NUMBER_OF[code or ""]
    return column_of(column, values), codes if codes.any() else None


def _texts(column: Column, block: Block, starts: Ints, ends: Ints) -> tuple[Data, Codes | None]:
    lengths = ends - starts
    codes = np.zeros(len(starts), np.uint8)
    absent = lengths == 0
    if absent.any():
        codes[absent] = _empty_code(column)
    if column.max_length is not None:
        long = np.flatnonzero(lengths > column.max_length)
        if block.ascii:
            codes[long] = TOO_LONG
            absent[long] = True
        else:
            _judge_again(column, block, long, starts, ends, codes, absent)
    _judge_again(column, block, block.suspects, starts, ends, codes, absent)
    if absent.any():
        lengths = np.where(absent, -1, lengths)
    return Var(block.array, starts, lengths), codes if codes.any() else None


def _judge_again(
    column: Column, block: Block, rows: Ints, starts: Ints, ends: Ints, codes: Codes, absent: Mask
) -> None:
    """Judge ``rows`` by the careful rule, and correct both results."""
    for row in rows.tolist():
        value, code = rules.judge(column, block.text(int(starts[row]), int(ends[row])))
        codes[row] = NUMBER_OF[code or ""]
        absent[row] = value is None


# Digits, eight at a time: a word holds eight characters, the first one in its lowest byte.

EIGHT_ZEROS = int.from_bytes(b"00000000", "little")
# For a number of w characters that ends the word: which bytes are its own, and "0" for the others.
OWN_BYTES = np.array([0] + [(1 << 64) - (1 << 8 * (8 - w)) for w in range(1, 9)], np.uint64)
ZEROS_BEFORE = np.array([EIGHT_ZEROS & ~int(own) & ((1 << 64) - 1) for own in OWN_BYTES.tolist()], np.uint64)
HIGH_BITS = u64(0x8080_8080_8080_8080)
ABOVE_NINE = u64(0x7676_7676_7676_7676)  # added to a byte of 10 and more it sets the high bit


def _eight_digits(characters: Words) -> tuple[Words, Words]:
    """The number that eight characters are, and a word that is not 0 where one of them is no digit."""
    x = characters ^ u64(EIGHT_ZEROS)
    wrong = ((x + ABOVE_NINE) | x) & HIGH_BITS
    x = (x * u64(10) + (x >> u64(8))) & u64(0x00FF_00FF_00FF_00FF)
    x = (x * u64(100) + (x >> u64(16))) & u64(0x0000_FFFF_0000_FFFF)
    return (x * u64(10_000) + (x >> u64(32))) & u64(0xFFFF_FFFF), wrong


def words(array: Bytes, starts: Ints, size: int) -> Words:
    """The ``size`` bytes, a multiple of 8, from each of ``starts`` as little-endian words, ``(n, size // 8)``."""
    return spans(array, size)[starts].view("<u8").reshape(-1, size // 8)


def _digits(array: Bytes, ends: Ints, widths: Ints) -> tuple[Words, Mask]:
    """The numbers that the last ``widths`` characters before ``ends`` are, and where they are none.

    Only 1 to 19 characters can be told; any other width is none.
    """
    bad = (widths < 1) | (widths > rules.INTEGER_DIGITS)
    widest = min(int(widths.max(initial=1)), rules.INTEGER_DIGITS)
    size = -(-widest // 8) * 8
    characters = words(array, ends - size, size)
    total = np.zeros(1, np.uint64)
    for place in range(0, size, 8):
        own = widths if size == 8 else np.clip(widths - place, 0, 8)
        number, wrong = _eight_digits((characters[:, (size - place) // 8 - 1] & OWN_BYTES[own]) | ZEROS_BEFORE[own])
        bad |= wrong != 0
        total = total + number * u64(10**place) if place else number
    return total, bad


def _integers(column: Column, block: Block, starts: Ints, ends: Ints) -> tuple[Data, Codes | None]:
    widths = ends - starts
    numbers, bad = _digits(block.array, ends, widths)
    low, high = column.minimum or 0, column.maximum or 0
    bad |= _outside(numbers, low, high)
    values = numbers.view(np.int64)
    if not bad.any():
        return Fixed(values, WIDTH[column.kind]), None
    codes = np.zeros(len(starts), np.uint8)
    rows = np.flatnonzero(bad)
    values[rows] = 0
    found, code = _odd_integers(column, block, starts[rows], ends[rows])
    values[rows], codes[rows] = found, code
    absent = (codes > 0) | (widths == 0)
    return Fixed(values, WIDTH[column.kind], absent), codes if codes.any() else None


def _odd_integers(column: Column, block: Block, starts: Ints, ends: Ints) -> tuple[Ints, Codes]:
    """Fields that are no number of the column's range in plain digits: negative ones, and those that are wrong."""
    low, high = column.minimum or 0, column.maximum or 0
    negative = block.array[starts] == ord("-")
    widths = ends - starts - negative
    numbers, bad = _digits(block.array, ends, widths)
    below = negative & (numbers > 0)
    out = np.where(below, _outside(numbers, -high, -low), _outside(numbers, low, high))
    codes = np.where(bad, NOT_INTEGER, np.where(out, OUT_OF_RANGE, 0)).astype(np.uint8)
    values = np.where(codes > 0, u64(0), np.where(negative, u64(0) - numbers, numbers)).view(np.int64)
    codes[starts == ends] = _empty_code(column)
    for row in np.flatnonzero(widths > rules.INTEGER_DIGITS).tolist():
        value, code = rules.judge(column, block.text(int(starts[row]), int(ends[row])))
        codes[row] = NUMBER_OF[code or ""]
        values[row] = value if isinstance(value, int) else 0
    return values, codes


def _outside(sizes: Words, low: int, high: int) -> Mask:
    """Where numbers that are not negative lie outside ``low`` to ``high``, which may be."""
    if high < 0:
        return np.ones(len(sizes), bool)
    return (sizes < u64(max(low, 0))) | (sizes > u64(high))


def _calendar() -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """By year * 16 + month: how many days the month has, and days from 2000-01-01 to the day before its first."""
    year = np.arange(10_000)
    leap = ((year % 4 == 0) & (year % 100 != 0)) | (year % 400 == 0)
    days = np.zeros((10_000, 16), np.uint8)
    days[1:, 1:13] = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
    days[leap, 2] = np.where(year[leap] > 0, 29, 0)
    last = year - 1
    before_year = 365 * year + last // 4 - last // 100 + last // 400
    before_year -= before_year[2000]
    before = np.zeros((10_000, 16), np.int64)
    before[:, 2:13] = np.cumsum(days[:, 1:12], axis=1, dtype=np.int64)
    return days.ravel(), (before + before_year[:, None] - 1).astype(np.int32).ravel()


MONTH_DAYS, DAYS_BEFORE = _calendar()
FIRST_INSTANT = (datetime(1, 1, 1, tzinfo=UTC) - EPOCH) // MICROSECOND
LONGEST_TIMESTAMP = len("2021-11-07T02:48:42.123456+02:00")
LAST_INSTANT = (datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC) - EPOCH) // MICROSECOND


def _shape(pattern: bytes) -> tuple[np.uint64, np.uint64]:
    """For eight characters of ``pattern`` (0: a digit; other bytes: themselves; a blank: anything).

    Returns:
        What to xor a word with, so that digits become their value and the others 0, and what to add to it then, so
        that a byte's high bit tells that it is wrong.
    """
    expected = int.from_bytes(pattern.replace(b" ", b"\0"), "little")
    added = bytes({48: 0x76, 32: 0}.get(byte, 0x7F) for byte in pattern)
    return u64(expected), u64(int.from_bytes(added, "little"))


YEAR_MONTH, DAY_HOUR_MINUTE, DAY_ONLY = _shape(b"0000-00-"), _shape(b"00T00:00"), _shape(b"00      ")
SECOND = _shape(b":00     ")


def _matched(characters: Words, shape: tuple[np.uint64, np.uint64], width: int = 8) -> tuple[Bytes, Words]:
    """At byte j of each word ten times the digit before plus the digit there, ``(n, 8)``; and where the shape is wrong.

    Only the first ``width`` characters are looked at.
    """
    expected, added = shape
    x = characters ^ expected
    if width < 8:
        x = x & u64((1 << 8 * width) - 1)
    wrong = (x + added) | x
    return (x * u64(10 << 8 | 1)).view(np.uint8).reshape(-1, 8), wrong


def _days(day: Bytes, year_month: Words) -> tuple[Ints, Mask]:
    """Days since 2000-01-01 of the dates whose first eight characters are ``year_month``; and where there is none."""
    pairs, wrong = _matched(year_month, YEAR_MONTH)
    month = np.minimum(pairs[:, 6], 15)
    year = pairs[:, 1].astype(np.int64) * 100 + pairs[:, 3]
    bad = (wrong & HIGH_BITS) != 0
    place = np.where(bad, 0, year * 16 + month)
    bad |= (day < 1) | (day > MONTH_DAYS[place]) | (pairs[:, 6] > 12)
    return DAYS_BEFORE[place].astype(np.int64) + day, bad


def _dates_alone(array: Bytes, starts: Ints) -> tuple[Ints, Mask]:
    """Days since 2000-01-01 of the ten characters from ``starts``; and where they are no date."""
    characters = words(array, starts, 16)
    pairs, wrong = _matched(characters[:, 1], DAY_ONLY, 2)
    days, bad = _days(pairs[:, 1], characters[:, 0])
    return days, bad | ((wrong & HIGH_BITS) != 0)


def _dates(column: Column, block: Block, starts: Ints, ends: Ints) -> tuple[Data, Codes | None]:
    days, bad = _dates_alone(block.array, starts)
    widths = ends - starts
    bad |= widths != 10
    if not bad.any():
        return Fixed(days, WIDTH["date"]), None
    codes = np.where(bad, NOT_DATE, 0).astype(np.uint8)
    codes[widths == 0] = _empty_code(column)
    return Fixed(np.where(bad, 0, days), WIDTH["date"], bad), codes if codes.any() else None


def _timestamps(column: Column, block: Block, starts: Ints, ends: Ints) -> tuple[Data, Codes | None]:
    widths = ends - starts
    instants, bad = _local_times(block.array, starts)
    codes = np.zeros(len(starts), np.uint8)
    told_apart = np.minimum(widths, LONGEST_TIMESTAMP + 1)
    present = np.flatnonzero(np.bincount(told_apart))
    for width in present.tolist():
        rows = None if len(present) == 1 else np.flatnonzero(told_apart == width)
        _settle_width(column, block.array, starts, ends, rows, width, instants, bad, codes)
    if bad.any():
        codes[bad & (codes != MISSING) & (widths > 0)] = NOT_TIMESTAMP
    if not codes.any() and column.required:
        return Fixed(instants, WIDTH["timestamptz"]), None
    absent = (codes > 0) | (widths == 0)
    return Fixed(np.where(absent, 0, instants), WIDTH["timestamptz"], absent), codes if codes.any() else None


def _local_times(array: Bytes, starts: Ints) -> tuple[Ints, Mask]:
    """Microseconds since 2000-01-01T00:00:00 of the 19 characters from ``starts``; and where they are no time."""
    characters = words(array, starts, 24)
    middle, wrong = _matched(characters[:, 1], DAY_HOUR_MINUTE)
    last, wrong_last = _matched(characters[:, 2], SECOND, 3)
    days, bad = _days(middle[:, 1], characters[:, 0])
    hour, minute, second = middle[:, 4], middle[:, 7], last[:, 2]
    bad |= ((wrong | wrong_last) & HIGH_BITS) != 0
    bad |= (hour > 23) | (minute > 59) | (second > 59)
    seconds = hour.astype(np.int64) * 3600 + minute.astype(np.int64) * 60 + second
    return (days * SECONDS_A_DAY + seconds) * MICROSECONDS, bad


def _settle_width(
    column: Column,
    array: Bytes,
    starts: Ints,
    ends: Ints,
    rows: Ints | None,
    width: int,
    instants: Ints,
    bad: Mask,
    codes: Codes,
) -> None:
    """Read what follows the seconds in the fields of one width (``rows``; None: all), and correct the three results."""
    where = slice(None) if rows is None else rows
    first, end = starts[where], ends[where]
    if width == 0:
        bad[where] = False
        codes[where] = _empty_code(column)
    elif width == 10:
        days, bad[where] = _dates_alone(array, first)
        instants[where] = days * (SECONDS_A_DAY * MICROSECONDS)
        codes[where] = NO_TIME if column.date_alone == "reject" else 0
    elif width < 19 or width > LONGEST_TIMESTAMP:
        bad[where] = True
    elif width == 20:
        bad[where] |= array[end - 1] != ord("Z")
    else:
        shift, wrong, code = _tails(array, first, end, width)
        instants[where] += shift
        bad[where] |= wrong
        code[code == NO_ZONE] = 0 if column.assume_zone else NO_ZONE
        out = (instants[where] < FIRST_INSTANT) | (instants[where] > LAST_INSTANT)
        codes[where] = np.where(out, OUT_OF_RANGE, code)


def _tails(array: Bytes, starts: Ints, ends: Ints, width: int) -> tuple[Ints, Mask, Codes]:
    """Fraction and zone of fields of ``width`` characters, 19 or 21 to 32.

    Returns:
        Microseconds to add, where the tail is wrong, and NO_ZONE where it names no zone.
    """
    count = len(starts)
    shift, codes = np.zeros(count, np.int64), np.zeros(count, np.uint8)
    sign = array[ends - 6]
    utc = array[ends - 1] == ord("Z")
    offset = ~utc & ((sign == ord("+")) | (sign == ord("-"))) & (width >= 25)
    bare = ~utc & ~offset
    codes[bare] = NO_ZONE
    wrong = np.zeros(count, bool)
    for rows, zone_width in ((np.flatnonzero(utc), 1), (np.flatnonzero(offset), 6), (np.flatnonzero(bare), 0)):
        if len(rows):
            shift[rows], wrong[rows] = _fractions(array, starts[rows], width - 19 - zone_width)
    rows = np.flatnonzero(offset)
    if len(rows):
        seconds, bad = _offsets(array, ends[rows])
        shift[rows] -= seconds * MICROSECONDS
        wrong[rows] |= bad
    return shift, wrong, codes


def _fractions(array: Bytes, starts: Ints, width: int) -> tuple[Ints, Mask]:
    """Microseconds of the fraction, ``width`` characters with its point, after the seconds; and where it is none."""
    count = len(starts)
    if width == 0:
        return np.zeros(count, np.int64), np.zeros(count, bool)
    if not 2 <= width <= 7:
        return np.zeros(count, np.int64), np.ones(count, bool)
    bad = array[starts + 19] != ord(".")
    total = np.zeros(count, np.int64)
    for place in range(20, 19 + width):
        digit = array[starts + place] - np.uint8(ord("0"))
        bad |= digit > 9
        total = total * 10 + digit
    return total * 10 ** (7 - width), bad


def _offsets(array: Bytes, ends: Ints) -> tuple[Ints, Mask]:
    """Seconds east of UTC that the six characters before ``ends``, sign first, mean; and where they are no offset."""
    tens, ones, six, units = [array[ends - back] - np.uint8(ord("0")) for back in (5, 4, 2, 1)]
    bad = (tens > 9) | (ones > 9) | (six > 5) | (units > 9) | (array[ends - 3] != ord(":"))
    hours = tens.astype(np.int64) * 10 + ones
    bad |= hours > rules.MAX_OFFSET_HOURS
    seconds = hours * 3600 + (six.astype(np.int64) * 10 + units) * 60
    return np.where(array[ends - 6] == ord("-"), -seconds, seconds), bad


LOWER = int.from_bytes(b" " * 8, "little")  # set in a letter, it makes it a small one
TRUE, FALSE = (u64(int.from_bytes(word, "little")) for word in (b"true", b"false"))


def _booleans(column: Column, block: Block, starts: Ints, ends: Ints) -> tuple[Data, Codes | None]:
    widths = ends - starts
    word = words(block.array, starts, 8)[:, 0] | u64(LOWER)
    true = (widths == 4) & (word & u64(0xFFFF_FFFF) == TRUE)
    false = (widths == 5) & (word & u64(0xFF_FFFF_FFFF) == FALSE)
    bad = ~(true | false)
    values = true.astype(np.int64)
    if not bad.any():
        return Fixed(values, WIDTH["boolean"]), None
    codes = np.where(bad, NOT_BOOLEAN, 0).astype(np.uint8)
    codes[widths == 0] = _empty_code(column)
    return Fixed(values, WIDTH["boolean"], bad), codes if codes.any() else None


UUID_WIDTH, UUID_BYTES = 36, 16
DASHES = [8, 13, 18, 23]
HEX_PLACES = [place for place in range(UUID_WIDTH) if place not in DASHES]
NO_HEX = 255
HEX_VALUE = np.full(256, NO_HEX, np.uint8)
for _character in "0123456789abcdefABCDEF":
    HEX_VALUE[ord(_character)] = int(_character, 16)


def _uuids(column: Column, block: Block, starts: Ints, ends: Ints) -> tuple[Data, Codes | None]:
    widths = ends - starts
    count = len(starts)
    characters = spans(block.array, UUID_WIDTH)[starts].view(np.uint8).reshape(-1, UUID_WIDTH)
    nibbles = HEX_VALUE[characters[:, HEX_PLACES]]
    bad = (widths != UUID_WIDTH) | (nibbles == NO_HEX).any(axis=1) | (characters[:, DASHES] != ord("-")).any(axis=1)
    source = np.zeros(count * UUID_BYTES + PAD, np.uint8)
    source[: count * UUID_BYTES] = (nibbles[:, ::2] << np.uint8(4) | (nibbles[:, 1::2] & np.uint8(15))).ravel()
    lengths = np.where(bad, -1, UUID_BYTES).astype(np.int64)
    data = Var(source, np.arange(count, dtype=np.int64) * UUID_BYTES, lengths)
    codes = np.where(bad, NOT_UUID, 0).astype(np.uint8)
    codes[widths == 0] = _empty_code(column)
    return data, codes if codes.any() else None


ENGINES: dict[str, Callable[[Column, Block, Ints, Ints], tuple[Data, Codes | None]]] = {
    "integer": _integers,
    "bigint": _integers,
    "timestamptz": _timestamps,
    "date": _dates,
    "boolean": _booleans,
    "uuid": _uuids,
}
