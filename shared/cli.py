"""The operator's command ``rowdock``, against any deployment; each subcommand is a module of ``shared.commands``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

from shared import postgres, settings
from shared.commands import api_keys, backups, ingest, restore, schema
from shared.errors import DatabaseMisuse, RowdockError

INSUFFICIENT_PRIVILEGE = "42501"
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
    except DatabaseMisuse as error:
        lacks_right = getattr(error.__cause__, "pgcode", None) == INSUFFICIENT_PRIVILEGE
        remedy = "connect as a role that may do this" if lacks_right else "rowdock check says what the database lacks"
        print(f"rowdock: {error}; {remedy}", file=sys.stderr)
        return 1
    except RowdockError as error:
        print(f"rowdock: {error}{postgres.why_not_reached(error)}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
