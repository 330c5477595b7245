"""Remove what retention does not keep, and what runs that died left behind; a dry run unless told otherwise.

Of a backup the manifest goes first: from then on there is no such backup, and what is left of it is garbage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from shared.backups import outcomes
from shared.backups.catalogue import Catalogue
from shared.backups.listing import PINNED
from shared.backups.manifest import ROOT, Manifest, folder, is_id, manifest_name
from shared.backups.retention import Candidate, Plan, Policy, plan

if TYPE_CHECKING:
    from shared.backups.services import Services
    from shared.objectstore import ObjectInfo

GARBAGE_AGE = timedelta(days=1)  # far longer than any run may take: what is older belongs to none


@dataclass(frozen=True, slots=True)
class Expired:
    """What was removed, or would be.

    Attributes:
        dry_run: nothing was removed.
        spared: ids that were to go and were pinned at the last moment.
        unreadable: ids of backups whose manifest is damaged; they are left alone, for somebody to look at.
        garbage: objects that belong to no backup.
        bytes: of all objects that go.
    """

    plan: Plan
    dry_run: bool
    spared: tuple[str, ...]
    unreadable: tuple[str, ...]
    garbage: tuple[str, ...]
    bytes: int


def policy_of(services: Services) -> Policy:
    """The policy of the settings."""
    current = services.settings
    return Policy(
        days=current.keep_days,
        daily=current.keep_daily,
        weekly=current.keep_weekly,
        monthly=current.keep_monthly,
        yearly=current.keep_yearly,
        least=current.keep_least,
    )


def expire(services: Services, policy: Policy, *, now: datetime, dry_run: bool = True) -> Expired:
    """Remove what ``policy`` does not keep at the instant ``now`` (aware).

    Raises:
        StoreUnavailable, StoreRefused: the bucket cannot be read, or an object not removed; the next run goes on.
    """
    objects = _by_backup(services)  # before the manifests: a backup that ends meanwhile is young
    listing = Catalogue(services.store, services.bucket).list()
    manifests = {manifest.backup_id: manifest for manifest in listing.manifests}
    unreadable = tuple(item.backup_id for item in listing.unreadable)
    candidates = [_candidate(m, objects.get(m.backup_id, [])) for m in listing.manifests]
    made = plan(candidates, policy, now)
    garbage = [
        info
        for backup_id, infos in objects.items()
        if backup_id not in (*made.remove, *unreadable)
        for info in _garbage(infos, manifests.get(backup_id), backup_id, now)
    ]
    going = [info for backup_id in made.remove for info in objects.get(backup_id, [])]
    spared = () if dry_run else tuple(backup_id for backup_id in made.remove if not _remove(services, backup_id))
    if not dry_run:
        for info in garbage:
            services.store.delete(services.bucket, info.name)
    size = sum(info.size for info in [*going, *garbage])
    return Expired(made, dry_run, spared, unreadable, tuple(info.name for info in garbage), size)


def _by_backup(services: Services) -> dict[str, list[ObjectInfo]]:
    """All objects of each backup's folder."""
    found: dict[str, list[ObjectInfo]] = {}
    for info in services.store.list(services.bucket, ROOT):
        backup_id = info.name.removeprefix(ROOT).partition("/")[0]
        if is_id(backup_id):
            found.setdefault(backup_id, []).append(info)
    return found


def _candidate(manifest: Manifest, infos: list[ObjectInfo]) -> Candidate:
    known = (outcomes.parse(manifest.backup_id, info.name) for info in infos)
    return Candidate(
        backup_id=manifest.backup_id,
        kind=manifest.kind,
        snapshot_at=manifest.snapshot_at,
        tables=frozenset(table.full_name for table in manifest.tables),
        is_whole=manifest.whole,
        is_verified=outcomes.is_verified(outcome for outcome in known if outcome is not None),
        is_pinned=any(info.name == folder(manifest.backup_id) + PINNED for info in infos),
    )


def _garbage(infos: list[ObjectInfo], manifest: Manifest | None, backup_id: str, now: datetime) -> list[ObjectInfo]:
    """Objects of one folder that nobody needs: of a backup that is there, the parts that its manifest does not name."""
    if manifest is None:
        old = [info for info in infos if now - info.updated > GARBAGE_AGE]
        return old if len(old) == len(infos) else []  # some are younger: a run may be at work
    kept = {part.object for part in manifest.parts} | {manifest_name(backup_id), folder(backup_id) + PINNED}
    return [
        info
        for info in infos
        if info.name not in kept and outcomes.parse(backup_id, info.name) is None and now - info.updated > GARBAGE_AGE
    ]


def _remove(services: Services, backup_id: str) -> bool:
    """Remove a backup, its manifest first; False if it was pinned since it was listed."""
    infos = list(services.store.list(services.bucket, folder(backup_id)))
    if any(info.name == folder(backup_id) + PINNED for info in infos):
        return False
    services.store.delete(services.bucket, manifest_name(backup_id))
    for info in infos:
        services.store.delete(services.bucket, info.name)
    return True


def as_json(expired: Expired) -> Mapping[str, object]:
    """For who asked."""
    return {
        "dry_run": expired.dry_run,
        "keep": {backup_id: list(reasons) for backup_id, reasons in expired.plan.keep.items()},
        "remove": list(expired.plan.remove),
        "spared": list(expired.spared),
        "unreadable": list(expired.unreadable),
        "garbage": list(expired.garbage),
        "bytes": expired.bytes,
    }
