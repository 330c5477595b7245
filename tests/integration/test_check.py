"""rowdock check and keys: every way in which a database strays from the dictionary is told, with its remedy."""

from __future__ import annotations

import json
import tomllib
from contextlib import closing
from typing import Any

import pytest

from shared import check, cli, dictionary, migrate

S = "hired_employees"
EMPLOYEES = f"{S}.hired_employees"
PLANTED = (
    f"alter table {EMPLOYEES} disable trigger rowdock_insert;"
    f"insert into {EMPLOYEES} values (1, 'A', '2021-01-01Z', 7, 8), (2, 'B', '2021-01-01Z', 7, 8);"
    f"alter table {EMPLOYEES} enable always trigger rowdock_insert"
)


def found(database: Any, tables: dictionary.Dictionary | None = None) -> list[str]:
    conn = database.connect()
    try:
        return check.check(conn, tables or dictionary.load())
    finally:
        conn.close()


def test_a_migrated_database_agrees_with_the_dictionary(database: Any) -> None:
    assert found(database) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (f"alter table {S}.jobs alter job type varchar(20)", f"{S}.jobs.job: is character varying(20) in the table"),
        (f"alter table {S}.jobs alter job drop not null", f"{S}.jobs.job: may be null in the table and required"),
        (f"alter table {S}.jobs rename job to title", f"{S}.jobs.job: the dictionary has it, the table does not"),
        (f"alter table {S}.jobs rename job to title", f"{S}.jobs.title: the table has it, the dictionary does not"),
        (f"drop table {S}.jobs cascade", f"{S}.jobs: the dictionary has it, the database does not: add a migration"),
        (f"create table {S}.stray (id integer)", f"{S}.stray: the database has it, the dictionary does not"),
        (f"alter table {S}.jobs drop constraint jobs_pkey cascade", f"{S}.jobs: the primary key is missing"),
        (f"alter table {S}.jobs alter id drop identity", f"{S}.jobs.id: is no identity"),
        (
            f"alter table {S}.jobs alter id set start with 5",
            f"{S}.jobs.id: its identity starts at 5, here at 1000000000",
        ),
        (
            f"alter table {EMPLOYEES} drop constraint hired_employees_job_id_fkey",
            f"{EMPLOYEES}.job_id: references nothing in the database and {S}.jobs here",
        ),
        (
            f"alter table {EMPLOYEES} drop constraint hired_employees_job_id_fkey",
            f"{EMPLOYEES}: the guard rowdock_insert is stale: run select rowdock.guard('{EMPLOYEES}')",
        ),
        (
            f"drop trigger rowdock_update on {EMPLOYEES}",
            f"{EMPLOYEES}: the guard rowdock_update is missing: run select",
        ),
        (f"drop trigger rowdock_delete on {S}.jobs", f"{S}.jobs: the guard rowdock_delete is missing: run select"),
        (f"alter table {S}.jobs disable trigger rowdock_insert", f"{S}.jobs: the guard rowdock_insert is disabled"),
        (f"alter table {S}.jobs enable trigger all", f"{S}.jobs: the guard rowdock_delete is not always"),
        (PLANTED, f"{EMPLOYEES}.department_id: 2 rows have a key without parent: add the parents, or delete"),
        (PLANTED, f"{EMPLOYEES}.job_id: 2 rows have a key without parent"),
        (f"grant delete on {S}.jobs to rowdock_ingest", f"{S}.jobs: rowdock_ingest has DELETE: revoke it"),
        (f"revoke select on {S}.jobs from rowdock_backup", f"{S}.jobs: rowdock_backup lacks SELECT: grant it"),
        (f"grant truncate on {S}.jobs to public", f"{S}.jobs: rowdock_api has TRUNCATE: revoke it"),
        (
            "insert into ingest_status.rejects values (77, 1, 1, 0, 1, '{record.nul}', 'x')",
            "ingest_status.rejects: 1 rows belong to no load",
        ),
        (
            "insert into ingest_status.pending values (77, 1, 1, 0, 1, 'jobs', '1', 'x', '1', 'raw')",
            "ingest_status.pending: 1 rows belong to no load",
        ),
        (
            "delete from rowdock.migrations where version = 5",
            "0005_backup_bookkeeping is not applied: run rowdock migrate",
        ),
        ("update rowdock.migrations set sha256 = 'x' where version = 5", "0005_backup_bookkeeping was changed after"),
        ("insert into rowdock.migrations values (77, 'later', 'x')", "0077_later is applied but not known here"),
    ],
)
def test_a_difference_is_told_with_its_place(lent_database: Any, change: str, told: str) -> None:
    """In a transaction that is rolled back."""
    with closing(lent_database.connect()) as conn, conn.cursor() as cursor:
        cursor.execute(change)
        differences = check.check(conn, dictionary.load())
        assert [line for line in differences if line.startswith(told)], differences


def test_a_table_of_the_dictionary_alone_is_told(database: Any) -> None:
    """One entry more, and its migration forgotten."""
    entry = """
    [tables.regions]
    schema = "hired_employees"
    api_name = "regions"
    file_pattern = "region"
    columns = { id = { type = "integer" } }
    """
    tables = dictionary.parse(tomllib.loads(dictionary.DICTIONARY_PATH.read_text() + entry))
    assert found(database, tables) == [f"{S}.regions: the dictionary has it, the database does not: add a migration"]


def test_a_database_without_any_migration_lacks_them_all(empty_database: Any) -> None:
    assert len(found(empty_database)) == len(migrate.read())


def test_native_keys_need_no_guard(database: Any) -> None:
    """One call leads back to them, and check agrees."""
    database.query(f"select rowdock.native_keys('{EMPLOYEES}')")
    assert found(database) == []


@pytest.mark.parametrize("role", ["owner", "ingest", "api", "backup", "restore"])
def test_the_command_ends_with_0_for_every_role_while_all_agree(
    database: Any, role: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["--database-url", database.url_for(role), "check"]) == 0
    assert capsys.readouterr().out == "dictionary and database agree\n"


def test_the_command_ends_with_1_and_says_what_differs(database: Any, capsys: pytest.CaptureFixture[str]) -> None:
    database.query(f"drop trigger rowdock_update on {EMPLOYEES}")
    assert cli.main(["--database-url", database.owner_url, "check", "--json"]) == 1
    (line,) = json.loads(capsys.readouterr().out)
    assert line.startswith(f"{EMPLOYEES}: the guard rowdock_update is missing")


def keys(database: Any, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, tuple[bool, int]]]:
    status = cli.main(["--database-url", database.owner_url, "keys", "--json"])
    listed = json.loads(capsys.readouterr().out)
    return status, {row["key"].rpartition(".")[2]: (row["guarded"], row["orphans"]) for row in listed}


def test_keys_are_listed_with_guard_and_orphans(database: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert keys(database, capsys) == (0, {"department_id": (True, 0), "job_id": (True, 0)})
    database.query(PLANTED)
    assert keys(database, capsys) == (1, {"department_id": (True, 2), "job_id": (True, 2)})


def test_a_key_is_guarded_only_if_both_sides_are(database: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The parent's guard is half of it, for the keys that lead there."""
    database.query(f"alter table {S}.jobs disable trigger rowdock_delete")
    assert keys(database, capsys) == (1, {"department_id": (True, 0), "job_id": (False, 0)})
    database.query(f"alter table {EMPLOYEES} disable trigger rowdock_insert")
    assert keys(database, capsys) == (1, {"department_id": (False, 0), "job_id": (False, 0)})


def test_a_database_that_is_not_there_is_one_line_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    """No traceback, and nothing of the connection string."""
    assert cli.main(["--database-url", "postgresql://someone:secret@127.0.0.1:1/nowhere", "check"]) == 1
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert said.err.startswith("rowdock: the database cannot be reached")
    assert "secret" not in said.err + said.out


@pytest.mark.parametrize("wrong", [["chekc"], [], ["check", "--yaml"], ["rollup"]])
def test_wrong_usage_is_status_2(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--database-url", "postgresql://127.0.0.1/x", *wrong])
    assert ended.value.code == 2
