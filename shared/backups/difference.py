"""What a table has to lose, change and gain to be as a relation that was loaded beside it: found by one hash join."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from psycopg2 import sql

if TYPE_CHECKING:
    from psycopg2.extensions import connection

Mode = Literal["replace", "merge", "add"]
KINDS = {"replace": "full join", "merge": "right join", "add": "right join"}

# Equal values of these are equal byte for byte. Of numeric, jsonb, float and others they need not be (1.0 and 1.00),
# json has no equality at all: there the stored images are compared, which takes half as long again.
EXACT = frozenset(
    {
        "smallint",
        "integer",
        "bigint",
        "boolean",
        "date",
        "timestamp without time zone",
        "timestamp with time zone",
        "uuid",
        "bytea",
    }
)
TEXTS = ("text", "character varying")  # byte for byte under COLLATE "C", whatever the column's own collation says


@dataclass(frozen=True, slots=True)
class Matched:
    """A column that both have.

    Attributes:
        name: in the live table.
        loaded: its name in the loaded relation.
        sql_type: the live column's, as ``format_type`` prints it; a loaded value is cast to it where ``cast`` is set.
    """

    name: str
    loaded: str
    sql_type: str
    cast: bool = False

    @property
    def is_text(self) -> bool:
        """Whether values are compared as text, by their bytes."""
        return self.sql_type.split("(")[0] in TEXTS

    @property
    def collation(self) -> sql.SQL:
        """What makes a comparison of texts one of bytes, and of two columns with collations of their own possible."""
        return sql.SQL(' collate "C"' if self.is_text else "")


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows that a table would gain, that would change, that it would lose."""

    insert: int = 0
    update: int = 0
    delete: int = 0

    @property
    def any(self) -> bool:
        """Whether anything would change."""
        return bool(self.insert or self.update or self.delete)


@dataclass(frozen=True, slots=True)
class Difference:
    """One live table and the relation loaded for it; each has temporary tables of its ``number``.

    Attributes:
        key: columns of the primary key, by their live names; each is among ``columns``.
        columns: what both have, in the live table's order, without generated ones.
        mode: ``replace`` makes the table what was loaded; ``merge`` leaves rows that were not loaded; ``add`` leaves
            every row that is there as it is.
        rewrite: changed rows are removed and added again in one statement: for tables that have unique columns beside
            the key, where two rows may have changed places.
    """

    number: int
    schema: str
    name: str
    key: tuple[str, ...]
    columns: tuple[Matched, ...]
    mode: Mode = "replace"
    rewrite: bool = False

    @property
    def live(self) -> sql.Identifier:
        """The live table."""
        return sql.Identifier(self.schema, self.name)

    @property
    def loaded(self) -> sql.Identifier:
        """The temporary table of what was loaded."""
        return sql.Identifier("pg_temp", f"loaded_{self.number}")

    @property
    def found(self) -> sql.Identifier:
        """The temporary table of the difference: ``op`` (i, u, d), ``at``, c1, c2, …; of a d the key alone."""
        return sql.Identifier("pg_temp", f"difference_{self.number}")

    def place(self, name: str) -> sql.Identifier:
        """Where the live column ``name`` is in ``found``."""
        places = [column.name for column in self.columns]
        return sql.Identifier(f"c{places.index(name) + 1}")

    def has(self, names: Iterable[str]) -> bool:
        """Whether all of these live columns are compared."""
        return {column.name for column in self.columns}.issuperset(names)

    def value(self, alias: str, name: str) -> sql.Composed:
        """The live column ``name`` in ``found``, called ``alias``, to be compared with another table's column."""
        (column,) = (column for column in self.columns if column.name == name)
        place = sql.Identifier(alias, *self.place(name).strings)
        return sql.SQL("{}{}").format(place, column.collation)

    def same_key(self, one: str, other: str) -> sql.Composed:
        """The condition that row ``one`` of the live table and row ``other`` of ``found`` have one key."""
        return sql.SQL(" and ").join(
            sql.SQL("{} = {}").format(sql.Identifier(one, name), self.value(other, name)) for name in self.key
        )


def find(conn: connection, difference: Difference) -> Counts:
    """Fill ``difference.found`` from the live table and ``difference.loaded``; both must be held still.

    Two rows are the same if their values are, byte for byte.
    """
    with conn.cursor() as cursor:
        cursor.execute(_create(difference))
        cursor.execute(sql.SQL("analyze {}").format(difference.found))  # or the planner takes it to be large
        cursor.execute(sql.SQL("select op, count(*) from {} group by op").format(difference.found))
        rows = dict(cursor.fetchall())
    return Counts(rows.get("i", 0), rows.get("u", 0), rows.get("d", 0))


def _create(difference: Difference) -> sql.Composed:
    keys = [column for column in difference.columns if column.name in difference.key]
    first = keys[0]
    absent, gone = sql.SQL("l.{} is null").format(sql.Identifier(first.name)), sql.SQL("{} is null").format(_new(first))
    places = [
        sql.SQL("{} as {}").format(_kept(column, difference.key), difference.place(column.name))
        for column in difference.columns
    ]
    differs = absent if difference.mode == "add" else sql.SQL(" or ").join([absent, gone, *_changed(difference)])
    return sql.SQL(
        "create temporary table {found} on commit drop as"
        " select (case when {absent} then 'i' when {gone} then 'd' else 'u' end)::\"char\" as op,"
        " l.ctid as at, {places}"
        " from {live} l {join} {loaded} b on {same} where {differs}"
    ).format(
        found=sql.Identifier(difference.found.strings[-1]),  # CREATE TEMPORARY takes it without the schema
        absent=absent,
        gone=gone,
        places=sql.SQL(", ").join(places),
        live=difference.live,
        join=sql.SQL(KINDS[difference.mode]),
        loaded=difference.loaded,
        same=sql.SQL(" and ").join(sql.SQL("{} = {}").format(_old(key), _new(key)) for key in keys),
        differs=differs,
    )


def _changed(difference: Difference) -> Sequence[sql.Composable]:
    """Conditions of which one holds if a row that both have is not the same."""
    rest = [column for column in difference.columns if column.name not in difference.key]
    plain = [column for column in rest if column.is_text or column.sql_type in EXACT]
    images = [column for column in rest if column not in plain]
    conditions = [sql.SQL("{} is distinct from {}").format(_old(column), _new(column)) for column in plain]
    if images:
        row = sql.SQL("row({})::record *<> row({})::record")
        conditions.append(row.format(_listed(map(_old, images)), _listed(map(_new, images))))
    return conditions


def _kept(column: Matched, key: tuple[str, ...]) -> sql.Composable:
    if column.name not in key:
        return _value(column)
    return sql.SQL("coalesce({}, {})").format(_new(column), _old(column))


def _value(column: Matched) -> sql.Composed:
    """The loaded value, of the live column's type."""
    cast = sql.SQL("::") + sql.SQL(column.sql_type) if column.cast else sql.SQL("")
    return sql.SQL("b.{}{}").format(sql.Identifier(column.loaded), cast)


def _new(column: Matched) -> sql.Composed:
    return _value(column) + column.collation


def _old(column: Matched) -> sql.Composed:
    return sql.SQL("l.{}{}").format(sql.Identifier(column.name), column.collation)


def _listed(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)
