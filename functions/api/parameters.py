"""Parameters of the query: known ones alone, each once, so that a slip of the pen never asks for something else."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from functions.api.problems import Problem

if TYPE_CHECKING:
    from shared.dictionary import Column, Table

LARGEST_ID = 2**63 - 1


def refused(name: str, detail: str) -> Problem:
    """The problem of a parameter."""
    shown = name[:100]
    return Problem(400, "request.parameter", f"{shown}: {detail}", errors=[{"parameter": shown, "detail": detail}])


def unknown(name: str, known: Collection[str]) -> Problem:
    """The problem of a parameter that is none."""
    return refused(name, f"there is no such parameter; known are {', '.join(known) or 'none'}")


def once(query: Iterable[tuple[str, str]], known: Collection[str]) -> dict[str, str]:
    """The parameters of ``query`` by name.

    Raises:
        Problem: 400 for one that is not ``known``, is there twice, or holds what no text of PostgreSQL can.
    """
    found: dict[str, str] = {}
    for name, value in query:
        if name not in known:
            raise unknown(name, known)
        if name in found:
            raise refused(name, "it is there twice")
        if not is_text(value):
            raise refused(name, "it contains a character that no text may hold")
        found[name] = value
    return found


def is_text(value: str) -> bool:
    """Whether PostgreSQL can hold ``value``: no NUL, no half of a surrogate pair."""
    return not any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value)


def number(given: Mapping[str, str], name: str) -> int | None:
    """A parameter that is an id, or None without it.

    Raises:
        Problem: 400 when it is none.
    """
    if name not in given:
        return None
    if (found := as_id(given[name])) is None:
        raise refused(name, f"it is a whole number from 1 to {LARGEST_ID}")
    return found


def as_id(text: str) -> int | None:
    """The id that ``text`` is: plain digits, no more than bigint holds; None if it is none."""
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(LARGEST_ID))):
        return None
    return value if 1 <= (value := int(text)) <= LARGEST_ID else None


def one_of(given: Mapping[str, str], name: str, allowed: Sequence[str]) -> str | None:
    """A parameter that takes one of some words, or None without it.

    Raises:
        Problem: 400 for another word.
    """
    if name in given and given[name] not in allowed:
        raise refused(name, f"it is one of {', '.join(allowed)}")
    return given.get(name)


def selected(table: Table, text: str | None) -> tuple[Column, ...]:
    """The columns that ``select=`` names, in its order; all of the table without it.

    Raises:
        Problem: 400 for a name that is no column, or is there twice.
    """
    if text is None:
        return table.columns
    names = [name.strip() for name in text.split(",")]
    for at, name in enumerate(names):
        if name in names[:at]:
            raise refused("select", f"{name[:100]!r} is there twice")
    return tuple(column(table, "select", name) for name in names)


def column(table: Table, parameter: str, name: str) -> Column:
    """The column that ``parameter`` names.

    Raises:
        Problem: 400 where there is none.
    """
    found = table.by_name.get(name)
    if found is None:
        raise refused(parameter, f"{name[:100]!r} is no column; there are {', '.join(table.by_name)}")
    return found
