"""Restore: tables as a backup has them, found to be whole before anything is touched, in one transaction."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2 import sql

from shared import rollup
from shared.backups import checksum, foreign, loaded, references
from shared.backups.apply import apply, raise_sequence
from shared.backups.asked import ALL, MOST_FILES, Outcome, Request, Restored
from shared.backups.catalogue import Catalogue
from shared.backups.compare import compare
from shared.backups.difference import Counts, find
from shared.backups.history import published
from shared.backups.manifest import Checksum
from shared.backups.restores import Restores
from shared.backups.returning import Returning, is_same, require_filled, require_fit, require_parents, require_same
from shared.backups.tables import SEQUENCES, TableName, choose, describe
from shared.backups.take import take
from shared.errors import NoSuchBackup, NoSuchTable, RestoreRefused

if TYPE_CHECKING:
    from psycopg2.extensions import connection

    from shared.backups.difference import Mode as RowsMode
    from shared.backups.manifest import Manifest, TableBackup
    from shared.backups.services import Services
    from shared.objectstore import ObjectInfo

NEW_TABLES = "restored"  # schema of what mode new_table makes
LOCK_WAIT_S = 10.0  # for a load of the table that is under way; a longer one is told as DatabaseBusy
STATEMENT_BYTES = 128 << 20  # of a COPY into a live table: its triggers run while the next rows are read
COMMITS_AFTER = timedelta(minutes=1)  # a load ends its history row at most so long before it commits
# Of these nothing is taken away: a key that was revoked since stays revoked, and backups that were taken since exist.
ADDED_TO = frozenset(
    {
        ("ingest_status", "wakeups"),
        ("api_access", "keys"),
        ("backup_status", "backup_status"),
        ("backup_status", "restores"),
    }
)
# Of the join of two large tables: in many small batches it takes 2.1 s for 5 M rows, with 64 MB or more 3.1 s (decision
# 0008). Names of other schemas are written in full.
SETTINGS = (
    "set local work_mem = '4MB'; set local search_path = pg_catalog; set local row_security = off;"
    " set local synchronize_seqscans = off;"
    " set local client_connection_check_interval = '1s'"  # who was killed holds its locks no longer than that
)
# Whether two rows may have to change places in a unique column, and may be written anew for that: not where keys of
# PostgreSQL's own point to the table, whose ON DELETE would reach into the children.
REWRITE = """
    select exists (select from pg_index where indrelid = %(table)s::regclass and indisunique and not indisprimary)
      and not exists (select from pg_constraint where confrelid = %(table)s::regclass and contype = 'f' and conenforced)
"""
LATER_FILES = """
    select id, table_name, bucket, object_name, generation, finished_at, count(*) over ()
    from ingest_status.ingest_status
    where kind = 'file' and state = 'loaded' and finished_at > %(since)s and table_name = any(%(tables)s)
    order by id limit %(most)s
"""

Progress = Callable[[str, int], None]


def restore(
    services: Services,
    request: Request,
    *,
    deadline_s: float,
    on_progress: Progress = lambda _table, _rows: None,
) -> Outcome:
    """Put back what ``request`` says, or say what that would do.

    Args:
        services: needs four connections, three of them for the copy that is taken before.
        deadline_s: from now on; nothing is committed later.
        on_progress: is told a table and its rows loaded so far; from another thread.

    Raises:
        NoSuchBackup: none is of this id, that old, or holds the table.
        NoSuchTable: a name that is none, or a table that the database does not have.
        BackupDamaged: manifest or parts are not what was written.
        RestoreRefused: it does not fit what is there now; the message says what to do.
        DatabaseBusy: somebody writes to the table for longer than ``LOCK_WAIT_S``.
        RestoreFailed: what would be left is not what was backed up: a defect.
        RowdockError: from database and store; nothing was changed.
    """
    _require_target(request)
    manifest, tables = chosen(services, request)
    loaded.require_parts(services, tables)
    history = Restores(services.database, manifest.backup_id if manifest else None, request.mode)
    work = _Work(services, request, manifest, tables, time.monotonic() + deadline_s, on_progress)
    if request.dry_run:
        return work.done()
    names = [table.dictionary_key or table.full_name for table in tables]
    history.begin(names, [work.target_of(table).full_name for table in tables])
    try:
        outcome = work.done()
    except BaseException as error:
        history.failed(error)
        raise
    history.done({each.table: each.counts for each in outcome.tables}, outcome.undo_backup_id)
    if manifest is not None:
        published(services.database, manifest)  # of a database that was lost: its history had this backup running
    if request.mode != "new_table":
        with services.database.connection() as conn:
            outcome.roll_up_verified = not rollup.verify(conn, limit=1)
    return outcome


def chosen(services: Services, request: Request) -> tuple[Manifest | None, list[TableBackup]]:
    """The backup, None for a file without one, and which of its tables.

    Raises:
        NoSuchBackup, NoSuchTable, BackupDamaged: as ``restore``.
    """
    catalogue = Catalogue(services.store, services.bucket)
    if request.table == ALL:
        manifest = catalogue.choose(request.backup, as_of=request.as_of, whole=True)
        return manifest, list(manifest.tables)
    (name,) = choose(services.dictionary, [request.table])
    if request.file is not None:
        return None, [foreign.described(services, name)]
    manifest = catalogue.choose(request.backup, as_of=request.as_of, table=name.full_name)
    held = manifest.table(name.full_name)
    if held is None:
        raise NoSuchBackup(f"backup {manifest.backup_id} does not hold {request.table!r}")
    return manifest, [held]


def _require_target(request: Request) -> None:
    if request.mode != "new_table" and request.target is not None:
        raise RestoreRefused("target is for mode new_table; the others write to the table itself")
    if request.mode == "new_table" and (request.table == ALL or not request.target):
        raise RestoreRefused("mode new_table takes one table, and its new name as target")
    if request.file is not None and (request.table == ALL or request.mode == "new_table"):
        raise RestoreRefused("a file is restored into one table, with mode merge or replace")


class _Work:
    """One restore."""

    def __init__(
        self,
        services: Services,
        request: Request,
        manifest: Manifest | None,
        tables: Sequence[TableBackup],
        ends_s: float,
        on_progress: Progress,
    ) -> None:
        self._services, self._request, self._manifest, self._held = services, request, manifest, tables
        self._ends_s, self._on_progress = ends_s, on_progress
        self._undo: str | None = None
        self._file: ObjectInfo | None = None

    @property
    def _left_s(self) -> float:
        return self._ends_s - time.monotonic()

    def target_of(self, held: TableBackup) -> TableName:
        """Where its rows go."""
        if self._request.mode == "new_table":
            return TableName(NEW_TABLES, str(self._request.target))
        return TableName(held.schema, held.name, held.dictionary_key)

    def done(self) -> Outcome:
        """Do it; a dry run ends with a rollback."""
        started_s = time.monotonic()
        outcome = Outcome(self._manifest, self._request.mode, self._request.dry_run, [])
        with self._services.database.transaction(deadline_s=self._left_s, lock_wait_s=LOCK_WAIT_S) as conn:
            with conn.cursor() as cursor:
                cursor.execute(SETTINGS)
            if self._request.mode == "new_table":
                outcome.tables = [self._as_new_table(conn, self._held[0])]
            else:
                outcome.later_files, outcome.later_count = self._later_files(conn)
                outcome.tables = self._put_back(conn)
            if self._request.dry_run:
                conn.rollback()
        outcome.file = self._file
        outcome.undo_backup_id = self._undo
        outcome.seconds = time.monotonic() - started_s
        return outcome

    def _as_new_table(self, conn: connection, held: TableBackup) -> Restored:
        target = self.target_of(held)
        if _exists(conn, target):
            raise RestoreRefused(f"{target.full_name} is there already: give another target, or drop it")
        loaded.create(conn, target.relation, held.columns, temporary=False)
        loaded.load(self._services, conn, held, target.relation, self._progress_of(held))
        if held.primary_key:
            key = sql.SQL(", ").join(map(sql.Identifier, held.primary_key))
            with conn.cursor() as cursor:
                cursor.execute(sql.SQL("alter table {} add primary key ({})").format(target.relation, key))
        _hand_over(conn, target)
        name = held.dictionary_key or held.full_name
        return Restored(name, target.full_name, held.rows, counts=Counts(insert=held.rows))

    def _put_back(self, conn: connection) -> list[Restored]:
        tables = [self._described(conn, number, held) for number, held in enumerate(self._held)]
        require_fit(tables)
        keys = references.read(conn, [(table.held.schema, table.held.name) for table in tables])
        empty = [table for table in tables if table.rows_mode != "add"]
        if self._may_be_loaded_directly(conn, empty):
            self._lock(conn, tables)
            if not any(_has_rows(conn, table.live.table) for table in empty):
                self._raise_sequences(conn, tables)
                self._load_directly(conn, empty, keys)
                self._bring_in(conn, [table for table in tables if table.rows_mode == "add"], keys)
                return [table.told(keys) for table in tables]
        self._bring_in(conn, tables, keys)
        return [table.told(keys) for table in tables]

    def _bring_in(self, conn: connection, tables: Sequence[Returning], keys: Sequence[references.Reference]) -> None:
        """By the difference between the live tables and what was loaded beside them."""
        for table in tables:
            relation = table.difference.loaded
            loaded.create(conn, sql.Identifier(relation.strings[-1]), table.held.columns)
            self._load(conn, table)
            require_filled(conn, table)
        self._lock(conn, tables)
        self._raise_sequences(conn, tables)
        differing = [table for table in tables if not is_same(conn, table)]
        with ThreadPoolExecutor(1, thread_name_prefix="undo") as pool:
            sure = all(table.is_whole or table.rows_mode == "add" for table in differing)
            undo = pool.submit(self._copied_before, differing) if sure else None  # beside the search for differences
            for table in differing:
                table.counts = find(conn, table.difference)
            require_parents(conn, differing, keys)
            changed = [table for table in differing if table.counts.any]
            if changed and not self._request.dry_run:
                self._undo = undo.result() if undo else self._copied_before(changed)
                self._apply(conn, changed)

    def _load(self, conn: connection, table: Returning) -> None:
        """Fill the table beside the live one."""
        relation, held = table.difference.loaded, table.held
        if self._request.file is None:
            loaded.load(self._services, conn, held, relation, self._progress_of(held))
            return
        self._file = foreign.load(self._services, conn, held, relation, self._request.file)
        rows, value = checksum.of(conn, relation, held.fields)  # nothing else vouches for a file
        own = Checksum(checksum.ALGORITHM, conn.server_version // 10000, value)
        table.held = replace(held, rows=rows, checksum=own)

    def _apply(self, conn: connection, changed: Sequence[Returning]) -> None:
        apply(conn, [table.difference for table in changed])
        for table in changed:
            if table.is_whole:
                require_same(conn, table)

    def _load_directly(
        self, conn: connection, tables: Sequence[Returning], keys: Sequence[references.Reference]
    ) -> None:
        """Into the empty tables themselves, parents first: what is not as it was is rolled back all the same."""
        to_themselves = {key.child for key in keys if key.child == key.parent}
        for table in tables:
            relation, progress = table.live.table.relation, self._progress_of(table.held)
            whole = (table.held.schema, table.held.name) in to_themselves
            size = None if whole else STATEMENT_BYTES
            try:
                loaded.load(self._services, conn, table.held, relation, progress, statement_bytes=size)
            except psycopg2.IntegrityError as error:
                raise RestoreRefused(
                    f"{table.held.full_name}: rows of the backup break a key or a rule of the table"
                    f" ({error.diag.constraint_name or 'without name'}): restore the tables that it points to as well,"
                    " or all of them with *"
                ) from error
            table.counts = Counts(insert=table.held.rows)

    def _may_be_loaded_directly(self, conn: connection, tables: Sequence[Returning]) -> bool:
        """Whether rows may go where they belong at once: nothing is there to differ from, or to be kept.

        What is compared by its datums is read back in its order, which only a new table keeps.
        """
        if self._request.dry_run or self._request.file is not None:
            return False
        return all(
            table.rows_before == 0 and table.comparison.is_identical and loaded.is_comparable(conn, table.held)
            for table in tables
        )

    def _described(self, conn: connection, number: int, held: TableBackup) -> Returning:
        name = self.target_of(held)
        if not _exists(conn, name):
            raise NoSuchTable(
                f"the database has no table {name.full_name}: migrate it, or restore with mode new_table and a target"
            )
        live = describe(conn, name)
        table = self._services.dictionary.tables.get(held.dictionary_key or "")
        aliases = {column.name: column.aliases for column in table.columns} if table else {}
        comparison = compare(held.columns, live.columns, held.primary_key, live.primary_key, aliases)
        mode: RowsMode = "merge" if self._request.mode == "merge" else "replace"
        if (held.schema, held.name) in ADDED_TO:
            mode = "add"
        with conn.cursor() as cursor:
            cursor.execute(REWRITE, {"table": name.relation.as_string(conn)})
            # What the backup does not have of a row would be lost with it, and what is added to changes no row.
            may = bool(cursor.fetchall()[0][0]) and len(comparison.matched) == len(live.fields)
        rewrite = may and mode != "add"
        return Returning(number, held, live, comparison, mode, rewrite, 1 if _has_rows(conn, name) else 0)

    def _lock(self, conn: connection, tables: Sequence[Returning]) -> None:
        """Hold off every writer; readers go on."""
        kept_still = [table for table in tables if table.rows_mode != "add"]  # history goes on meanwhile, our own too
        if self._request.dry_run or not kept_still:
            return
        names = sql.SQL(", ").join(table.live.table.relation for table in kept_still)
        with conn.cursor() as cursor:
            cursor.execute(sql.SQL("lock table {} in share row exclusive mode").format(names))

    def _copied_before(self, tables: Sequence[Returning]) -> str | None:
        """Take a backup of the tables as they are, through other connections, while nobody writes to them."""
        losing = [table for table in tables if table.rows_mode != "add"]
        if self._request.dry_run or not any(table.rows_before for table in losing):
            return None
        names = [table.held.full_name for table in losing]
        copy = take(self._services, kind="undo", tables=names, deadline_s=self._left_s, on_progress=self._on_progress)
        return copy.backup_id

    def _raise_sequences(self, conn: connection, tables: Sequence[Returning]) -> None:
        """First of all: history that is written meanwhile must not take ids that are about to come back."""
        if self._request.dry_run:
            return
        for table in tables:
            with conn.cursor() as cursor:
                cursor.execute(SEQUENCES, (table.live.table.relation.as_string(conn),))
                found = {column: sql.Identifier(schema, name) for column, schema, name in cursor.fetchall()}
            for sequence in table.held.sequences:
                if sequence.column in found:
                    raise_sequence(conn, found[sequence.column], sequence.last_value, sequence.is_called)

    def _later_files(self, conn: connection) -> tuple[list[dict[str, Any]], int]:
        if self._manifest is None:
            return [], 0
        since = self._manifest.snapshot_at - COMMITS_AFTER
        tables = [held.dictionary_key for held in self._held if held.dictionary_key]
        with conn.cursor() as cursor:
            cursor.execute(LATER_FILES, {"since": since, "tables": tables, "most": MOST_FILES})
            found = cursor.fetchall()
        files = [
            {
                "load_id": load_id,
                "table": table,
                "bucket": bucket,
                "object": name,
                "generation": generation,
                "loaded_at": loaded_at.isoformat(),
                "command": shlex.join(["rowdock", "load", name, "--bucket", bucket, "--force"]),
            }
            for load_id, table, bucket, name, generation, loaded_at, _ in found
        ]
        return files, found[0][-1] if found else 0

    def _progress_of(self, held: TableBackup) -> Callable[[int], None]:
        return lambda rows: self._on_progress(held.dictionary_key or held.full_name, rows)


def _hand_over(conn: connection, table: TableName) -> None:
    """Let the owner of the schema, who may drop its tables, use a new one too."""
    with conn.cursor() as cursor:
        cursor.execute("select pg_get_userbyid(nspowner) from pg_namespace where nspname = %s", (table.schema,))
        owner = sql.Identifier(cursor.fetchall()[0][0])
        cursor.execute(sql.SQL("grant all on {} to {}").format(table.relation, owner))


def _exists(conn: connection, name: TableName) -> bool:
    with conn.cursor() as cursor:
        cursor.execute("select to_regclass(%s) is not null", (name.relation.as_string(conn),))
        return bool(cursor.fetchall()[0][0])


def _has_rows(conn: connection, name: TableName) -> bool:
    with conn.cursor() as cursor:
        cursor.execute(sql.SQL("select exists (select from {})").format(name.relation))
        return bool(cursor.fetchall()[0][0])
