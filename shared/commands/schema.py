"""``rowdock migrate | check | keys | rollup``: the database's shape, its keys and its roll-up."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from shared import check, dictionary, migrate, rollup
from shared.commands.output import show
from shared.postgres import Database

if TYPE_CHECKING:
    from shared.settings import Settings

DEADLINE_S = 3600.0


def add_to(commands: Any) -> None:
    """Add the subcommands."""
    _add(commands, "migrate", _migrate, "bring the database forward")
    _add(commands, "check", _check, "compare dictionary and database; status 1 if they differ")
    _add(commands, "keys", _keys, "show each key, its guards and its orphans; status 1 if one is not safe")
    roll_up = commands.add_parser("rollup", help="verify, rebuild or fold the roll-up of hires")
    actions = roll_up.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add(actions, "verify", _verify, "compare the roll-up with a recount; status 1 if they differ")
    _add(actions, "rebuild", _rebuild, "count anew; writers wait meanwhile")
    _add(actions, "fold", _fold, "take the appended deltas in")


def _add(commands: Any, name: str, run: Any, text: str) -> ArgumentParser:
    parser: ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)
    return parser


def database(settings: Settings) -> Database:
    """The database of this command."""
    return Database(settings.database_url, application_name="rowdock-command", pool_size=2)


def _migrate(given: Namespace, settings: Settings) -> int:
    applied = migrate.migrate(settings.database_url)
    if given.json:
        print(json.dumps(applied))
    else:
        print("\n".join(f"applied {name}" for name in applied) or "the database is current")
    return 0


def _check(given: Namespace, settings: Settings) -> int:
    with database(settings).connection() as conn:
        found = check.check(conn, dictionary.load())
    if given.json:
        print(json.dumps(found))
    else:
        print("\n".join(found) or "dictionary and database agree")
    return 1 if found else 0


def _keys(given: Namespace, settings: Settings) -> int:
    tables, rows = dictionary.load(), []
    with database(settings).connection() as conn:
        states = {key: set(check.guard_states(conn, table).values()) for key, table in tables.tables.items()}
        for table in tables.tables.values():
            for column in (c for c in table.columns if c.references):
                safe = states[table.key] | states[str(column.references)] <= {"in place"}
                orphans = check.count_orphans(conn, tables, table, column)
                key = f"{table.schema}.{table.key}.{column.name}"
                rows.append({"key": key, "parent": column.references, "guarded": safe, "orphans": orphans})
    show(rows, ("key", "parent", "guarded", "orphans"), as_json=given.json, none="no table references another")
    return 0 if all(row["guarded"] and not row["orphans"] for row in rows) else 1


def _verify(given: Namespace, settings: Settings) -> int:
    with database(settings).connection() as conn:
        found = rollup.verify(conn)
    columns = ("year", "quarter", "department_id", "job_id", "rolled_up", "counted")
    show(found, columns, as_json=given.json, none="the roll-up equals a recount")
    return 1 if found else 0


def _rebuild(given: Namespace, settings: Settings) -> int:
    with database(settings).transaction(deadline_s=DEADLINE_S, lock_wait_s=60) as conn:
        cells = rollup.rebuild(conn)
    print(json.dumps({"cells": cells}) if given.json else f"counted anew: {cells} cells")
    return 0


def _fold(given: Namespace, settings: Settings) -> int:
    with database(settings).transaction(deadline_s=DEADLINE_S) as conn:
        folded = rollup.fold(conn)
    if given.json:
        print(json.dumps({"folded": folded}))
    else:
        print("another fold is at work" if folded is None else f"folded {folded} deltas")
    return 0
