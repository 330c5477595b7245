"""Rows of Python values as COPY BINARY tuples, and as what fastavro takes; written from the manuals alone."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

from hypothesis import strategies as st

from shared.avro.schema import Field
from shared.copy_binary import numeric_binary

EPOCH_DAYS = 10_957
EPOCH_MICROSECONDS = EPOCH_DAYS * 86_400_000_000
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0")) | st.sampled_from(
    ["", "é" * 16, "🙂" * 9, "x" * 31, "x" * 32, "x" * 33, "x" * 63, "x" * 64, "y" * 600, "z" * 9000]
)


def edges(bits: int) -> st.SearchStrategy[int]:
    """Integers of every length in bytes, and those beside the limits."""
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    close = [n + d for k in range(0, bits - 1, 7) for n in (1 << k, -(1 << k)) for d in (-1, 0, 1)]
    return st.integers(low, high) | st.sampled_from([low, high, *[n for n in close if low <= n <= high]])


def decimals(precision: int, scale: int) -> st.SearchStrategy[Decimal]:
    most = 10**precision - 1
    close = st.integers(-min(most, 300), min(most, 300))
    unscaled = st.integers(-most, most) | close | st.sampled_from([0, most, -most])
    return unscaled.map(lambda n: Decimal((n < 0, tuple(map(int, str(abs(n)))), -scale)))


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "smallint": edges(16),
    "integer": edges(32),
    "bigint": edges(64),
    "boolean": st.booleans(),
    "text": TEXTS,
    "character varying(700)": TEXTS,
    "date": st.integers(-2_451_508, 2_145_031_948) | st.sampled_from([-(2**31), 2**31 - 1]),
    "timestamp with time zone": st.integers(-211_813_488_000_000_000, 2**63 - 1 - EPOCH_MICROSECONDS - 1)
    | st.sampled_from([-(2**63), 2**63 - 1, 0, -1]),
    "timestamp(3) without time zone": st.integers(-211_813_488_000_000_000, 2**62),
    "time without time zone": st.integers(0, 86_400_000_000),
    "real": st.floats(width=32),
    "double precision": st.floats(),
    "uuid": st.uuids(),
    "jsonb": st.sampled_from(['{"a": 1}', "[]", '"é🙂"', "1.50", '"' + "x" * 500 + '"']),
    "bytea": st.binary() | st.sampled_from([b"\0", bytes(range(256)), b"\xff" * 33]),
    "numeric(1,0)": decimals(1, 0),
    "numeric(10,2)": decimals(10, 2),
    "numeric(18,0)": decimals(18, 0),
    "numeric(18,18)": decimals(18, 18),
    "numeric(18,7)": decimals(18, 7),
    "numeric(38,5)": decimals(38, 5),
    "interval": st.sampled_from(["1 day", "", "3 mons -00:00:01"]),
}


def sent(field: Field, value: Any) -> bytes:
    """The value as its type's send function gives it."""
    match field.kind:
        case "smallint" | "integer" | "bigint" | "date" | "timestamptz" | "timestamp" | "time":
            widths = {"smallint": ">h", "integer": ">i", "date": ">i"}
            return struct.pack(widths.get(field.kind, ">q"), value)
        case "boolean":
            return struct.pack(">?", value)
        case "real":
            return struct.pack(">f", value)
        case "double":
            return struct.pack(">d", value)
        case "uuid":
            return value.bytes
        case "jsonb":
            return b"\1" + value.encode()
        case "bytea":
            return value
        case "numeric":
            return numeric_binary(value)
    return value.encode()


def tuple_of(fields: Sequence[Field], values: Sequence[Any]) -> bytes:
    """One row as COPY BINARY has it."""
    parts = [struct.pack(">h", len(fields))]
    for field, value in zip(fields, values, strict=True):
        data = None if value is None else sent(field, value)
        parts.append(struct.pack(">i", -1) if data is None else struct.pack(">i", len(data)) + data)
    return b"".join(parts)


def datum(field: Field, value: Any) -> Any:
    """What fastavro's writer takes for it."""
    if value is None:
        return None
    if field.kind == "date" and abs(value) < 2**31 - 1:
        return value + EPOCH_DAYS
    if field.kind in ("timestamptz", "timestamp") and abs(value) < 2**63 - 1:
        return value + EPOCH_MICROSECONDS
    return str(value) if isinstance(value, UUID) else value


@st.composite
def tables(draw: st.DrawFn, most_rows: int = 40) -> tuple[list[Field], list[list[Any]]]:
    """Columns of any types, and rows of them."""
    types = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=8))
    fields = [Field(f"c{i}", f"c{i}", sql_type, draw(st.booleans())) for i, sql_type in enumerate(types)]
    columns = [st.none() | VALUES[f.sql_type] if f.nullable else VALUES[f.sql_type] for f in fields]
    return fields, [list(row) for row in draw(st.lists(st.tuples(*columns), max_size=most_rows))]
