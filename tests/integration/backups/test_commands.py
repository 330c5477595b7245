"""``rowdock backup``, ``backups``, ``verify``, ``expire``, ``restore`` do their work where no function runs."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import fastavro
import pytest

from shared import cli
from shared.backups.manifest import manifest_name
from tests.integration.backups.conftest import Vault

pytestmark = pytest.mark.slow  # each test takes backups of its own

Rowdock = Callable[..., tuple[int, str, str]]


@pytest.fixture
def rowdock(vault: Vault, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Rowdock:
    """The command on the vault's database and bucket: status, standard output, standard error."""
    for name, value in {
        "DATABASE_URL": vault.database.owner_url,
        "STORAGE_URL": vault.store_server.url,
        "BACKUP_BUCKET": vault.services.bucket,
        "KEEP_DAYS": "0",
        "KEEP_DAILY": "0",
        "KEEP_WEEKLY": "0",
        "KEEP_MONTHLY": "0",
        "KEEP_YEARLY": "0",
        "KEEP_LEAST": "1",
    }.items():
        monkeypatch.setenv(name, value)

    def run(*words: str) -> tuple[int, str, str]:
        status = cli.main(words)
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def as_json(told: tuple[int, str, str]) -> Any:
    status, out, err = told
    assert status == 0, err
    return json.loads(out)


def test_a_backup_is_taken_listed_and_looked_at(vault: Vault, people: int, rowdock: Rowdock) -> None:
    """Standard output is a table or JSON and nothing else; the listing says how deep it was looked at."""
    taken = as_json(rowdock("backup", "--json"))
    assert {table["table"]: table["rows"] for table in taken["tables"]}["hired_employees"] == people
    (listed,) = as_json(rowdock("backups", "--json"))
    assert (listed["backup"], listed["kind"], listed["verified"]) == (taken["backup"], "now", False)
    (found,) = as_json(rowdock("verify", "--depth", "bytes", "--json"))
    assert (found["backup_id"], found["ok"], found["depth"]) == (taken["backup"], True, "bytes")
    (listed,) = as_json(rowdock("backups", "ls", "--json"))
    assert (listed["verified"], listed["verified_depth"], listed["pinned"]) == (True, "bytes", False)
    status, out, _ = rowdock("backups")
    assert status == 0
    assert out.splitlines()[0].split() == [
        *("backup", "kind", "snapshot_at", "age", "tables", "rows", "bytes", "verified", "pinned")
    ]
    assert f"{taken['backup']}  now" in out


def test_the_backup_of_an_instant_is_taken_once(people: int, rowdock: Rowdock) -> None:
    """The same instant again, in whatever zone, is the same backup."""
    first = as_json(rowdock("backup", "--at", "2026-11-25T03:15:00Z", "--json"))
    again = as_json(rowdock("backup", "--at", "2026-11-25T04:15:00+01:00", "--json"))
    assert first == again
    assert first["backup"] == "20261125T031500Z"


def test_a_drill_restores_the_newest_backup_into_nothing_that_stays(
    vault: Vault, people: int, rowdock: Rowdock
) -> None:
    """Every row of it; the listing says so."""
    backup = vault.take()
    (found,) = as_json(rowdock("drill", "--json"))
    assert (found["ok"], found["depth"], found["rows"] >= people) == (True, "restore", True)
    assert as_json(rowdock("backups", "--json"))[0]["verified_depth"] == "restore"
    vault.services.store.delete(vault.services.bucket, backup.tables[0].parts[0].object)
    assert rowdock("drill", backup.backup_id)[0] == 1
    assert rowdock("verify", "--depth", "restore")[0] == 1


@pytest.mark.parametrize("words", [("--at", "2026-11-25T03:15"), ("--at", "last night"), ("--bad",)])
def test_wrong_usage_ends_with_2(rowdock: Rowdock, words: tuple[str, ...]) -> None:
    """An instant without a zone is none."""
    with pytest.raises(SystemExit) as ended:
        rowdock("backup", *words)
    assert ended.value.code == 2


def test_a_damaged_backup_is_status_1_and_says_what_is_damaged(vault: Vault, people: int, rowdock: Rowdock) -> None:
    """Among good ones too: --all looks at every one."""
    good, bad = vault.take(), vault.take()
    part = bad.tables[0].parts[0]
    vault.services.store.put(vault.services.bucket, part.object, b"x" * part.bytes)
    status, out, _ = rowdock("verify", "--all")
    assert status == 1
    assert f"{bad.backup_id}: {part.object}" in out
    lines = {line.split()[0]: line.split()[2] for line in out.splitlines()[1:3]}
    assert lines == {good.backup_id: "ok", bad.backup_id: "FAILED"}
    assert "FAILED decode" in rowdock("backups")[1]


def test_a_backup_whose_manifest_is_damaged_is_listed_as_damaged(vault: Vault, people: int, rowdock: Rowdock) -> None:
    """Nobody believes it away, and nobody takes it for a backup."""
    manifest = vault.take()
    vault.services.store.put(vault.services.bucket, manifest_name(manifest.backup_id), b"{}")
    status, out, err = rowdock("backups")
    assert (status, f"{manifest.backup_id}  damaged" in out, manifest.backup_id in err) == (0, True, True)
    assert rowdock("verify", "--all")[0] == 1


def test_where_no_backup_is_none_is_verified(vault: Vault, rowdock: Rowdock) -> None:
    """Nothing looked at is not all well."""
    for words in (("verify",), ("verify", "--all"), ("verify", "20200101T000000Z")):
        status, out, err = rowdock(*words)
        assert (status, out) == (1, "")
        assert "there is no backup" in err
    assert rowdock("backups")[1] == "there is no backup yet; rowdock backup takes one\n"


def test_what_retention_does_not_keep_goes_when_somebody_says_yes(vault: Vault, people: int, rowdock: Rowdock) -> None:
    """Without it nothing does; a pinned one stays all the same."""
    old, pinned, newest = vault.take(), vault.take(), vault.take()
    assert rowdock("backups", "pin", pinned.backup_id, "audit of 2026")[0] == 0
    assert rowdock("verify", "--all", "--depth", "bytes")[0] == 0
    status, out, _ = rowdock("expire")
    assert (status, "nothing was removed" in out) == (0, True)
    assert {m.backup_id for m in vault.catalogue.list().manifests} == {
        *(old.backup_id, pinned.backup_id, newest.backup_id)
    }
    assert as_json(rowdock("expire", "--yes", "--json"))["remove"] == [old.backup_id]
    assert {m.backup_id for m in vault.catalogue.list().manifests} == {pinned.backup_id, newest.backup_id}
    assert rowdock("backups", "unpin", pinned.backup_id)[0] == 0
    assert as_json(rowdock("expire", "--json"))["remove"] == [pinned.backup_id]
    assert rowdock("backups", "unpin", pinned.backup_id)[0] == 1


# --- Restore


class Terminal(io.StringIO):
    """Somebody at a terminal, and what they type."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def typing(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda text: monkeypatch.setattr("sys.stdin", Terminal(text))


DAMAGE = """
    delete from hired_employees.hired_employees where id <= 100;
    update hired_employees.hired_employees set employee_name = 'Nobody' where id between 101 and 150;
    insert into hired_employees.hired_employees values (5001, 'Somebody', '2022-01-01T00:00:00Z', 1, 1)
"""
NAMES = "select count(*), count(*) filter (where employee_name = 'Nobody') from hired_employees.hired_employees"


def test_a_restore_says_what_it_would_do_and_asks_for_the_tables_name(
    vault: Vault, people: int, rowdock: Rowdock, typing: Callable[[str], None]
) -> None:
    """Any other word, or none, changes nothing; the name puts the table back and says how to undo that."""
    backup = vault.take()
    vault.database.query(DAMAGE)
    for word in ("yes\n", ""):
        typing(word)
        status, out, err = rowdock("restore", "hired_employees")
        assert (status, "nothing was changed" in err, vault.query(NAMES)) == (1, True, [(901, 50)])
        assert out.splitlines()[0].startswith(f"backup {backup.backup_id}, as of ")
        assert out.splitlines()[2].split() == ["hired_employees.hired_employees", "901", "1,000", "100", "50", "1"]
        assert "lock: SHARE ROW EXCLUSIVE" in out
    typing("hired_employees\n")
    status, out, _ = rowdock("restore", "hired_employees")
    assert (status, vault.query(NAMES)) == (0, [(1000, 0)])
    undo = out.rpartition("to undo it: rowdock ")[2].split()
    assert undo[:3] == ["restore", "hired_employees", "--backup"]
    assert rowdock(*undo, "--yes")[0] == 0
    assert vault.query(NAMES) == [(901, 50)]


def test_a_restore_without_a_terminal_needs_to_be_told_yes(vault: Vault, people: int, rowdock: Rowdock) -> None:
    """It is wrong usage, and nothing is looked at; a dry run needs nobody."""
    vault.take()
    with pytest.raises(SystemExit) as ended:
        rowdock("restore", "hired_employees")
    assert ended.value.code == 2
    vault.database.query(DAMAGE)
    (table,) = as_json(rowdock("restore", "hired_employees", "--dry-run", "--json"))["tables"]
    assert (table["inserted"], table["updated"], table["deleted"]) == (100, 50, 1)
    assert vault.query(NAMES) == [(901, 50)]
    assert as_json(rowdock("restore", "hired_employees", "--yes", "--json"))["dry_run"] is False
    assert vault.query(NAMES) == [(1000, 0)]


def test_what_was_shown_is_what_is_restored(
    vault: Vault, people: int, rowdock: Rowdock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup that is taken while somebody reads the plan is not suddenly the latest."""
    shown = vault.take()
    vault.database.query(DAMAGE)

    class Slow(Terminal):
        def readline(self, *_: Any) -> str:
            vault.take()
            return "hired_employees"

    monkeypatch.setattr("sys.stdin", Slow())
    assert as_json(rowdock("restore", "hired_employees", "--json"))["backup_id"] == shown.backup_id
    assert vault.query(NAMES) == [(1000, 0)]


def test_a_restore_as_of_an_instant_takes_the_backup_before_it(vault: Vault, people: int, rowdock: Rowdock) -> None:
    """Before the first there is none."""
    first = vault.take()
    vault.database.query(DAMAGE)
    vault.take()
    told = as_json(
        rowdock("restore", "hired_employees", "--as-of", first.snapshot_at.isoformat(), "--dry-run", "--json")
    )
    assert told["backup_id"] == first.backup_id
    status, _, err = rowdock("restore", "hired_employees", "--as-of", "2020-01-01T00:00:00Z", "--dry-run")
    assert (status, "there is no backup of hired_employees" in err) == (1, True)


def test_all_tables_come_from_the_newest_backup_that_holds_all(vault: Vault, people: int, rowdock: Rowdock) -> None:
    """After a disaster nobody gets the two tables that somebody saved an hour later."""
    whole, some = vault.take(), vault.take(tables=["jobs"])
    assert as_json(rowdock("restore", "*", "--dry-run", "--json"))["backup_id"] == whole.backup_id
    assert as_json(rowdock("restore", "jobs", "--dry-run", "--json"))["backup_id"] == some.backup_id
    told = as_json(rowdock("restore", "*", "--backup", some.backup_id, "--dry-run", "--json"))
    assert [table["table"] for table in told["tables"]] == ["jobs"]


def test_a_table_can_be_restored_beside_itself(vault: Vault, people: int, rowdock: Rowdock) -> None:
    """Under another name, in the schema restored; the table is left as it is."""
    vault.take()
    vault.database.query(DAMAGE)
    command = ("restore", "hired_employees", "--mode", "new-table", "--target", "last_night", "--yes")
    assert as_json(rowdock(*command, "--json"))["tables"][0]["target"] == "restored.last_night"
    assert vault.query("select count(*) from restored.last_night") == [(1000,)]
    assert vault.query(NAMES) == [(901, 50)]
    status, _, err = rowdock(*command)
    assert (status, "restored.last_night is there already" in err) == (1, True)
    with pytest.raises(SystemExit):
        rowdock("restore", "hired_employees", "--mode", "new-table", "--yes")


def test_a_bare_avro_file_brings_rows_and_takes_none_away(vault: Vault, people: int, rowdock: Rowdock) -> None:
    """One of the seed's kind, without manifest; asked for by its name alone."""
    schema = {
        "type": "record",
        "name": "jobs",
        "fields": [{"name": "id", "type": "int"}, {"name": "job", "type": "string"}],
    }
    body = io.BytesIO()
    fastavro.writer(body, schema, [{"id": 1, "job": "Engineer"}, {"id": 3, "job": "Gardener"}])
    vault.services.store.put(vault.services.bucket, "seed/jobs.avro", body.getvalue())
    status, out, _ = rowdock("restore", "jobs", "--file", "seed/jobs.avro", "--yes")
    assert (status, out.startswith("file seed/jobs.avro, without manifest")) == (0, True)
    assert vault.query("select id, job from hired_employees.jobs order by id") == [
        *((1, "Engineer"), (2, "Seller"), (3, "Gardener"))
    ]


def test_files_that_were_loaded_later_are_named_with_the_command_that_loads_them_again(
    vault: Vault, people: int, rowdock: Rowdock
) -> None:
    """Quoted for a shell, once for each object, with its bucket where that is not the usual one."""
    vault.take()
    vault.query(
        "insert into ingest_status.ingest_status"
        " (kind, state, table_name, bucket, object_name, generation, started_at, finished_at)"
        " select 'file', 'loaded', 'jobs', b, o, g, clock_timestamp(), clock_timestamp()"
        " from (values ('csv-uploads', 'it''s jobs.csv', '1'), ('csv-uploads', 'it''s jobs.csv', '2'),"
        " ('other', 'jobs.csv', '1')) v (b, o, g)"
    )
    out = rowdock("restore", "jobs", "--dry-run")[1]
    assert out.splitlines()[-5:-2] == [
        "files loaded after that instant, or in the minute before: 3; to have them again:",
        """  rowdock load 'it'"'"'s jobs.csv' --force""",
        "  rowdock load jobs.csv --bucket other --force",
    ]
