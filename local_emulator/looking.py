"""Commands that look at the emulator, and tell it to try again: ``status``, ``events``, ``dead-letters``, ``run``."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from local_emulator.event_queue import EventQueue
from local_emulator.lifecycle import POLL_S, CommandFailed, require
from local_emulator.state import Running, StateFolder
from shared import outbound
from shared.errors import RowdockError, ServiceUnavailable

COLUMNS = ("id", "state", "attempts", "last_status", "function", "type", "subject", "received_at")


def ask(running: Running, method: str, path: str, body: object = None) -> bytes:
    """Ask the running emulator, and return its answer.

    Raises:
        CommandFailed: it says that it cannot, and the message is its own; or it does not answer.
    """
    headers = {"authorization": f"Bearer {running.key}", "content-type": "application/json"}
    payload = None if body is None else json.dumps(body).encode()
    try:
        status, answer = outbound.exchange(method, running.url + path, headers=headers, body=payload, timeout_s=30.0)
    except ServiceUnavailable as error:
        raise CommandFailed(
            f"the emulator (pid {running.pid}) does not answer; is it ending? Its log says more"
        ) from error
    if status >= 300:
        detail = json.loads(answer).get("detail", "") if answer.startswith(b"{") else ""
        raise CommandFailed(f"the emulator answered {status}: {detail}")
    return answer


def status(given: argparse.Namespace) -> int:
    """Print the parts, how many deliveries are in which state, the schedules and the newest verified backup."""
    running = require(given.state)
    found: dict[str, Any] = json.loads(ask(running, "GET", "/_emulator/status"))
    found["newest_verified_backup"] = newest = _newest_verified(running)
    if given.json:
        print(json.dumps(found, indent=2))
        return 0
    print(f"{found['url']}  pid {found['pid']}, up {found['up_s']:g} s, state in {found['state']}")
    print(f"store: {found['store']['kind']} {found['store']['endpoint'] or ''}")
    print_table(found["functions"], ("name", "alive", "pid", "url", "in_flight", "at_most", "answered"))
    print("deliveries: " + (", ".join(f"{count} {state}" for state, count in found["deliveries"].items()) or "none"))
    print_table(found["schedules"], ("name", "function", "cron", "next", "last"))
    print("newest verified backup: " + ("none" if newest is None else f"{newest['backup']}, {newest['age']} old"))
    return 0


def _newest_verified(running: Running) -> dict[str, Any] | None:
    """Return id, instant and age of the newest backup that is verified and holds every table; None if there is none.

    Raises:
        CommandFailed: the store does not tell.
    """
    from shared import objectstore
    from shared.backups import listing

    store, bucket = objectstore.connect(running.environment["STORAGE_URL"]), running.environment["BACKUP_BUCKET"]
    try:
        backups = listing.listed(store, bucket, datetime.now(UTC))
    except RowdockError as error:
        raise CommandFailed(f"the bucket of the backups cannot be read: {error}") from error
    newest = next((backup for backup in backups if backup["verified"] and backup.get("whole")), None)
    return newest and {**{name: newest[name] for name in ("backup", "age")}, "at": newest["snapshot_at"].isoformat()}


def events(given: argparse.Namespace) -> int:
    """Print the newest events and their deliveries, newest first."""
    with closing(_queue(given)) as queue:
        rows = queue.listing(state=given.state_is, limit=given.limit)
    if given.json:
        print(json.dumps([_readable(row) for row in rows], indent=2))
    else:
        print_table([_readable(row) for row in rows], COLUMNS)
    return 0


def show(given: argparse.Namespace) -> int:
    """Print one delivery: its event as it is sent, and every attempt."""
    with closing(_queue(given)) as queue:
        found = queue.show(given.delivery)
    if found is None:
        raise CommandFailed(f"there is no delivery {given.delivery}; events ls names them")
    print(json.dumps(_readable(found) | {"tries": [_readable(attempt) for attempt in found["tries"]]}, indent=2))
    return 0


def replay(given: argparse.Namespace) -> int:
    """Make a delivery, or every dead one, again."""
    with closing(_queue(given)) as queue:
        count = queue.replay(given.delivery)
    if given.delivery is not None and count == 0:
        raise CommandFailed(f"delivery {given.delivery} is under way, or there is none of that number")
    if running := StateFolder(given.state).running():
        ask(running, "POST", "/_emulator/wake")
    print(json.dumps({"replayed": count}) if given.json else f"{count} made due now")
    return 0


def run_schedule(given: argparse.Namespace) -> int:
    """Make a scheduled call as if its time had come, wait for its end and print what the function answered."""
    at = f"&at={given.at.timestamp()}" if given.at else ""
    path = f"/_emulator/run?name={quote(given.schedule)}{at}"
    made = json.loads(ask(require(given.state), "POST", path))
    with closing(_queue(given)) as queue:
        found = _ended(queue, made["delivery"], given.state)
    last, ok = found["tries"][-1], found["state"] == "done"
    answer = _as_json(last["answer"] or last["error"] or "")
    outcome = {"schedule": made["schedule"], "ok": ok, "status": last["status"], "attempts": found["attempts"]}
    if given.json:
        print(json.dumps({**outcome, "answer": answer}))
    else:
        print(f"{made['schedule']}: {last['status'] or 'no answer'} after {last['duration_s']:.1f} s")
        print("".join(f"{line}\n" for line in _lines(answer)), end="")
    return 0 if ok else 1


def _ended(queue: EventQueue, delivery: int, state: Path) -> dict[str, Any]:
    """Wait until the delivery was taken or given up; an attempt that failed is told meanwhile.

    Raises:
        CommandFailed: the emulator ended meanwhile.
    """
    told = 1
    while (found := queue.show(delivery) or {})["state"] in ("pending", "delivering"):
        if found["attempts"] > told and (failed := found["tries"][-2:][0]):
            told = found["attempts"]
            print(f"attempt {failed['number']}: {failed['status'] or 'no answer'}; made again", file=sys.stderr)
        if StateFolder(state).running() is None:
            raise CommandFailed(f"the emulator ended before delivery {delivery} did; it goes on at the next start")
        time.sleep(POLL_S)
    return found


def _as_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _lines(answer: Any) -> list[str]:
    """Return a problem's detail, or the plain values of each object that an answer has as its data."""
    if not isinstance(answer, dict):
        return [str(answer)] if answer else []
    if "detail" in answer:
        return [str(answer["detail"])]
    data = answer.get("data", answer)
    return [
        "  ".join(f"{name}={value}" for name, value in item.items() if not isinstance(value, list | dict))
        for item in (data if isinstance(data, list) else [data])
    ]


def _queue(given: argparse.Namespace) -> EventQueue:
    path = StateFolder(given.state).queue
    if not path.exists():
        raise CommandFailed(f"there is no queue in {given.state}; start with: python -m local_emulator up")
    return EventQueue(path)


def _readable(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``row`` with its times in ISO 8601."""
    return {
        name: datetime.fromtimestamp(value, UTC).isoformat(timespec="milliseconds")
        if name.endswith("_at") and isinstance(value, float)
        else value
        for name, value in row.items()
    }


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Print ``columns`` of ``rows``, each as wide as it needs to be."""
    cells = [list(columns)] + [["" if row[name] is None else str(row[name]) for name in columns] for row in rows]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
