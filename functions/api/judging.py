"""Rows as JSON, judged value by value by ``shared.rules``: an id is a number, a time a text, and null is missing."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from shared import reasons, rules
from shared.dictionary import Column, Table
from shared.rules import Broken

MOST_UNKNOWN = 20  # names that are no column, told one by one
NOT_OF_KIND = {
    "integer": reasons.NOT_INTEGER,
    "bigint": reasons.NOT_INTEGER,
    "numeric": reasons.NOT_NUMERIC,
    "boolean": reasons.NOT_BOOLEAN,
    "timestamptz": reasons.NOT_TIMESTAMP,
    "date": reasons.NOT_DATE,
    "uuid": reasons.NOT_UUID,
    "text": reasons.NOT_TEXT,
}
TYPES: dict[str, tuple[type, ...]] = {"integer": (int,), "bigint": (int,), "numeric": (int, float), "boolean": (bool,)}
ABSENT = object()


@dataclass(frozen=True, slots=True)
class Fault:
    """One rule that a row breaks.

    Attributes:
        pointer_suffix: JSON pointer within the row: ``/job_id``, or empty for the row itself.
        code: the reason, such as ``job_id.missing``.
        detail: what it means and what to do.
    """

    pointer_suffix: str
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Judged:
    """A row's verdict: ``values`` by column, as int, bool, None or the text that PostgreSQL reads; and every fault."""

    values: dict[str, Any] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)


def judge_row(table: Table, item: Any, *, partial: bool = False, key_required: bool = True) -> Judged:
    """What ``item`` says of a row of ``table``.

    Args:
        partial: a column that is absent is left alone, not missing.
        key_required: the same, for the key alone.
    """
    judged = Judged()
    if not isinstance(item, dict):
        judged.faults.append(Fault("", reasons.RECORD_NOT_OBJECT, reasons.describe(reasons.RECORD_NOT_OBJECT, table)))
        return judged
    for column in table.columns:
        given = item.get(column.name, ABSENT)
        if given is not ABSENT or not (partial or (column.name == table.primary_key and not key_required)):
            _judge_value(table, column, None if given is ABSENT else given, judged)
    unknown = [name for name in item if name not in table.by_name]
    judged.faults.extend(_unknown(table, name) for name in unknown[:MOST_UNKNOWN])
    return judged


def column_fault(table: Table, name: str, code: str) -> Fault:
    """The fault of the column ``name``."""
    return Fault(f"/{name}", f"{name}.{code}", reasons.describe(f"{name}.{code}", table))


def _judge_value(table: Table, column: Column, given: Any, judged: Judged) -> None:
    try:
        judged.values[column.name] = _value(column, given)
    except Broken as broken:
        judged.faults.append(column_fault(table, column.name, broken.code))


def _value(column: Column, given: Any) -> Any:
    value = rules.parse(column, "" if given is None else _text(column, given))
    return value if value is None or isinstance(value, bool | int) else rules.canonical(value)


def _text(column: Column, given: Any) -> str:
    """The text of a JSON value, as a file would have it."""
    if column.kind == "jsonb":
        try:
            return as_json(given)
        except RecursionError:
            raise Broken(reasons.NOT_JSON) from None
    types = TYPES.get(column.kind, (str,))
    if not isinstance(given, types) or (isinstance(given, bool) and bool not in types):
        raise Broken(NOT_OF_KIND[column.kind])
    if isinstance(given, float):
        return str(getattr(given, "text", given))
    return given if isinstance(given, str) else json.dumps(given)


def as_json(value: Any) -> str:
    """JSON with the digits that numbers were sent with.

    Raises:
        RecursionError: it nests too deep.
    """
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(name)}:{as_json(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(as_json, value)) + "]"
    return str(getattr(value, "text", None) or json.dumps(value))


def _unknown(table: Table, name: str) -> Fault:
    pointer = "/" + name[:100].replace("~", "~0").replace("/", "~1")
    known = ", ".join(table.by_name)
    return Fault(pointer, reasons.RECORD_UNKNOWN_COLUMN, f"{name[:100]!r} is no column; there are {known}")
