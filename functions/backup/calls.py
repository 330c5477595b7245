"""What each path of the backup function does: take a backup, verify, expire."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from shared import json_body
from shared.backups import expire as expiring
from shared.backups import verify as verifying
from shared.backups.retention import Policy
from shared.backups.take import take
from shared.called import Call, Headers
from shared.errors import RequestRefused
from shared.events import KNATIVE_PING

if TYPE_CHECKING:
    from shared.backups.manifest import Manifest
    from shared.backups.services import Services
    from shared.backups.verify import Verification
    from shared.logs import CanonicalLine

DEPTHS = ("manifest", "bytes", "decode")
CLOCKS_APART = timedelta(minutes=5)  # a later instant is no run that is due: its own run would find it done


def back_up(services: Services, headers: Headers, body: dict[str, Any], line: CanonicalLine) -> Mapping[str, Any]:
    """``{"tables": "*" or names, "at": instant}``: the backup of the scheduled instant, or one of now."""
    json_body.only(body, "tables", "at")
    at = _scheduled_at(headers, body)
    manifest = take(
        services,
        kind="scheduled" if at else "now",
        scheduled_at=at,
        tables=_tables(body.get("tables", "*")),
        deadline_s=services.settings.deadline_s,
    )
    told = summary(manifest)
    line.update({name: told[name] for name in ("backup_id", "kind", "snapshot_at", "rows", "bytes", "parts")})
    return {"data": told}


def verify(services: Services, _headers: Headers, body: dict[str, Any], line: CanonicalLine) -> Mapping[str, Any]:
    """``{"backup": id or "latest" or "all-unverified", "depth": …}``: what was found of each, the newest first.

    Raises:
        BackupDamaged: one of them is.
        TransientError: one of them could not be looked at.
    """
    json_body.only(body, "backup", "depth")
    ends_s = time.monotonic() + services.settings.deadline_s
    depth = json_body.one_of(body, "depth", DEPTHS, "decode")
    ids = verifying.chosen(services, json_body.text(body, "backup") or "latest")
    found: list[Verification] = []
    for backup_id in ids:
        if found and time.monotonic() > ends_s:
            break
        found.append(
            verifying.verify(services, backup_id, depth, deadline_s=ends_s - time.monotonic())  # type: ignore[arg-type]
        )
    failed = [verification.backup_id for verification in found if not verification.ok]
    line.update(depth=depth, verified=len(found), failed=failed, left=len(ids) - len(found))
    if failed:
        line.update(to_mend=f"backups that are not as they were: {', '.join(failed)}")
    if error := verifying.error_of(found):
        raise error
    return {"data": [verification.as_json() for verification in found], "left": ids[len(found) :]}


def expire(services: Services, _headers: Headers, body: dict[str, Any], line: CanonicalLine) -> Mapping[str, Any]:
    """``{"dry_run": true unless told otherwise, "policy": {…}}``: what is kept and why, and what goes."""
    json_body.only(body, "dry_run", "policy")
    dry_run = json_body.flag(body, "dry_run", default=True)
    policy = _policy(expiring.policy_of(services), body.get("policy", {}))
    told = expiring.as_json(expiring.expire(services, policy, now=datetime.now(UTC), dry_run=dry_run))
    line.update({name: told[name] for name in ("dry_run", "remove", "spared", "unreadable", "bytes")})
    line.update(kept=len(told["keep"]), garbage=len(told["garbage"]))  # type: ignore[arg-type]
    if told["unreadable"]:
        line.update(to_mend="manifests of backups are damaged: look at them, and remove their folders")
    return {"data": told}


CALLS: dict[str, tuple[str, Call]] = {
    "/": ("backup", back_up),
    "/verify": ("verify", verify),
    "/expire": ("expire", expire),
}


def summary(manifest: Manifest) -> dict[str, Any]:
    """A backup as it is told to who asked for it."""
    return {
        "backup_id": manifest.backup_id,
        "kind": manifest.kind,
        "scheduled_at": manifest.scheduled_at.isoformat() if manifest.scheduled_at else None,
        "snapshot_at": manifest.snapshot_at.isoformat(),
        "finished_at": manifest.finished_at.isoformat(),
        "rows": sum(table.rows for table in manifest.tables),
        "bytes": sum(part.bytes for part in manifest.parts),
        "parts": len(manifest.parts),
        "tables": [
            {
                "table": table.dictionary_key or table.full_name,
                "rows": table.rows,
                "bytes": sum(part.bytes for part in table.parts),
                "parts": len(table.parts),
            }
            for table in manifest.tables
        ],
    }


def _tables(wanted: object) -> list[str] | None:
    if wanted == "*":
        return None
    if not isinstance(wanted, list) or not wanted or not all(isinstance(name, str) for name in wanted):
        raise RequestRefused('tables takes "*" or a list of names')
    return wanted


def _policy(configured: Policy, changed: object) -> Policy:
    known = [field.name for field in fields(Policy)]
    if not isinstance(changed, dict) or (set(changed) - set(known)):
        raise RequestRefused(f"policy takes an object of {', '.join(known)}")
    if any(type(value) is not int or not 0 <= value < 100_000 for value in changed.values()):
        raise RequestRefused("policy takes whole numbers from 0 to 99999")
    return replace(configured, **changed)


def _scheduled_at(headers: Headers, body: Mapping[str, Any]) -> datetime | None:
    """The instant that the run is for, the same one for each of its retries; None for a run of now.

    Cloud Scheduler says the instant itself. Knative says when its clock fired, some milliseconds after the minute.
    """
    named = {name.lower(): value for name, value in headers.items()}
    if told := named.get("x-cloudscheduler-scheduletime"):
        return _instant("X-CloudScheduler-ScheduleTime", told)
    if named.get("ce-type") == KNATIVE_PING and (told := named.get("ce-time")):
        return _instant("ce-time", told).replace(second=0)
    if "at" in body:
        return _instant("at", json_body.text(body, "at") or "")
    return None


def _instant(name: str, text: str) -> datetime:
    at = json_body.instant(name, text)
    if at > datetime.now(UTC) + CLOCKS_APART:
        raise RequestRefused(f"{name} is in the future: the run that is due then would find its backup done")
    return at.replace(microsecond=0)
