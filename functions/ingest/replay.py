"""Judge records again that were put aside: parked rows whose parent came, and rejects that somebody re-drives."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from psycopg2 import sql

from functions.ingest.dialect import Dialect
from functions.ingest.judge import ACCEPTED, PENDING, REJECTED, Judge, Judged
from functions.ingest.load import merge_stage, parent_lookup
from functions.ingest.parked import supersede_older
from functions.ingest.sender import copy_in
from functions.ingest.statements import PENDING_COLUMNS, REJECT_COLUMNS, Statements
from shared.errors import DatabaseBusy
from shared.reasons import EXISTS

if TYPE_CHECKING:
    from psycopg2.extensions import connection

    from functions.ingest.history import Counts
    from functions.ingest.services import Services


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it was put aside, with its place in the file; ``raw`` are its bytes in UTF-8."""

    record_number: int
    line_number: int
    byte_offset: int
    byte_length: int
    raw: bytes


@dataclass(frozen=True, slots=True)
class Origin:
    """The load that the records come from, and how its file was read."""

    load_id: int
    statements: Statements
    dialect: Dialect


def origin(services: Services, conn: connection, load_id: int) -> Origin | None:
    """The load whose records are judged again, or None when its table has left the dictionary."""
    with conn.cursor() as cursor:
        cursor.execute(
            "select table_name, columns, delimiter from ingest_status.ingest_status where id = %s", (load_id,)
        )
        found = cursor.fetchone()
    if found is None or found[0] not in services.dictionary.tables or found[1] is None:
        return None
    table = services.dictionary.tables[found[0]]
    dialect = Dialect(delimiter=found[2].encode(), fields=tuple(found[1]), has_header=False, ignored=())
    return Origin(load_id, Statements(table), dialect)


def judge(services: Services, side: connection, source: Origin, records: list[Record]) -> Judged:
    """Judge ``records``, each under its own number and place."""
    present = parent_lookup(side, services.dictionary)
    judged = Judge(source.statements.table, source.dialect, present).judge_records([r.raw for r in records])
    judged.record_numbers = np.array([r.record_number for r in records], np.int64)
    judged.line_numbers = np.array([r.line_number for r in records], np.int64)
    judged.byte_offsets = np.array([r.byte_offset for r in records], np.int64)
    judged.byte_lengths = np.array([r.byte_length for r in records], np.int64)
    return judged


def reject_repeated(judged: Judged, key: str) -> None:
    """Of several usable records of one key the first stands; the others are rejected as doubles."""
    usable = np.flatnonzero(judged.status != REJECTED)
    first: dict[int | str, int] = {}
    keys = zip(usable.tolist(), judged.keys(usable), strict=True)
    again = [row for row, value in keys if first.setdefault(value, row) != row]
    if again:
        judged.reject(np.array(again, np.int64), f"{key}.duplicate")


def bring_in(cursor: Any, source: Origin, judged: Judged, counts: Counts, live: Collection[int]) -> NDArray[np.int64]:
    """Merge the accepted records into their table; returns their indices.

    Of a table that only adds, those whose key has a row of other content become rejected instead.

    Args:
        live: numbers of the records whose key has a row in the table, which this transaction holds.

    Raises:
        DatabaseBusy: since ``live`` was looked up another writer added the row of a key, which may be newer.
    """
    accepted = np.flatnonzero(judged.status == ACCEPTED)
    if not len(accepted):
        return accepted
    cursor.execute("drop table if exists pg_temp.stage")
    cursor.execute(source.statements.create_stage())
    copy_in(cursor, source.statements.copy_staged(), judged.encode_staged(accepted))
    supersede_older(cursor.connection, source.statements, source.load_id, staged=True)
    updated, inserted = merge_stage(cursor, source.statements)
    if inserted != len(set(judged.record_numbers[accepted].tolist()) - set(live)):
        raise DatabaseBusy(f"another writer added rows of {source.statements.table.key} that this work was to add")
    if source.statements.only_adds:
        _reject_existing(cursor, source.statements, judged, accepted)
        accepted = accepted[judged.status[accepted] == ACCEPTED]
    counts.updated += updated
    counts.inserted += inserted
    counts.unchanged += len(accepted) - updated - inserted
    return accepted


def _reject_existing(cursor: Any, statements: Statements, judged: Judged, accepted: NDArray[np.int64]) -> None:
    cursor.execute(statements.take_existing("stage"))
    numbers = [number for number, *_ in cursor.fetchall()]
    if numbers:
        rows = accepted[np.isin(judged.record_numbers[accepted], numbers)]
        judged.reject(rows, f"{statements.table.primary_key}.{EXISTS}")


def note_rejected(cursor: Any, source: Origin, judged: Judged, counts: Counts) -> NDArray[np.int64]:
    """Write the records that are rejected now, or today's reasons of those that were already; their indices.

    What a record waited over is kept with it: however often it is judged, it never overwrites what came since.
    """
    rejected = np.flatnonzero(judged.status == REJECTED)
    if len(rejected):
        cursor.execute("drop table if exists pg_temp.rejected")
        cursor.execute(
            "create temporary table rejected on commit drop as select * from ingest_status.rejects where false"
        )
        copy_in(
            cursor,
            sql.SQL("copy pg_temp.rejected ({}) from stdin (format binary)").format(REJECT_COLUMNS),
            judged.encode_rejects(rejected, source.load_id),
        )
        cursor.execute(
            sql.SQL(
                "insert into ingest_status.rejects ({columns}, live_hash)"
                " select {columns}, (select coalesce(p.live_hash, '') from ingest_status.pending p"
                "  where p.load_id = r.load_id and p.record_number = r.record_number) from pg_temp.rejected r"
                " on conflict (load_id, record_number) do update set reasons = excluded.reasons"
            ).format(columns=REJECT_COLUMNS)
        )
        counts.rejected += len(rejected)
        counts.reasons.update(judged.reason_counts())
    return rejected


def waiting_into(cursor: Any, source: Origin, judged: Judged, counts: Counts) -> NDArray[np.int64]:
    """Put the records that wait now into a temporary table ``waiting``; returns their indices."""
    waiting = np.flatnonzero(judged.status == PENDING)
    if len(waiting):
        cursor.execute("drop table if exists pg_temp.waiting")
        cursor.execute(
            "create temporary table waiting on commit drop as select * from ingest_status.pending where false"
        )
        copy_in(
            cursor,
            sql.SQL("copy pg_temp.waiting ({}) from stdin (format binary)").format(PENDING_COLUMNS),
            judged.encode_pending(waiting, source.load_id),
        )
        counts.pending += len(waiting)
    return waiting
