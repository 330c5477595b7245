"""``rowdock backup``, ``backups``, ``verify`` and ``expire`` do their work in this process, where no function runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from shared import cli
from shared.backups.manifest import manifest_name
from tests.integration.backups.conftest import Vault

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
