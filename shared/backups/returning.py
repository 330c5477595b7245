"""One table on its way back, and what must hold of it: that it fits, is whole, and leaves no row without its parent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from psycopg2 import sql

from shared.backups import checksum, loaded, references
from shared.backups.asked import Restored
from shared.backups.difference import Counts, Difference
from shared.errors import RestoreFailed, RestoreRefused

if TYPE_CHECKING:
    from psycopg2.extensions import connection

    from shared.backups.compare import Comparison
    from shared.backups.difference import Mode as RowsMode
    from shared.backups.manifest import TableBackup
    from shared.backups.tables import Definition, TableName


@dataclass(slots=True)
class Returning:
    """A table of the backup, and the live one that it goes back to.

    Attributes:
        number: its place among the tables of this restore; names its temporary tables.
        rewrite: whether changed rows are removed and added anew (``difference.Difference``).
        rows_before: in the live table; before they are counted, 1 for some.
    """

    number: int
    held: TableBackup
    live: Definition
    comparison: Comparison
    rows_mode: RowsMode
    rewrite: bool
    rows_before: int
    counts: Counts = field(default_factory=Counts)

    @property
    def difference(self) -> Difference:
        """What the live table differs in from what is loaded beside it."""
        return Difference(
            self.number,
            self.held.schema,
            self.held.name,
            self.live.primary_key,
            self.comparison.matched,
            self.rows_mode,
            self.rewrite,
        )

    @property
    def is_whole(self) -> bool:
        """Whether the live table must be just what was backed up in the end."""
        return self.rows_mode == "replace" and self.comparison.is_identical

    def told(self, keys: Sequence[references.Reference]) -> Restored:
        """For the answer; of ``keys`` those that begin or end here."""
        name = (self.held.schema, self.held.name)
        return Restored(
            table=self.held.dictionary_key or self.held.full_name,
            target=self.held.full_name,
            rows_in_backup=self.held.rows,
            rows_before=self.rows_before,
            counts=self.counts,
            notes=self.comparison.notes,
            keys=tuple(
                f"{'.'.join(key.child)} ({', '.join(key.child_columns)}) -> {'.'.join(key.parent)}"
                for key in keys
                if name in (key.child, key.parent)
            ),
        )


def require_fit(tables: Sequence[Returning]) -> None:
    """Raise RestoreRefused where columns of the backup have no place in the live table."""
    refusals = [f"{table.held.full_name}.{text}" for table in tables for text in table.comparison.refusals]
    if refusals:
        raise RestoreRefused(
            f"the backup does not fit the table as it is now: {'; '.join(refusals)}."
            " Restore it with mode new_table and a target, and bring over what you need"
        )


def require_filled(conn: connection, table: Returning) -> None:
    """Raise RestoreRefused where a row that was loaded lacks a value that the live table needs."""
    for name, source in table.comparison.must_be_filled:
        query = sql.SQL("select count(*) from {} where {} is null")
        with conn.cursor() as cursor:
            cursor.execute(query.format(table.difference.loaded, sql.Identifier(source)))
            rows = cursor.fetchall()[0][0]
        if rows:
            raise RestoreRefused(
                f"{table.held.full_name}.{name}: {rows} rows of the backup have no value, and the column needs one now."
                " Restore it with mode new_table and a target, and bring over what you need"
            )


def require_parents(conn: connection, tables: Sequence[Returning], keys: Sequence[references.Reference]) -> None:
    """Raise RestoreRefused where rows would lose their parents, or tables be reached into that nobody asked for."""
    differences = {(table.held.schema, table.held.name): table.difference for table in tables}
    deleting = {name for name, table in zip(differences, tables, strict=True) if table.counts.delete}
    for key in keys:
        child, parent = ".".join(key.child), ".".join(key.parent)
        if key.reaches_into_child and key.parent in deleting and key.child not in differences:
            raise RestoreRefused(
                f"rows of {parent} would go, and {key.name} would {key.on_delete} those of {child} with them:"
                f" restore {child} as well, or all tables with *"
            )
        if orphans := references.rows_without_parent(conn, key, differences):
            raise RestoreRefused(
                f"{orphans} rows of {child} would point to no row of {parent} ({', '.join(key.child_columns)}):"
                f" restore {parent if key.child in differences else child} as well, or all tables with *;"
                " mode merge takes no row away"
            )


def is_same(conn: connection, table: Returning) -> bool:
    """Whether the live table is just what was backed up, and so has no difference to be found; counts its rows too."""
    if not table.is_whole or not loaded.is_comparable(conn, table.held):
        table.rows_before = _count(conn, table.live.table)
        return False
    found = checksum.of(conn, table.live.table.relation, table.held.fields)
    table.rows_before = found[0]
    return found == (table.held.rows, table.held.checksum.value)


def require_same(conn: connection, table: Returning) -> None:
    """Look once more, before the commit, at what the table is now; raises RestoreFailed."""
    fields = table.held.fields
    found = checksum.of(conn, table.live.table.relation, fields)
    if not loaded.is_comparable(conn, table.held):
        if found != checksum.of(conn, table.difference.loaded, fields):
            raise RestoreFailed(f"{table.held.full_name}: the table is not what was loaded beside it")
    elif found != (table.held.rows, table.held.checksum.value):
        raise RestoreFailed(f"{table.held.full_name}: the table is not what the backup says, checksum {found[1]}")


def _count(conn: connection, name: TableName) -> int:
    with conn.cursor() as cursor:
        cursor.execute(sql.SQL("select count(*) from {}").format(name.relation))
        return int(cursor.fetchall()[0][0])
