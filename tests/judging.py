"""For tests of the judge: the vectors of tests/vectors.toml, COPY BINARY read back, files as readers."""

from __future__ import annotations

import csv
import io
import struct
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from functions.ingest.dialect import Dialect
from functions.ingest.judge import PENDING, REJECTED, Judge, Judged
from functions.ingest.parents import Present
from shared.dictionary import Column, Table, parse

VECTORS = tomllib.loads(Path(__file__).with_name("vectors.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Vector:
    """One text and what it is worth in one column: the canonical text of its value, or the code of a reason."""

    column: Column
    text: str
    canonical: str | None
    code: str | None

    def __str__(self) -> str:
        return f"{self.column.name}:{self.text[:40]!a}"


def table_of(columns: dict[str, Any], **settings: Any) -> Table:
    """A table whose first column is its key; a column that references one makes that table up."""
    parents = {c["references"]: c["type"] for c in columns.values() if "references" in c}
    tables = {
        key: {"schema": "s", "api_name": key, "file_pattern": f"^{key}", "columns": {"id": {"type": kind}}}
        for key, kind in parents.items()
        if key != "things"
    }
    tables["things"] = {
        "schema": "s",
        "api_name": "things",
        "file_pattern": "thing",
        "primary_key": next(iter(columns)),
        "columns": columns,
        **settings,
    }
    return parse({"tables": tables}).tables["things"]


def _vectors() -> Iterator[Vector]:
    for name, entry in VECTORS.items():
        column = table_of({"key": {"type": "integer"}, name: entry["column"]}).by_name[name]
        for text, canonical in entry["accepted"]:
            yield Vector(column, text, canonical, None)
        for code, texts in entry["rejected"].items():
            for text in texts:
                yield Vector(column, text, None, code)


ALL_VECTORS = tuple(_vectors())


def read_tuples(data: bytes) -> list[list[bytes | None]]:
    """The rows of COPY BINARY tuples, without header and trailer."""
    rows, at = [], 0
    while at < len(data):
        (count,) = struct.unpack_from(">h", data, at)
        at += 2
        row: list[bytes | None] = []
        for _ in range(count):
            (length,) = struct.unpack_from(">i", data, at)
            at += 4
            row.append(None if length < 0 else data[at : at + length])
            at += max(length, 0)
        rows.append(row)
    assert at == len(data)
    return rows


def read_array(data: bytes) -> list[str]:
    """The items of a binary text[]."""
    dimensions, has_nulls, kind, size, lower = struct.unpack_from(">iiIii", data)
    assert (dimensions, has_nulls, kind, lower) == (1, 0, 25, 1)
    items, at = [], 20
    for _ in range(size):
        (length,) = struct.unpack_from(">i", data, at)
        items.append(data[at + 4 : at + 4 + length].decode())
        at += 4 + length
    assert at == len(data)
    return items


def csv_line(values: list[str]) -> bytes:
    """One line, each value quoted."""
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n").writerow(values)
    return out.getvalue().encode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class Outcome:
    """All that the judge says of one record."""

    record_number: int
    line_number: int
    byte_offset: int
    byte_length: int
    status: int
    reasons: tuple[str, ...]
    key: int | str | None
    values: tuple[bytes | None, ...] | None
    rejected: tuple[bytes | None, ...] | None
    pending: tuple[bytes | None, ...] | None


def outcomes(block: Judged) -> list[Outcome]:
    """Everything about each record of a block; the encoders are called once for all rows of a kind."""
    usable = np.flatnonzero(block.status != REJECTED)
    values = dict(zip(usable.tolist(), read_tuples(block.encode_rows(usable)), strict=True))
    keys = dict(zip(usable.tolist(), block.keys(usable), strict=True))
    if block.keys_exact:
        assert [keys[row] for row in usable.tolist()] == block.key_codes[usable].tolist()
    rows = np.flatnonzero(block.status == REJECTED)
    rejected = dict(zip(rows.tolist(), read_tuples(block.encode_rejects(rows, 7)), strict=True))
    rows = np.flatnonzero(block.status == PENDING)
    pending = dict(zip(rows.tolist(), read_tuples(block.encode_pending(rows, 7)), strict=True))
    return [
        Outcome(
            *(int(numbers[row]) for numbers in (block.record_numbers, block.line_numbers)),
            *(int(numbers[row]) for numbers in (block.byte_offsets, block.byte_lengths, block.status)),
            block.reasons(row),
            keys.get(row),
            *(tuple(found[row]) if row in found else None for found in (values, rejected, pending)),
        )
        for row in range(block.n)
    ]


def judge_file(table: Table, dialect: Dialect, data: bytes, present: Present, **settings: Any) -> list[Outcome]:
    """Judge a whole file."""
    judge = Judge(table, dialect, present, **settings)
    return [outcome for block in judge.blocks(io.BytesIO(data)) for outcome in outcomes(block)]


def positional(table: Table, delimiter: bytes = b",") -> Dialect:
    """A file without header."""
    return Dialect(delimiter, tuple(column.name for column in table.columns), has_header=False, ignored=())
