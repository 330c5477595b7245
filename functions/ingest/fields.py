"""Where a record of a CSV ends and what its fields are: RFC 4180, strictly."""

from __future__ import annotations

import re
from enum import Enum

LINE_FEED, CARRIAGE_RETURN = 10, 13
BLANK_BYTES = b" \t\r\n"


class Unread(Enum):
    """Why no record could be read."""

    OPEN = "a quote is still open where the bytes end"
    BROKEN = "a quote stands where none may stand"


class FieldReader:
    """Reads records whose fields ``delimiter`` (one byte) parts.

    A field is quoted if its first byte that is no blank is a quote; after the closing one only blanks may follow.
    """

    def __init__(self, delimiter: bytes) -> None:
        self._delimiter = delimiter
        comma, blank = re.escape(delimiter), b" " if delimiter == b"\t" else rb" \t"
        ends = b"(?=[" + comma + rb"\n]|\Z)"
        opened = b"[" + blank + rb']*+"([^"]*+(?:""[^"]*+)*+)'
        self._quoted = re.compile(opened + b'"[' + blank + rb"\r]*+" + ends)
        self._open = re.compile(opened + rb"\Z")
        self._plain = re.compile(b'([^"' + comma + rb"\n]*+)" + ends)

    def read(self, buffer: bytes | bytearray, start: int, stop: int) -> tuple[int, list[bytes]] | Unread:
        """Read the record that begins at ``start``: where its line feed stands (or ``stop``), and its fields, unquoted.

        ``stop`` is the end of the bytes or the place after a line feed; blanks around values are still there.
        """
        fields = []
        while True:
            if found := self._quoted.match(buffer, start, stop):
                fields.append(found[1].replace(b'""', b'"'))
            elif found := self._plain.match(buffer, start, stop):
                fields.append(bytes(found[1]))
            else:
                return Unread.OPEN if self._open.match(buffer, start, stop) else Unread.BROKEN
            start = found.end()
            if start == stop or buffer[start] == LINE_FEED:
                return start, fields
            start += 1

    def is_blank(self, line: bytes | bytearray) -> bool:
        """Whether nothing but blanks is on the line; such a line is no record."""
        return not line.strip(BLANK_BYTES.replace(self._delimiter, b""))
