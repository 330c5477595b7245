"""A row that was sent as JSON and is rejected, as the record that the rejects keep: mended and judged again as CSV."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from functions.api.bodies import Line
from functions.api.judging import Fault, json_text
from shared import reasons
from shared.rules import SURROGATE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from shared.dictionary import Column, Table

UNFIT = frozenset({reasons.RECORD_NOT_OBJECT, reasons.RECORD_UNKNOWN_COLUMN})


def as_record(table: Table, item: Any, faults: Iterable[Fault]) -> tuple[list[str], str]:
    """The reasons that ``item`` is rejected for, each once, and its record.

    What a record of the table's columns cannot hold (a name that is no column, a list) is kept as JSON, and has a
    reason that says so. A character that PostgreSQL cannot store is shown as U+FFFD, as in files.
    """
    why = list(dict.fromkeys(fault.code for fault in faults))
    if isinstance(item, Line):
        fields = item.raw if item.fields is None else [item.fields.get(column.name, "") for column in table.columns]
        return why, _storable(_csv(fields))
    if type(item) is not dict:  # also a key that stands alone
        return why, _storable(_json(item))
    if UNFIT.isdisjoint(why) and any(_is_nested(column, item) for column in table.columns):
        why.insert(0, reasons.RECORD_NESTED)
    if not UNFIT.isdisjoint(why) or reasons.RECORD_NESTED in why:
        return why, _storable(_json(item))
    return why, _storable(_csv([_field(column, item.get(column.name)) for column in table.columns]))


def _is_nested(column: Column, item: Any) -> bool:
    return column.kind != "jsonb" and isinstance(item.get(column.name), dict | list)


def _field(column: Column, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str) and column.kind != "jsonb":
        return str(value)
    return _json(value)


def _json(value: Any) -> str:
    try:
        return json_text(value)
    except RecursionError:
        return "(nests too deep to be kept)"


def _csv(fields: Sequence[str]) -> str:
    out = io.StringIO()
    csv.writer(out).writerow(fields)
    return out.getvalue().removesuffix("\r\n")


def _storable(text: str) -> str:
    return SURROGATE.sub("\ufffd", text.replace("\0", "\ufffd"))
