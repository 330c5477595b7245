"""The one statement of a batch: rows in as JSON; what is known of them, writes, rejects and history are its CTEs.

All of it sees one snapshot. What another writer changed in between leaves a row without an end, or a key without its
parent: then history's CHECK ``rows_add_up``, or the key, undoes the statement whole, and it is made again.

A row on its way through the CTEs has its columns, and ``#i`` (its number in the body), ``#why`` (reasons so far),
``#raw`` (its record, where it was faulty already) and ``#end``. No column of the dictionary has a name with ``#``.

Parameters: ``rows0`` and so on, a JSON text for each table; ``details``, JSON; ``strict``, all or nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from psycopg2 import sql

from functions.api import columns
from shared import reasons
from shared.dictionary import Column, Dictionary, Table

Kind = Literal["add", "write", "remove"]

RAW_CHARACTERS = 8192  # what a reject keeps of its record
COUNTS = ("inserted", "updated", "unchanged", "deleted", "rejected", "rolled_back")
INTEGERS = ("integer", "bigint")
LOAD_ID = sql.SQL("nextval((select pg_get_serial_sequence('ingest_status.ingest_status', 'id')::regclass))")


def statement(kind: Kind, dictionary: Dictionary, tables: Sequence[Table]) -> sql.Composable:
    """The statement for rows of ``tables``, parents first.

    It gives one row for each table: id of its load, counts in the order of ``COUNTS``, the rows that are in as texts of
    JSON objects with commas between, the rejected ones as a JSON list of ``[index, reasons that SQL found, detail]``,
    and whether rows wait for what came.
    """
    parts = [_Part(kind, dictionary, table, n, tables[:n]) for n, table in enumerate(tables)]
    stop = sql.SQL(" or ").join(
        sql.SQL("exists (select from {} where \"#end\" = 'rejected')").format(p.named("planned")) for p in parts
    )
    ctes = [cte for part in parts for cte in part.judging()]
    ctes.append(sql.SQL("stop as materialized (select %(strict)s and ({}) as stops)").format(stop))
    ctes += [cte for part in parts for cte in part.writing()]
    answers = sql.SQL(" union all ").join(part.answer() for part in parts)
    return sql.SQL("with recursive {} select * from ({}) answers order by 1").format(sql.SQL(",\n").join(ctes), answers)


class _Part:
    """The CTEs of one table; their names end in its number."""

    def __init__(self, kind: Kind, dictionary: Dictionary, table: Table, n: int, before: Sequence[Table]) -> None:
        self.kind, self.dictionary, self.table, self.n = kind, dictionary, table, n
        self.before = {parent.key: number for number, parent in enumerate(before)}
        self.name = columns.name(table)
        self.key = sql.Identifier(table.primary_key)
        self.columns = [table.key_column] if kind == "remove" else list(table.columns)

    def named(self, cte: str, n: int | None = None) -> sql.Composable:
        return sql.Identifier(f"{cte}{self.n if n is None else n}")

    def _format(self, text: str, **more: sql.Composable) -> sql.Composable:
        """``text`` with the names of this table and of its CTEs in it."""
        ctes = ("given", "found", "reached", "judged", "used", "planned", "locked", "written", "ended", "load")
        names: dict[str, sql.Composable] = {cte: self.named(cte) for cte in ctes}
        names |= {
            "n": sql.SQL(str(self.n)),
            "name": self.name,
            "key": self.key,
            "columns": self._columns(),
            "table": sql.Literal(self.table.key),
        }
        return sql.SQL(text).format(**(names | more))

    def _columns(self, alias: str | None = None) -> sql.Composable:
        return sql.SQL(", ").join(
            sql.Identifier(alias, c.name) if alias else sql.Identifier(c.name) for c in self.columns
        )

    # --- What is known of the rows, by the statement's snapshot

    def judging(self) -> list[sql.Composable]:
        planned = self._planned_removal() if self.kind == "remove" else self._planned()
        return [self._given(), *self._parents(), self._judged(), *planned]

    def _given(self) -> sql.Composable:
        """The body's rows, under a key of their own each."""
        typed = sql.SQL(", ").join(
            # A JSON string would become a string of jsonb: its text is what was judged.
            sql.SQL("{} {}").format(sql.Identifier(c.name), sql.SQL("text" if c.kind == "jsonb" else c.sql_type))
            for c in self.columns
        )
        return self._format(
            'given{n} as materialized (select g."#i", coalesce(g."#why", \'{{}}\') as "#why", g."#raw",'
            ' g.{key} is null as "#drawn", {values}'
            ' from json_to_recordset(%(rows{n})s::json) as g ("#i" integer, "#why" text[], "#raw" text, {typed}))',
            values=sql.SQL(", ").join(map(self._given_value, self.columns)),
            typed=typed,
        )

    def _given_value(self, column: Column) -> sql.Composable:
        name = sql.Identifier(column.name)
        if column.kind == "jsonb":
            return sql.SQL("g.{0}::jsonb as {0}").format(name)
        if self.kind != "add" or column is not self.table.key_column or column.kind not in INTEGERS:
            return sql.SQL("g.{}").format(name)
        return sql.SQL('case when g.{0} is null and g."#why" is null then nextval({1}) else g.{0} end as {0}').format(
            name, sequence(self.table)
        )

    def _references(self) -> list[Column]:
        return [] if self.kind == "remove" else [c for c in self.columns if c.references]

    def _waits_on(self) -> Column | None:
        """The column whose parent may be another row of the same body and table, if there is just one such column."""
        own = [c for c in self._references() if c.references == self.table.key]
        return own[0] if len(own) == 1 else None

    def _parents(self) -> list[sql.Composable]:
        """For each reference the parents that are there, or come with this body: looked up once for each key."""
        return [self._found(place, column) for place, column in enumerate(self._references())]

    def _found(self, place: int, column: Column) -> sql.Composable:
        parent = self.dictionary.tables[str(column.references)]
        there = sql.SQL(
            "select p.{key} as key from {parent} p where p.{key} in (select g.{column} from {given} g)"
        ).format(
            key=sql.Identifier(parent.primary_key),
            parent=columns.name(parent),
            column=sql.Identifier(column.name),
            given=self.named("given"),
        )
        if parent.key in self.before:
            there += sql.SQL(" union select q.{key} from {planned} q where q.\"#end\" <> 'rejected'").format(
                key=sql.Identifier(parent.primary_key), planned=self.named("planned", self.before[parent.key])
            )
        return sql.SQL("{} as materialized ({})").format(self.named(f"found{place}_"), there)

    def _judged(self) -> sql.Composable:
        """The rows with all their reasons, but for those that come of other rows of the body."""
        waits_on = self._waits_on()
        missing: list[sql.Composable] = [
            sql.SQL("case when g.{0} is not null and not {1} then {2} end").format(
                sql.Identifier(c.name),
                self._is_found(place, c),
                sql.Literal(f"{c.name}.{reasons.PARENT_MISSING}"),
            )
            for place, c in enumerate(self._references())
            if c is not waits_on
        ]
        if self.kind != "remove":
            missing.append(
                self._format(
                    "case when g.{key} is null and g.\"#why\" = '{{}}' then {reason} end",
                    reason=sql.Literal(f"{self.table.primary_key}.{reasons.MISSING}"),
                )
            )
        all_reasons = sql.SQL(" || ").join(
            [sql.SQL('g."#why"')]
            + (
                [sql.SQL("array_remove(array[{}]::text[], null)").format(sql.SQL(", ").join(missing))]
                if missing
                else []
            )
        )
        listed = self._columns("g")
        if waits_on is None:
            return self._format(
                'judged{n} as materialized (select g."#i", cardinality(g."#why") as "#known", {reasons} as "#why",'
                ' g."#raw", g."#drawn", {listed} from {given} g)',
                reasons=all_reasons, listed=listed,
            )  # fmt: skip
        return self._judged_among_themselves(waits_on, all_reasons, listed)

    def _is_found(self, place: int, column: Column) -> sql.Composable:
        return sql.SQL("g.{} in (select key from {})").format(sql.Identifier(column.name), self.named(f"found{place}_"))

    def _judged_among_themselves(
        self, waits_on: Column, all_reasons: sql.Composable, listed: sql.Composable
    ) -> sql.Composable:
        """The same for a table that refers to itself: a row stands if its chain of parents ends at one that stands."""
        own = sql.Identifier(waits_on.name)
        return self._format(
            """
            alone{n} as materialized (
              select g."#i", cardinality(g."#why") as "#known", {reasons} as "#why", g."#raw", g."#drawn", {listed},
                     g.{own} is not null and g.{own} is distinct from g.{key} and not {found} as "#waits"
              from {given} g),
            reached{n} as (
              select a.{key} as "#key" from alone{n} a where a."#why" = '{{}}' and not a."#waits"
              union
              select a.{key} from alone{n} a join {reached} r on a.{own} = r."#key"
              where a."#why" = '{{}}' and a."#waits"),
            judged{n} as materialized (
              select g."#i", g."#known",
                     g."#why" || case when g."#waits" and g.{own} not in (select r."#key" from {reached} r
                                                                          where r."#key" is not null)
                                      then array[{reason}] else '{{}}' end as "#why",
                     g."#raw", g."#drawn", {listed}
              from alone{n} g)
            """,
            reasons=all_reasons,
            listed=listed,
            own=own,
            found=self._is_found(self._references().index(waits_on), waits_on),
            reason=sql.Literal(f"{waits_on.name}.{reasons.PARENT_MISSING}"),
        )

    def _planned(self) -> list[sql.Composable]:
        """How each row ends, if nobody writes meanwhile: the first good one of a key stands.

        A row whose key was drawn, and is another's, has no end: the statement is made again, and draws another.
        """
        ends = (
            """
            when j."#drawn" then case when t.{key} is null and j."#nth" = 1 then 'new' end
            when t.{key} is not null then case when {as_live} then 'unchanged' else {exists} end
            when j."#nth" = 1 then 'new'
            """
            if self.kind == "add"
            else """
            when j."#nth" = 1 then case when t.{key} is null then 'new' when {as_live} then 'unchanged' else 'new' end
            """
        )
        content = sql.SQL("row({})").format(self._columns("j"))
        end = self._format(
            "case when j.\"#why\" <> '{{}}' then 'rejected' "
            + ends
            + " when {as_first} then 'unchanged' else {twice} end",
            as_live=sql.SQL("({}) is not distinct from ({})").format(self._columns("t"), self._columns("j")),
            as_first=sql.SQL('{} is not distinct from j."#first"').format(content),
            exists=sql.Literal(reasons.EXISTS),
            twice=sql.Literal(reasons.DUPLICATE),
        )
        return [
            self._format(
                """
                planned{n} as materialized (
                  select p."#i", p."#known", p."#raw", {columns},
                         case when p."#end" in {losing} then array[{prefix} || p."#end"] else p."#why" end as "#why",
                         case when p."#end" in {losing} then 'rejected' else p."#end" end as "#end",
                         null::text as "#detail"
                  from (select j.*, {end} as "#end"
                        from (select j.*, row_number() over same_key as "#nth",
                                     first_value({content}) over same_key as "#first"
                              from {judged} j window same_key as
                                (partition by j.{key}, j."#why" = '{{}}' order by j."#drawn", j."#i")) j
                        left join {name} t on t.{key} = j.{key}) p)
                """,
                end=end,
                content=content,
                prefix=sql.Literal(self.table.primary_key + "."),
                losing=sql.SQL("({}, {})").format(sql.Literal(reasons.EXISTS), sql.Literal(reasons.DUPLICATE)),
            )
        ]

    def _planned_removal(self) -> list[sql.Composable]:
        """A row that others refer to stays; one that is not there is gone already."""
        used = [
            sql.SQL(
                "select c.{column} as key, count(*) as uses, {child} as child from {name} c"
                " where c.{column} in (select g.{key} from {given} g){others} group by 1"
            ).format(
                column=sql.Identifier(column.name),
                child=sql.Literal(child.api_name),
                name=columns.name(child),
                key=self.key,
                given=self.named("given"),
                others=sql.SQL(" and c.{} <> c.{}").format(sql.Identifier(column.name), self.key)
                if child.key == self.table.key
                else sql.SQL(""),
            )
            for child, column in self.dictionary.children_of(self.table.key)
        ]
        nowhere = self._format("select {key} as key, 0::bigint as uses, '' as child from {given} where false")
        return [
            self._format(
                "used{n} as materialized (select key, string_agg(uses || ' in ' || child, ', ' order by child) as uses"
                " from (select key, sum(uses) as uses, child from ({used}) c group by key, child) c group by key)",
                used=sql.SQL(" union all ").join(used or [nowhere]),
            ),
            self._format(
                """
                planned{n} as materialized (
                  select j."#i", j."#known", j."#raw", j.{key}, u.uses as "#detail",
                         j."#why" || case when u.key is not null then array[{in_use}] else '{{}}' end as "#why",
                         case when j."#why" <> '{{}}' or u.key is not null then 'rejected'
                              when t.{key} is null or row_number() over (partition by j.{key} order by j."#i") > 1
                                then 'unchanged'
                              else 'new' end as "#end"
                  from {judged} j left join {used} u on u.key = j.{key} left join {name} t on t.{key} = j.{key})
                """,
                in_use=sql.Literal(f"{self.table.primary_key}.{reasons.IN_USE}"),
            ),
        ]

    # --- What is written, in order of key: two batches of the same rows wait for each other in that order alone

    def writing(self) -> list[sql.Composable]:
        written = self._removed() if self.kind == "remove" else [self._inserted()]
        return [*written, self._ended(), self._load(), self._rejected(), self._history()]

    def _inserted(self) -> sql.Composable:
        others = [sql.Identifier(c.name) for c in self.columns if c.name != self.table.primary_key]
        change: sql.Composable = sql.SQL("nothing")
        if self.kind == "write" and others:
            change = sql.SQL("update set {} where ({}) is distinct from ({})").format(
                sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(name) for name in others),
                sql.SQL(", ").join(sql.SQL("w.{}").format(name) for name in others),
                sql.SQL(", ").join(sql.SQL("excluded.{}").format(name) for name in others),
            )
        return self._format(
            """
            written{n} as (
              insert into {name} as w ({columns})
              select {columns} from {planned} where "#end" = 'new' and not (select stops from stop) order by {key}
              on conflict ({key}) do {change}
              returning new.{key} as "#key", case when old.{key} is null then 'inserted' else 'updated' end as "#end")
            """,
            change=change,
        )

    def _removed(self) -> list[sql.Composable]:
        whole = sql.SQL(", ").join(sql.Identifier("t", c.name) for c in self.table.columns)
        return [
            self._format(
                "locked{n} as materialized (select t.{key} from {name} t where t.{key} in"
                " (select p.{key} from {planned} p where p.\"#end\" = 'new') and not (select stops from stop)"
                " order by t.{key} for update)",
            ),
            self._format(
                "written{n} as (delete from {name} t using {locked} l where t.{key} = l.{key}"
                ' returning t.{key} as "#key", \'deleted\' as "#end", {whole})',
                whole=whole,
            ),
        ]

    def _ended(self) -> sql.Composable:
        """How each row ended: null where another writer came in between, so that the counts do not add up."""
        return self._format(
            """
            ended{n} as materialized (
              select p.*, case when p."#end" = 'rejected' then 'rejected'
                               when (select stops from stop) then 'rolled_back'
                               when p."#end" = 'new' then w."#end" else p."#end" end as "#ended"
              from {planned} p left join {written} w on w."#key" = p.{key} and p."#end" = 'new')
            """,
        )

    def _load(self) -> sql.Composable:
        counts = sql.SQL(", ").join(
            sql.SQL('count(*) filter (where "#ended" = {}) as {}').format(sql.Literal(end), sql.Identifier(end))
            for end in COUNTS
        )
        return self._format(
            "load{n} as materialized (select {id} as id, count(*) as received, {counts} from {ended})",
            id=LOAD_ID,
            counts=counts,
        )

    def _rejected(self) -> sql.Composable:
        return self._format(
            """
            rejected{n} as (
              insert into ingest_status.rejects
                (load_id, record_number, line_number, byte_offset, byte_length, reasons, raw)
              select l.id, r."#i" + 1, r."#i" + 1, 0, octet_length(r.raw), r."#why", left(r.raw, {characters})
              from {load} l, (select t."#i", t."#why", coalesce(t."#raw", {record}) as raw from {ended} t
                              where t."#ended" = 'rejected') r)
            """,
            characters=sql.Literal(RAW_CHARACTERS),
            record=self._record(),
        )

    def _record(self) -> sql.Composable:
        """The row ``t`` as a CSV record, as the judge of files reads it."""
        texts = [sql.SQL("coalesce({}, '')").format(_csv_field(column)) for column in self.columns]
        return sql.SQL(" || ',' || ").join(texts)

    def _history(self) -> sql.Composable:
        """The load's row; what was removed cannot be judged again, and names no columns to do so by."""
        names = sql.SQL(", ").join(sql.Literal(column.name) for column in self.columns)
        is_number = self.table.key_column.kind in INTEGERS
        return self._format(
            """
            history{n} as (
              insert into ingest_status.ingest_status
                (id, kind, table_name, state, reason_code, reason, columns, delimiter, rows_read, rows_inserted,
                 rows_updated, rows_unchanged, rows_deleted, rows_rejected, rows_rolled_back, rejects_by_reason,
                 last_id, started_at, details)
              overriding system value
              select id, 'batch', {table}, case when s.stops then 'rolled_back' else 'loaded' end,
                case when s.stops then 'batch.rejected' end,
                case when s.stops then 'rows break the rules, and the batch asked for all or nothing' end,
                {names}, ',', received, inserted,
                updated, unchanged, deleted, rejected, rolled_back,
                coalesce((select jsonb_object_agg("#reason", rows) from (select w."#reason", count(*) as rows
                          from {ended} e, unnest(e."#why") w ("#reason") where e."#ended" = 'rejected' group by 1) r),
                         '{{}}'),
                (select {last_id} from {ended} where "#ended" in ('inserted', 'updated')),
                statement_timestamp(), %(details)s::jsonb
              from {load}, stop s)
            """,
            names=sql.SQL("null" if self.kind == "remove" else "array[{}]").format(names),
            last_id=sql.SQL("max({})").format(self.key if is_number else sql.SQL("null::bigint")),
        )

    # --- What the caller is told

    def answer(self) -> sql.Composable:
        counts = sql.SQL(", ").join(map(sql.Identifier, COUNTS))
        if self.kind == "remove":
            data = self._format(
                'select string_agg({json}, \',\' order by t."#i") from (select e."#i", w.* from {ended} e'
                ' join {written} w on w."#key" = e.{key} and e."#ended" = \'deleted\') t',
                json=columns.as_json(self.table),
            )
        else:
            data = self._format(
                "select string_agg({json}, ',' order by t.\"#i\") from {ended} t"
                " where t.\"#ended\" in ('inserted', 'updated', 'unchanged')",
                json=columns.as_json(self.table),
            )
        return self._format(
            """
            select {number} as n, id, received, {counts}, case when %(data)s then ({data}) end,
              (select json_agg(json_build_array("#i", "#why"[1 + "#known":], "#detail") order by "#i")::text
               from {ended} where "#ended" = 'rejected'),
              {wakes}
            from {load}
            """,
            number=sql.Literal(self.n),
            counts=counts,
            data=data,
            wakes=self._wakes(),
        )

    def _wakes(self) -> sql.Composable:
        children = self.dictionary.children_of(self.table.key)
        if self.kind == "remove" or not children:
            return sql.SQL("false")
        waiting = sql.SQL(" or ").join(
            sql.SQL("(table_name = {} and waits_on = {})").format(sql.Literal(child.key), sql.Literal(column.name))
            for child, column in children
        )
        return sql.SQL("inserted > 0 and exists (select from ingest_status.pending where {})").format(waiting)


def sequence(table: Table) -> sql.Composable:
    """The sequence of the table's identity, looked up once in a statement; null where it has none."""
    return sql.SQL("(select pg_get_serial_sequence({}, {})::regclass)").format(
        sql.Literal(f"{table.schema}.{table.key}"), sql.Literal(table.primary_key)
    )


def _csv_field(column: Column) -> sql.Composable:
    if column.kind in ("text", "jsonb"):
        return sql.SQL("'\"' || replace({}::text, '\"', '\"\"') || '\"'").format(sql.Identifier("t", column.name))
    return sql.SQL("({})::text").format(columns.shown(column))
