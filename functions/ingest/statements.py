"""The SQL of a load, made from the dictionary: identifiers by ``psycopg2.sql``, values as parameters."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg2 import sql

from functions.ingest.sender import Target
from shared.dictionary import Table

RECORD_COLUMNS = sql.SQL(
    "record_number bigint not null, line_number bigint not null, byte_offset bigint not null,"
    " byte_length integer not null, raw text not null"
)
REJECT_COLUMNS = sql.SQL("load_id, record_number, line_number, byte_offset, byte_length, reasons, raw")
INSERT_REJECTS = sql.SQL("insert into ingest_status.rejects ({})").format(REJECT_COLUMNS)
RECORD_NAMES = ("record_number", "line_number", "byte_offset", "byte_length", "raw")
RECORD = sql.SQL(", ").join(map(sql.Identifier, RECORD_NAMES))
PENDING_COLUMNS = sql.SQL(
    "load_id, record_number, line_number, byte_offset, byte_length, table_name, row_key, waits_on, waits_for, raw"
)
# How the server's own texts of these kinds are made canonical; those of the other kinds are already.
KEY_TEXTS = {
    "date": "to_char({}, 'YYYY-MM-DD')",
    "timestamptz": "replace(to_char({} at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US'), '.000000', '') || 'Z'",
}


@dataclass(frozen=True, slots=True)
class Statements:
    """Every statement that names a dictionary table's columns, for one table."""

    table: Table

    @property
    def name(self) -> sql.Composable:
        """The qualified table."""
        return sql.Identifier(self.table.schema, self.table.key)

    @property
    def key(self) -> sql.Composable:
        """The primary key's column."""
        return sql.Identifier(self.table.primary_key)

    @property
    def key_type(self) -> sql.Composable:
        """The primary key's type."""
        return sql.SQL(self.table.key_column.sql_type)

    def columns(self, prefix: str = "") -> sql.Composable:
        """All columns in table order, each with ``prefix`` (an alias) before it."""
        return sql.SQL(", ").join(self._column(c.name, prefix) for c in self.table.columns)

    def key_text(self, prefix: str) -> sql.Composable:
        """The primary key's canonical text (``shared.rules.canonical``), which ``pending.row_key`` has."""
        return sql.SQL(KEY_TEXTS.get(self.table.key_column.kind, "{}::text")).format(
            self._column(self.table.primary_key, prefix)
        )

    def present_keys(self) -> sql.Composable:
        """Which of the keys in the one parameter, a list, have a row, each as it was given.

        Values are compared, not texts: the server's text of a time is not the one that was given. Each key is looked up
        by itself, since the planner may believe that reading the whole of a table that grew costs less.
        """
        if self.table.key_column.kind in ("integer", "bigint"):
            return sql.SQL("select {key} from {name} where {key} = any(%s::{type}[])").format(
                key=self.key, name=self.name, type=self.key_type
            )
        return sql.SQL(
            "select sent from unnest(%s::text[]) sent,"
            " lateral (select from {name} where {key} = sent::{type} limit 1) held"
        ).format(key=self.key, name=self.name, type=self.key_type)

    def _column(self, name: str, prefix: str) -> sql.Composable:
        return sql.Identifier(prefix, name) if prefix else sql.Identifier(name)

    def _typed(self) -> sql.Composable:
        return sql.SQL(", ").join(
            sql.SQL("{} {}").format(sql.Identifier(c.name), sql.SQL(c.sql_type)) for c in self.table.columns
        )

    def _copy(self, into: sql.Composable, columns: sql.Composable) -> sql.Composable:
        return sql.SQL("copy {} ({}) from stdin (format binary)").format(into, columns)

    def targets(self) -> dict[str, Target]:
        """Where a load's kinds of tuples go; rows that a clean file consists of first."""
        doubles = sql.Identifier("pg_temp", "doubles")
        waiting_doubles = sql.Identifier("pg_temp", "waiting_doubles")
        mended = sql.Identifier("pg_temp", "mended")
        rejects = sql.Identifier("ingest_status", "rejects")
        pending = sql.Identifier("ingest_status", "pending")
        all_columns = self.columns()
        return {
            "rows": Target(self._copy(self.name, all_columns)),
            "rejects": Target(self._copy(rejects, REJECT_COLUMNS)),
            "pending": Target(self._copy(pending, PENDING_COLUMNS)),
            "stage": Target(self.copy_staged(), self.create_stage()),
            "doubles": Target(
                self._copy(doubles, sql.SQL("{}, {}").format(all_columns, RECORD)),
                sql.SQL("create temporary table doubles ({}, {}) on commit drop").format(self._typed(), RECORD_COLUMNS),
            ),
            "mended": Target(
                self._copy(mended, sql.SQL("load_id, record_number")),
                sql.SQL("create temporary table mended (load_id bigint, record_number bigint) on commit drop"),
            ),
            "waiting_doubles": Target(
                self._copy(waiting_doubles, PENDING_COLUMNS),
                sql.SQL(
                    "create temporary table waiting_doubles on commit drop as"
                    " select * from ingest_status.pending where false"
                ),
            ),
        }

    @property
    def only_adds(self) -> bool:
        """Whether a row of a known key is never changed; the stage then knows all that a reject needs."""
        return self.table.load_mode == "add"

    def create_stage(self, name: str = "stage") -> sql.Composable:
        """The temporary table of rows that may be in the table already, or another one of its columns."""
        record = RECORD_COLUMNS if self.only_adds else sql.SQL("record_number bigint not null")
        return sql.SQL("create temporary table {} ({}, {}) on commit drop").format(
            sql.Identifier(name), self._typed(), record
        )

    def copy_staged(self, name: str = "stage") -> sql.Composable:
        """COPY into the temporary table that ``create_stage`` made."""
        return self._copy(sql.Identifier("pg_temp", name), self._staged())

    def _staged(self) -> sql.Composable:
        """The columns of the stage."""
        record = RECORD if self.only_adds else sql.SQL("record_number")
        return sql.SQL("{}, {}").format(self.columns(), record)

    def _same(self, left: str, right: str) -> sql.Composable:
        return sql.SQL("({}) is not distinct from ({})").format(self.columns(left), self.columns(right))

    def merge_from_stage(self) -> sql.Composable:
        """Change the live rows that a staged row differs from, add the staged rows that no live row has the key of.

        One statement, so one snapshot: a key that another writer adds meanwhile is a unique violation, never a row that
        only looks unchanged. The rows are added in order of key. Gives how many were changed and added, and how many
        were to be changed, which is more if another writer removed some meanwhile.
        """
        assignments = sql.SQL(", ").join(
            sql.SQL("{} = s.{}").format(sql.Identifier(c.name), sql.Identifier(c.name))
            for c in self.table.columns
            if c.name != self.table.primary_key
        )
        return sql.SQL(
            """
            with different as materialized (
              select {staged}, t.{key} is null as is_new from pg_temp.stage s left join {name} t on t.{key} = s.{key}
              where t.{key} is null or not {same}),
            changed as (
              update {name} t set {set} from different s where not s.is_new and t.{key} = s.{key} returning 1),
            added as (
              insert into {name} ({columns}) select {staged} from different s where s.is_new order by s.{key}
              returning 1)
            select (select count(*) from changed), (select count(*) from added),
                   (select count(*) from different where not is_new)
            """
        ).format(
            name=self.name,
            set=assignments,
            key=self.key,
            columns=self.columns(),
            staged=self.columns("s"),
            same=self._same("t", "s"),
        )

    def add_from_stage(self) -> sql.Composable:
        """The same where no row is ever changed: what differs from its live row is left to ``take_existing``."""
        return sql.SQL(
            """
            with added as (
              insert into {name} ({columns}) select {staged} from pg_temp.stage s
              where not exists (select from {name} t where t.{key} = s.{key}) order by s.{key} returning 1)
            select 0, count(*), 0 from added
            """
        ).format(name=self.name, columns=self.columns(), staged=self.columns("s"), key=self.key)

    def stage_first_doubles(self) -> sql.Composable:
        """Move to the stage what only looked double: per key the first record, where this load has no other row of it.

        Keys that are not exact (64-bit hashes, integers beyond the bitmap) may collide; a row of this load is one that
        the current transaction wrote, is staged, or is parked.
        """
        return sql.SQL(
            """
            with firsts as (
              delete from pg_temp.doubles d where ctid in (
                select distinct on ({key}) ctid from pg_temp.doubles o
                where not exists (select from pg_temp.stage s where s.{key} = o.{key})
                  and not exists (select from {name} t where t.{key} = o.{key}
                                  and t.xmin = pg_current_xact_id()::xid)
                  and not exists (select from ingest_status.pending p where p.load_id = %(load_id)s
                                  and p.table_name = %(table)s and p.row_key = {key_text})
                order by {key}, record_number)
              returning {staged})
            insert into pg_temp.stage ({staged}) select {staged} from firsts
            """
        ).format(name=self.name, key=self.key, key_text=self.key_text("o"), staged=self._staged())

    def take_existing(self, temporary: str) -> sql.Composable:
        """Take out of ``stage`` or ``doubles`` what has the key, but not the content, of a row of before this load."""
        return sql.SQL(
            "delete from {temporary} s using {name} t where t.{key} = s.{key} and not {same}"
            " and t.xmin <> pg_current_xact_id()::xid returning {record}"
        ).format(
            temporary=sql.Identifier("pg_temp", temporary),
            name=self.name,
            key=self.key,
            same=self._same("t", "s"),
            record=sql.SQL(", ").join(sql.Identifier("s", name) for name in RECORD_NAMES),
        )

    def reject_existing(self, temporary: str) -> sql.Composable:
        """The same, and reject it."""
        return sql.SQL(
            """
            with gone as ({taken})
            {rejects}
            select %(load_id)s, record_number, line_number, byte_offset, byte_length, array[%(exists)s], raw from gone
            """
        ).format(taken=self.take_existing(temporary), rejects=INSERT_REJECTS)

    def reject_doubles(self) -> sql.Composable:
        """Reject every double that differs from the row of its key; what is left over is unchanged."""
        return sql.SQL(
            """
            {rejects}
            select %(load_id)s, d.record_number, d.line_number, d.byte_offset, d.byte_length, array[%(reason)s], d.raw
            from pg_temp.doubles d left join {name} t on t.{key} = d.{key}
            where t.{key} is null or not {same}
               or (%(parked)s and exists (select from ingest_status.pending p where p.load_id = %(load_id)s
                                          and p.table_name = %(table)s and p.row_key = {key_text}))
            """
        ).format(
            rejects=INSERT_REJECTS,
            name=self.name,
            key=self.key,
            key_text=self.key_text("d"),
            same=self._same("t", "d"),
        )

    def park_first_waiting_doubles(self) -> sql.Composable:
        """Park what only looked double among the rows that wait (see ``stage_first_doubles``)."""
        return sql.SQL(
            """
            with firsts as (
              delete from pg_temp.waiting_doubles where ctid in (
                select distinct on (row_key) ctid from pg_temp.waiting_doubles o
                where not exists (select from {name} t where t.{key} = o.row_key::{type}
                                  and t.xmin = pg_current_xact_id()::xid)
                  and not exists (select from pg_temp.stage s where s.{key} = o.row_key::{type})
                  and not exists (select from ingest_status.pending p where p.load_id = %(load_id)s
                                  and p.table_name = %(table)s and p.row_key = o.row_key)
                order by row_key, record_number)
              returning {columns})
            insert into ingest_status.pending ({columns}) select {columns} from firsts
            """
        ).format(name=self.name, key=self.key, type=self.key_type, columns=PENDING_COLUMNS)

    def reject_waiting_doubles(self) -> sql.Composable:
        """Reject the waiting doubles that differ from the parked record of their key; the rest are unchanged.

        Those that are the same in other words were taken out before (``waiting_doubles.drop_same``).
        """
        return sql.SQL(
            """
            {rejects}
            select d.load_id, d.record_number, d.line_number, d.byte_offset, d.byte_length, array[%(reason)s],
                   left(d.raw, 8192)
            from pg_temp.waiting_doubles d
            where not exists (select from ingest_status.pending p where p.load_id = %(load_id)s
                              and p.row_key = d.row_key and p.raw = d.raw)
            """
        ).format(rejects=INSERT_REJECTS)

    def reworded_waiting_doubles(self) -> sql.Composable:
        """Record number, text, and the text of the parked record of the same key, of those where these differ."""
        return sql.SQL(
            "select d.record_number, d.raw, p.raw from pg_temp.waiting_doubles d join ingest_status.pending p"
            " on p.load_id = %(load_id)s and p.row_key = d.row_key and p.raw <> d.raw"
        )

    def drop_same_waiting_doubles(self) -> sql.Composable:
        """Take out the waiting doubles whose values, in ``again``, are those of the parked record, in ``held``."""
        return sql.SQL(
            "delete from pg_temp.waiting_doubles d using pg_temp.held h, pg_temp.again a"
            " where h.record_number = d.record_number and a.record_number = d.record_number and {same}"
        ).format(same=self._same("h", "a"))

    def remember_live_rows(self) -> sql.Composable:
        """Note with each row that this load parked what the live row of its key looks like now."""
        return sql.SQL(
            "update ingest_status.pending p set live_hash = md5(t::text) from {name} t"
            " where p.load_id = %(load_id)s and p.table_name = %(table)s and t.{key} = p.row_key::{type}"
            " and (%(numbers)s::bigint[] is null or p.record_number = any(%(numbers)s))"
        ).format(name=self.name, key=self.key, type=self.key_type)

    def parked_keys_met(self, *, written: bool, staged: bool) -> sql.Composable:
        """Condition over parked rows ``p`` of earlier loads: this load has written, or staged, a row of the same key.

        One of the two at least. Each is a plain join, which is linear however many rows either side has; an OR of two
        EXISTS need not be.
        """
        older = sql.SQL(
            "select o.load_id, o.record_number from ingest_status.pending o join {met} m on {same}"
            " where o.table_name = %(table)s and o.load_id < %(load_id)s"
        )
        key = sql.SQL("m.{}").format(self.key)
        as_value = sql.SQL("{} = o.row_key::{}").format(key, self.key_type)
        live = older.format(met=self.name, same=as_value) + sql.SQL(" and m.xmin = pg_current_xact_id()::xid")
        # An integer has one text, and the index on parked keys has texts: few staged rows then find theirs among many.
        is_integer = self.table.key_column.kind in ("integer", "bigint")
        same = sql.SQL("o.row_key = {}::text").format(key) if is_integer else as_value
        stage = older.format(met=sql.Identifier("pg_temp", "stage"), same=same)
        met = [keys for keys, is_met in ((live, written), (stage, staged)) if is_met]
        return sql.SQL("(p.load_id, p.record_number) in ({})").format(sql.SQL(" union all ").join(met))

    def lock_live_rows(self) -> sql.Composable:
        """Hold the live rows of ``keys`` against other writers until the transaction ends.

        Gives those of ``numbers``, a list in the order of the keys, that have one.
        """
        return sql.SQL(
            "select k.number from unnest(%(numbers)s::bigint[], %(keys)s::{type}[]) k (number, key)"
            " join {name} t on t.{key} = k.key order by t.{key} for no key update of t"
        ).format(name=self.name, key=self.key, type=self.key_type)

    def superseded_rejects(self) -> sql.Composable:
        """Which of the rejects ``numbers``, whose keys are ``keys``, must not go in any more.

        The live row changed since they were parked (not asked of one that was rejected for that, and was named
        nevertheless), or a row of the same key waits that is of the same load or a later one.
        """
        return sql.SQL(
            """
            select k.number from unnest(%(numbers)s::bigint[], %(keys)s::text[]) k (number, key)
            join ingest_status.rejects r on r.load_id = %(load_id)s and r.record_number = k.number
            where (r.live_hash is not null and not 'record.superseded' = any(r.reasons)
                   and r.live_hash <> coalesce((select md5(t::text) from {name} t where t.{key} = k.key::{type}), ''))
               or exists (select from ingest_status.pending n where n.table_name = %(table)s and n.row_key = k.key
                          and n.load_id >= %(load_id)s)
            """
        ).format(name=self.name, key=self.key, type=self.key_type)
