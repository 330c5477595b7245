"""``rowdock backup | backups | verify | drill | expire``: take backups, look at them, keep them, remove them.

All of it is done in this process, so that it works when no function does.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from shared import dictionary
from shared.commands.output import show
from shared.errors import NoSuchBackup
from shared.postgres import Database

if TYPE_CHECKING:
    from shared.backups.services import Services
    from shared.backups.verify import Verification
    from shared.settings import Settings

DEADLINE_S = 12 * 3600.0  # somebody watches, and may end it
CONNECTIONS = 6  # of one process: rows, sums, history, and those of a copy before a restore
DEPTHS = ("manifest", "bytes", "decode", "restore")
LISTED = ("backup", "kind", "snapshot_at", "age", "tables", "rows", "bytes", "verified", "pinned")


def add_to(commands: Any) -> None:
    """Add the subcommands."""
    take = _add(commands, "backup", _backup, "back up all tables, or those that are named")
    take.add_argument("tables", nargs="*", metavar="TABLE", help="by its dictionary key or SCHEMA.NAME")
    take.add_argument("--at", type=instant, metavar="T", help="as the scheduled one of this instant: once, ever")
    _add_listing(commands)
    look = _add(commands, "verify", _verify, "look whether backups are as they were; status 1 if one is not")
    which = look.add_mutually_exclusive_group()
    which.add_argument("id", nargs="?", default="latest", metavar="ID", help="the newest when it is not given")
    which.add_argument("--all", action="store_true", help="every backup of the bucket")
    which.add_argument("--unverified", action="store_true", help="those of which nothing good is known")
    look.add_argument("--depth", choices=DEPTHS, default="decode", help="each includes those before it (%(default)s)")
    drill = _add(commands, "drill", _drill, "restore a backup into temporary tables, to know that it would work")
    drill.add_argument("id", nargs="?", default="latest", metavar="ID", help="the newest when it is not given")
    expire = _add(commands, "expire", _expire, "say what retention (KEEP_DAYS and its like) keeps, and what goes")
    expire.add_argument("--yes", action="store_true", help="and remove it")


def _add(commands: Any, name: str, run: Any, text: str) -> ArgumentParser:
    parser: ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)
    return parser


def _add_listing(commands: Any) -> None:
    actions = _add(commands, "backups", _list, "list the backups, or pin one").add_subparsers(metavar="ACTION")
    ls = actions.add_parser("ls", help="list them, the newest first; so does no action")
    ls.add_argument("--json", action="store_true", help="print JSON")
    ls.set_defaults(run=_list)
    pin = actions.add_parser("pin", help="keep a backup until it is unpinned")
    pin.add_argument("id", metavar="ID")
    pin.add_argument("why", nargs="?", default="", help="for people")
    pin.set_defaults(run=_pin)
    unpin = actions.add_parser("unpin", help="leave a backup to retention again")
    unpin.add_argument("id", metavar="ID")
    unpin.set_defaults(run=_unpin)


def instant(text: str) -> datetime:
    """Read an instant, for argparse.

    Raises:
        ArgumentTypeError: it is none, or has no zone.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no instant such as 2026-11-25T03:15:00Z") from None
    if moment.tzinfo is None:
        raise ArgumentTypeError(f"{text!r} has no zone; write {text}Z for UTC")
    return moment


@contextmanager
def at_work(settings: Settings) -> Iterator[Services]:
    """What backup and restore need, for one command; what the log is told goes to stderr: standard output is ours."""
    from shared import objectstore
    from shared.backups.services import Services

    pool = Database(settings.database_url, application_name="rowdock-command", pool_size=CONNECTIONS)
    try:
        with redirect_stdout(sys.stderr):
            yield Services(settings, dictionary.load(), pool, objectstore.connect(settings.storage_url))
    finally:
        pool.close()


def _backup(given: Namespace, settings: Settings) -> int:
    from shared.backups.take import take

    with at_work(settings) as services:
        manifest = take(
            services,
            kind="scheduled" if given.at else "now",
            scheduled_at=given.at,
            tables=given.tables or None,
            deadline_s=DEADLINE_S,
        )
    tables = [
        {
            "table": table.dictionary_key or table.full_name,
            "rows": table.rows,
            "bytes": sum(part.bytes for part in table.parts),
            "checksum": table.checksum.value,
        }
        for table in manifest.tables
    ]
    if given.json:
        told = {"backup": manifest.backup_id, "kind": manifest.kind, "snapshot_at": manifest.snapshot_at.isoformat()}
        print(json.dumps({**told, "tables": tables}))
        return 0
    show(tables, ("table", "rows", "bytes"), as_json=False, none="no table")
    print(f"backup {manifest.backup_id}, as of {manifest.snapshot_at.isoformat(timespec='seconds')}")
    return 0


def _list(given: Namespace, settings: Settings) -> int:
    from shared.backups import listing

    with at_work(settings) as services:
        found = listing.listed(services.store, services.bucket, datetime.now(UTC))
    rows = found if given.json else [_shown(backup) for backup in found]
    show(rows, LISTED, as_json=given.json, none="there is no backup yet; rowdock backup takes one")
    for backup in [] if given.json else found:
        if "problem" in backup:
            print(f"{backup['backup']}: {backup['problem']}", file=sys.stderr)
    return 0


def _shown(backup: Mapping[str, Any]) -> dict[str, Any]:
    """One line of the table: numbers of tables, and how it was verified, in words."""
    seen = f"{backup['verified_depth']} {backup['verified_at']:%Y-%m-%dT%H:%MZ}" if backup["verified_at"] else "no"
    return {
        **backup,
        "tables": len(backup["tables"]) if "tables" in backup else None,
        "rows": f"{backup['rows']:,}" if "rows" in backup else None,
        "bytes": f"{backup['bytes']:,}" if "bytes" in backup else None,
        "verified": seen if backup["verified"] or not backup["verified_at"] else f"FAILED {seen}",
        "pinned": "pinned" if backup["pinned"] else None,
    }


def _pin(given: Namespace, settings: Settings) -> int:
    from shared.backups import listing

    with at_work(settings) as services:
        listing.pin(services.store, services.bucket, given.id, given.why)
    print(f"{given.id} stays until it is unpinned")
    return 0


def _unpin(given: Namespace, settings: Settings) -> int:
    from shared.backups import listing

    with at_work(settings) as services:
        listing.unpin(services.store, services.bucket, given.id)
    print(f"{given.id} is left to retention")
    return 0


def _verify(given: Namespace, settings: Settings) -> int:
    with at_work(settings) as services:
        ids = _asked_for(services, given)
        found = []
        for backup_id in ids:
            if len(ids) > 1:
                print(f"{backup_id}: looking at it ({given.depth})", file=sys.stderr)
            found.append(_looked_at(services, backup_id, given.depth))
    _tell(found, as_json=given.json)
    return 0 if all(verification.ok for verification in found) else 1


def _looked_at(services: Services, backup_id: str, depth: Any) -> Verification:
    from shared.backups import drill, verify

    if depth == "restore":
        return drill.drill(services, backup_id, deadline_s=DEADLINE_S)
    return verify.verify(services, backup_id, depth, deadline_s=DEADLINE_S)


def _drill(given: Namespace, settings: Settings) -> int:
    with at_work(settings) as services:
        found = _looked_at(services, given.id, "restore")
    _tell([found], as_json=given.json)
    return 0 if found.ok else 1


def _asked_for(services: Services, given: Namespace) -> list[str]:
    """Ids of the backups to look at.

    Raises:
        NoSuchBackup: there is none, which is no good outcome either.
    """
    from shared.backups import verify
    from shared.backups.catalogue import Catalogue

    if given.unverified:
        return verify.chosen(services, verify.ALL_UNVERIFIED)
    if not given.all:
        return verify.chosen(services, given.id)
    found = Catalogue(services.store, services.bucket).list()
    ids = [*(item.backup_id for item in found.unreadable), *(manifest.backup_id for manifest in found.manifests)]
    if not ids:
        raise NoSuchBackup("there is no backup to verify; rowdock backup takes one")
    return ids


def _tell(found: Sequence[Verification], *, as_json: bool) -> None:
    rows = [verification.as_json() for verification in found]
    if as_json:
        print(json.dumps(rows))
        return
    shown = [{**row, "backup": row["backup_id"], "outcome": "ok" if row["ok"] else "FAILED"} for row in rows]
    show(shown, ("backup", "depth", "outcome", "parts", "rows", "bytes"), as_json=False, none="all are verified")
    for row in rows:
        for failure in row["failures"]:
            print(f"{row['backup_id']}: {failure['message']}")


def _expire(given: Namespace, settings: Settings) -> int:
    from shared.backups import expire

    with at_work(settings) as services:
        policy = expire.policy_of(services)
        expired = expire.expire(services, policy, now=datetime.now(UTC), dry_run=not given.yes)
    told = expire.as_json(expired)
    if given.json:
        print(json.dumps(told))
        return 0
    kept = [{"backup": name, "what": "stays", "why": _reasons(why)} for name, why in expired.plan.keep.items()]
    spared = [{"backup": name, "what": "stays", "why": "pinned just now"} for name in expired.spared]
    damaged = [{"backup": name, "what": "stays", "why": "damaged: look at it"} for name in expired.unreadable]
    gone = "goes" if expired.dry_run else "gone"
    going = [{"backup": name, "what": gone, "why": ""} for name in expired.plan.remove if name not in expired.spared]
    show([*kept, *spared, *damaged, *going], ("backup", "what", "why"), as_json=False, none="there is no backup")
    print(f"{len(going)} backups and {len(expired.garbage)} objects of runs that died: {expired.bytes:,} bytes")
    if expired.dry_run:
        print("nothing was removed; --yes does it")
    return 0


def _reasons(why: Sequence[str]) -> str:
    """The reasons in a line: tables of which it is the newest are counted, not named."""
    newest = [reason for reason in why if reason.startswith("newest of")]
    others = [reason for reason in why if reason not in newest]
    return ", ".join([*others, f"newest of {len(newest)} tables"] if len(newest) > 1 else why)
