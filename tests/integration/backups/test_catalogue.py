"""Which backups there are, and which of them is meant."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from shared.backups.manifest import Manifest, manifest_name
from shared.errors import BackupDamaged, NoSuchBackup, StoreRefused
from tests.backups import AT, a_manifest
from tests.integration.backups.conftest import Vault

DAY = timedelta(days=1)


def keep(vault: Vault, *manifests: Manifest) -> None:
    for manifest in manifests:
        vault.services.store.put(vault.services.bucket, manifest_name(manifest.backup_id), manifest.to_bytes())


def damage(vault: Vault, manifest: Manifest) -> None:
    body = manifest.to_bytes()[:-20]
    vault.services.store.put(vault.services.bucket, manifest_name(manifest.backup_id), body)


def test_backups_are_in_the_order_of_their_snapshots_whatever_they_are_called(vault: Vault) -> None:
    """A scheduled instant that was made up for late has an old name and a new snapshot."""
    late = a_manifest(at=AT - 9 * DAY, snapshot_at=AT + DAY)
    first, second = a_manifest(at=AT - DAY), a_manifest("now", at=AT)
    keep(vault, second, late, first)
    assert vault.catalogue.list().manifests == (late, second, first)
    assert vault.catalogue.choose() == late


def test_folders_without_a_manifest_are_no_backups(vault: Vault) -> None:
    """Parts alone are what a run that died left behind."""
    vault.services.store.put(vault.services.bucket, "backups/20261125T031500Z/0a/hired_employees.jobs/00000.avro", b"x")
    vault.services.store.put(vault.services.bucket, "backups/notes/manifest.json", b"x")
    assert vault.catalogue.list().manifests == ()
    with pytest.raises(NoSuchBackup):
        vault.catalogue.choose()


def test_as_of_takes_the_last_snapshot_up_to_that_instant(vault: Vault) -> None:
    """Between two, exactly at one, and before the first."""
    first, second = a_manifest(at=AT - DAY), a_manifest(at=AT)
    keep(vault, first, second)
    choose = vault.catalogue.choose
    assert choose(as_of=second.snapshot_at) == second
    assert choose(as_of=second.snapshot_at - timedelta(microseconds=1)) == first
    with pytest.raises(NoSuchBackup, match="up to"):
        choose(as_of=first.snapshot_at - timedelta(microseconds=1))


def test_the_latest_holds_the_table_that_is_asked_for(vault: Vault) -> None:
    """A newer backup of other tables is passed over; by its id it is refused, with what it holds."""
    whole, other = a_manifest(at=AT - DAY), a_manifest(at=AT)
    keep(vault, whole, other)
    assert vault.catalogue.choose(table="jobs") == vault.catalogue.choose(table="hired_employees.jobs") == other
    with pytest.raises(NoSuchBackup, match="departments"):
        vault.catalogue.choose(table="departments")
    with pytest.raises(NoSuchBackup, match="it holds jobs"):
        vault.catalogue.choose(other.backup_id, table="departments")


def test_the_copy_before_a_restore_is_chosen_by_its_id_alone(vault: Vault) -> None:
    """It holds what the restore mended."""
    good, undo = a_manifest(at=AT - DAY), a_manifest("undo", at=AT)
    keep(vault, good, undo)
    assert vault.catalogue.choose() == good
    assert vault.catalogue.choose(undo.backup_id) == undo


def test_a_damaged_manifest_hides_no_other_backup_and_is_never_passed_over_in_silence(vault: Vault) -> None:
    """The list names it; "latest" refuses to take an older one for it."""
    good, broken = a_manifest(at=AT - DAY), a_manifest(at=AT)
    keep(vault, good)
    damage(vault, broken)
    listing = vault.catalogue.list()
    assert listing.manifests == (good,)
    assert [unreadable.backup_id for unreadable in listing.unreadable] == [broken.backup_id]
    with pytest.raises(BackupDamaged, match=broken.backup_id):
        vault.catalogue.choose()
    assert vault.catalogue.choose(as_of=AT - DAY + timedelta(seconds=1)) == good
    assert vault.catalogue.choose(good.backup_id) == good


def test_a_manifest_in_the_folder_of_another_backup_is_damaged(vault: Vault) -> None:
    """A copied file is not another backup."""
    vault.services.store.put(vault.services.bucket, manifest_name("20261126T031500Z"), a_manifest().to_bytes())
    with pytest.raises(BackupDamaged, match="20261125T031500Z"):
        vault.catalogue.read("20261126T031500Z")


@pytest.mark.parametrize("backup_id", ["20261125T031500Z", "../csv-uploads/x", "", "latest "])
def test_an_id_that_is_none_is_not_found(vault: Vault, backup_id: str) -> None:
    with pytest.raises(NoSuchBackup):
        vault.catalogue.choose(backup_id)


def test_a_bucket_that_is_not_there_is_no_empty_list(vault: Vault) -> None:
    """What cannot be looked at is an error, never "none"."""
    catalogue: Any = type(vault.catalogue)(vault.services.store, "avro-that-is-not-there")
    with pytest.raises(StoreRefused):
        catalogue.list()
