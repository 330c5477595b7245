"""A backup's manifest, version 1: all that a backup contains, and the sums by which it is known again (decision 0008).

It is written last and created, never overwritten: no manifest, no backup.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Literal, get_args
from urllib.parse import quote
from uuid import uuid4

from shared.avro.schema import Field, canonical_sha256
from shared.errors import BackupDamaged

FORMAT = "rowdock.backup"
VERSION = 1
ROOT = "backups/"
MOST_BYTES = 64 << 20  # of a manifest: some 200,000 parts

Kind = Literal["scheduled", "now", "undo"]
ID = re.compile(r"(\d{8}T\d{6}Z)(?:-(now|undo)-[0-9a-f]{8})?")


@dataclass(frozen=True, slots=True)
class Column:
    """One column as the table had it.

    Attributes:
        type: as ``format_type`` prints it.
        default: the expression's text, of a generated column what it is computed from.
        identity: ``""`` for none, ``"a"`` for always, ``"d"`` for by default.
        generated: computed from others: it is not among the rows.
    """

    name: str
    type: str
    not_null: bool
    default: str | None
    identity: str
    generated: bool
    avro_name: str

    @property
    def field(self) -> Field:
        """The column as the encoder and the checksum know it."""
        return Field(self.name, self.avro_name, self.type, nullable=not self.not_null)


@dataclass(frozen=True, slots=True)
class Sequence:
    """Where the sequence of a column stood; it follows no snapshot, so that it is raised at restore, never lowered."""

    column: str
    last_value: int
    is_called: bool


@dataclass(frozen=True, slots=True)
class Checksum:
    """The content's order-free sum (``shared.backups.checksum``), and the server whose hash functions made it."""

    algorithm: str
    server_major: int
    value: str


@dataclass(frozen=True, slots=True)
class Part:
    """One AVRO file.

    Attributes:
        object: its name in the bucket.
        sha256: of its bytes, hexadecimal.
        crc32c: of its bytes, base64 of the big-endian value, as stores tell it.
        generation: the store's own of this object.
        datums_sha256: of the uncompressed datums, hexadecimal.
    """

    object: str
    rows: int
    bytes: int
    sha256: str
    crc32c: str
    generation: str
    datums_sha256: str


@dataclass(frozen=True, slots=True)
class TableBackup:
    """One table: what it was like, and the parts that hold its rows.

    Attributes:
        dictionary_key: its name in the dictionary, None for the bookkeeping.
        constraints: each as ``pg_get_constraintdef`` prints it.
        key_max: the greatest key, where that is one integer.
        has_infinity: columns that hold an infinite date or time, as the least or the greatest integer.
    """

    schema: str
    name: str
    dictionary_key: str | None
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...]
    constraints: tuple[str, ...]
    sequences: tuple[Sequence, ...]
    avro_schema: Mapping[str, Any]
    avro_schema_sha256: str
    rows: int
    key_max: int | None
    checksum: Checksum
    has_infinity: tuple[str, ...]
    parts: tuple[Part, ...]

    @property
    def full_name(self) -> str:
        """``schema.name``, for people and folders."""
        return f"{self.schema}.{self.name}"

    @property
    def fields(self) -> tuple[Field, ...]:
        """The columns that rows consist of."""
        return tuple(column.field for column in self.columns if not column.generated)


@dataclass(frozen=True, slots=True)
class Manifest:
    """One backup.

    Attributes:
        scheduled_at: the instant that it was asked for; None unless ``kind`` is scheduled.
        whole: it holds every table that there was to back up, and not only some that somebody chose.
        snapshot_at: what the tables held at this instant is in it; backups are ordered by it.
        snapshot: ``pg_current_snapshot()``.
        server_version: as ``server_version_num`` says it.
    """

    backup_id: str
    kind: Kind
    tool_version: str
    scheduled_at: datetime | None
    snapshot_at: datetime
    finished_at: datetime
    snapshot: str
    wal_lsn: str
    server_version: int
    encoding: str
    whole: bool
    tables: tuple[TableBackup, ...]

    @property
    def parts(self) -> tuple[Part, ...]:
        """Of all tables."""
        return tuple(part for table in self.tables for part in table.parts)

    def table(self, name: str) -> TableBackup | None:
        """The table of that dictionary key or ``schema.name``, None if it is not in this backup."""
        return next((t for t in self.tables if name in (t.dictionary_key, t.full_name)), None)

    def to_bytes(self) -> bytes:
        """The object that is stored."""
        content = {"format": FORMAT, "version": VERSION, **_plain(self)}
        return json.dumps({**content, "sha256": _sum(content)}, sort_keys=True, ensure_ascii=False, indent=1).encode()


# --- Names


def new_id(kind: Kind, at: datetime) -> str:
    """The id of a backup of the instant ``at`` (aware): of a scheduled one always the same, of others a new one."""
    stamp = at.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    return stamp if kind == "scheduled" else f"{stamp}-{kind}-{uuid4().hex[:8]}"


def is_id(text: str) -> bool:
    """Whether ``text`` is the id of a backup, and so safe in an object's name."""
    return ID.fullmatch(text) is not None


def folder(backup_id: str) -> str:
    """What all objects of a backup start with."""
    return f"{ROOT}{backup_id}/"


def manifest_name(backup_id: str) -> str:
    """The manifest's object."""
    return f"{folder(backup_id)}manifest.json"


def part_name(backup_id: str, run: str, schema: str, table: str, number: int) -> str:
    """The object of a table's part; ``run`` tells the parts of one run from those that another left behind."""
    return f"{folder(backup_id)}{run}/{_table_folder(schema, table)}/{number:05}.avro"


def _table_folder(schema: str, table: str) -> str:
    return f"{quote(schema, safe='')}.{quote(table, safe='')}"


# --- Reading


def parse(body: bytes) -> Manifest:
    """Read a manifest strictly.

    Raises:
        BackupDamaged: it is no manifest of this version, lacks a key, has one too many or a value of another type, its
            sum is wrong, rows do not add up, or a part lies outside of its own folder.
    """
    document = _json(body)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise BackupDamaged(f"the manifest is none: its format is not {FORMAT}")
    if document.get("version") != VERSION:
        raise BackupDamaged(f"the manifest has version {document.get('version')!r}; this program reads {VERSION}")
    told = document.pop("sha256", None)
    if told != _sum(document):
        raise BackupDamaged("the manifest's own sha256 is wrong: it was changed after it was written")
    del document["format"], document["version"]
    manifest: Manifest = _MANIFEST(document, "manifest")
    _check(manifest)
    return manifest


def _json(body: bytes) -> Any:
    try:
        return json.loads(body.decode(), object_pairs_hook=_without_doubles, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BackupDamaged(f"the manifest is no JSON that can be read ({type(error).__name__})") from None


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _check(manifest: Manifest) -> None:
    """Raise BackupDamaged where the manifest contradicts itself."""
    named = ID.fullmatch(manifest.backup_id)
    if named is None or (named[2] or "scheduled") != manifest.kind:
        raise BackupDamaged(f"manifest.backup_id: {manifest.backup_id!r} is no id of kind {manifest.kind}")
    objects = [part.object for part in manifest.parts]
    if len(objects) != len(set(objects)):
        raise BackupDamaged("manifest.tables: a part belongs to two places")
    if len({table.full_name for table in manifest.tables}) != len(manifest.tables):
        raise BackupDamaged("manifest.tables: a table stands twice")
    for table in manifest.tables:
        _check_table(manifest.backup_id, table)


def _check_table(backup_id: str, table: TableBackup) -> None:
    where = f"manifest.tables {table.full_name}"
    if sum(part.rows for part in table.parts) != table.rows:
        raise BackupDamaged(f"{where}: the rows of its parts are not {table.rows} in all")
    if canonical_sha256(dict(table.avro_schema)) != table.avro_schema_sha256:
        raise BackupDamaged(f"{where}: avro_schema_sha256 is not that of avro_schema")
    own = re.compile(re.escape(folder(backup_id)) + "[0-9a-f]+/" + re.escape(_table_folder(table.schema, table.name)))
    for number, part in enumerate(table.parts):
        before, _, last = part.object.rpartition("/")
        if last != f"{number:05}.avro" or not own.fullmatch(before):
            raise BackupDamaged(f"{where}: part {number} lies outside of the table's own folder")


def _sum(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


def _plain(value: Any) -> Any:
    """``value`` in JSON's own types."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "__dataclass_fields__"):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return value


# --- What may stand where: each reader is given a value and its place, and returns what the dataclass holds

Reader = Callable[[Any, str], Any]


def _wrong(place: str, what: str) -> BackupDamaged:
    return BackupDamaged(f"{place} is not {what}")


def _matching(pattern: str, what: str) -> Reader:
    expression = re.compile(pattern)

    def read(value: Any, place: str) -> str:
        if not isinstance(value, str) or not expression.fullmatch(value):
            raise _wrong(place, what)
        return value

    return read


def _whole(least: int) -> Reader:
    def read(value: Any, place: str) -> int:
        if type(value) is not int or value < least:
            raise _wrong(place, f"a whole number from {least}")
        return value

    return read


def _flag(value: Any, place: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(place, "true or false")
    return value


def _instant(value: Any, place: str) -> datetime:
    try:
        found = datetime.strptime(value, "%Y-%m-%dT%H:%M:%S.%fZ")  # its zone stands in the text
    except (TypeError, ValueError):
        raise _wrong(place, "an instant such as 2026-11-25T03:15:00.000000Z") from None
    return found.replace(tzinfo=UTC)


def _mapping(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(place, "a JSON object")
    return value


def _optional(reader: Reader) -> Reader:
    return lambda value, place: None if value is None else reader(value, place)


def _each(reader: Reader, least: int = 0) -> Reader:
    def read(value: Any, place: str) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) < least:
            raise _wrong(place, f"a list of {least} or more")
        return tuple(reader(item, f"{place}[{number}]") for number, item in enumerate(value))

    return read


def _made(kind: type[Any], /, **readers: Reader) -> Reader:
    """Reads an object that has exactly the fields of ``kind``."""

    def read(value: Any, place: str) -> Any:
        found = _mapping(value, place)
        if set(found) != set(readers):
            odd = sorted(set(found) ^ set(readers))[0]
            raise BackupDamaged(f"{place} {'has an unknown' if odd in found else 'lacks the'} key {odd!r}")
        return kind(**{name: reader(found[name], f"{place}.{name}") for name, reader in readers.items()})

    return read


_TEXT = _matching(r"[\s\S]*", "a text")
_NAME = _matching(r"[\s\S]+", "a text, which is not empty")
_SHA256 = _matching("[0-9a-f]{64}", "a SHA-256 in hexadecimal")
_ANY_NUMBER = _whole(-(2**63))
_COUNT = _whole(0)
_COLUMN = _made(
    Column,
    name=_NAME,
    type=_NAME,
    not_null=_flag,
    default=_optional(_TEXT),
    identity=_matching("[ad]?", "empty, a or d"),
    generated=_flag,
    avro_name=_matching("[A-Za-z_][A-Za-z0-9_]*", "a name that AVRO allows"),
)
_PART = _made(
    Part,
    object=_NAME,
    rows=_COUNT,
    bytes=_COUNT,
    sha256=_SHA256,
    crc32c=_matching("[A-Za-z0-9+/]{6}==", "a CRC32C in base64"),
    generation=_NAME,
    datums_sha256=_SHA256,
)
_TABLE = _made(
    TableBackup,
    schema=_NAME,
    name=_NAME,
    dictionary_key=_optional(_NAME),
    columns=_each(_COLUMN),
    primary_key=_each(_NAME),
    constraints=_each(_TEXT),
    sequences=_each(_made(Sequence, column=_NAME, last_value=_ANY_NUMBER, is_called=_flag)),
    avro_schema=_mapping,
    avro_schema_sha256=_SHA256,
    rows=_COUNT,
    key_max=_optional(_ANY_NUMBER),
    checksum=_made(
        Checksum, algorithm=_NAME, server_major=_whole(1), value=_matching(r"-?\d{1,40}", "a number in a text")
    ),
    has_infinity=_each(_NAME),
    parts=_each(_PART, least=1),
)
_MANIFEST = _made(
    Manifest,
    backup_id=_NAME,
    kind=_matching("|".join(get_args(Kind)), " or ".join(get_args(Kind))),
    tool_version=_NAME,
    scheduled_at=_optional(_instant),
    snapshot_at=_instant,
    finished_at=_instant,
    snapshot=_NAME,
    wal_lsn=_NAME,
    server_version=_whole(1),
    encoding=_NAME,
    whole=_flag,
    tables=_each(_TABLE, least=1),
)
