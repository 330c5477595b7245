"""History of restores, for people to watch: written beside the restore, on connections of its own; decides nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import psycopg2

from shared import logs, postgres
from shared.backups.difference import Counts
from shared.errors import RowdockError

if TYPE_CHECKING:
    from shared.postgres import Database

# A transaction ends with its connection, so that what is "running" for a day has died.
CLOSE_THE_DEAD = """
    update backup_status.restores set state = 'failed', error_code = 'restore.lost', updated_at = clock_timestamp(),
      finished_at = updated_at
    where state = 'running' and started_at < clock_timestamp() - interval '1 day'
"""
BEGIN = """
    insert into backup_status.restores (backup_id, table_name, target, mode, state)
    select %(backup_id)s, t.name, t.target, %(mode)s, 'running'
    from unnest(%(tables)s::text[], %(targets)s::text[]) with ordinality t (name, target, n) order by n
    returning id
"""
DONE = """
    update backup_status.restores r set state = 'done', rows_inserted = t.inserted, rows_updated = t.updated,
      rows_deleted = t.deleted, undo_backup_id = %(undo)s, updated_at = clock_timestamp(),
      finished_at = clock_timestamp()
    from unnest(%(tables)s::text[], %(inserted)s::bigint[], %(updated)s::bigint[], %(deleted)s::bigint[])
      t (name, inserted, updated, deleted)
    where r.id = any(%(ids)s) and r.table_name = t.name
"""
FAILED = """
    update backup_status.restores set state = 'failed', error_code = %(error_code)s, updated_at = clock_timestamp(),
      finished_at = clock_timestamp()
    where id = any(%(ids)s)
"""


class Restores:
    """The rows of one restore. Nothing is raised: what was restored is restored; the log tells of it."""

    def __init__(self, database: Database, backup_id: str | None, mode: str) -> None:
        self._database, self._backup_id, self._mode = database, backup_id, mode
        self._ids: list[int] = []

    def begin(self, tables: Sequence[str], targets: Sequence[str]) -> None:
        """Open a row for each table."""
        self._write(CLOSE_THE_DEAD)
        values = {"backup_id": self._backup_id, "mode": self._mode, "tables": list(tables), "targets": list(targets)}
        self._ids = [id_ for (id_,) in self._write(BEGIN, **values)]

    def done(self, counts: Mapping[str, Counts], undo_backup_id: str | None) -> None:
        """Write what was changed."""
        self._write(
            DONE,
            ids=self._ids,
            undo=undo_backup_id,
            tables=list(counts),
            inserted=[each.insert for each in counts.values()],
            updated=[each.update for each in counts.values()],
            deleted=[each.delete for each in counts.values()],
        )

    def failed(self, error: BaseException) -> None:
        """Write that nothing was changed."""
        told = postgres.translate(error) if isinstance(error, psycopg2.Error) else error
        code = told.code if isinstance(told, RowdockError) else "defect"
        self._write(FAILED, ids=self._ids, error_code=code)

    def _write(self, statement: str, **values: object) -> list[tuple[int]]:
        try:
            with self._database.connection() as conn, conn.cursor() as cursor:
                cursor.execute(statement, values)
                return cursor.fetchall() if cursor.description else []
        except RowdockError as error:
            logs.tell("restore.history_not_written", severity="WARNING", **logs.described(error))
            return []
