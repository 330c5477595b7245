"""History of backups, for people to watch: written beside the backup, on connections of its own; it decides nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import psycopg2

from shared import logs, postgres
from shared.errors import RowdockError

if TYPE_CHECKING:
    from datetime import datetime

    from shared.backups.manifest import Kind, Manifest
    from shared.backups.tables import TableName
    from shared.postgres import Database

PROGRESS_EVERY_S = 2.0
# Two of these never run at once, so that what is still "running" when one begins has died; a copy before a restore may
# run beside them, but not for a day.
CLOSE_THE_DEAD = """
    update backup_status.backup_status set state = 'failed', error_code = 'backup.lost', updated_at = clock_timestamp(),
      finished_at = updated_at
    where state = 'running' and (case kind when 'undo' then started_at < clock_timestamp() - interval '1 day'
                                           else %(kind)s <> 'undo' end)
"""
BEGIN = """
    insert into backup_status.backup_status (table_name, backup_id, run, kind, scheduled_at, state)
    select table_name, %(backup_id)s, %(run)s, %(kind)s, %(scheduled_at)s, 'running'
    from unnest(%(tables)s::text[]) with ordinality t (table_name, n) order by n
    on conflict (backup_id, table_name) do update set
      run = excluded.run, state = 'running', started_at = excluded.started_at, updated_at = excluded.updated_at,
      number_rows = 0, last_id = null, bytes = 0, parts = 0, finished_at = null, error_code = null
"""
OWN = "where backup_id = %(backup_id)s and run = %(run)s"
PROGRESS = f"""
    update backup_status.backup_status set number_rows = %(rows)s, bytes = %(bytes)s, parts = %(parts)s,
      snapshot_at = %(snapshot_at)s, updated_at = clock_timestamp()
    {OWN} and table_name = %(table)s
"""  # noqa: S608  # fixed text
DONE = """
    update backup_status.backup_status b set state = 'done', number_rows = t.rows, last_id = t.last_id, bytes = t.bytes,
      parts = t.parts, snapshot_at = %(snapshot_at)s, updated_at = clock_timestamp(), finished_at = %(finished_at)s,
      error_code = null
    from unnest(%(tables)s::text[], %(rows)s::bigint[], %(last_ids)s::bigint[], %(sizes)s::bigint[],
                %(parts)s::integer[]) t (name, rows, last_id, bytes, parts)
    where backup_id = %(backup_id)s and b.table_name = t.name and state <> 'done'
"""
FAILED = f"""
    update backup_status.backup_status set state = 'failed', error_code = %(error_code)s,
      updated_at = clock_timestamp(), finished_at = clock_timestamp()
    {OWN} and state = 'running'
"""  # noqa: S608  # fixed text
VERIFIED = """
    update backup_status.backup_status
    set verified_at = %(at)s, verified_depth = %(depth)s, verified_ok = %(ok)s, updated_at = clock_timestamp()
    where backup_id = %(backup_id)s
"""


def table_name(table: TableName) -> str:
    """What history calls a table: by its key in the dictionary, as the seed did, else ``schema.name``."""
    return table.dictionary_key or table.full_name


class History:
    """The rows of one run; a zombie's writes find none, once a later run of the same backup has begun.

    Nothing is raised: a database that takes no history may still be backed up. The log tells of it.
    """

    def __init__(self, database: Database, backup_id: str, run: str, kind: Kind, scheduled_at: datetime | None) -> None:
        self._database = database
        self._run = {"backup_id": backup_id, "run": run, "kind": kind, "scheduled_at": scheduled_at}
        self._next_s = time.monotonic() + PROGRESS_EVERY_S

    def begin(self, tables: Sequence[TableName]) -> None:
        """Close what died, and open a row for each table; a retry takes over the rows of the run before it."""
        self._write(CLOSE_THE_DEAD)
        self._write(BEGIN, tables=[table_name(table) for table in tables])

    def progress(self, table: TableName, snapshot_at: datetime, *, rows: int, stored_bytes: int, parts: int) -> None:
        """Write how far a table is, and tell the log, at most every ``PROGRESS_EVERY_S`` seconds."""
        if time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + PROGRESS_EVERY_S
        name = table_name(table)
        told: dict[str, Any] = {"table": name, "rows": rows, "bytes": stored_bytes, "parts": parts}
        logs.tell("backup.progress", backup_id=self._run["backup_id"], **told)
        self._write(PROGRESS, snapshot_at=snapshot_at, **told)

    def failed(self, error: BaseException) -> None:
        """Write that the run ended without a manifest."""
        told = postgres.translate(error) if isinstance(error, psycopg2.Error) else error
        self._write(FAILED, error_code=told.code if isinstance(told, RowdockError) else "defect")

    def _write(self, statement: str, **values: object) -> None:
        _write(self._database, statement, {**self._run, **values})


def published(database: Database, manifest: Manifest) -> None:
    """Write that the manifest is there, and what it says; by whoever finds it, for its own run may have died since."""
    told = {
        "backup_id": manifest.backup_id,
        "snapshot_at": manifest.snapshot_at,
        "finished_at": manifest.finished_at,
        "tables": [table.dictionary_key or table.full_name for table in manifest.tables],
        "rows": [table.rows for table in manifest.tables],
        "last_ids": [table.key_max for table in manifest.tables],
        "sizes": [sum(part.bytes for part in table.parts) for table in manifest.tables],
        "parts": [len(table.parts) for table in manifest.tables],
    }
    _write(database, DONE, told)


def verified(database: Database, backup_id: str, at: datetime, depth: str, *, ok: bool) -> None:
    """Write what a verification found; as of ``History``, nothing is raised."""
    _write(database, VERIFIED, {"backup_id": backup_id, "at": at, "depth": depth, "ok": ok})


def _write(database: Database, statement: str, values: dict[str, object]) -> None:
    try:
        with database.connection() as conn, conn.cursor() as cursor:
            cursor.execute(statement, values)
    except RowdockError as error:
        logs.tell("backup.history_not_written", severity="WARNING", **logs.described(error))
