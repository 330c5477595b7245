"""Files that come while a table is being restored: they wait for it, and no row of theirs is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from shared.backups import restore as restoring
from shared.backups.asked import Request
from shared.backups.restore import restore
from shared.errors import TransientError
from shared.postgres import Database
from tests.conftest import TestDatabase
from tests.integration.backups.conftest import Vault
from tests.integration.ingest.conftest import Dock, buckets, dock, make_dock

__all__ = ["buckets", "dock", "make_dock"]  # fixtures: a bucket that files are dropped into
WAITING = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
JOBS = "select id, job from hired_employees.jobs order by id"


@pytest.fixture
def restorer(vault: Vault) -> Iterator[Any]:
    pool = Database(vault.database.url_for("restore"), application_name="restore-test", pool_size=6)
    yield replace(vault.services, database=pool)
    pool.close()


def until_somebody_waits(database: TestDatabase) -> None:
    ends_s = time.monotonic() + 30
    while database.query(WAITING, role="superuser") == [(0,)]:
        assert time.monotonic() < ends_s, "nobody waits for the restore's lock"


def test_a_file_of_the_table_waits_for_the_restore_and_goes_in(
    vault: Vault, restorer: Any, dock: Dock, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It came after the backup, and it comes after the restore: its row is there at the end, beside what came back.

    Where it does not wait that long it fails as what may pass next time, and its event comes again.
    """
    dock.parents()
    vault.take()
    vault.query("update hired_employees.jobs set job = 'Damaged' where id = 1")
    real, found = restoring.find, []

    def find(*given: Any) -> Any:
        found.append(pool.submit(dock.drop, "later_jobs.csv", b"7,Planner\n"))
        until_somebody_waits(database)
        return real(*given)

    monkeypatch.setattr(restoring, "find", find)
    with ThreadPoolExecutor(1) as pool:
        outcome = restore(restorer, Request("jobs", dry_run=False), deadline_s=60)
        (loading,) = found
        try:
            loaded = loading.result()
        except TransientError:
            loaded = dock.deliver("later_jobs.csv")
    assert (loaded["state"], loaded["rows_inserted"]) == ("loaded", 1)
    assert outcome.tables[0].counts.update == 1
    assert dock.query(JOBS) == [(1, "Engineer"), (2, "Seller"), (7, "Planner")]


def test_what_was_written_before_the_lock_is_in_the_copy_before(
    vault: Vault, restorer: Any, dock: Dock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Committed while the backup was being loaded: it is undone as all the rest, and the copy still has it."""
    dock.parents()
    vault.take()
    real = restoring.loaded.load

    def load(*given: Any) -> None:
        real(*given)
        dock.query("insert into hired_employees.jobs values (8, 'At the last moment')")

    monkeypatch.setattr(restoring.loaded, "load", load)
    outcome = restore(restorer, Request("jobs", dry_run=False), deadline_s=60)
    monkeypatch.undo()
    assert outcome.tables[0].counts.delete == 1
    assert dock.query(JOBS) == [(1, "Engineer"), (2, "Seller")]
    assert outcome.undo_backup_id is not None
    restore(restorer, Request("jobs", outcome.undo_backup_id, dry_run=False), deadline_s=60)
    assert dock.query(JOBS) == [(1, "Engineer"), (2, "Seller"), (8, "At the last moment")]
