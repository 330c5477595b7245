"""The data dictionary: what each table is, read once from ``dictionary.toml`` and checked.

Everything that knows a table's columns follows from here: CSV and JSON rules, check against the database, API, backup.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from shared.errors import AmbiguousTable, DictionaryError, UnknownTable

DICTIONARY_PATH = Path(__file__).with_name("dictionary.toml")

Kind = Literal["integer", "bigint", "text", "timestamptz", "date", "numeric", "boolean", "uuid", "jsonb"]
KINDS: tuple[Kind, ...] = ("integer", "bigint", "text", "timestamptz", "date", "numeric", "boolean", "uuid", "jsonb")
# Of a boolean there would be two rows at most; jsonb has many texts for one value, and no limit of an index's size.
KEY_KINDS = tuple(kind for kind in KINDS if kind not in ("boolean", "jsonb"))
# Characters of a text that is a key or holds one. An entry of a B-tree has at most 2,704 bytes (a third of a page of
# 8 kB); the largest that a key gets into is that of the rows that wait: the names of a table and of a column (64 bytes
# each), the key of up to 4 bytes a character, a load and a record (8 each), and 24 of header, length and alignment.
KEY_CHARACTERS = 600
LoadMode = Literal["merge", "add"]
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
        max_length: characters of a text; None for no limit of its own, which a key never has.
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
        load_mode: what a row of a file does whose id the table has already with other content: ``"merge"`` changes the
            live row, ``"add"`` rejects the file's.
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
    load_mode: LoadMode = "merge"
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
        DictionaryError: unknown key, type or reference, a value of the wrong type or out of range, a cycle of tables, a
            pattern that does not compile, two tables of one API name, a kind that can be no key.
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
    entries = _mapping("tables", document.get("tables", {}))
    tables = {key: _table(key, entry) for key, entry in entries.items()}
    _check_api_names(tables)
    for table in tables.values():
        for column in table.columns:
            _check_reference(tables, table, column)
    return Dictionary(_parents_first(tables))


def _check_api_names(tables: Mapping[str, Table]) -> None:
    owners: dict[str, str] = {}
    for table in tables.values():
        if (owner := owners.setdefault(table.api_name, table.key)) != table.key:
            raise DictionaryError(f"{table.key}: api_name = {table.api_name!r} is that of {owner}: give it another")


def _check_reference(tables: Mapping[str, Table], table: Table, column: Column) -> None:
    if column.references is None:
        return
    parent = tables.get(column.references)
    if parent is None:
        raise DictionaryError(f"{table.key}.{column.name}: references unknown table {column.references!r}")
    if parent.key_column.sql_type != column.sql_type:  # numeric(4,2) would round, or refuse, keys of numeric(6,3)
        raise DictionaryError(
            f"{table.key}.{column.name}: {column.sql_type} cannot hold {parent.key}.{parent.primary_key}, "
            f"which is {parent.key_column.sql_type}"
        )


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


@dataclass(frozen=True, slots=True)
class _Allowed:
    """Which values a key of an entry takes, and how a message says it."""

    what: str
    holds: Callable[[Any], bool]


def _whole(low: int, high: int) -> _Allowed:
    def holds(value: Any) -> bool:
        return type(value) is int and low <= value <= high  # a boolean is an int to isinstance

    return _Allowed(f"a whole number from {low} to {high}, without quotes", holds)


def _one_of(*words: str) -> _Allowed:
    return _Allowed(" or ".join(f'"{word}"' for word in words), lambda value: value in words)


def _matching(pattern: str, what: str) -> _Allowed:
    expression = re.compile(pattern)
    return _Allowed(what, lambda value: isinstance(value, str) and expression.fullmatch(value) is not None)


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) and item.strip() for item in value)


TEXT = _Allowed("a text, which is not empty", lambda value: isinstance(value, str) and value.strip() != "")
SHARE = _Allowed("a share from 0 to 1, without quotes", _is_share)
DAYS = _whole(0, 36_500)
ANY_COUNT = 2**63 - 1
TAKEN_API_NAMES = ("batch", "ingests", "rejects", "backups", "dead-letters", "metrics")  # the API's own, under /api/
TABLE_VALUES = {
    "schema": _matching(r"[a-z_][a-z0-9_]{0,62}", "lower-case letters, digits and _, at most 63"),
    # What begins with a digit is a year of the metrics.
    "api_name": _matching(
        rf"(?!(?:{'|'.join(TAKEN_API_NAMES)})\Z)[a-z][a-z0-9_-]*",
        f"lower-case letters, digits, _ and -, and not {', '.join(TAKEN_API_NAMES)}",
    ),
    "file_pattern": TEXT,
    "primary_key": TEXT,
    "identity_start": _whole(1, INTEGER_RANGE["bigint"][1]),
    "load_mode": _one_of("merge", "add"),
    "encoding": TEXT,
    "max_record_bytes": _whole(1, 1 << 26),  # some blocks of that length are in memory at a time
    "max_errors": _whole(0, ANY_COUNT),
    "max_error_ratio": SHARE,
    "max_leading_errors": _whole(1, ANY_COUNT),
    "max_update_ratio": SHARE,
    "pending_days": DAYS,
    "retention_days": DAYS,
}
COLUMN_VALUES = {
    "type": TEXT,
    "required": _Allowed("true or false, without quotes", lambda value: isinstance(value, bool)),
    "aliases": _Allowed('a list of texts, such as ["name"]', _are_texts),
    "minimum": _whole(*INTEGER_RANGE["bigint"]),
    "maximum": _whole(*INTEGER_RANGE["bigint"]),
    "max_length": _whole(1, 1 << 26),
    "references": TEXT,
    "parent_missing": _one_of("wait", "reject"),
    "assume_zone": _one_of("UTC"),
    "date_alone": _one_of("midnight", "reject"),
}
TABLE_KEYS = set(TABLE_VALUES)
COLUMN_KEYS = set(COLUMN_VALUES)
ONLY_FOR: dict[str, tuple[Kind, ...]] = {
    "assume_zone": ("timestamptz",),
    "date_alone": ("timestamptz",),
    "max_length": ("text",),
    "minimum": ("integer", "bigint"),
    "maximum": ("integer", "bigint"),
}


def _mapping(where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise DictionaryError(f"{where} = {value!r} must be a table of TOML, [{where}]")
    return value


def _check_entry(where: str, entry: Mapping[str, Any], allowed: Mapping[str, _Allowed]) -> None:
    """Raise DictionaryError at the first key that is not known, or has a value that it does not take."""
    if extra := set(entry) - set(allowed):
        raise DictionaryError(f"{where}: unknown key {sorted(extra)[0]!r}; known are {', '.join(sorted(allowed))}")
    for name, value in entry.items():
        if not allowed[name].holds(value):
            raise DictionaryError(f"{where}: {name} = {value!r} must be {allowed[name].what}")


def _check_name(where: str, name: str) -> None:
    if not IDENTIFIER.match(name):
        raise DictionaryError(f"{where}: {name!r} must be lower-case letters, digits and _, at most 63")


def _table(key: str, entry: Any) -> Table:
    _check_name(f"table {key!r}", key)
    rest = {k: v for k, v in _mapping(f"tables.{key}", entry).items() if k != "columns"}
    _check_entry(key, rest, TABLE_VALUES)
    for needed in ("schema", "api_name", "file_pattern", "columns"):
        if needed not in entry:
            raise DictionaryError(f"{key}: {needed!r} is missing")
    _check_readable(key, entry)
    primary_key = entry.get("primary_key", "id")
    columns = _mapping(f"tables.{key}.columns", entry["columns"])
    table = Table(key=key, columns=tuple(_column(key, n, c, n == primary_key) for n, c in columns.items()), **rest)
    _check_key(table)
    names = [n for c in table.columns for n in {c.name, *c.aliases}]
    if doubles := {n for n in names if names.count(n) > 1}:
        raise DictionaryError(f"{key}: the header name {sorted(doubles)[0]!r} means more than one column")
    return table


def _check_readable(key: str, entry: Mapping[str, Any]) -> None:
    encoding = entry.get("encoding", "utf-8")
    try:
        re.compile(entry["file_pattern"])
        "".encode(encoding)
    except re.error as error:
        raise DictionaryError(
            f"{key}: file_pattern = {entry['file_pattern']!r} is no regular expression: {error}"
        ) from error
    except LookupError as error:
        raise DictionaryError(f"{key}: encoding = {encoding!r} is no text encoding that Python knows") from error


def _check_key(table: Table) -> None:
    if table.primary_key not in table.by_name:
        raise DictionaryError(f"{table.key}: the primary key {table.primary_key!r} is not one of its columns")
    if not table.key_column.required:
        raise DictionaryError(f"{table.key}: the primary key {table.primary_key!r} must be required")
    if table.key_column.kind not in KEY_KINDS:
        raise DictionaryError(
            f"{table.key}.{table.primary_key}: a primary key cannot be {table.key_column.kind}, "
            f"only {', '.join(KEY_KINDS)}"
        )


def _column(table: str, name: str, entry: Any, is_key: bool) -> Column:
    where = f"{table}.{name}"
    _check_name(where, name)
    _check_entry(where, _mapping(f"tables.{table}.columns.{name}", entry), COLUMN_VALUES)
    kind, precision, scale = _type(where, entry.get("type", ""))
    for switch, kinds in ONLY_FOR.items():
        if switch in entry and kind not in kinds:
            raise DictionaryError(f"{where}: {switch!r} is for {' and '.join(kinds)}, not for {kind}")
    values: dict[str, Any] = {k: v for k, v in entry.items() if k != "type"}
    values["aliases"] = tuple(alias.lower() for alias in entry.get("aliases", ()))
    holds_key = is_key or "references" in entry
    if kind in INTEGER_RANGE:
        values["minimum"], values["maximum"] = _limits(where, entry, kind, holds_key)
    if kind == "text" and holds_key:
        values["max_length"] = _key_length(where, entry.get("max_length", KEY_CHARACTERS))
    return Column(name=name, kind=kind, precision=precision, scale=scale, **values)


def _type(where: str, declared: str) -> tuple[Kind, int, int]:
    """Kind, precision and scale of a type as the dictionary writes it."""
    if numeric := NUMERIC.match(declared):
        precision, scale = int(numeric[1]), int(numeric[2])
        if not 1 <= precision <= 1000 or scale > precision:
            raise DictionaryError(f"{where}: {declared} needs 1..1000 digits, no more after the point")
        return "numeric", precision, scale
    for kind in KINDS:
        if kind == declared != "numeric":
            return kind, 0, 0
    raise DictionaryError(f"{where}: type {declared!r} is not one of {', '.join(KINDS)} (as numeric(p,s))")


def _limits(where: str, entry: Mapping[str, Any], kind: Kind, holds_key: bool) -> tuple[int, int]:
    """Smallest and largest integer: ids are positive unless the entry says otherwise, others what the type holds."""
    low, high = INTEGER_RANGE[kind]
    minimum, maximum = entry.get("minimum", 1 if holds_key else low), entry.get("maximum", high)
    if not low <= minimum <= maximum <= high:
        raise DictionaryError(
            f"{where}: minimum = {minimum} and maximum = {maximum} must rise, within {low} to {high} of {kind}"
        )
    return minimum, maximum


def _key_length(where: str, wanted: int) -> int:
    if wanted > KEY_CHARACTERS:
        raise DictionaryError(
            f"{where}: max_length = {wanted} must be at most {KEY_CHARACTERS}: a longer key would fit in no index"
        )
    return wanted
