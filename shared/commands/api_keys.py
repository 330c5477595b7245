"""``rowdock api-keys``: make, list and revoke the keys that the API takes."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from shared import api_keys
from shared.commands.output import show
from shared.commands.schema import database

if TYPE_CHECKING:
    from shared.settings import Settings

COLUMNS = ("id", "name", "scopes", "state", "created_at", "expires_at", "revoked_at")


def add_to(commands: Any) -> None:
    """Add the subcommand."""
    keys = commands.add_parser("api-keys", help="make, list or revoke keys of the API")
    actions = keys.add_subparsers(dest="action", required=True, metavar="ACTION")
    new = actions.add_parser("new", help="make a key and print it: it is shown this once")
    new.add_argument("name", help="who or what it is for")
    new.add_argument(
        "--scope", action="append", choices=api_keys.SCOPES, help="given once or more; each includes those before it"
    )
    new.add_argument("--days", type=float, help="after which it ends by itself; never if not given")
    new.add_argument("--json", action="store_true", help="print JSON")
    new.set_defaults(run=_new)
    ls = actions.add_parser("ls", help="list all keys, the newest first")
    ls.add_argument("--json", action="store_true", help="print JSON")
    ls.set_defaults(run=_list)
    revoke = actions.add_parser("revoke", help="end a key; every process forgets it within half a minute")
    revoke.add_argument("id", help="as ls shows it")
    revoke.set_defaults(run=_revoke)


def _new(given: Namespace, settings: Settings) -> int:
    with database(settings).connection() as conn:
        text = api_keys.make(conn, given.name, given.scope or ["read"], given.days)
    print(json.dumps({"key": text}) if given.json else text)
    return 0


def _list(given: Namespace, settings: Settings) -> int:
    with database(settings).connection() as conn:
        show(api_keys.listed(conn), COLUMNS, as_json=given.json, none="there is no API key")
    return 0


def _revoke(given: Namespace, settings: Settings) -> int:
    with database(settings).connection() as conn:
        api_keys.revoke(conn, given.id)
    print(f"revoked {given.id}")
    return 0
