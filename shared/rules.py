"""The rules for values: for each type, which texts are a value and why the others are none. The one full definition.

Faster engines may judge the common shapes of a value by themselves, but accept or reject only what this module would.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, NoReturn
from uuid import UUID

from shared import reasons
from shared.dictionary import Column

Value = int | str | bool | Decimal | date | datetime | UUID

BLANKS = " \t\r\n"  # trimmed from both ends of every value, quoted or not
INTEGER = re.compile(r"-?[0-9]+\Z")
NUMERIC = re.compile(r"(-?)([0-9]+)(?:\.([0-9]+))?\Z")
DATE = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})\Z")
TIMESTAMP = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"(?:T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,6}))?(?:Z|(?P<sign>[+-])([0-9]{2}):([0-9]{2})|(?P<bare>\Z)))?\Z"
)
UUID_TEXT = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z", re.IGNORECASE | re.ASCII)
JSON_NUMBER = re.compile(r"-?([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]+))?\Z")
JSON_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
SURROGATE = re.compile("[\ud800-\udfff]")

MAX_OFFSET_HOURS = 15  # PostgreSQL takes offsets up to ±15:59
INTEGER_DIGITS = 19  # of the largest bigint
# Limits of PostgreSQL's numeric, in which jsonb keeps numbers (manual, 8.1.2 "Arbitrary Precision Numbers").
JSON_DIGITS_BEFORE_POINT, JSON_DIGITS_AFTER_POINT = 131_072, 16_383
JSON_EXPONENT_DIGITS = 9
JSON_MAX_DEPTH = 500  # below the depth at which Python's parser or PostgreSQL's stack gives up


class Broken(Exception):  # a verdict on a value, not an error of ours
    """The text breaks a rule.

    Attributes:
        code: the reason's code, one of ``shared.reasons``.
    """

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def judge(column: Column, text: str) -> tuple[Value | None, str | None]:
    """The value that ``text`` has in ``column``, and None; or None and the code of the rule that it breaks.

    An empty text is no value: ``(None, None)`` where the column is not required. Timestamps come back in UTC.
    Bytes that were no UTF-8 may stand in ``text`` as lone surrogates (``surrogateescape``).
    """
    try:
        return parse(column, text), None
    except Broken as broken:
        return None, broken.code


def parse(column: Column, text: str) -> Value | None:
    """The value that ``text`` has in ``column``; None where it is empty and need not be there.

    Raises:
        Broken: with the code of the rule.
    """
    text = text.strip(BLANKS)
    if text:
        return PARSERS[column.kind](column, text)
    if column.required:
        raise Broken(reasons.MISSING)
    return None


def canonical(value: Value) -> str:
    """The one text of ``value``, as keys are compared and shown: PostgreSQL reads it back as the same value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, Decimal):
        return format(value, "f")
    return value if isinstance(value, str) else str(value)


def _integer(column: Column, text: str) -> int:
    if not INTEGER.match(text):
        raise Broken(reasons.NOT_INTEGER)
    if len(text.lstrip("-").lstrip("0")) > INTEGER_DIGITS:  # also keeps int() within its own limit of digits
        raise Broken(reasons.OUT_OF_RANGE)
    return check_integer(column, int(text))


def check_integer(column: Column, value: int) -> int:
    """``value`` if the column's range holds it.

    Raises:
        Broken: out_of_range.
    """
    if not (column.minimum or 0) <= value <= (column.maximum or 0):
        raise Broken(reasons.OUT_OF_RANGE)
    return value


def _numeric(column: Column, text: str) -> Decimal:
    """Never rounded: more digits than the column holds are out of range, zeros after the point too."""
    found = NUMERIC.match(text)
    if not found:
        raise Broken(reasons.NOT_NUMERIC)
    sign, whole, fraction = found[1], found[2].lstrip("0"), found[3] or ""
    if len(fraction) > column.scale or len(whole) > column.precision - column.scale:
        raise Broken(reasons.OUT_OF_RANGE)
    digits = f"{whole or '0'}.{fraction.ljust(column.scale, '0')}" if column.scale else whole or "0"
    return Decimal(sign + digits if digits.strip("0.") else digits)


def _boolean(column: Column, text: str) -> bool:
    """Only the words: what 1, t, yes or on mean is for the sender to say."""
    if (word := text.lower()) not in ("true", "false") or not text.isascii():
        raise Broken(reasons.NOT_BOOLEAN)
    return word == "true"


def _uuid(column: Column, text: str) -> UUID:
    if not UUID_TEXT.match(text):
        raise Broken(reasons.NOT_UUID)
    return UUID(text)


def _date(column: Column, text: str) -> date:
    found = DATE.match(text)
    if not found:
        raise Broken(reasons.NOT_DATE)
    try:
        return date(int(found[1]), int(found[2]), int(found[3]))
    except ValueError:
        raise Broken(reasons.NOT_DATE) from None


def _timestamptz(column: Column, text: str) -> datetime:
    found = TIMESTAMP.match(text)
    if not found:
        raise Broken(reasons.NOT_TIMESTAMP)
    year, month, day, hour, minute, second, fraction, sign, offset_hour, offset_minute, _ = found.groups()
    clock = (int(hour or 0), int(minute or 0), int(second or 0), int((fraction or "0").ljust(6, "0")))
    try:
        local = datetime(int(year), int(month), int(day), *clock, tzinfo=UTC)
    except ValueError:
        raise Broken(reasons.NOT_TIMESTAMP) from None
    if hour is None and column.date_alone == "reject":
        raise Broken(reasons.NO_TIME)
    if found["bare"] is not None and column.assume_zone is None:
        raise Broken(reasons.NO_ZONE)
    return _in_utc(local, sign, int(offset_hour or 0), int(offset_minute or 0))


def _in_utc(local: datetime, sign: str | None, hours: int, minutes: int) -> datetime:
    if hours > MAX_OFFSET_HOURS or minutes > 59:
        raise Broken(reasons.NOT_TIMESTAMP)
    offset = timedelta(hours=hours, minutes=minutes)
    try:
        return local + offset if sign == "-" else local - offset
    except OverflowError:
        raise Broken(reasons.OUT_OF_RANGE) from None


def _text(column: Column, text: str) -> str:
    check_characters(text)
    if column.max_length is not None and len(text) > column.max_length:
        raise Broken(reasons.TOO_LONG)
    return text


def check_characters(text: str) -> None:
    """Let pass what PostgreSQL can store as text.

    Raises:
        Broken: nul or encoding.
    """
    if "\0" in text:
        raise Broken(reasons.NUL)
    if not text.isascii() and SURROGATE.search(text):
        raise Broken(reasons.ENCODING)


def _jsonb(column: Column, text: str) -> str:
    """The text itself: PostgreSQL parses it. Refused is what it would refuse, so that COPY never fails on it."""
    if _depth(text) > JSON_MAX_DEPTH:
        raise Broken(reasons.NOT_JSON)
    try:
        check_characters(text)
        document = json.loads(text, parse_int=_json_number, parse_float=_json_number, parse_constant=_no_constant)
    except (ValueError, Broken):
        raise Broken(reasons.NOT_JSON) from None
    if "\\u" in text and not all(_is_storable(string) for string in _strings(document)):
        raise Broken(reasons.NOT_JSON)
    return text


def _json_number(text: str) -> int:
    found = JSON_NUMBER.match(text)
    exponent = (found and found[3]) or "0"
    if not found or len(exponent.lstrip("+-").lstrip("0")) > JSON_EXPONENT_DIGITS:
        raise Broken(reasons.NOT_JSON)
    whole, fraction = found[1], found[2] or ""
    after = len(fraction) - int(exponent)
    before = len((whole + fraction).lstrip("0")) - after
    if after > JSON_DIGITS_AFTER_POINT or (before > JSON_DIGITS_BEFORE_POINT and (whole + fraction).strip("0")):
        raise Broken(reasons.NOT_JSON)
    return 0


def _no_constant(name: str) -> NoReturn:
    raise Broken(reasons.NOT_JSON)


def _depth(text: str) -> int:
    """How deep arrays and objects nest; looked at only where there are enough brackets for it to matter."""
    if text.count("[") + text.count("{") <= JSON_MAX_DEPTH:
        return 0
    depth = deepest = 0
    for bracket in re.findall(r"[\[\]{}]", JSON_STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _strings(document: Any) -> list[str]:
    found, waiting = [], [document]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            found.append(item)
        elif isinstance(item, dict):
            waiting += [*item, *item.values()]
        elif isinstance(item, list):
            waiting += item
    return found


def _is_storable(string: str) -> bool:
    return "\0" not in string and not SURROGATE.search(string)


PARSERS: dict[str, Callable[[Column, str], Value]] = {
    "integer": _integer,
    "bigint": _integer,
    "numeric": _numeric,
    "boolean": _boolean,
    "uuid": _uuid,
    "date": _date,
    "timestamptz": _timestamptz,
    "text": _text,
    "jsonb": _jsonb,
}
