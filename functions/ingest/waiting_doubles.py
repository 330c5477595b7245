"""Doubles among the rows of a file that wait: one that is written in another way, but is the same, is no other row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from functions.ingest.judge import Judge
from functions.ingest.sender import copy_in

if TYPE_CHECKING:
    from psycopg2.extensions import connection

    from functions.ingest.dialect import Dialect
    from functions.ingest.statements import Statements

    Reworded = tuple[int, str, str]  # record number, its text, the text of the parked record of its key

BATCH_ROWS = 1_000
BATCH_BYTES = 4 << 20
FETCHED_ROWS = 32  # a record may have a megabyte


def drop_same(conn: connection, statements: Statements, dialect: Dialect, load_id: int) -> None:
    """Take those out of ``pg_temp.waiting_doubles`` whose values equal those of the parked record of their key.

    Equal texts are equal rows: only where they differ are both judged again, for PostgreSQL to compare their values.
    """
    judge = Judge(statements.table, dialect, lambda _column, keys: set(keys))
    with conn.cursor() as cursor, conn.cursor("reworded", withhold=False) as reworded:
        reworded.itersize = FETCHED_ROWS
        cursor.execute("analyze pg_temp.waiting_doubles")
        for name in ("held", "again"):
            cursor.execute(statements.create_stage(name))
        reworded.execute(statements.reworded_waiting_doubles(), {"load_id": load_id})
        for batch in _batches(reworded):
            numbers, again, held = zip(*batch, strict=True)
            _stage(cursor, statements, judge, "again", numbers, again)
            _stage(cursor, statements, judge, "held", numbers, held)
        cursor.execute("analyze pg_temp.held; analyze pg_temp.again")
        cursor.execute(statements.drop_same_waiting_doubles())


def _batches(rows: Iterable[Reworded]) -> Iterator[list[Reworded]]:
    batch: list[Reworded] = []
    characters = 0
    for row in rows:
        batch.append(row)
        characters += len(row[1]) + len(row[2])
        if len(batch) >= BATCH_ROWS or characters >= BATCH_BYTES:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _stage(
    cursor: Any, statements: Statements, judge: Judge, name: str, numbers: tuple[int, ...], texts: tuple[str, ...]
) -> None:
    judged = judge.judge_records([text.encode() for text in texts])
    judged.record_numbers = np.array(numbers, np.int64)
    copy_in(cursor, statements.copy_staged(name), judged.encode_staged(np.arange(judged.n)))
