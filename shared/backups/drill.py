"""A drill: every table of a backup loaded for good measure, held against the manifest, and dropped again."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from psycopg2 import sql

from shared.backups import history, loaded
from shared.backups.catalogue import LATEST, Catalogue
from shared.backups.restore import SETTINGS
from shared.backups.verify import Failure, Verification, record
from shared.errors import BackupDamaged, NoSuchBackup, RestoreRefused, RowdockError, TransientError

if TYPE_CHECKING:
    from shared.backups.manifest import Manifest, TableBackup
    from shared.backups.services import Services

DRILLED = sql.Identifier("pg_temp", "drilled")


def drill(services: Services, which: str, *, deadline_s: float) -> Verification:
    """Verify one backup by restoring it into temporary tables, and write down what was found.

    Args:
        which: its id, or ``latest`` of those that hold every table.
        deadline_s: from now on.

    Raises:
        NoSuchBackup: there is none.
        BackupDamaged: the newest one cannot be told.
        DatabaseUnavailable, DeadlineExceeded: it could not be done, which says nothing of the backup.
        StoreUnavailable, StoreRefused: what was found cannot be written down.
    """
    started_at, ends_s = datetime.now(UTC), time.monotonic() + deadline_s
    catalogue = Catalogue(services.store, services.bucket)
    failures: list[Failure] = []
    manifest: Manifest | None = None
    try:
        manifest = catalogue.choose(which, whole=True)
    except NoSuchBackup:
        raise
    except BackupDamaged as error:
        if which == LATEST:
            raise
        failures.append(_failure("manifest", which, error))
    for table in manifest.tables if manifest else ():
        failures += _drilled(services, table, ends_s - time.monotonic())
    found = Verification(
        manifest.backup_id if manifest else which,
        "restore",
        started_at,
        datetime.now(UTC),
        parts=len(manifest.parts) if manifest else 0,
        rows=sum(table.rows for table in manifest.tables) if manifest else 0,
        bytes=sum(part.bytes for part in manifest.parts) if manifest else 0,
        failures=tuple(failures),
    )
    if manifest is not None:
        history.published(services.database, manifest)
    record(services, found)
    return found


def _drilled(services: Services, table: TableBackup, left_s: float) -> list[Failure]:
    """What is wrong with one table; that the database would not do it is no fault of the backup, and is raised."""
    try:
        loaded.require_parts(services, [table])
        with services.database.transaction(deadline_s=left_s) as conn:
            with conn.cursor() as cursor:
                cursor.execute(SETTINGS)
            loaded.create(conn, sql.Identifier(DRILLED.strings[-1]), table.columns)
            loaded.load(services, conn, table, DRILLED)
            conn.rollback()
    except (BackupDamaged, RestoreRefused) as error:
        return [_failure("restore", table.full_name, error)]
    except RowdockError as error:
        if error.code.startswith("database."):
            raise
        return [_failure("restore", table.full_name, error)]
    return []


def _failure(check: str, name: str, error: RowdockError) -> Failure:
    return Failure(check, name, error.code, str(error), may_pass=isinstance(error, TransientError))
