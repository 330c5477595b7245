"""``python -m local_emulator``: all of Rowdock on this machine, and the commands that look at it.

Exit status: 0 done; 1 failed; 2 wrong usage; 3 deploy.yaml is wrong; 4 a part did not become ready; 5 the port or the
state folder is taken; 130 and 143 ended by a signal; of ``exec``, its command's own.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from local_emulator import lifecycle, looking, upload
from local_emulator.lifecycle import CommandFailed, Passed
from local_emulator.state import DEFAULT_FOLDER, FolderRefused

OPERATOR_COMMANDS = (
    "api-keys",
    "migrate",
    "check",
    "keys",
    "load",
    "loads",
    "rejects",
    "reconcile",
    "backup",
    "backups",
    "verify",
    "restore",
    "drill",
    "expire",
    "rollup",
)
STORES = ("auto", "minio", "seaweedfs", "moto")
STATES_OF_ROWS = frozenset(
    {"loaded", "rolled_back", "refused", "superseded", "ignored", "open", "closed", "pending", "all"}
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    folder, rest = _without_folder(given)
    try:
        if rest and rest[0] in OPERATOR_COMMANDS:
            return lifecycle.execute(folder or DEFAULT_FOLDER, [sys.executable, "-m", "shared.cli", *_completed(rest)])
        parsed = _parser().parse_args(rest)
        parsed.state = folder or parsed.state
        run: Callable[[argparse.Namespace], int] = parsed.run
        return run(parsed)
    except CommandFailed as error:
        print(f"local_emulator: {error}", file=sys.stderr)
        return error.status
    except FolderRefused as error:
        print(f"local_emulator: {error}", file=sys.stderr)
        return lifecycle.TAKEN
    except BrokenPipeError:
        return 1


def _without_folder(words: list[str]) -> tuple[Path | None, list[str]]:
    """Take our own ``--state DIR`` out of an operator's command, some of which have a ``--state`` too: one of rows."""
    end = words.index("--") if "--" in words else len(words)
    folder, kept, index = None, list[str](), 0
    while index < end:
        option, equals, value = words[index].partition("=")
        if not equals:
            value = words[index + 1] if index + 1 < end else ""
        if option == "--state" and value and value not in STATES_OF_ROWS:
            folder = Path(value)
            index += 1 if equals else 2
        else:
            kept.append(words[index])
            index += 1
    return folder, kept + words[end:]


def _completed(words: list[str]) -> list[str]:
    """Let ``rejects`` alone list them, as it does among the emulator's own listings."""
    bare = words[0] == "rejects" and (len(words) == 1 or words[1].startswith("-"))
    return ["rejects", "ls", *words[1:]] if bare else words


def _folder(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("takes a folder; the text is empty")
    return Path(text)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        raise argparse.ArgumentTypeError(f"takes a number from 0 to 65535, not {text!r}")
    return int(text)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"takes a number above 0, not {text!r}")
    return number


def _storage(text: str) -> str:
    if text not in STORES and "://" not in text:
        raise argparse.ArgumentTypeError(f"takes {', '.join(STORES)} or a store's URL, not {text!r}")
    return text


def _db(text: str) -> str:
    if text != "auto" and not text.startswith(("postgresql://", "postgres://")):
        raise argparse.ArgumentTypeError("takes auto or a URL such as postgresql://OWNER:PASSWORD@HOST/DATABASE")
    return text


def _common() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    common.add_argument(
        "--state",
        type=_folder,
        default=DEFAULT_FOLDER,
        metavar="DIR",
        help="folder that keeps everything (%(default)s)",
    )
    return common


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m local_emulator",
        description=(__doc__ or "").partition("\n")[0],
        epilog=f"The operator's commands are passed on to rowdock: {', '.join(sorted(OPERATOR_COMMANDS))}.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = [_common()]
    _add_up(commands.add_parser("up", parents=common, help="start everything, and run until Ctrl-C or stop"))
    stop = commands.add_parser("stop", parents=common, help="end the running emulator; its state stays")
    stop.set_defaults(run=lambda given: lifecycle.stop(given.state))
    run = commands.add_parser("exec", parents=common, help="run a command with the emulator's parts in its environment")
    run.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- CMD")
    run.set_defaults(run=lambda given: lifecycle.execute(given.state, _without_dashes(given.argv)))
    _add_upload(commands.add_parser("upload", parents=common, help="put files into the bucket"))
    _add_listings(commands, common)
    for name in OPERATOR_COMMANDS:  # main passes them on; here they are for the message on a misspelt command
        commands.add_parser(name)
    return parser


def _add_up(up: argparse.ArgumentParser) -> None:
    up.add_argument("--detach", action="store_true", help="return when it is ready; it runs on")
    up.add_argument("--fresh", action="store_true", help="forget all that --state keeps")
    up.add_argument("--port", type=_port, default=8887, help="of the gateway; 0 for any that is free (%(default)s)")
    up.add_argument("--storage", type=_storage, default="auto", metavar=f"{'|'.join(STORES)}|URL", help="(%(default)s)")
    up.add_argument(
        "--db", type=_db, default="auto", metavar="auto|URL", help="URL of a database that its role owns (%(default)s)"
    )
    up.add_argument(
        "--time-scale", type=_positive, default=0.1, metavar="X", help="pauses before retries times X (%(default)s)"
    )
    up.add_argument("--api-keys", action="store_true", help="the API asks for keys (api-keys new NAME)")
    up.add_argument("--listing", type=_positive, metavar="S", help="seconds between two listings of the bucket")
    up.add_argument("--deploy", type=Path, default=Path("deploy.yaml"), metavar="FILE", help="(%(default)s)")
    up.set_defaults(run=_up)


def _up(given: argparse.Namespace) -> int:
    passed = Passed(
        state=given.state,
        deploy=given.deploy,
        port=given.port,
        storage=given.storage,
        db=given.db,
        fresh=given.fresh,
        time_scale=given.time_scale,
        listing_s=given.listing,
        api_keys=given.api_keys,
    )
    return lifecycle.up_detached(passed) if given.detach else lifecycle.up(passed)


def _add_upload(command: argparse.ArgumentParser) -> None:
    command.add_argument("files", nargs="+", type=Path, metavar="FILE")
    command.add_argument("--as", dest="name", metavar="NAME", help="the object's name, for one file (its file name)")
    command.add_argument("--wait", action="store_true", help="follow each file to its end; 0 only if all are loaded")
    command.add_argument("--timeout", type=float, default=3600.0, metavar="S", help="give up waiting (%(default)s)")
    command.add_argument("--json", action="store_true")
    command.set_defaults(run=upload.run)


def _add_listings(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], common: list[argparse.ArgumentParser]
) -> None:
    json_flag = argparse.ArgumentParser(add_help=False)
    json_flag.add_argument("--json", action="store_true", help="for programs")
    parents = [*common, json_flag]
    status = commands.add_parser("status", parents=parents, help="parts, deliveries and schedules")
    status.set_defaults(run=looking.status)
    events = commands.add_parser("events", help="what was announced, and each delivery").add_subparsers(required=True)
    listing = events.add_parser("ls", parents=parents)
    listing.add_argument("--limit", type=int, default=50)
    listing.add_argument("--state-is", dest="state_is", metavar="pending|delivering|done|dead|failed")
    listing.set_defaults(run=looking.events)
    show = events.add_parser("show", parents=parents)
    show.add_argument("delivery", type=int)
    show.set_defaults(run=looking.show)
    replay = events.add_parser("replay", parents=parents)
    replay.add_argument("delivery", type=int)
    replay.set_defaults(run=looking.replay)
    dead = commands.add_parser("dead-letters", help="deliveries that were given up").add_subparsers(required=True)
    dead_listing = dead.add_parser("ls", parents=parents)
    dead_listing.add_argument("--limit", type=int, default=50)
    dead_listing.set_defaults(run=looking.events, state_is="dead")
    dead_replay = dead.add_parser("replay", parents=parents)
    dead_replay.add_argument("delivery", type=int, nargs="?", help="all of them when it is not given")
    dead_replay.set_defaults(run=looking.replay)
    run = commands.add_parser("run", parents=parents, help="make a scheduled call now, and wait for its end")
    run.add_argument("schedule", help="its name in deploy.yaml, or what only its name begins with: backup, verify")
    run.add_argument("--at", type=instant, metavar="T", help="as the call of this instant, such as 2026-11-25T03:15Z")
    run.set_defaults(run=looking.run_schedule)


def instant(text: str) -> datetime:
    """Read an instant with its zone; raises ValueError."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("an instant needs its zone")
    return moment


def _without_dashes(argv: list[str]) -> list[str]:
    return argv[1:] if argv[:1] == ["--"] else argv


if __name__ == "__main__":
    sys.exit(main())
