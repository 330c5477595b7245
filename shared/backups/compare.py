"""The columns of a backup beside those of the live table: what fits as it is, what fits by rule, what does not."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.backups.difference import Matched

if TYPE_CHECKING:
    from shared.backups.manifest import Column

# Every value of the first is exactly one of the second.
WIDER = frozenset(
    {
        ("smallint", "integer"),
        ("smallint", "bigint"),
        ("integer", "bigint"),
        ("real", "double precision"),
        ("smallint", "double precision"),
        ("integer", "double precision"),
    }
)
NUMERIC = re.compile(r"numeric\((\d+),(\d+)\)\Z")
VARYING = re.compile(r"character varying\((\d+)\)\Z")
TEXTS = ("text", "character varying")


@dataclass(frozen=True, slots=True)
class Comparison:
    """How a backup's columns fit a live table; each text names the column, what is different and what follows.

    Attributes:
        matched: columns that both have, in the live table's order, without generated ones.
        notes: differences that a restore gets over.
        refusals: differences that it does not.
        must_be_filled: (live name, loaded name) of columns that allow no NULL, and did when the backup was taken.
    """

    matched: tuple[Matched, ...]
    notes: tuple[str, ...]
    refusals: tuple[str, ...]
    must_be_filled: tuple[tuple[str, str], ...]

    @property
    def is_identical(self) -> bool:
        """Whether the rows of the backup are rows of the live table as they are, all columns of it."""
        return not self.notes and not self.refusals


def compare(
    backup: Sequence[Column],
    live: Sequence[Column],
    backup_key: Sequence[str],
    live_key: Sequence[str],
    aliases: Mapping[str, Collection[str]],
) -> Comparison:
    """Compare a backup's columns with the live ones.

    Args:
        aliases: by live column, earlier names of it; looked at where the backup has no column of the live name.
    """
    sources = {column.name: column for column in backup if not column.generated}
    matched: list[Matched] = []
    notes: list[str] = []
    refusals: list[str] = []
    must_be_filled: list[tuple[str, str]] = []
    for column in live:
        if column.generated:
            continue
        source = sources.pop(column.name, None) or _renamed(column, live, sources, aliases)
        if source is None:
            (refusals if _needs_value(column) else notes).append(_added(column))
            continue
        if source.name != column.name:
            notes.append(f"{source.name}: is called {column.name} now")
        fits = source.type == column.type or is_wider(source.type, column.type)
        if not fits:
            refusals.append(f"{column.name}: was {source.type} and is {column.type}, which cannot hold every value")
        elif source.type != column.type:
            notes.append(f"{column.name}: was {source.type} and is {column.type}, which holds every value")
        if column.not_null and not source.not_null:
            notes.append(f"{column.name}: could be null and cannot now")
            must_be_filled.append((column.name, source.name))
        matched.append(Matched(column.name, source.name, column.type, cast=source.type != column.type))
    notes += [f"{name}: is no longer a column of the table; what the backup has of it stays away" for name in sources]
    refusals += _keys(backup_key, live_key, matched)
    return Comparison(tuple(matched), tuple(notes), tuple(refusals), tuple(must_be_filled))


def is_wider(one: str, other: str) -> bool:
    """Whether every value of type ``one`` is exactly one of type ``other``; both as ``format_type`` prints them."""
    if (one, other) in WIDER or (other == "text" and one.split("(")[0] in TEXTS):
        return True
    numerics, varyings = (tuple(map(pattern.match, (one, other))) for pattern in (NUMERIC, VARYING))
    if (first := numerics[0]) and (second := numerics[1]):
        return first[2] == second[2] and int(first[1]) < int(second[1])
    if first := varyings[0]:
        return other == "character varying" or bool(varyings[1] and int(first[1]) < int(varyings[1][1]))
    return False


def _renamed(
    column: Column, live: Sequence[Column], sources: dict[str, Column], aliases: Mapping[str, Collection[str]]
) -> Column | None:
    """The backup's column that an alias of ``column`` names, unless another live column has that name."""
    taken = {other.name for other in live}
    names = [name for name in aliases.get(column.name, ()) if name in sources and name not in taken]
    return sources.pop(names[0]) if len(names) == 1 else None


def _needs_value(column: Column) -> bool:
    return column.not_null and column.default is None and not column.identity


def _added(column: Column) -> str:
    what = f"{column.name}: the backup has no such column"
    if _needs_value(column):
        return f"{what}, and the table allows neither null nor has a default for it"
    value = "its default" if column.default or column.identity else "null"
    return f"{what}; rows that come get {value}, others keep theirs"


def _keys(backup_key: Sequence[str], live_key: Sequence[str], matched: Sequence[Matched]) -> list[str]:
    if not live_key:
        return ["the table has no primary key, so that its rows cannot be told from each other"]
    loaded = {column.name: column.loaded for column in matched}
    if [loaded.get(name) for name in live_key] != list(backup_key):
        return [f"the primary key was ({', '.join(backup_key)}) and is ({', '.join(live_key)})"]
    return []
