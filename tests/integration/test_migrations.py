"""Migrations: forward only, each once, by an owner without superuser; and what they leave behind."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from shared import check, dictionary, migrate

SHIPPED = [f"{m.version:04d}_{m.name}" for m in migrate.read()]


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    """The shipped migrations, to be tampered with."""
    directory = tmp_path / "migrations"
    shutil.copytree(migrate.MIGRATIONS, directory)
    return directory


@pytest.fixture
def more(tmp_path: Path) -> Path:
    """A directory of further migrations, empty."""
    directory = tmp_path / "more"
    directory.mkdir()
    return directory


def test_an_empty_database_is_brought_forward_once(empty_database: Any) -> None:
    """The second run finds nothing to do, and dictionary and database agree."""
    assert migrate.migrate(empty_database.owner_url) == SHIPPED
    assert migrate.migrate(empty_database.owner_url) == []
    conn = empty_database.connect()
    assert check.check(conn, dictionary.load()) == []
    conn.close()


def test_the_owner_needs_no_superuser(empty_database: Any) -> None:
    """Managed servers give none: owning the database and CREATEROLE are enough."""
    rights = empty_database.query("select rolsuper, rolcreaterole, rolbypassrls from pg_roles where rolname = user")
    assert rights == [(False, True, False)]
    assert migrate.migrate(empty_database.owner_url) == SHIPPED


def test_runs_at_the_same_time_apply_each_migration_once(empty_database: Any) -> None:
    """As when every instance migrates at its start: one works, the others wait and find nothing left."""
    with ThreadPoolExecutor(6) as threads:
        runs = list(threads.map(migrate.migrate, [empty_database.owner_url] * 6))
    assert sorted(runs) == [[], [], [], [], [], SHIPPED]


def test_a_further_directory_adds_migrations(database: Any, more: Path) -> None:
    (more / "9001_regions.sql").write_text("create table hired_employees.regions (id integer primary key)")
    assert migrate.migrate(database.owner_url, [migrate.MIGRATIONS, more]) == ["9001_regions"]
    assert database.query("select count(*) from hired_employees.regions") == [(0,)]


def test_a_migration_that_fails_changes_nothing_and_keeps_those_before(database: Any, more: Path) -> None:
    """The message names it, and what the server found."""
    (more / "9001_first.sql").write_text("create table hired_employees.first (id integer)")
    (more / "9002_second.sql").write_text("create table hired_employees.second (id integer); select 1 / 0")
    with pytest.raises(migrate.MigrationRefused, match="9002_second failed and changed nothing: SQLSTATE 22012, divis"):
        migrate.migrate(database.owner_url, [migrate.MIGRATIONS, more])
    left = database.query(
        "select to_regclass('hired_employees.first') is null, to_regclass('hired_employees.second') is null"
    )
    assert left == [(False, True)]
    (more / "9002_second.sql").write_text("create table hired_employees.second (id integer)")
    assert migrate.migrate(database.owner_url, [migrate.MIGRATIONS, more]) == ["9002_second"]


def test_a_migration_changed_after_it_was_applied_is_refused(database: Any, copies: Path) -> None:
    """Even by a comment: what the database has is no longer what the file says."""
    with (copies / f"{SHIPPED[2]}.sql").open("a") as file:
        file.write("-- later thought\n")
    with pytest.raises(migrate.MigrationRefused, match=f"{SHIPPED[2]} was changed after it was applied"):
        migrate.migrate(database.owner_url, [copies])


def test_a_database_ahead_of_its_code_is_refused(database: Any, copies: Path) -> None:
    """An older deployment must not work on tables it does not know."""
    (copies / f"{SHIPPED[-1]}.sql").unlink()
    with pytest.raises(migrate.MigrationRefused, match=f"{SHIPPED[-1]} is applied but not known here"):
        migrate.migrate(database.owner_url, [copies])


def test_a_migration_that_comes_before_an_applied_one_is_refused(database: Any, copies: Path) -> None:
    """Two branches that met: its number is to be the next free one."""
    (copies / "9001_late.sql").write_text("select 1")
    migrate.migrate(database.owner_url, [copies])
    (copies / "9000_early.sql").write_text("select 1")
    with pytest.raises(migrate.MigrationRefused, match="9000_early comes before 9001"):
        migrate.migrate(database.owner_url, [copies])


@pytest.mark.parametrize(
    ("name", "message"),
    [("tables.sql", "tables.sql is not named like 0001_"), ("0001_again.sql", "have the same number")],
)
def test_a_file_that_has_no_place_in_the_order_is_refused(copies: Path, name: str, message: str) -> None:
    (copies / name).write_text("select 1")
    with pytest.raises(migrate.MigrationRefused, match=message):
        migrate.read([copies])


@pytest.mark.parametrize("role", ["ingest", "api", "backup", "restore"])
@pytest.mark.parametrize(
    "statement",
    [
        "create table hired_employees.mine (id integer)",
        "create table ingest_status.mine (id integer)",
        "create schema mine",
        "truncate hired_employees.hired_employees",
        "alter table hired_employees.hired_employees disable trigger user",
        "alter table hired_employees.hired_employees add column more text",
        "drop table metrics.hires",
        "insert into metrics.hires_deltas values (2021, 1, 1, 1, 1)",
        "update metrics.hires set q1 = 0",
        "delete from rowdock.migrations",
        "insert into rowdock.roll_ups select * from rowdock.roll_ups",
        "select rowdock.guard('hired_employees.jobs')",
        "select rowdock.native_keys('hired_employees.hired_employees')",
        "set role rowdock",
    ],
)
def test_no_function_may_do_what_is_the_owners(lent_database: Any, role: str, statement: str) -> None:
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        lent_database.query(statement, role=role)


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("ingest", "delete from hired_employees.departments"),
        ("ingest", "delete from ingest_status.ingest_status"),
        ("ingest", "insert into backup_status.backup_status (table_name) values ('jobs')"),
        ("api", "delete from ingest_status.rejects"),
        ("api", "delete from ingest_status.ingest_status"),
        ("api", "select ingest_status.forget('{1}', 'why')"),
        ("api", "insert into ingest_status.pending select * from ingest_status.pending"),
        ("backup", "insert into hired_employees.departments values (1, 'a')"),
        ("backup", "update ingest_status.rejects set closed_as = 'dismissed'"),
        ("backup", "insert into backup_status.restores (table_name) values ('jobs')"),
        ("restore", "delete from backup_status.backup_status"),
    ],
)
def test_a_function_has_no_right_that_it_does_not_use(lent_database: Any, role: str, statement: str) -> None:
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        lent_database.query(statement, role=role)


@pytest.mark.usefixtures("template_database")  # it makes the logins
def test_public_has_no_right_on_the_database_and_backups_make_no_temporary_tables(empty_database: Any) -> None:
    """A stranger cannot even connect; loads and restores stage their rows. (A clone has not its template's rights.)"""
    migrate.migrate(empty_database.owner_url)
    rights = empty_database.query(
        "select role, right_ from unnest('{public,ingest,api,backup,restore}'::text[]) role,"
        " unnest('{connect,temporary,create}'::text[]) right_"
        " where has_database_privilege(role, current_database(), right_)"
    )
    stage = {(role, right) for role in ("ingest", "api", "restore") for right in ("connect", "temporary")}
    assert set(rights) == stage | {("backup", "connect")}


@pytest.mark.parametrize("table", ["departments", "jobs", "hired_employees"])
def test_ids_of_rows_without_one_start_where_no_file_reaches(database: Any, table: str) -> None:
    """And the api, which posts such rows, may take them."""
    database.query(
        "insert into hired_employees.departments values (1, 'a'); insert into hired_employees.jobs values (1, 'b')"
    )
    columns, values = {
        "departments": ("departments", "'c'"),
        "jobs": ("job", "'c'"),
        "hired_employees": ("employee_name, hired_date, department_id, job_id", "'c', now(), 1, 1"),
    }[table]
    posted = f"insert into hired_employees.{table} ({columns}) values ({values}) returning id"
    assert database.query(posted, role="api") == [(1_000_000_000,)]


def test_a_history_that_does_not_add_up_is_refused(database: Any) -> None:
    """Every row read ends in one way: the table itself counts after."""
    row = "insert into ingest_status.ingest_status (kind, state, started_at, rows_read, rows_inserted) values"
    database.query(f"{row} ('batch', 'loaded', now(), 3, 3)", role="ingest")
    with pytest.raises(psycopg2.errors.CheckViolation):
        database.query(f"{row} ('batch', 'loaded', now(), 3, 2)", role="ingest")
