"""A verification finds what is not as it was, and says so; what it cannot look at has failed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from local_emulator import stores
from shared import objectstore
from shared.avro import table_in
from shared.backups import outcomes, verify
from shared.backups.manifest import Manifest, Part, manifest_name
from shared.backups.verify import ALL_UNVERIFIED, CHECKS
from shared.errors import BackupDamaged, DeadlineExceeded, NoSuchBackup, StoreRefused, TransientError
from tests.backups import AT
from tests.integration.backups.conftest import Vault

pytestmark = pytest.mark.slow  # each test takes backups of its own

DEPTHS = ("manifest", "bytes", "decode")


def look(vault: Vault, manifest: Manifest, depth: Any, **given: Any) -> verify.Verification:
    return verify.verify(vault.services, manifest.backup_id, depth, deadline_s=60, **given)


def put(vault: Vault, name: str, body: bytes) -> None:
    vault.services.store.put(vault.services.bucket, name, body)


def reseal(vault: Vault, manifest: Manifest) -> None:
    """Write a manifest over the one that is there, its own sum right."""
    put(vault, manifest_name(manifest.backup_id), manifest.to_bytes())


def with_part(manifest: Manifest, **changed: Any) -> Manifest:
    """With another description of the first part, and the table's rows to match."""
    table = manifest.tables[0]
    parts = (replace(table.parts[0], **changed), *table.parts[1:])
    return with_table(manifest, parts=parts, rows=sum(part.rows for part in parts))


def with_table(manifest: Manifest, **changed: Any) -> Manifest:
    return replace(manifest, tables=(replace(manifest.tables[0], **changed), *manifest.tables[1:]))


def first_part(manifest: Manifest) -> Part:
    return manifest.tables[0].parts[0]


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_backup_as_it_was_taken_is_well_at_every_depth(vault: Vault, people: int, depth: str) -> None:
    """Said beside the backup, in history and to who asked."""
    manifest = vault.take()
    found = look(vault, manifest, depth)
    assert (found.ok, found.failures) == (True, ())
    assert (found.parts, found.rows) == (len(manifest.parts), sum(table.rows for table in manifest.tables))
    (name,) = vault.objects(f"backups/{manifest.backup_id}/verified/")
    assert name.endswith(f"-{depth}-ok.json")
    assert json.loads(vault.read(name))["ok"] is True
    known = outcomes.parse(manifest.backup_id, name)
    assert known is not None
    assert (known.depth, known.ok, known.at) == (depth, True, found.started_at)
    assert {(row["verified_depth"], row["verified_ok"]) for row in vault.history()} == {(depth, True)}


def test_history_follows_the_bucket(vault: Vault, people: int) -> None:
    """A run that died after its manifest was taken for lost; whoever looks at the backup puts that right."""
    manifest = vault.take(tables=["jobs"])
    vault.query("update backup_status.backup_status set state = 'failed', error_code = 'backup.lost', number_rows = 0")
    look(vault, manifest, "manifest")
    (row,) = vault.history()
    assert (row["state"], row["error_code"], row["number_rows"]) == ("done", None, 2)


# --- Each check is for something, and nothing else finds that


@dataclass(frozen=True)
class Corruption:
    """Something that is wrong with a backup, and the only check that finds it.

    Attributes:
        check: of ``verify.CHECKS``, or what ``table_in`` compares.
        depth: the first at which it is found.
    """

    check: str
    depth: Any
    make: Callable[[Vault, Manifest], None]


def removed(vault: Vault, manifest: Manifest) -> None:
    vault.services.store.delete(vault.services.bucket, first_part(manifest).object)


def another_column(vault: Vault, manifest: Manifest) -> None:
    """The file of a table with other columns, everything else told as it is."""
    other = manifest.tables[1].parts[0]
    put(vault, first_part(manifest).object, vault.read(other.object))
    info = vault.services.store.stat(vault.services.bucket, first_part(manifest).object)
    told = replace(other, object=first_part(manifest).object, generation=info.generation)
    reseal(vault, with_table(manifest, parts=(told,), rows=told.rows))


CORRUPTIONS = [
    Corruption("exists", "manifest", removed),
    Corruption("generation", "manifest", lambda v, m: reseal(v, with_part(m, generation="1"))),
    Corruption("size", "manifest", lambda v, m: reseal(v, with_part(m, bytes=first_part(m).bytes + 1))),
    Corruption("SHA-256", "bytes", lambda v, m: reseal(v, with_part(m, sha256="00" * 32))),
    Corruption("CRC32C", "bytes", lambda v, m: reseal(v, with_part(m, crc32c="AAAAAA=="))),
    Corruption("rows", "decode", lambda v, m: reseal(v, with_part(m, rows=first_part(m).rows + 1))),
    Corruption("SHA-256 of the datums", "decode", lambda v, m: reseal(v, with_part(m, datums_sha256="00" * 32))),
]


@pytest.fixture
def without(monkeypatch: Any) -> Callable[[str], dict[str, Any]]:
    """Switch one check off, wherever it is made; gives the checks of each depth that are left."""

    def switch_off(name: str) -> dict[str, Any]:
        compare = table_in._compare
        monkeypatch.setattr(table_in, "_compare", lambda part, what, *v: what == name or compare(part, what, *v))
        return {depth: {n: c for n, c in checks.items() if n != name} for depth, checks in CHECKS.items()}

    return switch_off


@pytest.mark.parametrize("wrong", CORRUPTIONS, ids=lambda wrong: wrong.check)
def test_each_corruption_is_found_by_the_check_that_is_for_it(
    vault: Vault, people: int, without: Callable[[str], Any], wrong: Corruption
) -> None:
    """At its depth and not above; with the check switched off nothing else would find it."""
    manifest = vault.take(tables=["departments", "jobs"])
    wrong.make(vault, manifest)
    for depth in DEPTHS[: DEPTHS.index(wrong.depth)]:
        assert look(vault, manifest, depth).ok, depth
    found = look(vault, manifest, wrong.depth)
    assert [failure.object for failure in found.failures] == [first_part(manifest).object]
    left = without(wrong.check)
    assert look(vault, manifest, wrong.depth, checks=left[wrong.depth]).ok


def test_a_crc32c_of_the_store_that_is_another_is_found_by_its_check(vault: Vault, people: int, tmp_path: Path) -> None:
    """Where the store knows one: it was computed over what arrived there."""
    server = stores.fake_gcs(tmp_path, [vault.services.bucket])
    try:
        services = replace(vault.services, store=objectstore.connect(server.url))
        here = Vault(services, vault.database, server)
        manifest = here.take(tables=["departments"])
        assert look(here, manifest, "manifest").ok
        reseal(here, with_part(manifest, crc32c="AAAAAA=="))
        found = look(here, manifest, "manifest")
        assert [failure.check for failure in found.failures] == ["crc32c"]
        left = {name: check for name, check in CHECKS["manifest"].items() if name != "crc32c"}
        assert look(here, manifest, "manifest", checks=left).ok
    finally:
        server.stop()


def test_a_file_of_another_table_is_found(vault: Vault, people: int) -> None:
    """Its bytes are what the manifest says; its columns are not the table's."""
    manifest = vault.take(tables=["departments", "jobs"])
    another_column(vault, manifest)
    assert look(vault, manifest, "bytes").ok
    assert "schema" in look(vault, manifest, "decode").failures[0].message


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_manifest_that_was_edited_is_found_at_every_depth(vault: Vault, people: int, depth: str) -> None:
    """And the verification is written down, although nothing else can be known."""
    manifest = vault.take(tables=["departments"])
    put(vault, manifest_name(manifest.backup_id), manifest.to_bytes().replace(b'"rows": 2', b'"rows": 3'))
    found = look(vault, manifest, depth)
    assert [(failure.check, failure.code) for failure in found.failures] == [("manifest", "backup.damaged")]
    assert vault.objects(f"backups/{manifest.backup_id}/verified/")[0].endswith("-failed.json")
    assert vault.history()[0]["verified_ok"] is False


def flipped(body: bytes) -> bytes:
    return body[:-9] + bytes([body[-9] ^ 1]) + body[-8:]


@pytest.mark.parametrize(
    "spoil", [flipped, lambda body: body[:-1], lambda body: body + b"\0"], ids=["bit", "cut", "more"]
)
def test_bytes_that_changed_under_the_same_name_are_found(vault: Vault, people: int, spoil: Any) -> None:
    """Even where the manifest is made to name the new generation and size."""
    manifest = vault.take(tables=["employees"])
    name = first_part(manifest).object
    put(vault, name, spoil(vault.read(name)))
    assert look(vault, manifest, "manifest").failures[0].check == "generation"
    info = vault.services.store.stat(vault.services.bucket, name)
    reseal(vault, with_part(manifest, generation=info.generation, bytes=info.size))
    for depth in ("bytes", "decode"):
        assert look(vault, manifest, depth).failures


def test_all_that_is_wrong_is_told_and_not_only_the_first(vault: Vault, people: int) -> None:
    manifest = vault.take(tables=["departments", "jobs", "employees"])
    for table in manifest.tables[:2]:
        vault.services.store.delete(vault.services.bucket, table.parts[0].object)
    found = look(vault, manifest, "bytes")
    assert [failure.object for failure in found.failures] == [table.parts[0].object for table in manifest.tables[:2]]


# --- What cannot be looked at


def test_a_backup_that_is_not_there_is_no_success(vault: Vault) -> None:
    with pytest.raises(NoSuchBackup):
        verify.verify(vault.services, "20261125T031500Z", "bytes", deadline_s=60)
    with pytest.raises(NoSuchBackup):
        verify.chosen(vault.services, "latest")


def test_a_bucket_that_cannot_be_read_is_no_success(vault: Vault) -> None:
    """Nothing to look at and nothing wrong are two things."""
    settings = replace(vault.services.settings, backup_bucket="avro-that-is-not-there")
    services = replace(vault.services, settings=settings)
    for which in ("latest", ALL_UNVERIFIED, "20261125T031500Z"):
        with pytest.raises((StoreRefused, NoSuchBackup)):
            verify.chosen(services, which)


def test_a_store_that_does_not_answer_is_a_failure_that_may_pass(vault: Vault, people: int) -> None:
    """Written down where it can be, told as transient, and lifted by the next good one."""
    manifest = vault.take(tables=["departments"])

    def unreachable(_looked: Any) -> None:
        store = objectstore.connect("s3+http://key:secret@127.0.0.1:9")
        store.stat("bucket", "name")

    found = look(vault, manifest, "bytes", checks={"bytes": unreachable})
    assert (found.ok, found.failures[0].may_pass) == (False, True)
    assert type(verify.error_of([found])) is TransientError
    assert verify.chosen(vault.services, ALL_UNVERIFIED) == [manifest.backup_id]
    assert look(vault, manifest, "bytes").ok
    assert verify.chosen(vault.services, ALL_UNVERIFIED) == []


def test_a_deadline_that_passes_is_no_success(vault: Vault, people: int) -> None:
    """Half of the parts seen is nothing seen."""
    manifest = vault.take()
    with pytest.raises(DeadlineExceeded):
        verify.verify(vault.services, manifest.backup_id, "bytes", deadline_s=-1)
    assert not any("verified" in name for name in vault.objects())


# --- Which ones


def test_all_unverified_are_those_that_nothing_good_is_known_of(vault: Vault, people: int) -> None:
    """The newest first; a failed one again each time, a damaged manifest too."""
    first, second, third = (vault.take(tables=["departments"]) for _ in range(3))
    broken = vault.take("scheduled", scheduled_at=AT, tables=["departments"])
    put(vault, manifest_name(broken.backup_id), b"{}")
    look(vault, second, "bytes")
    removed(vault, third)
    look(vault, third, "bytes")
    unverified = [broken.backup_id, third.backup_id, first.backup_id]
    assert verify.chosen(vault.services, ALL_UNVERIFIED) == unverified
    assert verify.chosen(vault.services, broken.backup_id) == [broken.backup_id]


def test_what_is_answered_names_every_damaged_backup(vault: Vault, people: int) -> None:
    good, bad = vault.take(tables=["departments"]), vault.take(tables=["departments"])
    removed(vault, bad)
    found = [look(vault, manifest, "bytes") for manifest in (good, bad)]
    error = verify.error_of(found)
    assert isinstance(error, BackupDamaged)
    assert bad.backup_id in str(error)
    assert good.backup_id not in str(error)
    assert verify.error_of(found[:1]) is None
