"""The database is lost: a new one, migrated, gets all of it back, and knows what was loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import pytest

from functions.api.services import Services as ApiServices
from functions.ingest import work
from shared import api_keys, dictionary, events, settings
from shared.backups.asked import Request
from shared.backups.restore import restore
from shared.events import Event
from shared.postgres import Database
from tests.conftest import TestDatabase
from tests.integration.api.conftest import Api
from tests.integration.backups.conftest import Vault
from tests.integration.ingest.conftest import Dock, buckets, dock, make_dock

pytestmark = pytest.mark.slow  # each test takes backups of its own

__all__ = ["buckets", "dock", "make_dock"]  # fixtures: a bucket that files are dropped into
EMPLOYEES = (
    b"1,Ann,2021-02-03T04:05:06Z,1,1\n2,Bob,2021-05-06T07:08:09Z,2,2\n3,Cy,never,1,1\n4,Dee,2021-09-01T00:00:00Z,9,1\n"
)
TABLES = ("hired_employees.departments", "hired_employees.jobs", "hired_employees.hired_employees")
BOOKS = ("ingest_status.ingest_status", "ingest_status.parts", "ingest_status.rejects", "ingest_status.pending")


@contextmanager
def role(database: TestDatabase, name: str) -> Iterator[Database]:
    pool = Database(database.url_for(name), application_name="disaster-test", pool_size=6)
    yield pool
    pool.close()


def content(database: TestDatabase, tables: tuple[str, ...] = TABLES + BOOKS) -> dict[str, list[str]]:
    return {t: [row for (row,) in database.query(f"select r::text from {t} r order by 1")] for t in tables}


def answer_of(vault: Vault, database: TestDatabase, **given: Any) -> dict[str, Any]:
    with role(database, "restore") as pool:
        asked = Request("*", **{"dry_run": False, **given})
        return restore(replace(vault.services, database=pool), asked, deadline_s=60).as_json()


class Files:
    """The ingest function over a database, and the bucket of the dock."""

    def __init__(self, dock: Dock, pool: Database) -> None:
        self.sent: list[Event] = []
        self.services = replace(dock.services, database=pool, send=self.sent.append)

    def ask(self, type_: str, **data: Any) -> dict[str, Any]:
        return work.handle(self.services, events.make(type_, data))

    def run_sent(self) -> list[Event]:
        """Deliver what was sent, and what comes of it; returns what it was."""
        done = []
        while self.sent:
            done.append(self.sent.pop(0))
            work.handle(self.services, done[-1])
        return done


@pytest.fixture
def lost(dock: Dock, vault: Vault) -> str:
    """A database with files loaded, a reject, a row that waits and an API key; returns the key, and is backed up."""
    dock.parents()
    dock.drop("employees.csv", EMPLOYEES)
    dock.run_sent()
    conn = dock.connect("owner")
    with conn:
        key = api_keys.make(conn, "drill", ["read"], None)
    conn.close()
    vault.take()
    return key


def test_a_lost_database_is_put_back_and_nothing_is_loaded_twice(
    lost: str,
    dock: Dock,
    vault: Vault,
    database: TestDatabase,
    make_database: Callable[[], AbstractContextManager[TestDatabase]],
) -> None:
    """Reconcile finds every file known, sweep and drain change nothing, the API's key works, what waits goes in."""
    earlier = vault.catalogue.choose().backup_id
    vault.take()
    before = content(database)
    assert [len(before[table]) for table in TABLES] == [3, 2, 2]
    with make_database() as new, role(new, "ingest") as pool:
        answer = answer_of(vault, new)
        assert (answer["undo_backup_id"], answer["roll_up_verified"]) == (None, True)
        assert content(new) == before
        assert new.query("select distinct backup_id from backup_status.backup_status") == [(earlier,)]
        files = Files(dock, pool)
        assert files.ask(events.RECONCILE, min_age_s=0)["events_sent"] == 0
        files.ask(events.SWEEP)
        files.run_sent()
        assert content(new) == before
        assert api_answers(new, lost) == [{"id": 1, "job": "Engineer"}, {"id": 2, "job": "Seller"}]
        new.query("insert into hired_employees.departments values (9, 'Ninth')")
        files.ask(events.SWEEP)
        files.run_sent()
        assert new.query("select id from hired_employees.hired_employees order by id") == [(1,), (2,), (4,)]


def test_files_of_the_time_after_come_back_by_themselves(
    lost: str,
    dock: Dock,
    vault: Vault,
    make_database: Callable[[], AbstractContextManager[TestDatabase]],
) -> None:
    """The restored history does not know them: reconcile loads those, and no others."""
    dock.drop("more_jobs.csv", b"3,Planner\n")
    with make_database() as new, role(new, "ingest") as pool:
        answer_of(vault, new)
        files = Files(dock, pool)
        assert files.ask(events.RECONCILE, min_age_s=0)["events_sent"] == 1
        (event,) = (event for event in files.run_sent() if event.type == events.LOAD)
        assert event.data["name"] == "more_jobs.csv"
        assert content(new, TABLES) == content(vault.database, TABLES)


def test_files_undone_by_a_restore_of_their_table_come_back_by_force(lost: str, dock: Dock, vault: Vault) -> None:
    """History knows them still, so that only a forced load brings them back: the answer lists them."""
    dock.drop("more_jobs.csv", b"3,Planner\n")
    with role(vault.database, "restore") as pool:
        asked = Request("jobs", dry_run=False)
        answer = restore(replace(vault.services, database=pool), asked, deadline_s=60).as_json()
    assert dock.query("select count(*) from hired_employees.jobs") == [(2,)]
    (file,) = (file for file in answer["files_loaded_later"] if file["object"] == "more_jobs.csv")
    assert dock.deliver("more_jobs.csv", file["generation"])["state"] != "rolled_back"
    assert dock.query("select count(*) from hired_employees.jobs") == [(2,)]
    assert dock.force(file["object"])["rows_inserted"] == 1
    assert dock.query("select job from hired_employees.jobs where id = 3") == [("Planner",)]


def api_answers(database: TestDatabase, key: str) -> list[dict[str, Any]]:
    """The jobs, as who has the key reads them."""
    current = settings.load({"ROWDOCK_ENVIRONMENT": "production", "API_AUTH": "required", "DEADLINE_S": "20"})
    with role(database, "api") as pool:
        api = Api(ApiServices(current, dictionary.load(), pool, lambda _event: None), database.connect)
        assert api.get("/api/jobs", x_api_key="rdk_" + "0" * 12 + "_" + "x" * 43).status == 401
        answer = api.get("/api/jobs", x_api_key=key)
        assert answer.status == 200
        found: list[dict[str, Any]] = answer.data
        return found
