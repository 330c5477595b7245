"""Differences of any number of tables, brought into the live ones by one statement.

Keys are checked at the end of a statement, by PostgreSQL's own triggers as by the guards: so a parent may leave in the
same breath as the children that used it, or come with those that need it, and no order of tables has to be found.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from psycopg2 import sql

from shared.backups.difference import Counts, Difference

if TYPE_CHECKING:
    from psycopg2.extensions import connection


def apply(conn: connection, differences: Sequence[Difference]) -> list[Counts]:
    """Make the changes that ``find`` found; returns how many rows each table really gained, changed and lost.

    A table whose changed rows are rewritten counts them as removed and added.

    Raises:
        psycopg2.Error: a key, a unique column or a check does not hold at the end; the transaction is lost then.
    """
    if not differences:
        return []
    steps = [step for difference in differences for step in _steps(difference)]
    counts = sql.SQL(", ").join(
        sql.SQL("(select count(*) from {})").format(_step(verb, difference))
        for difference in differences
        for verb in ("added", "changed", "removed")
    )
    with conn.cursor() as cursor:
        cursor.execute("set local random_page_cost = 0.1")  # rows are fetched by their place unless they are many
        cursor.execute(sql.SQL("with {} select {}").format(sql.SQL(", ").join(steps), counts))
        numbers = iter(cursor.fetchone() or ())
        cursor.execute("set constraints all immediate")  # what was deferred fails here, not at the commit
    return [Counts(insert, update, delete) for insert, update, delete in zip(numbers, numbers, numbers, strict=True)]


def raise_sequence(conn: connection, sequence: sql.Identifier, last_value: int, is_called: bool) -> bool:
    """Set ``sequence`` to go on after ``last_value``, unless it is as far already; returns whether it was raised."""
    with conn.cursor() as cursor:
        cursor.execute(
            sql.SQL(
                "select setval(%(name)s, %(last)s, %(called)s) from {}"
                " where last_value + is_called::int < %(last)s + %(called)s::int"
            ).format(sequence),
            {"name": sequence.as_string(conn), "last": last_value, "called": is_called},
        )
        return cursor.fetchone() is not None


def _step(verb: str, difference: Difference) -> sql.Identifier:
    return sql.Identifier(f"{verb}_{difference.number}")


def _steps(difference: Difference) -> list[sql.Composed]:
    """Remove, change, add: each begins when the one before has ended, so that a unique value is free to be taken."""
    gone, come = ("ud", "iu") if difference.rewrite else ("d", "i")
    changes = difference.mode != "add" and not difference.rewrite and _settable(difference)
    change = _change(difference) if changes else sql.SQL("select where false")
    step = sql.SQL("{} as materialized ({})").format
    return [
        step(_step("removed", difference), _remove(difference, gone)),
        step(_step("changed", difference), change),
        step(_step("added", difference), _add(difference, come)),
    ]


def _remove(difference: Difference, ops: str) -> sql.Composed:
    if difference.mode == "replace" or difference.rewrite:
        statement = "delete from {live} t using {found} d where d.op = any({ops}) and {there} returning 1"
    else:
        statement = "select where false"
    return sql.SQL(statement).format(
        live=difference.live, found=difference.found, ops=_ops(ops), there=_there(difference)
    )


def _there(difference: Difference) -> sql.Composed:
    """The condition that ``t`` is the live row that ``d`` was found from, which is looked up by its place."""
    return sql.SQL("t.ctid = d.at and {}").format(difference.same_key("t", "d"))


def _settable(difference: Difference) -> list[str]:
    return [column.name for column in difference.columns if column.name not in difference.key]


def _change(difference: Difference) -> sql.Composed:
    assignments = (
        sql.SQL("{} = d.{}").format(sql.Identifier(name), difference.place(name)) for name in _settable(difference)
    )
    return sql.SQL(
        "update {live} t set {assignments} from {found} d where d.op = 'u' and {there}"
        " and (select count(*) from {before}) >= 0 returning 1"
    ).format(
        live=difference.live,
        assignments=sql.SQL(", ").join(assignments),
        found=difference.found,
        there=_there(difference),
        before=_step("removed", difference),
    )


def _add(difference: Difference, ops: str) -> sql.Composed:
    names = [column.name for column in difference.columns]
    return sql.SQL(
        "insert into {live} ({columns}) overriding system value select {places} from {found} d"
        " where d.op = any({ops}) and (select count(*) from {first}) + (select count(*) from {second}) >= 0"
        " {otherwise} returning 1"
    ).format(
        # What is only added to may have the row under another key by now.
        otherwise=sql.SQL("on conflict do nothing" if difference.mode == "add" else ""),
        live=difference.live,
        columns=_listed(map(sql.Identifier, names)),
        places=_listed(map(difference.place, names)),
        found=difference.found,
        ops=_ops(ops),
        first=_step("removed", difference),
        second=_step("changed", difference),
    )


def _ops(ops: str) -> sql.Composed:
    return sql.SQL('{}::"char"[]').format(sql.Literal(list(ops)))


def _listed(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)
