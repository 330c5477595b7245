"""``rowdock loads | rejects | reconcile``: what came of the files, and what to do about what did not go in."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from shared import dictionary, events, objectstore, rejects
from shared.commands.output import show
from shared.commands.schema import database
from shared.errors import ObjectNotFound, PermanentError, RowdockError, UnknownTable

if TYPE_CHECKING:
    from shared.settings import Settings

LOAD_TABLE = (
    "id", "kind", "state", "table_name", "file_name", "rows_read", "rows_inserted", "rows_updated", "rows_unchanged",
    "rows_rejected", "rows_pending", "still_pending", "open_rejects", "reason", "finished_at",
)  # fmt: skip  # one row of names reads better than 15 lines


def add_to(commands: Any) -> None:
    """Add the subcommands."""
    loads = commands.add_parser("loads", help="history: the latest loads first")
    loads.add_argument("--object", help="only this object's name")
    loads.add_argument("--table", help="only this table, by its dictionary key")
    loads.add_argument("--state", choices=["loaded", "rolled_back", "refused", "superseded", "ignored"])
    loads.add_argument("--kind", choices=["file", "batch", "re-drive"])
    loads.add_argument("--before", type=int, metavar="ID", help="the page after the one that ended with this id")
    loads.add_argument("--limit", type=int, default=20)
    loads.add_argument("--json", action="store_true", help="print JSON, every column")
    loads.set_defaults(run=_loads)
    force = commands.add_parser("load", help="load an object's current generation, again and past thresholds if forced")
    force.add_argument("name", help="the object's name")
    force.add_argument("--bucket", help="the upload bucket when it is not given")
    force.add_argument("--force", action="store_true", help="although history has it, and past the thresholds")
    force.set_defaults(run=_load)
    reconcile = commands.add_parser("reconcile", help="send an event for every object that history does not know")
    reconcile.add_argument("--bucket", help="the upload bucket when it is not given")
    reconcile.add_argument("--min-age", type=float, default=60.0, metavar="S", help="leave younger objects alone")
    reconcile.set_defaults(run=_reconcile)
    _add_rejects(commands.add_parser("rejects", help="list, export, re-drive or dismiss rejected rows"))


def _add_rejects(parser: Any) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    ls = actions.add_parser("ls", help="list rejected rows, open ones unless told otherwise")
    ls.add_argument("--load", type=int, metavar="ID")
    ls.add_argument("--table", help="only this table, by its dictionary key")
    ls.add_argument("--state", choices=["open", "closed", "pending", "all"], default="open")
    ls.add_argument("--reason", help="only this reason, such as hired_date.missing")
    ls.add_argument("--after", metavar="REJECT_ID", help="the page after the one that ended with this id")
    ls.add_argument("--limit", type=int, default=50)
    ls.add_argument("--json", action="store_true", help="print JSON")
    ls.set_defaults(run=_list)
    export = actions.add_parser("export", help="write a load's open rejects as a CSV to mend and drop again")
    export.add_argument("load", type=int, metavar="LOAD")
    export.add_argument("--out", metavar="FILE", help="standard output when it is not given")
    export.set_defaults(run=_export)
    for name, run, text in (
        ("redrive", _redrive, "judge rejects again, as they are, under the rules of today"),
        ("dismiss", _dismiss, "close rejects without loading them"),
    ):
        action = actions.add_parser(name, help=text)
        which = action.add_mutually_exclusive_group(required=True)
        which.add_argument("--load", type=int, metavar="ID", help="all open ones of this load")
        which.add_argument("ids", nargs="*", default=[], metavar="REJECT_ID", help="such as 12-345")
        action.set_defaults(run=run)


def _loads(given: Namespace, settings: Settings) -> int:
    with database(settings).connection() as conn:
        rows = rejects.loads(
            conn,
            object_name=given.object,
            table=given.table,
            state=given.state,
            kind=given.kind,
            before=given.before,
            limit=given.limit,
        )
    which = _filters(object=given.object, table=given.table, state=given.state, kind=given.kind)
    _require_known(given.table, rows)
    show(rows, LOAD_TABLE, as_json=given.json, none=f"no load{which or ' yet'}")
    return 0


def _filters(**given: object) -> str:
    """What a list was narrowed by, so that an empty one shows a slip."""
    told = ", ".join(f"{name} {value}" for name, value in given.items() if value is not None)
    return f" of {told}" if told else ""


def _require_known(table: str | None, rows: list[dict[str, Any]]) -> None:
    """Refuse a name that neither the dictionary nor history has."""
    tables = dictionary.load().tables
    if table is not None and table not in tables and not rows:
        raise UnknownTable(f"there is no table {table!r} in the dictionary; it has {', '.join(tables)}")


def _load(given: Namespace, settings: Settings) -> int:
    data = {"bucket": given.bucket or settings.upload_bucket, "name": given.name, "force": given.force}
    _look_for(data["bucket"], given.name, settings)
    events.send(events.make(events.LOAD, data), settings)
    print(f"asked for; rowdock loads --object {given.name} shows what came of it")
    return 0


def _look_for(bucket: str, name: str, settings: Settings) -> None:
    """Raise ObjectNotFound if the bucket has no such object: the event would be taken, and history never tell of it."""
    try:
        objectstore.connect(settings.storage_url).stat(bucket, name)
    except ObjectNotFound:
        raise
    except RowdockError as error:  # the function may have rights, and a way there, that the operator has not
        print(f"rowdock: whether the bucket has it cannot be seen from here: {error}", file=sys.stderr)


def _reconcile(given: Namespace, settings: Settings) -> int:
    data = {"bucket": given.bucket, "min_age_s": given.min_age}
    events.send(events.make(events.RECONCILE, data), settings)
    print("asked for; rowdock loads shows what it finds")
    return 0


def _list(given: Namespace, settings: Settings) -> int:
    after = (0, 0)
    if given.after:
        ((load, records),) = rejects.parse_reject_ids([given.after]).items()
        after = (load, records[0])
    with database(settings).connection() as conn:
        rows = rejects.rejects(
            conn,
            load_id=given.load,
            table=given.table,
            state=given.state,
            reason=given.reason,
            after=after,
            limit=given.limit,
        )
    columns = ("reject_id", "table_name", "file_name", "line_number", "reasons", "state", "raw")
    which = _filters(load=given.load, table=given.table, reason=given.reason, after=given.after)
    _require_known(given.table, rows)
    show(rows, columns, as_json=given.json, none=f"no {given.state} rejects{which}")
    if not given.json and len(rows) == given.limit:
        print(f"… there may be more: --after {rows[-1]['reject_id']}")
    return 0


def _export(given: Namespace, settings: Settings) -> int:
    with database(settings).connection() as conn:
        if given.out is None:
            rejects.export(conn, dictionary.load(), given.load, sys.stdout)
            return 0
        with open(given.out, "w", encoding="utf-8", newline="") as out:
            written = rejects.export(conn, dictionary.load(), given.load, out)
    if not written:
        print(f"load {given.load} has no open rejects: {given.out} holds a header alone")
        return 0
    print(f"{written} rejects in {given.out}: mend them, keep _reject_id, and drop the file again")
    return 0


def _chosen(given: Namespace) -> dict[int, list[int] | None]:
    if given.load is not None:
        return {given.load: None}
    if not given.ids:
        raise PermanentError("name the rejects, or a load with --load")
    return dict(rejects.parse_reject_ids(given.ids))


def _redrive(given: Namespace, settings: Settings) -> int:
    for load_id, records in _chosen(given).items():
        rejects.request_redrive(lambda event: events.send(event, settings), load_id, records)
    print("asked for; rowdock loads shows what came of it, as loads of kind re-drive")
    return 0


def _dismiss(given: Namespace, settings: Settings) -> int:
    with database(settings).connection() as conn:
        closed = sum(rejects.dismiss(conn, load_id, records) for load_id, records in _chosen(given).items())
    print(json.dumps({"dismissed": closed}))
    return 0
