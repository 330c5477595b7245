"""Filters of a list, ``column=operator.value``: read, judged by the column's own rules, and said in SQL."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from psycopg2 import sql

from functions.api import columns, parameters
from shared import reasons, rules
from shared.dictionary import Column, Table
from shared.rules import Broken

MOST_FILTERS = 20
LONGEST_LIST = 200  # values of in.(…)
LONGEST_PATTERN = 1000  # characters; PostgreSQL's matching takes a level of its stack for each %
COMPARISONS = {"eq": "=", "neq": "<>", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
PATTERNS = ("like", "ilike")
NULLNESS = {"null": "is null", "not_null": "is not null"}
ITEM = re.compile(r'(?:"((?:[^"\\]|\\.)*)"|([^,"]*))(,|\Z)', re.DOTALL)
ESCAPED = re.compile(r"\\(.)", re.DOTALL)
WILDCARD = re.compile(r"\\.|\*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Filter:
    """One condition.

    Attributes:
        value: text that PostgreSQL reads as the column's type; a tuple of them for ``in``; a word for ``is``.
    """

    column: Column
    operator: str
    value: str | tuple[str, ...]

    @property
    def shape(self) -> tuple[str, ...]:
        """All that the SQL of the condition depends on."""
        return (self.column.name, self.operator, str(self.value) if self.operator == "is" else "")

    @property
    def argument(self) -> str | list[str]:
        """The value as psycopg2 takes it."""
        return list(self.value) if isinstance(self.value, tuple) else self.value


def operators(column: Column) -> tuple[str, ...]:
    """The operators that ``column`` knows."""
    if column.kind == "jsonb":
        return ("is",)
    return (*COMPARISONS, "in", *(PATTERNS if column.kind == "text" else ()), "is")


def read(table: Table, query: Sequence[tuple[str, str]]) -> list[Filter]:
    """The filters in ``query``, whose names are columns. One column may have several, of different operators.

    Raises:
        Problem: 400, naming the parameter, for what is no filter of its column.
    """
    found = [_read(table, table.by_name[name], text) for name, text in query]
    if len(found) > MOST_FILTERS:
        raise parameters.refused(found[MOST_FILTERS].column.name, f"a list takes {MOST_FILTERS} filters")
    for at, wanted in enumerate(found):
        if any((wanted.column, wanted.operator) == (other.column, other.operator) for other in found[:at]):
            raise parameters.refused(wanted.column.name, f"{wanted.operator} is there twice")
    return found


def condition(table: Table, shape: tuple[str, ...], placeholder: str) -> sql.Composable:
    """The SQL of a filter of ``shape`` over the row ``t``; its value has the name ``placeholder``."""
    name, operator, word = shape
    column = table.by_name[name]
    value = sql.Identifier("t", name)
    if operator == "is":
        return sql.SQL("{} {}").format(value, sql.SQL(NULLNESS[word]))
    if operator == "in":
        array = sql.SQL("cast({} as {}[])").format(sql.Placeholder(placeholder), sql.SQL(column.kind))
        return sql.SQL("{} = any({})").format(value, array)
    compared = sql.SQL(COMPARISONS.get(operator, operator))
    return sql.SQL("{} {} {}").format(value, compared, columns.value(column, placeholder))


def _read(table: Table, column: Column, text: str) -> Filter:
    operator, dot, value = text.partition(".")
    if not dot or operator not in operators(column):
        known = ", ".join(operators(column))
        raise parameters.refused(column.name, f"a filter is operator.value, such as eq.1; operators here are {known}")
    if operator == "is":
        if value not in NULLNESS:
            raise parameters.refused(column.name, "is takes null or not_null")
        return Filter(column, operator, value)
    if operator == "in":
        return Filter(column, operator, tuple(_judged(table, column, item) for item in _items(column, value)))
    read_value = _pattern(column, value) if operator in PATTERNS else _judged(table, column, value)
    return Filter(column, operator, read_value)


def _judged(table: Table, column: Column, text: str) -> str:
    value, code = rules.judge(column, text)
    if value is None:
        reason = reasons.describe(f"{column.name}.{code or reasons.MISSING}", table)
        raise parameters.refused(column.name, f"{text[:100]!r}: {reason}")
    return rules.canonical(value)


def _items(column: Column, text: str) -> list[str]:
    """The values of ``(a,b,"c, d")``; in quotes a backslash keeps the next character."""
    if not (text.startswith("(") and text.endswith(")")):
        raise parameters.refused(column.name, 'in takes a list in parentheses, such as in.(1,2) or in.("a, b",c)')
    text, at, items = text[1:-1], 0, []
    while found := ITEM.match(text, at):
        items.append(found[2] if found[1] is None else ESCAPED.sub(r"\1", found[1]))
        at = found.end()
        if not found[3]:
            break
    if not found:
        raise parameters.refused(column.name, "a value with a quote in it stands in quotes, with \\ before the quote")
    if len(items) > LONGEST_LIST:
        raise parameters.refused(column.name, f"a list has at most {LONGEST_LIST} values")
    return items


def _pattern(column: Column, text: str) -> str:
    r"""A pattern of LIKE: ``%`` or ``*`` is any text, ``_`` any character, and ``\`` keeps the next one as it is."""
    try:
        rules.check_characters(text)
    except Broken as broken:
        raise parameters.refused(column.name, f"the pattern cannot be text: {broken.code}") from None
    if not text or len(text) > LONGEST_PATTERN:
        raise parameters.refused(column.name, f"a pattern has 1 to {LONGEST_PATTERN} characters")
    if (len(text) - len(text.rstrip("\\"))) % 2:
        raise parameters.refused(column.name, r"a pattern does not end in a single \; write \\ for that character")
    return WILDCARD.sub(lambda found: {"*": "%", "\\*": "*"}.get(found[0], found[0]), text)
