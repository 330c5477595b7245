"""What commands print: a table for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any


def show(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool, none: str) -> None:
    """Print ``rows``: as JSON, all of each, or as a table of ``columns``; ``none`` is said of an empty table."""
    if as_json:
        print(json.dumps(list(rows), default=_plain, ensure_ascii=False))
        return
    if not rows:
        print(none)
        return
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(column), *(len(line[n]) for line in cells)) for n, column in enumerate(columns)]
    for line in [list(columns), *cells]:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    if isinstance(value, Mapping):
        return " ".join(f"{key}={number}" for key, number in value.items())
    if isinstance(value, Iterable) and not isinstance(value, str):
        return " ".join(map(str, value))
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value))  # no terminal escapes


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else str(value)
