"""What each path of the restore function does: put tables back, drill that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from shared import json_body
from shared.backups import verify
from shared.backups.asked import MODES, Request
from shared.backups.catalogue import LATEST
from shared.backups.drill import drill as drilled
from shared.backups.restore import restore
from shared.called import Call, Headers
from shared.errors import RequestRefused, RestoreRefused

if TYPE_CHECKING:
    from shared.backups.services import Services
    from shared.logs import CanonicalLine

KEYS = ("table", "backup", "as_of", "mode", "target", "dry_run", "confirm", "file")
NOTHING_CHANGED = "Nothing was changed: this is what would be. To do it, send confirm with the name that table has."
DONE = "Restored."


def put_back(services: Services, _headers: Headers, body: dict[str, Any], line: CanonicalLine) -> Mapping[str, Any]:
    """``{"table", "backup", "as_of", "mode", "target", "dry_run", "confirm", "file"}``: what was, or would be, done."""
    request = request_of(body)
    line.update(table=request.table, mode=request.mode, dry_run=request.dry_run)
    told = restore(services, request, deadline_s=services.settings.deadline_s).as_json()
    line.update({name: told[name] for name in ("backup_id", "snapshot_at", "undo_backup_id")})
    line.update({f"rows_{name}": sum(t[name] for t in told["tables"]) for name in ("inserted", "updated", "deleted")})
    if told.get("roll_up_verified") is False:
        line.update(to_mend="the roll-up does not equal a recount: rowdock rollup rebuild")
    return {"data": {"message": NOTHING_CHANGED if request.dry_run else DONE, **told}}


def drill(services: Services, _headers: Headers, body: dict[str, Any], line: CanonicalLine) -> Mapping[str, Any]:
    """``{"backup": id or "latest"}``: what was found when it was restored into temporary tables.

    Raises:
        BackupDamaged: it is not what was written.
        TransientError: it could not be looked at.
    """
    json_body.only(body, "backup")
    found = drilled(services, json_body.text(body, "backup") or LATEST, deadline_s=services.settings.deadline_s)
    line.update(backup_id=found.backup_id, ok=found.ok, rows=found.rows)
    if error := verify.error_of([found]):
        line.update(to_mend=f"backup {found.backup_id} cannot be restored")
        raise error
    return {"data": found.as_json()}


CALLS: dict[str, tuple[str, Call]] = {"/": ("restore", put_back), "/drill": ("drill", drill)}


def request_of(body: Mapping[str, Any]) -> Request:
    """What the body asks for; a dry run unless ``confirm`` is what ``table`` says.

    Raises:
        RequestRefused: a key that is not known, a value of another kind, or keys that contradict each other.
        RestoreRefused: it confirms another table.
    """
    json_body.only(body, *KEYS)
    table, confirm, file = (json_body.text(body, name) for name in ("table", "confirm", "file"))
    as_of, backup = json_body.text(body, "as_of"), json_body.text(body, "backup") or LATEST
    if not table:
        raise RequestRefused('table takes the name of one, or "*" for all that the backup holds')
    if as_of and backup != LATEST:
        raise RequestRefused("as_of chooses a backup by its instant: say that or backup, not both")
    if file and (as_of or backup != LATEST):
        raise RequestRefused("file stands for a backup: say that, or backup or as_of")
    if confirm not in (None, table):
        raise RestoreRefused("confirm names another table than table does: nothing was changed")
    return Request(
        table=table,
        backup=backup,
        as_of=json_body.instant("as_of", as_of) if as_of else None,
        mode=json_body.one_of(body, "mode", MODES, "merge" if file else "replace"),  # type: ignore[arg-type]
        target=json_body.text(body, "target"),
        dry_run=json_body.flag(body, "dry_run", default=False) or confirm is None,
        file=file,
    )
