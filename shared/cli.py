"""The operator's command ``rowdock``, against any deployment; each subcommand is a module of ``shared.commands``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

from shared import settings
from shared.commands import api_keys, backups, ingest, restore, schema
from shared.errors import RowdockError

MODULES = (schema, ingest, backups, restore, api_keys)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit status: 0 done, 1 found something wrong or failed, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="rowdock", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--database-url", help="libpq connection string; DATABASE_URL when it is not given")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in MODULES:
        module.add_to(commands)
    given = parser.parse_args(arguments)
    try:
        current = settings.load()
        if given.database_url:
            current = replace(current, database_url=given.database_url)
        if not current.database_url:
            parser.error("set DATABASE_URL, or give --database-url")
        status: int = given.run(given, current)
    except RowdockError as error:
        print(f"rowdock: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
