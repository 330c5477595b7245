"""Which tables a table's rows point to, and which point to it: what a restore would leave without a parent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg2 import sql

from shared.backups.difference import Difference

if TYPE_CHECKING:
    from psycopg2.extensions import connection

# What a key that is not enforced would do on delete, nobody does: guards check, and take none that would do more.
FOREIGN_KEYS = """
select k.conname, array[cn.nspname, c.relname]::text[], array[pn.nspname, p.relname]::text[],
  case when k.conenforced then case k.confdeltype when 'c' then 'CASCADE' when 'n' then 'SET NULL'
                                                  when 'd' then 'SET DEFAULT' else 'NO ACTION' end else 'NO ACTION' end,
  array(select a.attname::text from unnest(k.conkey) with ordinality u (n, i)
        join pg_attribute a on a.attrelid = k.conrelid and a.attnum = u.n order by u.i),
  array(select a.attname::text from unnest(k.confkey) with ordinality u (n, i)
        join pg_attribute a on a.attrelid = k.confrelid and a.attnum = u.n order by u.i)
from pg_constraint k
join pg_class c on c.oid = k.conrelid join pg_namespace cn on cn.oid = c.relnamespace
join pg_class p on p.oid = k.confrelid join pg_namespace pn on pn.oid = p.relnamespace
where k.contype = 'f' and k.conparentid = 0
  and ((cn.nspname, c.relname) in %(tables)s or (pn.nspname, p.relname) in %(tables)s)
order by k.conname, cn.nspname, c.relname
"""


@dataclass(frozen=True, slots=True)
class Reference:
    """A foreign key, enforced by PostgreSQL or by a guard.

    Attributes:
        child: (schema, table) that declares it, and ``child_columns`` there.
        parent: (schema, table) that it points to, and ``parent_columns`` there.
        on_delete: what PostgreSQL does to a child's row when its parent's is removed: ``NO ACTION`` for a refusal.
    """

    name: str
    child: tuple[str, str]
    parent: tuple[str, str]
    on_delete: str
    child_columns: tuple[str, ...]
    parent_columns: tuple[str, ...]

    @property
    def reaches_into_child(self) -> bool:
        """Whether the removal of a parent would remove or change rows of the child."""
        return self.on_delete != "NO ACTION"


def read(conn: connection, tables: Sequence[tuple[str, str]]) -> list[Reference]:
    """Every foreign key of which child or parent is one of ``tables``, by name."""
    with conn.cursor() as cursor:
        cursor.execute(FOREIGN_KEYS, {"tables": tuple(tables)})
        found = cursor.fetchall()
    return [
        Reference(name, tuple(child), tuple(parent), on_delete, tuple(child_columns), tuple(parent_columns))
        for name, child, parent, on_delete, child_columns, parent_columns in found
    ]


def rows_without_parent(
    conn: connection, reference: Reference, differences: Mapping[tuple[str, str], Difference]
) -> int:
    """How many rows would have no parent once ``differences`` are applied, and have one now, or are not there yet.

    Looked at are the rows that come or change if the child is among the differences, and all rows of the child whose
    parent would leave if the parent is.
    """
    child, parent = differences.get(reference.child), differences.get(reference.parent)
    count = 0
    if child is not None and child.has(
        reference.child_columns
    ):  # a column that the backup lacks is the server's to check
        count += _count(conn, _coming_orphans(reference, child, parent))
    if parent is not None and parent.mode == "replace" and set(reference.parent_columns) <= set(parent.key):
        count += _count(conn, _left_orphans(reference, child, parent))
    return count


def _count(conn: connection, query: sql.Composable) -> int:
    with conn.cursor() as cursor:
        cursor.execute(query)
        return int(cursor.fetchone()[0])  # type: ignore[index]  # count(*) gives one row


def _coming_orphans(reference: Reference, child: Difference, parent: Difference | None) -> sql.Composed:
    """Count rows that come or change and point to no row that will be there."""
    points = [child.value("d", name) for name in reference.child_columns]
    return sql.SQL("select count(*) from {} d where d.op in ('i', 'u') and {} and not ({})").format(
        child.found,
        sql.SQL(" and ").join(sql.SQL("{} is not null").format(point) for point in points),
        _will_be_there(reference, points, parent),
    )


def _will_be_there(reference: Reference, points: Sequence[sql.Composable], parent: Difference | None) -> sql.Composable:
    """The condition that the parent's table will have a row of the key ``points``."""
    columns = [sql.Identifier("p", name) for name in reference.parent_columns]
    there = sql.SQL("exists (select from {} p where {})").format(
        sql.Identifier(*reference.parent), _equal(columns, points)
    )
    if parent is None or not parent.has(reference.parent_columns):
        return there
    places = [parent.value("e", name) for name in reference.parent_columns]
    found = sql.SQL("exists (select from {} e where e.op = {} and {})").format
    return sql.SQL("{} and not {} or {}").format(
        there,
        found(parent.found, sql.Literal("d"), _equal(places, points)),
        found(parent.found, sql.Literal("i"), _equal(places, points)),
    )


def _left_orphans(reference: Reference, child: Difference | None, parent: Difference) -> sql.Composed:
    """Count live rows that stay as they are and point to a row that leaves."""
    points = [sql.Identifier("c", name) for name in reference.child_columns]
    places = [parent.value("d", name) for name in reference.parent_columns]
    stays: sql.Composable = sql.SQL("true")
    if child is not None:
        stays = sql.SQL("not exists (select from {} e where e.op in ('u', 'd') and {})").format(
            child.found, child.same_key("c", "e")
        )
    return sql.SQL("select count(*) from {} c where {} and exists (select from {} d where d.op = 'd' and {})").format(
        sql.Identifier(*reference.child), stays, parent.found, _equal(points, places)
    )


def _equal(ones: Sequence[sql.Composable], others: Sequence[sql.Composable]) -> sql.Composed:
    return sql.SQL(" and ").join(sql.SQL("{} = {}").format(one, other) for one, other in zip(ones, others, strict=True))
