"""The statements that read and write one row: each is one round trip, and checks every condition by itself.

``t`` is the row. A placeholder of a column's name is its value, KEY the id in the path.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from psycopg2 import sql

from functions.api import columns
from functions.api.statements import Statement
from shared.dictionary import Column, Dictionary, Table

KEY, GIVEN, ANY, DIGESTS = "#key", "#given ", "#any", "#digests"  # no column's name has a #


class RowStatements:
    """The statements of one table.

    Attributes:
        read: digest and JSON of the row.
        look: the columns whose parent is lacking, and the digest of the row that is there.
        create: these two; then, if the row was written, whether it is new, its digest, its JSON, and whether parked
            rows wait for it. Writes only where there is no row.
        put: the same, and overwrites.
        update: the same, and writes only where there is a row that If-Match allows; columns that were not GIVEN stay.
        remove: whether the row was removed, and the digest of the row that was there.
        count_users: how many rows refer to it, for each of ``children``.
    """

    def __init__(self, table: Table, dictionary: Dictionary) -> None:
        self._table = table
        self._name = columns.name(table)
        self._key = columns.value(table.key_column, KEY)
        self._meant = sql.SQL("{} = {}").format(columns.key(table), self._key)
        self._before = sql.SQL("(select {} from {} t where {})").format(columns.etag(), self._name, self._meant)
        self.children = dictionary.children_of(table.key)
        self._lacking = self._compose_lacking(dictionary)
        self.read = self.read_only(table.columns)
        self.look = Statement(sql.SQL("select {}, {}").format(self._lacking, self._before))
        self.create = self._writing(self._insert(sql.SQL("do nothing")))
        self.put = self._writing(self._insert(self._overwrite()))
        self.update = self._writing(self._change())
        self.remove = self._compose_remove()
        self.count_users = self._compose_count()

    def read_only(self, wanted: Sequence[Column]) -> Statement:
        """As ``read``, with the columns ``wanted``."""
        return Statement(
            sql.SQL("select {}, {} from {} t where {}").format(
                columns.etag(), columns.as_json(self._table, wanted), self._name, self._meant
            )
        )

    def _compose_lacking(self, dictionary: Dictionary) -> sql.Composable:
        looks = [self._lacks(column, dictionary) for column in self._table.columns if column.references]
        return sql.SQL("array_remove(array[{}]::text[], null)").format(_list(looks))

    def _lacks(self, column: Column, dictionary: Dictionary) -> sql.Composable:
        """The column's name if its parent is not there; a row may be its own parent."""
        parent = dictionary.tables[str(column.references)]
        value = columns.value(column, column.name)
        other = sql.SQL("and {} <> {}").format(value, self._key) if parent is self._table else sql.SQL("")
        return sql.SQL(
            "case when {value} is not null {other} and not exists (select from {parent} p where p.{id} = {value})"
            " then {name} end"
        ).format(
            value=value,
            other=other,
            parent=columns.name(parent),
            id=sql.Identifier(parent.primary_key),
            name=sql.Literal(column.name),
        )

    def _writing(self, write: sql.Composable) -> Statement:
        created = sql.SQL("old.{} is null").format(sql.Identifier(self._table.primary_key))
        return Statement(
            sql.SQL(
                "with looked as materialized (select {lacking} as lacking), written as"
                " ({write} returning {created}, {etag}, {json}, {created} and ({awaited}))"
                " select looked.lacking, {before}, written.* from looked left join written on true"
            ).format(
                lacking=self._lacking,
                write=write,
                created=created,
                etag=columns.etag(),
                json=columns.as_json(self._table),
                awaited=self._is_awaited(),
                before=self._before,
            )
        )

    def _is_awaited(self) -> sql.Composable:
        waiting = sql.SQL(
            "exists (select from ingest_status.pending p"
            " where p.table_name = {} and p.waits_on = {} and p.waits_for = {}::text)"
        )
        key = sql.Placeholder(KEY)
        looks = [waiting.format(sql.Literal(t.key), sql.Literal(c.name), key) for t, c in self.children]
        return sql.SQL(" or ").join(looks or [sql.SQL("false")])

    def _insert(self, on_conflict: sql.Composable) -> sql.Composable:
        return sql.SQL(
            "insert into {table} as t ({names}) select {values} where (select lacking from looked) = '{{}}'"
            " on conflict ({key}) {on_conflict}"
        ).format(
            table=self._name,
            names=_list(sql.Identifier(column.name) for column in self._table.columns),
            values=_list(self._value(column) for column in self._table.columns),
            key=sql.Identifier(self._table.primary_key),
            on_conflict=on_conflict,
        )

    def _overwrite(self) -> sql.Composable:
        names = [sql.Identifier(column.name) for column in self._others()]
        return sql.SQL("do update set {}").format(_list(sql.SQL("{0} = excluded.{0}").format(name) for name in names))

    def _change(self) -> sql.Composable:
        changes = (
            sql.SQL("{name} = case when {given} then {value} else t.{name} end").format(
                name=sql.Identifier(column.name),
                given=sql.Placeholder(GIVEN + column.name),
                value=self._value(column),
            )
            for column in self._others()
        )
        return sql.SQL("update {} t set {} where {} and (select lacking from looked) = '{{}}' and {}").format(
            self._name, _list(changes), self._meant, _is_allowed()
        )

    def _compose_remove(self) -> Statement:
        return Statement(
            sql.SQL(
                "with gone as (delete from {} t where {} and {} returning 1) select exists (select from gone), {}"
            ).format(self._name, self._meant, _is_allowed(), self._before)
        )

    def _compose_count(self) -> Statement:
        counts = (
            sql.SQL("(select count(*) from {} c where c.{} = {})").format(
                columns.name(child), sql.Identifier(column.name), self._key
            )
            for child, column in self.children
        )
        return Statement(sql.SQL("select {}").format(_list(counts)))

    def _value(self, column: Column) -> sql.Composable:
        return self._key if column.name == self._table.primary_key else columns.value(column, column.name)

    def _others(self) -> Sequence[Column]:
        """What a row that is there gets: all but its key, or the key where there is nothing else."""
        return [c for c in self._table.columns if c.name != self._table.primary_key] or [self._table.key_column]


def _is_allowed() -> sql.Composable:
    """Whether If-Match allows the row as it is when it is locked: PostgreSQL looks again at one that just changed."""
    any_state, digests = sql.Placeholder(ANY), sql.Placeholder(DIGESTS)
    return sql.SQL("({} or {} = any({}::text[]))").format(any_state, columns.etag(), digests)


def _list(items: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(items)
