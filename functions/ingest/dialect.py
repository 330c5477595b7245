"""How a file is written: its delimiter, and which column each field is, told from its first lines."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from functions.ingest.fields import FieldReader, Unread
from shared.dictionary import Column, Table
from shared.errors import FileRefused
from shared.rules import BLANKS

DELIMITERS = (b",", b";", b"\t")
REJECT_ID = "_reject_id"  # in a mended file: the reject that the row replaces
OWN_NAMES = ("_reasons", "_line", "_raw")  # what else our own export of rejects has, for people
LINES_LOOKED_AT = 50
NUMBER = re.compile(r"[-+]?[0-9][0-9.,]*(?:[eE][-+]?[0-9]+)?\Z")
QUOTED = re.compile(rb'"[^"]*"')


@dataclass(frozen=True)
class Dialect:
    """How to read a file's records.

    Attributes:
        delimiter: one byte.
        fields: the column that each field is, ``_reject_id``, or None for a field that is not read.
        has_header: whether the first record names the fields.
        ignored: names in the header that the dictionary does not know.
    """

    delimiter: bytes
    fields: tuple[str | None, ...]
    has_header: bool
    ignored: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Guess:
    """What the first records look like with one delimiter; None is a record that cannot be read with it."""

    delimiter: bytes
    records: list[list[str] | None]
    known: int  # names of columns in the first record, if that can be a header

    def fit(self, table: Table) -> tuple[int, int, int]:
        """The larger the likelier: names found, records with the right count, fields of the first record."""
        first = self.records[0] if self.records else None
        expected = len(first) if first and self.known else len(table.columns)
        right = sum(record is not None and len(record) == expected for record in self.records)
        return self.known, right, len(first or ())


def detect(table: Table, head: bytes, at_end: bool) -> Dialect:
    """Tell the dialect of a file of ``table`` from ``head``, its first bytes in UTF-8 without BOM.

    A first record without any number and with a known name is a header; without one, fields are columns by position.

    Args:
        at_end: whether ``head`` is the whole file.

    Raises:
        FileRefused: ``file.header`` (a required column is missing, a name stands twice), ``file.line_ends`` (lines end
            in a carriage return alone).
    """
    _check_line_ends(head)
    if not at_end:
        head = head[: head.rfind(b"\n") + 1] or head
    guesses = [_guess(table, head, delimiter) for delimiter in DELIMITERS]
    best = max(guesses, key=lambda guess: guess.fit(table))  # the first of equals: the comma
    if best.known and best.records[0] is not None:
        return _by_name(table, best.delimiter, best.records[0])
    return Dialect(best.delimiter, tuple(column.name for column in table.columns), has_header=False, ignored=())


def _check_line_ends(head: bytes) -> None:
    if b"\n" not in head and b"\r" in QUOTED.sub(b"", head).strip(b"\r"):
        raise FileRefused(
            "file.line_ends",
            "the lines end in a carriage return alone, as on a Macintosh before 2001: end them in LF or CR LF",
        )


def _guess(table: Table, head: bytes, delimiter: bytes) -> _Guess:
    records = list(_first_records(head, FieldReader(delimiter)))
    names = [name.lower() for name in (records[0] if records and records[0] else [])]
    known = sum(_column_named(table, name) is not None for name in names)
    return _Guess(delimiter, records, 0 if any(map(NUMBER.match, names)) else known)


def _first_records(head: bytes, reader: FieldReader) -> Iterator[list[str] | None]:
    start = given = 0
    while start < len(head) and given < LINES_LOOKED_AT:
        line_end = head.find(b"\n", start)
        line_end = len(head) if line_end < 0 else line_end
        found = reader.read(head, start, len(head))
        if reader.is_blank(head[start:line_end]):
            start = line_end + 1
        elif isinstance(found, Unread):
            yield None
            start, given = line_end + 1, given + 1
        else:
            yield [field.decode("utf-8", "replace").strip(BLANKS) for field in found[1]]
            start, given = found[0] + 1, given + 1


def _column_named(table: Table, name: str) -> Column | None:
    return next((c for c in table.columns if name == c.name or name in c.aliases), None)


def _by_name(table: Table, delimiter: bytes, header: list[str]) -> Dialect:
    fields: list[str | None] = []
    ignored = []
    for written in header:
        name = written.lower()
        column = _column_named(table, name)
        fields.append(column.name if column else REJECT_ID if name == REJECT_ID else None)
        if fields[-1] is None and name and name not in OWN_NAMES:
            ignored.append(written)
    _check_header(table, header, fields, ignored)
    return Dialect(delimiter, tuple(fields), has_header=True, ignored=tuple(ignored))


def _check_header(table: Table, header: list[str], fields: list[str | None], ignored: list[str]) -> None:
    meanings = Counter(field or written.lower() for field, written in zip(fields, header, strict=True))
    if twice := [name for name, times in meanings.items() if name and times > 1]:
        raise FileRefused("file.header", f"the header names {', '.join(twice)} more than once: which one counts?")
    missing = [c for c in table.columns if c.required and c.name not in fields]
    if missing:
        wanted = ", ".join(f"{c.name} (or {', '.join(c.aliases)})" if c.aliases else c.name for c in missing)
        unknown = f"; it has unknown names: {', '.join(ignored)}" if ignored else ""
        raise FileRefused(
            "file.header",
            f"the header of this file of {table.key} lacks {wanted}{unknown}; rename the columns, or add the names "
            "as aliases in the dictionary",
        )
