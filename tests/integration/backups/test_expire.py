"""Backups that are too old go, and so does what runs that died left; nothing else does."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared import settings
from shared.backups import expire as expiring
from shared.backups import verify
from shared.backups.expire import Expired, expire, policy_of
from shared.backups.manifest import Manifest, folder, manifest_name, part_name
from shared.backups.retention import Policy
from shared.errors import SettingsError, StoreRefused
from tests.backups import AT
from tests.integration.backups.conftest import Vault

pytestmark = pytest.mark.slow  # each test takes backups of its own

NEWEST = Policy(days=0, daily=0, weekly=0, monthly=0, yearly=0, least=1)
LATER = datetime.now(UTC) + timedelta(days=2)


def taken(vault: Vault, **given: Any) -> Manifest:
    """A whole backup, verified."""
    manifest = vault.take(**given)
    assert verify.verify(vault.services, manifest.backup_id, "bytes", deadline_s=60).ok
    return manifest


def run(vault: Vault, **given: Any) -> Expired:
    return expire(vault.services, NEWEST, now=LATER, **given)


def left(vault: Vault, *manifests: Manifest) -> bool:
    """Whether these backups are all that there is, each of them whole."""
    known = [name for name in vault.objects() if "/verified/" not in name]
    expected = {part.object for m in manifests for part in m.parts} | {manifest_name(m.backup_id) for m in manifests}
    return set(known) == expected


def test_a_dry_run_says_what_would_go_and_removes_nothing(vault: Vault) -> None:
    """It is what is done unless somebody asks for more."""
    old, new = taken(vault), taken(vault)
    before = vault.objects()
    told = run(vault)
    assert (told.dry_run, told.plan.remove) == (True, (old.backup_id,))
    assert told.bytes > sum(part.bytes for part in old.parts)
    assert new.backup_id in told.plan.keep
    assert vault.objects() == before


def test_what_is_not_kept_goes_with_all_that_belongs_to_it(vault: Vault) -> None:
    """Manifest, parts and outcomes; the others stay whole, and are well."""
    old, new = taken(vault), taken(vault)
    assert run(vault, dry_run=False).plan.remove == (old.backup_id,)
    assert left(vault, new)
    assert vault.objects(folder(old.backup_id)) == []
    assert verify.verify(vault.services, new.backup_id, "decode", deadline_s=60).ok
    again = run(vault, dry_run=False)
    assert (again.plan.remove, again.garbage, again.bytes) == ((), (), 0)


def test_what_was_never_verified_replaces_nothing(vault: Vault) -> None:
    """A newer backup whose bytes nobody looked at does not cost the older one."""
    old, new = taken(vault), vault.take()
    run(vault, dry_run=False)
    assert left(vault, old, new)


def test_a_backup_of_some_tables_replaces_no_whole_one(vault: Vault) -> None:
    old, new = taken(vault), taken(vault, tables=["jobs"])
    run(vault, dry_run=False)
    assert left(vault, old, new)


def test_a_pinned_backup_stays_until_its_pin_goes(vault: Vault) -> None:
    """The pin is an object of its folder."""
    old, new = taken(vault), taken(vault)
    pin = folder(old.backup_id) + expiring.PINNED
    vault.services.store.put(vault.services.bucket, pin, b"the audit of 2026")
    assert run(vault, dry_run=False).plan.keep[old.backup_id] == ("pinned",)
    vault.services.store.delete(vault.services.bucket, pin)
    run(vault, dry_run=False)
    assert left(vault, new)


def test_a_pin_that_comes_at_the_last_moment_counts(vault: Vault, monkeypatch: Any) -> None:
    """Between the plan and the removal."""
    old, new = taken(vault), taken(vault)
    pin, planned = folder(old.backup_id) + expiring.PINNED, expiring.plan

    def plan_then_pin(*given: Any) -> Any:
        made = planned(*given)
        vault.services.store.put(vault.services.bucket, pin, b"")
        return made

    monkeypatch.setattr(expiring, "plan", plan_then_pin)
    assert run(vault, dry_run=False).spared == (old.backup_id,)
    vault.services.store.delete(vault.services.bucket, pin)
    assert left(vault, old, new)


def test_a_removal_that_died_after_the_manifest_leaves_garbage_and_no_backup(vault: Vault) -> None:
    """What is left of it goes a day later, and is listed by nobody meanwhile."""
    old, new = taken(vault), taken(vault)
    vault.services.store.delete(vault.services.bucket, manifest_name(old.backup_id))
    assert vault.catalogue.list().manifests == (new,)
    soon = expire(vault.services, NEWEST, now=datetime.now(UTC) + timedelta(hours=1), dry_run=False)
    assert soon.garbage == ()
    assert vault.objects(folder(old.backup_id))
    assert set(run(vault, dry_run=False).garbage) > {part.object for part in old.parts}
    assert left(vault, new)


def test_parts_of_a_run_that_died_go_from_a_backup_that_a_later_run_finished(vault: Vault) -> None:
    """Their names are not the manifest's."""
    left_behind = part_name("20261125T031500Z", "deadbeef", "hired_employees", "jobs", 0)
    vault.services.store.put(vault.services.bucket, left_behind, b"half a part")
    manifest = taken(vault, kind="scheduled", scheduled_at=AT)
    assert run(vault, dry_run=False).garbage == (left_behind,)
    assert left(vault, manifest)


def test_a_damaged_manifest_is_left_alone_and_named(vault: Vault) -> None:
    """Nobody can tell what its parts are worth: a person looks at it."""
    broken, new = taken(vault), taken(vault)
    vault.services.store.put(vault.services.bucket, manifest_name(broken.backup_id), b"{}")
    told = run(vault, dry_run=False)
    assert (told.unreadable, told.plan.remove, told.garbage) == ((broken.backup_id,), (), ())
    assert left(vault, broken, new)


def test_what_is_no_folder_of_a_backup_is_not_touched(vault: Vault) -> None:
    vault.services.store.put(vault.services.bucket, "backups/readme.txt", b"ours")
    vault.services.store.put(vault.services.bucket, "notes/20261125T031500Z/x", b"ours")
    run(vault, dry_run=False)
    assert vault.objects("") == ["backups/readme.txt", "notes/20261125T031500Z/x"]


def test_a_bucket_that_cannot_be_read_is_an_error(vault: Vault) -> None:
    """Never a run that found nothing to do."""
    gone = replace(vault.services.settings, backup_bucket="avro-that-is-not-there")
    with pytest.raises(StoreRefused):
        expire(replace(vault.services, settings=gone), NEWEST, now=LATER)


def test_the_policy_comes_from_the_settings(vault: Vault) -> None:
    """Whole numbers; one is kept at the least."""
    told = {"KEEP_DAYS": "1", "KEEP_DAILY": "2", "KEEP_WEEKLY": "3", "KEEP_MONTHLY": "4", "KEEP_YEARLY": "5"}
    current = settings.load({**told, "KEEP_LEAST": "6"})
    assert policy_of(replace(vault.services, settings=current)) == Policy(1, 2, 3, 4, 5, 6)
    for name, value in (("KEEP_LEAST", "0"), ("KEEP_DAILY", "-1"), ("KEEP_DAYS", "seven"), ("KEEP_WEEKLY", "1.5")):
        with pytest.raises(SettingsError, match=name):
            settings.load({name: value})
