"""The data dictionary: what each table is, read once from ``dictionary.toml`` and checked.

Everything that knows a table's columns follows from here: CSV and JSON rules, check against the database, API, backup.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from shared.errors import AmbiguousTable, DictionaryError, UnknownTable

DICTIONARY_PATH = Path(__file__).with_name("dictionary.toml")

Kind = Literal["integer", "bigint", "text", "timestamptz", "date", "numeric", "boolean", "uuid", "jsonb"]
KINDS: tuple[Kind, ...] = ("integer", "bigint", "text", "timestamptz", "date", "numeric", "boolean", "uuid", "jsonb")
INTEGER_RANGE = {"integer": (-(2**31), 2**31 - 1), "bigint": (-(2**63), 2**63 - 1)}
NUMERIC = re.compile(r"numeric\((\d+),\s*(\d+)\)\Z")
IDENTIFIER = re.compile(r"[a-z_][a-z0-9_]{0,62}\Z")  # PostgreSQL folds and cuts other names: they would need quoting

RETENTION_DAYS = 400  # of loads whose table is not known too


@dataclass(frozen=True, slots=True)
class Column:
    """One column and its rules.

    Attributes:
        name: the column's name in PostgreSQL, JSON and AVRO.
        kind: the type, without parameters.
        precision: digits in all of a ``numeric``; 0 for other kinds.
        scale: digits after the point of a ``numeric``; 0 for other kinds.
        required: an empty field is a missing value and is rejected.
        aliases: other header names that mean this column, lower case.
        minimum: smallest integer allowed; None for kinds other than integer and bigint.
        maximum: largest integer allowed; None likewise.
        max_length: characters of a text; None for no limit of its own.
        references: key of the table whose primary key this column holds, or None.
        parent_missing: what a row of a file does while its parent is absent.
        assume_zone: zone of a timestamp that names none (``"UTC"``), or None to reject it.
        date_alone: ``"midnight"`` takes a date without a time as its first instant, ``"reject"`` refuses it.
    """

    name: str
    kind: Kind
    precision: int = 0
    scale: int = 0
    required: bool = True
    aliases: tuple[str, ...] = ()
    minimum: int | None = None
    maximum: int | None = None
    max_length: int | None = None
    references: str | None = None
    parent_missing: Literal["wait", "reject"] = "wait"
    assume_zone: Literal["UTC"] | None = None
    date_alone: Literal["midnight", "reject"] = "reject"

    @property
    def sql_type(self) -> str:
        """The type as PostgreSQL's ``format_type`` prints it, e.g. ``timestamp with time zone``."""
        if self.kind == "numeric":
            return f"numeric({self.precision},{self.scale})"
        return "timestamp with time zone" if self.kind == "timestamptz" else self.kind


@dataclass(frozen=True, slots=True)
class Table:
    """One table and its rules.

    Attributes:
        key: the name in the dictionary, in history and in commands; it is the table's name in PostgreSQL too.
        schema: PostgreSQL schema.
        api_name: resource under ``/api/``.
        file_pattern: searched, case ignored, in the base name of an object.
        columns: in the order of the table and of a file without header.
        primary_key: name of the one key column; ``identity_start`` is where ids of rows posted without one begin.
        encoding: Python codec name of files; UTF-8 (with or without BOM) unless the dictionary says otherwise.
        max_record_bytes: a record longer than this is rejected.
        max_errors: rejected rows above which the load is rolled back; None for never.
        max_error_ratio: the same as a share (0..1) of the rows read.
        max_leading_errors: the load is rolled back if the first so many rows are all rejected; None for never.
        max_update_ratio: updated rows above this share (0..1) of the rows in the table before: rolled back.
        pending_days: days that a row waits for its parent before it is rejected.
        retention_days: days after a load's end at which all that may hold personal data goes: its rejects, open ones
            too, its reason and its details; of a file's, what says that it was loaded stays.
    """

    key: str
    schema: str
    api_name: str
    file_pattern: str
    columns: tuple[Column, ...]
    primary_key: str = "id"
    identity_start: int = 1_000_000_000
    encoding: str = "utf-8"
    max_record_bytes: int = 1 << 20
    max_errors: int | None = None
    max_error_ratio: float | None = None
    max_leading_errors: int | None = None
    max_update_ratio: float | None = None
    pending_days: int = 30
    retention_days: int = RETENTION_DAYS
    by_name: Mapping[str, Column] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {column.name: column for column in self.columns})

    @property
    def key_column(self) -> Column:
        """The primary key's column."""
        return self.by_name[self.primary_key]

    def matches(self, object_name: str) -> bool:
        """Whether the base name of ``object_name`` belongs to this table."""
        return re.search(self.file_pattern, object_name.rsplit("/", 1)[-1], re.IGNORECASE) is not None


@dataclass(frozen=True, slots=True)
class Dictionary:
    """All tables by key, parents before children."""

    tables: Mapping[str, Table]

    def table_for_object(self, object_name: str) -> Table:
        """The table that an object's rows belong to, by the base name of the object.

        Raises:
            UnknownTable: no pattern matches.
            AmbiguousTable: more than one does.
        """
        found = [table for table in self.tables.values() if table.matches(object_name)]
        if len(found) == 1:
            return found[0]
        patterns = ", ".join(f"{t.key}: {t.file_pattern!r}" for t in (found or self.tables.values()))
        base = object_name.rsplit("/", 1)[-1]
        if found:
            raise AmbiguousTable(f"the name {base!r} matches more than one table ({patterns}); rename the file")
        raise UnknownTable(f"the name {base!r} matches no table ({patterns}); rename the file")

    def children_of(self, parent_key: str) -> tuple[tuple[Table, Column], ...]:
        """Every (table, column) that references ``parent_key``, in dictionary order."""
        return tuple((t, c) for t in self.tables.values() for c in t.columns if c.references == parent_key)


@cache
def load(path: Path = DICTIONARY_PATH) -> Dictionary:
    """Read and check the dictionary at ``path``.

    Raises:
        DictionaryError: unknown key, type or reference, a cycle of tables, a pattern that does not compile.
    """
    with path.open("rb") as file:
        try:
            document = tomllib.load(file)
        except tomllib.TOMLDecodeError as error:
            raise DictionaryError(f"{path.name}: {error}") from error
    return parse(document)


def parse(document: Mapping[str, Any]) -> Dictionary:
    """Build the dictionary from its parsed TOML document.

    Raises:
        DictionaryError: as ``load``.
    """
    if extra := set(document) - {"tables"}:
        raise DictionaryError(f"unknown section {sorted(extra)[0]!r}; only [tables.*] is known")
    tables = {key: _table(key, entry) for key, entry in document.get("tables", {}).items()}
    for table in tables.values():
        for column in table.columns:
            if column.references is None:
                continue
            parent = tables.get(column.references)
            if parent is None:
                raise DictionaryError(f"{table.key}.{column.name}: references unknown table {column.references!r}")
            if parent.key_column.kind != column.kind:
                raise DictionaryError(
                    f"{table.key}.{column.name}: {column.kind} cannot hold {parent.key}.{parent.primary_key}, "
                    f"which is {parent.key_column.kind}"
                )
    return Dictionary(_parents_first(tables))


def _parents_first(tables: dict[str, Table]) -> dict[str, Table]:
    ordered: dict[str, Table] = {}
    remaining = dict(tables)
    while remaining:
        ready = [
            key
            for key, table in remaining.items()
            if all(c.references in (None, key) or c.references in ordered for c in table.columns)
        ]
        if not ready:
            raise DictionaryError(f"tables reference one another in a circle: {', '.join(remaining)}")
        ordered.update((key, remaining.pop(key)) for key in ready)
    return ordered


TABLE_KEYS = {f for f in Table.__dataclass_fields__ if f not in {"key", "columns", "by_name"}}
COLUMN_KEYS = (set(Column.__dataclass_fields__) | {"type"}) - {"name", "kind", "precision", "scale"}


def _table(key: str, entry: Mapping[str, Any]) -> Table:
    if not IDENTIFIER.match(key):
        raise DictionaryError(f"table {key!r}: a name is lower-case letters, digits and _, at most 63")
    if extra := set(entry) - TABLE_KEYS - {"columns"}:
        raise DictionaryError(f"{key}: unknown key {sorted(extra)[0]!r}; known are {', '.join(sorted(TABLE_KEYS))}")
    for needed in ("schema", "api_name", "file_pattern", "columns"):
        if needed not in entry:
            raise DictionaryError(f"{key}: {needed!r} is missing")
    try:
        re.compile(entry["file_pattern"])
        "".encode(entry.get("encoding", "utf-8"))
    except (re.error, LookupError) as error:
        raise DictionaryError(f"{key}: {error}") from error
    primary_key = entry.get("primary_key", "id")
    columns = tuple(_column(key, name, c, name == primary_key) for name, c in entry["columns"].items())
    rest = {k: v for k, v in entry.items() if k != "columns"}
    table = Table(key=key, columns=columns, **rest)
    if primary_key not in table.by_name:
        raise DictionaryError(f"{key}: the primary key {primary_key!r} is not one of its columns")
    if not table.key_column.required:
        raise DictionaryError(f"{key}: the primary key {primary_key!r} must be required")
    names = [n for c in columns for n in {c.name, *c.aliases}]
    if doubles := {n for n in names if names.count(n) > 1}:
        raise DictionaryError(f"{key}: the header name {sorted(doubles)[0]!r} means more than one column")
    return table


def _column(table: str, name: str, entry: Mapping[str, Any], is_key: bool) -> Column:
    where = f"{table}.{name}"
    if not IDENTIFIER.match(name):
        raise DictionaryError(f"{where}: a name is lower-case letters, digits and _, at most 63")
    if extra := set(entry) - COLUMN_KEYS:
        raise DictionaryError(f"{where}: unknown key {sorted(extra)[0]!r}; known are {', '.join(sorted(COLUMN_KEYS))}")
    kind = str(entry.get("type", ""))
    precision = scale = 0
    if numeric := NUMERIC.match(kind):
        kind, precision, scale = "numeric", int(numeric[1]), int(numeric[2])
        if not 1 <= precision <= 1000 or scale > precision:
            raise DictionaryError(f"{where}: {kind}({precision},{scale}) needs 1..1000 digits, no more after the point")
    if kind not in KINDS or (kind == "numeric" and not precision):
        raise DictionaryError(f"{where}: type {entry.get('type')!r} is not one of {', '.join(KINDS)} (as numeric(p,s))")
    values: dict[str, Any] = {k: v for k, v in entry.items() if k != "type"}
    values["aliases"] = tuple(str(a).lower() for a in entry.get("aliases", ()))
    if kind in INTEGER_RANGE:
        low, high = INTEGER_RANGE[kind]
        is_id = is_key or "references" in entry  # ids are positive; other integers may be anything the type holds
        values["minimum"] = max(low, int(entry.get("minimum", 1 if is_id else low)))
        values["maximum"] = min(high, int(entry.get("maximum", high)))
    for switch, kinds in (
        ("assume_zone", ("timestamptz",)),
        ("date_alone", ("timestamptz",)),
        ("max_length", ("text",)),
        ("minimum", ("integer", "bigint")),
        ("maximum", ("integer", "bigint")),
    ):
        if switch in entry and kind not in kinds:
            raise DictionaryError(f"{where}: {switch!r} is for {' and '.join(kinds)}, not for {kind}")
    for switch, allowed in (
        ("assume_zone", ("UTC",)),
        ("date_alone", ("midnight", "reject")),
        ("parent_missing", ("wait", "reject")),
    ):
        if switch in entry and entry[switch] not in allowed:
            raise DictionaryError(f"{where}: {switch} = {entry[switch]!r} is not one of {', '.join(allowed)}")
    return Column(name=name, kind=kind, precision=precision, scale=scale, **values)
