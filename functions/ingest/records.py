"""The careful path: one record at a time, by the full rules of CSV (``fields``) and of values (``shared.rules``).

Whatever is faster must agree with this module on every input.
"""

from __future__ import annotations

from dataclasses import dataclass

from functions.ingest.dialect import REJECT_ID, Dialect
from functions.ingest.fields import FieldReader, Unread
from shared import reasons, rejects, rules
from shared.dictionary import Table
from shared.rules import Value

RAW_CHARACTERS = 8192  # what a reject keeps of its record
SHOWN_BYTES = 4 * RAW_CHARACTERS + 4  # enough for that: no character has more than four bytes


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one record is.

    Attributes:
        reasons: all rules that it breaks, those of the record first, then by column in the table's order.
        values: by column in the table's order, None where there is none; None altogether if its fields are not known.
        reject_id: (load id, record number) of the reject that it mends, if it names one.
    """

    reasons: tuple[str, ...]
    values: tuple[Value | None, ...] | None = None
    reject_id: tuple[int, int] | None = None


class RecordReader:
    """Reads records in one dialect and judges them as rows of one table; a missing parent is no matter of a record."""

    def __init__(self, table: Table, dialect: Dialect) -> None:
        self._table = table
        self._places = {name: i for i, name in enumerate(dialect.fields) if name is not None}
        self._count = len(dialect.fields)
        reader = FieldReader(dialect.delimiter)
        self.read, self.is_blank = reader.read, reader.is_blank

    def judge(self, raw: bytes) -> Verdict:
        """Judge a record on its own; ``raw`` is without its line end, a line feed in it stands between quotes."""
        if len(raw) > self._table.max_record_bytes:
            return Verdict((reasons.RECORD_TOO_LONG,))
        found = self.read(raw, 0, len(raw))
        if isinstance(found, Unread) or found[0] != len(raw):
            return self.broken(raw)
        return self.judge_fields(raw, found[1])

    def broken(self, raw: bytes) -> Verdict:
        """The verdict on a record whose quotes are broken."""
        return Verdict((*_characters(raw), reasons.RECORD_QUOTE))

    def judge_fields(self, raw: bytes, fields: list[bytes]) -> Verdict:
        """Judge a record by its fields."""
        why = _characters(raw)
        if len(fields) != self._count:
            return Verdict((*why, reasons.RECORD_COLUMN_COUNT))
        texts = [field.decode("utf-8", "surrogateescape") for field in fields]
        values: list[Value | None] = []
        for column in self._table.columns:
            place = self._places.get(column.name)
            value, code = rules.judge(column, "" if place is None else texts[place])
            values.append(value)
            if code and code not in (reasons.NUL, reasons.ENCODING):  # those two are the record's, told already
                why.append(f"{column.name}.{code}")
        place = self._places.get(REJECT_ID)
        return Verdict(tuple(why), tuple(values), None if place is None else parse_reject_id(texts[place]))


def parse_reject_id(text: str) -> tuple[int, int] | None:
    """(load id, record number) of a text such as ``12-345``, or None."""
    found = rejects.REJECT_ID.match(text.strip(rules.BLANKS))
    return (int(found[1]), int(found[2])) if found else None


def _characters(raw: bytes) -> list[str]:
    """Reasons that the record's bytes give as a whole."""
    why = [reasons.RECORD_NUL] if 0 in raw else []
    try:
        raw.decode()
    except UnicodeDecodeError:
        why.append(reasons.RECORD_ENCODING)
    return why


def shown(raw: bytes) -> bytes:
    """``raw`` as a reject keeps it: in UTF-8, what is none of it and NUL as U+FFFD, cut after ``RAW_CHARACTERS``."""
    # The cut may leave a part of a character, but it is past the last one kept.
    text = raw[:SHOWN_BYTES].decode("utf-8", "replace")
    return text.replace("\0", "\ufffd")[:RAW_CHARACTERS].encode()
