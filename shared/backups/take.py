"""Take a backup: one snapshot of all tables, their rows into parts, and the manifest last.

Rows are read on one connection and counted and summed up on another, under the same snapshot and at the same time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import psycopg2
from psycopg2 import sql

from shared import VERSION
from shared.avro.schema import canonical_sha256, record_schema
from shared.avro.table_out import PART_BYTES, WrittenPart, copy_out
from shared.backups import checksum, history
from shared.backups.catalogue import Catalogue
from shared.backups.history import History
from shared.backups.manifest import (
    Checksum,
    Kind,
    Manifest,
    Part,
    TableBackup,
    manifest_name,
    new_id,
    part_name,
)
from shared.backups.tables import choose, describe, every
from shared.errors import BackupDiffers, BackupFailed, BackupRunning, DeadlineExceeded, ObjectExists

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg2.extensions import connection

    from shared.backups.services import Services
    from shared.backups.tables import Definition, TableName
    from shared.objectstore import ObjectWriter

LOCK_WAIT_S = 30.0  # for who changes a table just now; longer ones are told as DatabaseBusy
AVRO, JSON = "application/avro", "application/json"

# The first query of the transaction, and so what takes its snapshot: every table is locked by then. What another
# session committed before this statement came is in the snapshot.
SNAPSHOT = """
    select %(alone)s or pg_try_advisory_xact_lock(hashtextextended('rowdock.backup', 0)), statement_timestamp(),
      pg_export_snapshot(), pg_current_snapshot()::text, pg_current_wal_lsn()::text,
      current_setting('server_version_num')::integer, current_setting('server_encoding')
"""
# Names of other schemas are written in full, and a policy that hides rows is an error.
SETTINGS = "set transaction read only; set local search_path = pg_catalog; set local row_security = off"

Progress = Callable[[str, int], None]


def take(
    services: Services,
    *,
    kind: Kind,
    scheduled_at: datetime | None = None,
    tables: Sequence[str] | None = None,
    deadline_s: float,
    on_progress: Progress = lambda _table, _rows: None,
    part_bytes: int = PART_BYTES,
) -> Manifest:
    """Back up ``tables``, or all that there are; the same scheduled instant again finds its manifest and returns that.

    Args:
        services: needs three connections.
        kind: ``undo`` runs beside another backup; of the others there is one at a time.
        scheduled_at: aware; the instant that ``scheduled`` is for.
        tables: by any of their names (``shared.backups.tables.choose``).
        deadline_s: from now on; nothing is published later.
        on_progress: is told a table and its rows so far.
        part_bytes: of a part as stored, about.

    Raises:
        NoSuchTable: a name that is none.
        BackupDiffers: the scheduled instant has a backup, of other tables.
        BackupRunning: another one is under way.
        NotRepresentable: a value that AVRO cannot hold.
        BackupFailed: what was read is not what was counted: a defect.
        DeadlineExceeded: the time was too short.
        BackupDamaged: the scheduled instant has a manifest that cannot be used.
        RowdockError: from database and store; there is no manifest, and the same call may be made again.
    """
    if (kind == "scheduled") != (scheduled_at is not None):
        raise ValueError("scheduled_at belongs to the kind scheduled, and only to it")
    deadline = _Deadline(deadline_s)
    chosen = choose(services.dictionary, tables)
    backup_id = new_id(kind, scheduled_at or datetime.now(UTC))
    found = _published(services, backup_id, chosen) if scheduled_at else None
    if found is not None:
        return found
    with services.database.transaction(
        deadline_s=deadline.left_s, lock_wait_s=LOCK_WAIT_S, isolation="repeatable read"
    ) as conn:
        snapshot = _locked_snapshot(conn, chosen, alone=kind == "undo")
        found = _published(services, backup_id, chosen) if scheduled_at else None
        if found is not None:  # by who held the lock a moment ago
            return found
        run = _Run(services, conn, snapshot, deadline, backup_id, kind, scheduled_at, on_progress, part_bytes)
        return run.backed_up(chosen)


class _Deadline:
    """A point in time of the monotonic clock, which no change of the machine's clock moves."""

    def __init__(self, seconds: float) -> None:
        self._ends_s = time.monotonic() + seconds

    @property
    def left_s(self) -> float:
        return self._ends_s - time.monotonic()

    def require(self) -> None:
        """Raise DeadlineExceeded if it is over."""
        if self.left_s <= 0:
            raise DeadlineExceeded("the backup did not end within its time; nothing was published")


class _Snapshot(NamedTuple):
    """What SNAPSHOT selects."""

    is_ours: bool
    at: datetime
    exported: str
    transactions: str
    wal_lsn: str
    server_version: int
    encoding: str


def _locked_snapshot(conn: connection, chosen: Sequence[TableName], *, alone: bool) -> _Snapshot:
    """Lock every table, then take the snapshot: TRUNCATE and its like wait, or were over before it.

    Raises:
        BackupRunning: another backup holds the lock of all.
        psycopg2.Error: from the database.
    """
    names = sql.SQL(", ").join(table.relation for table in chosen)
    with conn.cursor() as cursor:
        cursor.execute(SETTINGS)
        cursor.execute(sql.SQL("lock table {} in access share mode").format(names))
        cursor.execute(SNAPSHOT, {"alone": alone})
        snapshot = _Snapshot(*cursor.fetchall()[0])
    if not snapshot.is_ours:
        raise BackupRunning("Another backup is under way")
    return snapshot


def _published(services: Services, backup_id: str, chosen: Sequence[TableName]) -> Manifest | None:
    """The backup of that id, if there is one.

    Raises:
        BackupDiffers: it lacks one of the tables.
    """
    found = Catalogue(services.store, services.bucket).find(backup_id)
    if found is None:
        return None
    if lacking := [t.full_name for t in chosen if found.table(t.full_name) is None]:
        raise BackupDiffers(f"backup {backup_id} is there already, without {', '.join(lacking)}")
    history.published(services.database, found)
    return found


class _Run:
    """One run: its parts lie in a folder that has its name, so that nothing an earlier run left is in the way."""

    def __init__(
        self,
        services: Services,
        conn: connection,
        snapshot: _Snapshot,
        deadline: _Deadline,
        backup_id: str,
        kind: Kind,
        scheduled_at: datetime | None,
        on_progress: Progress,
        part_bytes: int,
    ) -> None:
        self._services, self._conn, self._snapshot, self._deadline = services, conn, snapshot, deadline
        self._id, self._kind, self._scheduled_at = backup_id, kind, scheduled_at
        self._on_progress, self._part_bytes = on_progress, part_bytes
        self._name = uuid4().hex[:8]
        self._history = History(services.database, backup_id, self._name, kind, scheduled_at)

    def backed_up(self, chosen: Sequence[TableName]) -> Manifest:
        """Write every part, then the manifest."""
        self._history.begin(chosen)
        try:
            definitions = [describe(self._conn, table) for table in chosen]
            with _summing(self._services, self._snapshot, definitions, self._deadline) as sums:
                written = [self._written(definition, sums) for definition in definitions]
                manifest = self._manifest(definitions, written, sums.result())
            published = self._publish(manifest, chosen)
        except BaseException as error:
            self._history.failed(error)
            raise
        history.published(self._services.database, published)
        return published

    def _written(self, definition: Definition, sums: Future[list[_Sum]]) -> list[WrittenPart]:
        """The parts of one table."""
        table, so_far = definition.table, _SoFar()

        def new_part(number: int) -> ObjectWriter:
            self._deadline.require()
            so_far.parts = number
            name = part_name(self._id, self._name, table.schema, table.name, number)
            return self._services.store.create(self._services.bucket, name, content_type=AVRO)

        def progress(rows: int) -> None:
            self._deadline.require()
            if sums.done():
                sums.result()  # whatever went wrong there ends this here
            self._history.progress(
                table, self._snapshot.at, rows=rows, stored_bytes=so_far.parts * self._part_bytes, parts=so_far.parts
            )
            self._on_progress(table.full_name, rows)

        schema = record_schema(table.schema, table.name, definition.fields)
        try:
            return copy_out(
                self._conn,
                definition.rows_query,
                definition.fields,
                schema,
                new_part,
                part_bytes=self._part_bytes,
                on_progress=progress,
            )
        except BaseException:
            with suppress(psycopg2.Error):  # the connection itself may be what failed
                self._conn.cancel()  # or the rollback would first read all the rest of what COPY sends
            raise

    def _manifest(
        self, definitions: Sequence[Definition], written: Sequence[list[WrittenPart]], sums: Sequence[_Sum]
    ) -> Manifest:
        major = self._snapshot.server_version // 10000
        found = tuple(_table_backup(*table, major) for table in zip(definitions, written, sums, strict=True))
        return Manifest(
            backup_id=self._id,
            kind=self._kind,
            tool_version=VERSION,
            scheduled_at=self._scheduled_at,
            snapshot_at=self._snapshot.at,
            finished_at=datetime.now(UTC),
            snapshot=self._snapshot.transactions,
            wal_lsn=self._snapshot.wal_lsn,
            server_version=self._snapshot.server_version,
            encoding=self._snapshot.encoding,
            whole={definition.table for definition in definitions} == set(every(self._services.dictionary)),
            tables=found,
        )

    def _publish(self, manifest: Manifest, chosen: Sequence[TableName]) -> Manifest:
        """Create the manifest, if there is time left and the snapshot's own session still lives.

        A twin that took this run for dead may have been quicker: then its backup is the one.
        """
        with self._conn.cursor() as cursor:
            cursor.execute("select 1")
        self._deadline.require()
        name = manifest_name(manifest.backup_id)
        try:
            with self._services.store.create(self._services.bucket, name, content_type=JSON) as writer:
                writer.write(manifest.to_bytes())
        except ObjectExists:
            found = _published(self._services, manifest.backup_id, chosen)
            if found is None:
                raise
            return found
        return manifest


@dataclass(slots=True)
class _SoFar:
    parts: int = 0


class _Sum(NamedTuple):
    """Rows, checksum and greatest key of a table, as SQL has them."""

    rows: int
    value: str
    key_max: int | None


@contextmanager
def _summing(
    services: Services, snapshot: _Snapshot, definitions: Sequence[Definition], deadline: _Deadline
) -> Iterator[Future[list[_Sum]]]:
    """Count and sum up every table on a connection of its own, beside what the body does; ended with the body."""
    opened: list[connection] = []

    def work() -> list[_Sum]:
        with services.database.transaction(deadline_s=deadline.left_s, isolation="repeatable read") as conn:
            opened.append(conn)
            with conn.cursor() as cursor:
                cursor.execute(SETTINGS)
                cursor.execute("set transaction snapshot %s", (snapshot.exported,))
            return [_Sum(*checksum.summary(conn, d.table.relation, d.fields, d.integer_key)) for d in definitions]

    with ThreadPoolExecutor(1, thread_name_prefix="sums") as pool:
        sums = pool.submit(work)
        try:
            yield sums
        except BaseException:
            while not sums.done() and opened:  # between two statements a cancellation finds nothing
                with suppress(psycopg2.Error):
                    opened[0].cancel()
                _wait(sums)
            raise


def _wait(sums: Future[Any]) -> None:
    try:
        sums.exception(timeout=0.05)
    except TimeoutError:
        return


def _table_backup(
    definition: Definition, written: Sequence[WrittenPart], summed: _Sum, server_major: int
) -> TableBackup:
    """What the manifest says of one table.

    Raises:
        BackupFailed: COPY gave another number of rows than SQL counts.
    """
    table = definition.table
    copied = sum(part.rows for part in written)
    if copied != summed.rows:
        raise BackupFailed(f"{table.full_name}: COPY gave {copied} rows, the same snapshot has {summed.rows}")
    schema = record_schema(table.schema, table.name, definition.fields)
    return TableBackup(
        schema=table.schema,
        name=table.name,
        dictionary_key=table.dictionary_key,
        columns=definition.columns,
        primary_key=definition.primary_key,
        constraints=definition.constraints,
        sequences=definition.sequences,
        avro_schema=schema,
        avro_schema_sha256=canonical_sha256(schema),
        rows=copied,
        key_max=summed.key_max,
        checksum=Checksum(checksum.ALGORITHM, server_major, summed.value),
        has_infinity=tuple(sorted(frozenset().union(*(part.infinities for part in written)))),
        parts=tuple(_part(part) for part in written),
    )


def _part(written: WrittenPart) -> Part:
    return Part(
        object=written.info.name,
        rows=written.rows,
        bytes=written.bytes,
        sha256=written.sha256,
        crc32c=written.crc32c,
        generation=written.info.generation,
        datums_sha256=written.datums_sha256,
    )
