"""Statements that are composed once: their text is kept, so that a request pays for its values alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psycopg2 import sql
    from psycopg2.extensions import connection as Connection  # noqa: N812  # as everywhere else


class Statement:
    """A composed statement.

    Args:
        composed: its identifiers are those of the dictionary; quoting them needs a connection, any one.
    """

    __slots__ = ("_composed", "_text")

    def __init__(self, composed: sql.Composable) -> None:
        self._composed = composed
        self._text: str | None = None

    def text(self, conn: Connection) -> str:
        """What psycopg2 executes, with its placeholders."""
        if self._text is None:
            self._text = self._composed.as_string(conn)
        return self._text
