"""``rowdock restore``: says what it would do, asks, puts tables back, and says how to undo it."""

from __future__ import annotations

import json
import shlex
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import nullcontext, redirect_stdout
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from shared.backups.listing import age
from shared.commands.backups import DEADLINE_S, at_work, instant
from shared.commands.output import show

if TYPE_CHECKING:
    from shared.backups.asked import Outcome, Request
    from shared.settings import Settings

MODES = ("replace", "merge", "new-table")
TELL_EVERY_S = 1.0
COUNTS = ("rows_before", "rows_in_backup", "inserted", "updated", "deleted")


def add_to(commands: Any) -> None:
    """Add the subcommand."""
    text = "put a table back as a backup has it; says what it would do, and asks before it does"
    parser: ArgumentParser = commands.add_parser("restore", help=text, description=text)
    parser.add_argument("table", metavar="TABLE", help="by its dictionary key or SCHEMA.NAME; '*' for every table")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--backup", default="latest", metavar="latest|ID", help="(%(default)s)")
    which.add_argument("--as-of", type=instant, metavar="T", help="the newest one of this instant or earlier")
    which.add_argument("--file", metavar="OBJECT", help="an AVRO file without manifest, in the bucket of the backups")
    parser.add_argument(
        "--mode",
        choices=MODES,
        help="replace; merge takes no row away (so does --file); new-table leaves the table alone, and makes --target",
    )
    parser.add_argument("--target", metavar="NAME", help="of the new table, which will be restored.NAME")
    parser.add_argument("--dry-run", action="store_true", help="only say what it would do")
    parser.add_argument("--yes", action="store_true", help="do it at once: nobody is asked")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=lambda given, settings: _restore(given, settings, parser))


def _restore(given: Namespace, settings: Settings, parser: ArgumentParser) -> int:
    asks = not (given.yes or given.dry_run)
    if asks and not sys.stdin.isatty():
        parser.error("there is no terminal to ask at: give --dry-run, or --yes to do it")
    if (given.mode == "new-table") != (given.target is not None):
        parser.error("--mode new-table and --target belong together")
    request = _request(given)
    if asks:
        plan = _done(settings, replace(request, dry_run=True))
        with redirect_stdout(sys.stderr) if given.json else nullcontext():
            _tell(plan, settings)
        if not _confirmed(given.table):
            print("nothing was changed", file=sys.stderr)
            return 1
        if plan.manifest:  # what was shown, and no newer one
            request = replace(request, backup=plan.manifest.backup_id, as_of=None)
    outcome = _done(settings, request)
    if given.json:
        print(json.dumps(outcome.as_json()))
    else:
        _tell(outcome, settings)
    return 0


def _request(given: Namespace) -> Request:
    from shared.backups.asked import Request

    mode: Any = (given.mode or ("merge" if given.file else "replace")).replace("-", "_")
    return Request(given.table, given.backup, given.as_of, mode, given.target, given.dry_run, given.file)


def _done(settings: Settings, request: Request) -> Outcome:
    from shared.backups.restore import restore

    with at_work(settings) as services:
        return restore(services, request, deadline_s=DEADLINE_S, on_progress=_progress())


def _progress() -> Callable[[str, int], None]:
    """Tell how far it is, a line a second on standard error."""
    told_s = time.monotonic()

    def tell(table: str, rows: int) -> None:
        nonlocal told_s
        if time.monotonic() - told_s >= TELL_EVERY_S:
            told_s = time.monotonic()
            print(f"{table}: {rows:,} rows", file=sys.stderr)

    return tell


def _confirmed(table: str) -> bool:
    print(f"\nTo do this, type {table}: ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip() == table


def _tell(outcome: Outcome, settings: Settings) -> None:
    """For people: from what, what it does to each table, what it gets over, and how to go on."""
    told = outcome.as_json()
    if told["file"]:
        print(f"file {told['file']}, without manifest: its rows were judged by the dictionary's rules")
    else:
        print(f"backup {told['backup_id']}, as of {told['snapshot_at']}, {age(told['age_s'])} ago")
    verbs = ("insert", "change", "remove") if outcome.dry_run else ("inserted", "changed", "removed")
    rows = [
        {"table": table["target"]} | {name: f"{table[key]:,}" for name, key in zip(_heads(verbs), COUNTS, strict=True)}
        for table in told["tables"]
    ]
    show(rows, ("table", *_heads(verbs)), as_json=False, none="no table")
    for table in told["tables"]:
        for note in table["notes"]:
            print(f"{table['target']}.{note}")
    for key in dict.fromkeys(key for table in told["tables"] for key in table["keys"]):
        print(f"key: {key}")
    for line in _afterwards(outcome, settings):
        print(line)


def _heads(verbs: tuple[str, str, str]) -> tuple[str, ...]:
    return ("rows now", "in the backup", *verbs) if verbs[0] == "insert" else ("rows before", "in the backup", *verbs)


def _afterwards(outcome: Outcome, settings: Settings) -> Iterator[str]:
    """What holds while it runs, what it undoes, and the commands that go on from here."""
    told = outcome.as_json()
    if told["roll_up_verified"] is False:
        yield "the roll-up does not equal a recount: rowdock rollup rebuild"
    if told["undo_backup_id"]:
        table = told["tables"][0]["table"] if len(told["tables"]) == 1 else "*"
        yield f"to undo it: rowdock restore {shlex.quote(table)} --backup {told['undo_backup_id']}"
    if outcome.later_count:
        yield f"files loaded after that instant, or in the minute before: {outcome.later_count}; to have them again:"
        yield from dict.fromkeys(_load_again(file, settings) for file in outcome.later_files)
        if outcome.later_count > len(outcome.later_files):
            yield f"  … and {outcome.later_count - len(outcome.later_files)} more: rowdock loads"
    if outcome.dry_run:
        yield f"lock: {told['lock'] or 'none'}"
        yield "dry run: nothing was changed"


def _load_again(file: dict[str, Any], settings: Settings) -> str:
    bucket = "" if file["bucket"] == settings.upload_bucket else f" --bucket {shlex.quote(file['bucket'])}"
    return f"  rowdock load {shlex.quote(file['object'])}{bucket} --force"
