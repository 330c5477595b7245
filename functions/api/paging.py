"""Pages by key: an order that is total, a token that says where a page ended, and what comes after it in SQL.

A page goes on after the last row's keys, not after a number of rows: however rows come and go meanwhile, each that
stays is seen once.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg2 import sql

from functions.api import columns, parameters
from functions.api.problems import Problem
from shared import rules
from shared.dictionary import Column, Table
from shared.rules import Broken

DEFAULT_SIZE, LARGEST_SIZE = 100, 1000
MOST_KEYS = 4
# Of a text only so much decides the order, the primary key the rest: the token, which holds it, travels in a header.
SORTED_CHARACTERS = 200
VERSION = 1
LONGEST_TOKEN = 16_384
SIZE = re.compile(r"[0-9]+\Z")


@dataclass(frozen=True, slots=True)
class SortKey:
    """One column that a list is sorted by. Nulls stand where PostgreSQL puts them: last, or first when descending."""

    column: Column
    descending: bool
    is_unique: bool

    @property
    def shape(self) -> tuple[str, bool]:
        """All that its SQL depends on."""
        return (self.column.name, self.descending)

    @property
    def expression(self) -> sql.Composable:
        """What of the row ``t`` is sorted by."""
        value = sql.Identifier("t", self.column.name)
        limit = self.column.max_length
        if self.is_unique or self.column.kind != "text" or (limit is not None and limit <= SORTED_CHARACTERS):
            return value
        return sql.SQL("left({}, {})").format(value, sql.Literal(SORTED_CHARACTERS))


def size(text: str | None, most: int = LARGEST_SIZE) -> int:
    """The rows of a page; more than ``most`` are taken for that many, as AIP-158 has it.

    Raises:
        Problem: 400 for less than 1, or no number.
    """
    if text is None:
        return min(DEFAULT_SIZE, most)
    digits = text.lstrip("0")
    if not SIZE.match(text) or not text.isascii() or not digits:
        raise parameters.refused("page_size", f"it is a number of rows from 1 to {most}")
    return most if len(digits) > len(str(most)) else min(int(digits), most)


def sort_keys(table: Table, text: str | None) -> tuple[SortKey, ...]:
    """What ``sort=column,-column`` says, down to the primary key, after which nothing can be decided.

    Raises:
        Problem: 400 for a name that is no column, is there twice, or cannot be sorted by.
    """
    keys: list[SortKey] = []
    for part in text.split(",") if text is not None else ():
        name = part.strip()
        column = parameters.column(table, "sort", name.removeprefix("-"))
        if column.kind == "jsonb":
            raise parameters.refused("sort", f"{column.name} is jsonb, which has no order that means something")
        if any(key.column is column for key in keys):
            raise parameters.refused("sort", f"{column.name} is there twice")
        keys.append(SortKey(column, name.startswith("-"), column is table.key_column))
    if len(keys) > MOST_KEYS:
        raise parameters.refused("sort", f"it takes {MOST_KEYS} columns")
    keys.append(SortKey(table.key_column, False, True))
    return tuple(keys[: next(at for at, key in enumerate(keys) if key.is_unique) + 1])


def order(keys: Sequence[SortKey]) -> sql.Composable:
    """What stands after ORDER BY."""
    directions = (sql.SQL("{} desc" if key.descending else "{}").format(key.expression) for key in keys)
    return sql.SQL(", ").join(directions)


def digest(*parts: Any) -> str:
    """Names a list: what it is of, its filters and its order."""
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=9).hexdigest()


def token(of_list: str, last: str) -> str:
    """The token of the page after the row whose keys are ``last``, a JSON array of texts."""
    return base64.urlsafe_b64encode(f'[{VERSION},"{of_list}",{last}]'.encode()).rstrip(b"=").decode()


def read_token(text: str, of_list: str, keys: Sequence[SortKey]) -> list[str | None]:
    """The keys of the row that the page before ended with.

    Raises:
        Problem: 400 where the token is none, or one of another list.
    """
    values = opened(text, of_list, len(keys))
    try:
        for value in values:
            if value is not None:
                rules.check_characters(value)
    except (TypeError, AttributeError, Broken):
        raise foreign_token() from None
    return values


def opened(text: str, of_list: str, keys: int) -> list[Any]:
    """The ``keys`` values in a token of the list, whatever they are: a token is no secret, and can be made up.

    Raises:
        Problem: 400 where it is none, or one of another list.
    """
    if len(text) > LONGEST_TOKEN:
        raise foreign_token()
    try:
        version, found, values = json.loads(
            base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        )
    except (ValueError, TypeError, RecursionError):
        raise foreign_token() from None
    if (version, found) != (VERSION, of_list) or type(values) is not list or len(values) != keys:
        raise foreign_token()
    return values


def foreign_token() -> Problem:
    """The problem of a token that this list did not give."""
    detail = "page_token is not one that this list gave, with these filters in this order. Leave it out to begin anew."
    errors = [{"parameter": "page_token", "detail": detail}]
    return Problem(400, "request.page_token", detail, errors=errors)


def placeholder(number: int) -> str:
    """The name that the value of a page's key has in a statement."""
    return f"key{number}"


def after(keys: Sequence[SortKey], nulls: Sequence[bool]) -> sql.Composable:
    """The condition of the rows ``t`` that come after a row; ``nulls`` says which of its keys are null.

    After a row are those that are equal in the first keys and further in the next, for each number of first keys. The
    bound on the first key alone follows from it, and lets PostgreSQL begin there in an index.
    """
    cases = [
        sql.SQL(" and ").join([*(_equal(n, keys, nulls) for n in range(at)), _further(at, keys, nulls)])
        for at in range(len(keys))
    ]
    after_all = sql.SQL("({})").format(sql.SQL(" or ").join(sql.SQL("({})").format(case) for case in cases))
    first = keys[0]
    if nulls[0] or (not first.column.required and not first.descending):
        return after_all
    bound = sql.SQL("{} <= {}" if first.descending else "{} >= {}").format(first.expression, _value(0, keys))
    return sql.SQL("{} and {}").format(bound, after_all)


def _equal(at: int, keys: Sequence[SortKey], nulls: Sequence[bool]) -> sql.Composable:
    if nulls[at]:
        return sql.SQL("{} is null").format(keys[at].expression)
    return sql.SQL("{} = {}").format(keys[at].expression, _value(at, keys))


def _further(at: int, keys: Sequence[SortKey], nulls: Sequence[bool]) -> sql.Composable:
    """Null is greater than every value."""
    key = keys[at]
    if nulls[at]:
        return sql.SQL("{} is not null").format(key.expression) if key.descending else sql.SQL("false")
    if key.descending:
        return sql.SQL("{} < {}").format(key.expression, _value(at, keys))
    template = "{0} > {1}" if key.column.required else "({0} > {1} or {0} is null)"
    return sql.SQL(template).format(key.expression, _value(at, keys))


def _value(at: int, keys: Sequence[SortKey]) -> sql.Composable:
    return columns.value(keys[at].column, placeholder(at))
