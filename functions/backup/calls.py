"""What each path of the backup function does: take a backup, verify, expire."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from shared.backups import expire as expiring
from shared.backups import verify as verifying
from shared.backups.retention import Policy
from shared.backups.take import take
from shared.errors import RequestRefused
from shared.events import KNATIVE_PING

if TYPE_CHECKING:
    from shared.backups.manifest import Manifest
    from shared.backups.services import Services
    from shared.backups.verify import Verification
    from shared.logs import CanonicalLine

DEPTHS = ("manifest", "bytes", "decode")
CLOCKS_APART = timedelta(minutes=5)  # a later instant is no run that is due: its own run would find it done
Headers = Mapping[str, str]
Call = Callable[["Services", Headers, dict[str, Any], "CanonicalLine"], Mapping[str, Any]]


def body_of(data: bytes) -> dict[str, Any]:
    """The JSON object that a request holds; an empty body is an empty one.

    Raises:
        RequestRefused: it is something else.
    """
    try:
        found = json.loads(data) if data.strip() else {}
    except (ValueError, RecursionError):
        raise RequestRefused("the body is no JSON") from None
    if not isinstance(found, dict):
        raise RequestRefused("the body must be a JSON object")
    return found


def back_up(services: Services, headers: Headers, body: dict[str, Any], line: CanonicalLine) -> Mapping[str, Any]:
    """``{"tables": "*" or names, "at": instant}``: the backup of the scheduled instant, or one of now."""
    _only(body, "tables", "at")
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
    _only(body, "backup", "depth")
    ends_s = time.monotonic() + services.settings.deadline_s
    depth = _one_of(body, "depth", DEPTHS, "decode")
    ids = verifying.chosen(services, _text(body, "backup", "latest"))
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
    _only(body, "dry_run", "policy")
    dry_run = body.get("dry_run", True)
    if not isinstance(dry_run, bool):
        raise RequestRefused("dry_run takes true or false")
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


def _only(body: Mapping[str, Any], *known: str) -> None:
    if extra := sorted(set(body) - set(known)):
        raise RequestRefused(f"{extra[0]!r} is not known here; known are {', '.join(known)}")


def _text(body: Mapping[str, Any], name: str, default: str) -> str:
    value = body.get(name, default)
    if not isinstance(value, str):
        raise RequestRefused(f"{name} takes a text")
    return value


def _one_of(body: Mapping[str, Any], name: str, allowed: tuple[str, ...], default: str) -> str:
    value = _text(body, name, default)
    if value not in allowed:
        raise RequestRefused(f"{name} takes {', '.join(allowed)}")
    return value


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
        return _instant("at", _text(body, "at", ""))
    return None


def _instant(name: str, text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = datetime.min
    if at.tzinfo is None:
        raise RequestRefused(f"{name} takes an instant with its zone, such as 2026-11-25T03:15:00Z")
    if at > datetime.now(UTC) + CLOCKS_APART:
        raise RequestRefused(f"{name} is in the future: the run that is due then would find its backup done")
    return at.replace(microsecond=0)
