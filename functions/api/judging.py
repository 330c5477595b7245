"""Rows as JSON, judged one by one: JSON's own types, then the rules of ``shared.rules``; all faults of a row at once.

The common shapes of a value pass by a short way; whatever does not is judged by ``rules.parse``, the one definition.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from itertools import islice
from typing import Any, NamedTuple

from shared import reasons, rules
from shared.dictionary import Column, Table
from shared.rules import BLANKS, Broken

# A value as it is sent to PostgreSQL, in a JSON document or as a parameter: it reads it as the column's type.
Wire = int | str | bool | None

# What passes the full rule unchanged, but for days that no month has: those are left to the rule.
PLAIN_INSTANT = re.compile(
    r"(?!0000)[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z"
).fullmatch
EXPONENT = re.compile(r"-?([0-9.]+)[eE]([+-]?[0-9]+)\Z")
MOST_UNKNOWN = 10  # members of one row that are named as unknown: a row may have a hundred thousand
LONGEST_EXPONENT = 4  # digits: numeric(1000, 1000) is the widest column


class Number(str):
    """A JSON number with a fraction or an exponent, digit by digit as it was written; no text."""

    __slots__ = ()


class LongInteger(Number):
    """A JSON integer of more digits than Python reads."""

    __slots__ = ()


class Fault(NamedTuple):
    """One rule that a row breaks.

    Attributes:
        code: the reason, such as ``hired_date.no_zone`` or ``record.unknown_column``.
        member: the member of the row that is wrong; None for the row itself.
    """

    code: str
    member: str | None


class Judged(NamedTuple):
    """What a row is.

    Attributes:
        values: by column, those that keep their rules; a key that is not given is not among them.
        faults: in the table's order, after those of the record; none: the row is good but for keys.
    """

    values: dict[str, Wire]
    faults: list[Fault]


class RowJudge:
    """Judges rows of one table."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self._ways = [(column.name, WAYS[column.kind](column), column.required) for column in table.columns]
        self._key, self._key_way = table.primary_key, WAYS[table.key_column.kind](table.key_column)
        self._names = frozenset(table.by_name)

    def row(self, item: Any, *, partial: bool = False, key_required: bool = True) -> Judged:
        """Judge one row; see ``judge_row``."""
        values: dict[str, Wire] = {}
        if type(item) is not dict:
            return Judged(values, [Fault(reasons.RECORD_NOT_OBJECT, None)])
        faults = self._unknown(item)
        for name, way, required in self._ways:
            value = item.get(name)
            if value is not None:
                try:
                    values[name] = way(value)
                except Broken as broken:
                    faults.append(Fault(f"{name}.{broken.code}", name))
            elif (partial and name not in item) or (name == self._key and not key_required):
                continue
            elif required:
                faults.append(Fault(f"{name}.{reasons.MISSING}", name))
            else:
                values[name] = None
        return Judged(values, faults)

    def key(self, item: Any) -> Judged:
        """Judge the key of a row that is to be removed, given alone or as the member of an object."""
        is_object = type(item) is dict
        faults = self._unknown(item) if is_object else []
        member = self._key if is_object else None
        value = item.get(self._key) if is_object else item
        if value is None:
            return Judged({}, [*faults, Fault(f"{self._key}.{reasons.MISSING}", member)])
        try:
            return Judged({self._key: self._key_way(value)}, faults)
        except Broken as broken:
            return Judged({}, [*faults, Fault(f"{self._key}.{broken.code}", member)])

    def only_key(self, judged: Judged) -> Judged:
        """What ``judged`` says of the key alone."""
        values = {self._key: judged.values[self._key]} if self._key in judged.values else {}
        return Judged(values, [fault for fault in judged.faults if fault.member == self._key])

    def _unknown(self, item: dict[str, Any]) -> list[Fault]:
        if self._names.issuperset(item):
            return []
        unknown = (name for name in item if name not in self._names)
        return [Fault(reasons.RECORD_UNKNOWN_COLUMN, name) for name in islice(unknown, MOST_UNKNOWN)]

    def texts(self, item: Mapping[str, str], *, key_required: bool = True) -> Judged:
        """Judge a row of texts, as a CSV has them: an absent one is an empty one."""
        values: dict[str, Wire] = {}
        faults: list[Fault] = []
        for column in self.table.columns:
            text = item.get(column.name, "")
            if column.name == self._key and not key_required and not text.strip(BLANKS):
                continue
            try:
                values[column.name] = _wire(rules.parse(column, text))
            except Broken as broken:
                faults.append(Fault(f"{column.name}.{broken.code}", column.name))
        return Judged(values, faults)


_JUDGES: dict[int, RowJudge] = {}  # by id of the table, which is kept with it: to hash a table takes longer than a row


def judge_of(table: Table) -> RowJudge:
    """The judge of ``table``, made once."""
    found = _JUDGES.get(id(table))
    if found is None or found.table is not table:
        found = _JUDGES[id(table)] = RowJudge(table)
    return found


def judge_row(table: Table, item: Any, *, partial: bool = False, key_required: bool = True) -> Judged:
    """Judge ``item``, a value that ``bodies`` read from JSON, as a row of ``table``.

    Args:
        partial: only the columns that ``item`` names, as a change of some of them does.
        key_required: whether a row without primary key is faulty.
    """
    return judge_of(table).row(item, partial=partial, key_required=key_required)


def _wire(value: rules.Value | None) -> Wire:
    return value if value is None or isinstance(value, bool | int) else rules.canonical(value)


def _integer(column: Column) -> Callable[[Any], Wire]:
    low, high = column.minimum or 0, column.maximum or 0

    def judge(value: Any) -> Wire:
        if type(value) is int:
            if low <= value <= high:
                return value
            raise Broken(reasons.OUT_OF_RANGE)
        if type(value) is LongInteger:
            raise Broken(reasons.OUT_OF_RANGE)
        raise Broken(reasons.NOT_INTEGER)

    return judge


def _text(column: Column) -> Callable[[Any], Wire]:
    longest = 1 << 30 if column.max_length is None else column.max_length

    def judge(value: Any) -> Wire:
        if type(value) is str:
            text = value.strip(BLANKS)
            if text and text.isascii() and "\0" not in text and len(text) <= longest:
                return text
            return _wire(rules.parse(column, text))
        raise Broken(reasons.NOT_TEXT)

    return judge


def _timestamptz(column: Column) -> Callable[[Any], Wire]:
    def judge(value: Any) -> Wire:
        if type(value) is str:
            return value if PLAIN_INSTANT(value) else _wire(rules.parse(column, value))
        raise Broken(reasons.NOT_TIMESTAMP)

    return judge


def _string_of(code: str) -> Callable[[Column], Callable[[Any], Wire]]:
    """A kind that JSON knows as a string only; ``code`` is what anything else breaks."""

    def way(column: Column) -> Callable[[Any], Wire]:
        def judge(value: Any) -> Wire:
            if type(value) is str:
                return _wire(rules.parse(column, value))
            raise Broken(code)

        return judge

    return way


def _numeric(column: Column) -> Callable[[Any], Wire]:
    def judge(value: Any) -> Wire:
        if type(value) is int or type(value) is LongInteger:
            return _wire(rules.parse(column, str(value)))
        if type(value) is Number:
            return _wire(rules.parse(column, _plain(value)))
        if type(value) is str:
            return _wire(rules.parse(column, value))
        raise Broken(reasons.NOT_NUMERIC)

    return judge


def _plain(number: Number) -> str:
    """A JSON number without its exponent: it is how JSON writes small and large ones."""
    if not (found := EXPONENT.match(number)):
        return str(number)
    if not found[1].strip("0."):
        return "0"
    if len(found[2].lstrip("+-").lstrip("0")) > LONGEST_EXPONENT:
        raise Broken(reasons.OUT_OF_RANGE)
    return format(Decimal(number), "f")


def _boolean(column: Column) -> Callable[[Any], Wire]:
    def judge(value: Any) -> Wire:
        if type(value) is bool:
            return value
        raise Broken(reasons.NOT_BOOLEAN)

    return judge


def _jsonb(column: Column) -> Callable[[Any], Wire]:
    """Any value; null is a missing one."""

    def judge(value: Any) -> Wire:
        try:
            return _wire(rules.parse(column, json_text(value)))
        except RecursionError:
            raise Broken(reasons.NOT_JSON) from None

    return judge


# By kind: makes the judge of a column's values, which gives what PostgreSQL is sent, or raises Broken.
WAYS: dict[str, Callable[[Column], Callable[[Any], Wire]]] = {
    "integer": _integer,
    "bigint": _integer,
    "numeric": _numeric,
    "boolean": _boolean,
    "uuid": _string_of(reasons.NOT_UUID),
    "date": _string_of(reasons.NOT_DATE),
    "timestamptz": _timestamptz,
    "text": _text,
    "jsonb": _jsonb,
}


def json_text(value: Any) -> str:
    """``value`` as JSON again; numbers have the digits that they had.

    Raises:
        RecursionError: it nests too deep.
    """
    if isinstance(value, Number):
        return str.__str__(value)
    if type(value) is list:
        return "[" + ", ".join(map(json_text, value)) + "]"
    if type(value) is dict:
        return "{" + ", ".join(f"{json.dumps(k, ensure_ascii=False)}: {json_text(v)}" for k, v in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)
