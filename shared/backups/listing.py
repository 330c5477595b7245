"""Backups as people see them: what each holds, when it was verified and how, and whether it is pinned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from shared.backups import outcomes
from shared.backups.catalogue import Catalogue, Unreadable
from shared.backups.manifest import ROOT, Manifest, folder
from shared.backups.outcomes import DEPTHS, Outcome
from shared.errors import NoSuchBackup

if TYPE_CHECKING:
    from shared.objectstore import ObjectStore

PINNED = "pinned"  # an object of this name in a backup's folder keeps it; what is in it is for people


def listed(store: ObjectStore, bucket: str, now: datetime) -> list[dict[str, Any]]:
    """Every backup of the bucket, the newest snapshot first, then those whose manifest cannot be used.

    Raises:
        StoreUnavailable, StoreRefused: the bucket cannot be read.
    """
    listing = Catalogue(store, bucket).list()
    names = _names(store, bucket)
    whole = [_readable(manifest, names.get(manifest.backup_id, []), now) for manifest in listing.manifests]
    return whole + [_damaged(item, names.get(item.backup_id, [])) for item in listing.unreadable]


def pin(store: ObjectStore, bucket: str, backup_id: str, why: str) -> None:
    """Keep a backup until it is unpinned, whatever retention says.

    Raises:
        NoSuchBackup: there is none of this id.
        BackupDamaged: its manifest cannot be used.
        StoreUnavailable, StoreRefused: the bucket cannot be read or written.
    """
    Catalogue(store, bucket).read(backup_id)
    store.put(bucket, folder(backup_id) + PINNED, why.encode(), content_type="text/plain; charset=utf-8")


def unpin(store: ObjectStore, bucket: str, backup_id: str) -> None:
    """Leave a backup to retention again.

    Raises:
        NoSuchBackup: it is not pinned.
        StoreUnavailable, StoreRefused: the bucket cannot be read or written.
    """
    name = folder(backup_id) + PINNED
    if all(info.name != name for info in store.list(bucket, name)):
        raise NoSuchBackup(f"no backup {backup_id!r} is pinned; list them to see which are")
    store.delete(bucket, name)


def _names(store: ObjectStore, bucket: str) -> dict[str, list[str]]:
    """Names of all objects of each backup."""
    found: dict[str, list[str]] = {}
    for info in store.list(bucket, ROOT):
        found.setdefault(info.name.removeprefix(ROOT).partition("/")[0], []).append(info.name)
    return found


def _readable(manifest: Manifest, names: Iterable[str], now: datetime) -> dict[str, Any]:
    age_s = round((now - manifest.snapshot_at).total_seconds())
    return {
        "backup": manifest.backup_id,
        "kind": manifest.kind,
        "snapshot_at": manifest.snapshot_at,
        "age": age(age_s),
        "age_s": age_s,
        "tables": [table.dictionary_key or table.full_name for table in manifest.tables],
        "whole": manifest.whole,
        "rows": sum(table.rows for table in manifest.tables),
        "bytes": sum(part.bytes for part in manifest.parts),
        **_looked_at(manifest.backup_id, names),
    }


def _damaged(item: Unreadable, names: Iterable[str]) -> dict[str, Any]:
    return {
        "backup": item.backup_id,
        "kind": "damaged",
        "written_at": item.written_at,
        "problem": str(item.error),
        **_looked_at(item.backup_id, names),
    }


def _looked_at(backup_id: str, names: Iterable[str]) -> Mapping[str, Any]:
    """Whether it is verified, by which look, and what the last look found if it failed."""
    known = list(names)
    found = [outcome for name in known if (outcome := outcomes.parse(backup_id, name))]
    verified = outcomes.is_verified(found)
    last = max((o for o in found if not o.ok), key=lambda o: o.at, default=None)
    shown = _deepest(found) if verified else last
    return {
        "verified": verified,
        "verified_depth": shown.depth if shown else None,
        "verified_at": shown.at if shown else None,
        "pinned": folder(backup_id) + PINNED in known,
    }


def _deepest(found: Iterable[Outcome]) -> Outcome:
    return max((o for o in found if o.ok), key=lambda o: (DEPTHS.index(o.depth), o.at))


def age(seconds: float) -> str:
    """``seconds`` in their largest unit and the next: ``3 d 4 h``."""
    minutes = max(int(seconds // 60), 0)
    days, hours = divmod(minutes // 60, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"
