"""A drain's way through the rows that wait: each is met once, however many wait, and for however few parents."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from psycopg2 import sql

from functions.ingest.statements import Statements

if TYPE_CHECKING:
    from psycopg2.extensions import connection

    from shared.dictionary import Column, Dictionary, Table

KEYS_AT_ONCE = 1_000
BATCH_ROWS = 20_000
BATCH_BYTES = 16 << 20  # of raw records: one may have 64 MiB, so a batch has one at least
FETCHED_ROWS = 1_000
BEFORE_ALL = (0, 0)
LAST_RECORD = 2**63 - 1

# Places are compared as whole rows, in the order of the index on pending, for the planner to take no other: one look-up
# for each key, which begins behind what was dealt with. What deleted rows leave in the index is passed by once.
NEXT_LOADS = """
    select k.key, head.load_id
    from unnest(%(keys)s::text[], %(loads)s::bigint[], %(records)s::bigint[]) k (key, load_id, record_number),
      lateral (
        select p.load_id from ingest_status.pending p
        where p.table_name = %(table)s and p.waits_on = %(column)s and p.waits_for <= k.key
          and (p.waits_for, p.load_id, p.record_number) > (k.key, k.load_id, k.record_number)
        order by p.waits_for, p.load_id, p.record_number limit 1) head
"""
NEXT_ROWS = """
    select k.key, next.record_number, next.bytes
    from unnest(%(keys)s::text[], %(records)s::bigint[]) k (key, record_number),
      lateral (
        select p.record_number, octet_length(p.raw) as bytes from ingest_status.pending p
        where p.table_name = %(table)s and p.waits_on = %(column)s
          and (p.waits_for, p.load_id, p.record_number) > (k.key, %(load)s, k.record_number)
          and (p.waits_for, p.load_id) <= (k.key, %(load)s)
        order by p.waits_for, p.load_id, p.record_number limit %(share)s for update) next
"""
READY_KEYS = """
    with recursive waited (key) as (
      (select waits_for from ingest_status.pending where table_name = %(table)s and waits_on = %(column)s
         and waits_for > %(after)s order by waits_for limit 1)
      union all
      select (select p.waits_for from ingest_status.pending p where p.table_name = %(table)s
              and p.waits_on = %(column)s and p.waits_for > w.key order by p.waits_for limit 1)
      from waited w where w.key is not null)
    select key from waited
    where key is not null and exists (select from {parent} where {id} = key::{type}) limit %(limit)s
"""


class Batch(NamedTuple):
    """Rows of one load that are brought in together."""

    load_id: int
    record_numbers: list[int]


@dataclass(slots=True)
class Walk:
    """The way through the rows of ``table`` that wait in ``column``.

    Attributes:
        parent: of the table that ``column`` references.
        places: keys that had a parent row when they were looked at, each with the last (load id, record number) that
            was dealt with.
        last_key: the keys up to this one were looked at.
        stuck: keys whose parent seemed to be there, but not when their rows were judged. They are left alone until one
            comes: a parent removed in between does that, and so would a defect of ours, which must not judge for ever.
    """

    table: Table
    column: Column
    parent: Statements
    places: dict[str, tuple[int, int]] = field(default_factory=dict)
    last_key: str = ""
    at_end: bool = False
    stuck: set[str] = field(default_factory=set)

    def begin_again(self) -> None:
        """A parent came, or a row was parked: where was it?"""
        self.places, self.last_key, self.at_end = {}, "", False
        self.stuck.clear()

    def next_batch(self, conn: connection) -> Batch | None:
        """Lock the next rows whose parent has come, of the oldest load among the keys at hand; None at the end."""
        while True:
            loads = self._next_loads(conn)
            if loads:
                oldest = min(loads.values())
                if numbers := self._take(conn, oldest, [key for key, load in loads.items() if load == oldest]):
                    return Batch(oldest, numbers)
            elif self.at_end:
                return None
            else:
                self._look_for_keys(conn)

    def pass_over(self, load_id: int) -> None:
        """Leave all rows of the load of the last batch alone."""
        self.places = {key: max(place, (load_id, LAST_RECORD)) for key, place in self.places.items()}

    def _named(self, **more: Any) -> dict[str, Any]:
        return {"table": self.table.key, "column": self.column.name, **more}

    def _look_for_keys(self, conn: connection) -> None:
        """Put the next keys that have a parent at hand; they are stepped through in the index, not row by row."""
        statement = sql.SQL(READY_KEYS).format(parent=self.parent.name, id=self.parent.key, type=self.parent.key_type)
        with conn.cursor() as cursor:
            cursor.execute(statement, self._named(after=self.last_key, limit=KEYS_AT_ONCE))
            keys = [key for (key,) in cursor.fetchall()]
        self.places = dict.fromkeys(keys, BEFORE_ALL)
        self.at_end = len(keys) < KEYS_AT_ONCE
        self.last_key = keys[-1] if keys else self.last_key

    def _next_loads(self, conn: connection) -> dict[str, int]:
        """By key, the load of its next row; keys without one are at hand no longer."""
        loads, records = zip(*self.places.values(), strict=True) if self.places else ((), ())
        values = self._named(keys=list(self.places), loads=list(loads), records=list(records))
        with conn.cursor() as cursor:
            cursor.execute(NEXT_LOADS, values)
            found: dict[str, int] = dict(cursor.fetchall())
        self.places = {key: place for key, place in self.places.items() if key in found}
        return found

    def _take(self, conn: connection, load_id: int, keys: list[str]) -> list[int]:
        """The next rows of the load, an equal share for each key, so that they lie together as they were parked."""
        records = [record if load == load_id else 0 for load, record in (self.places[key] for key in keys)]
        values = self._named(load=load_id, keys=keys, records=records, share=-(-BATCH_ROWS // len(keys)))
        numbers: list[int] = []
        size = 0
        with conn.cursor("next_rows") as cursor:  # fetched bit by bit: what is behind a full batch is not read
            cursor.itersize = FETCHED_ROWS
            cursor.execute(NEXT_ROWS, values)
            for key, number, record_bytes in cursor:
                if numbers and (size + record_bytes > BATCH_BYTES or len(numbers) == BATCH_ROWS):
                    break
                numbers.append(number)
                size += record_bytes
                self.places[key] = (load_id, number)
        return numbers


@dataclass(slots=True)
class Walks:
    """All ways of one drain.

    Attributes:
        own: ids of the wake-ups that this drain left itself; any other tells that something came.
    """

    walks: list[Walk]
    own: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, dictionary: Dictionary) -> Walks:
        """One for each column that references a table, in dictionary order."""
        return cls(
            [
                Walk(table, column, Statements(dictionary.tables[column.references]))
                for table in dictionary.tables.values()
                for column in table.columns
                if column.references
            ]
        )

    def take(self, wakeups: dict[int, str]) -> None:
        """Begin again where one of ``wakeups``, parent table by id, is somebody else's."""
        woken = {parent for wakeup, parent in wakeups.items() if wakeup not in self.own}
        for walk in self.walks:
            if walk.column.references in woken:
                walk.begin_again()

    @property
    def keys_stuck(self) -> int:
        """How many keys seem to have a parent that the judge does not find."""
        return sum(len(walk.stuck) for walk in self.walks)
