"""What verifications found: one object for each, beside the backup's parts, and its name says it all."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, get_args

from shared.backups.manifest import folder

Depth = Literal["manifest", "bytes", "decode", "restore"]
DEPTHS: tuple[Depth, ...] = get_args(Depth)  # each looks at all that those before it look at
LEAST_DEPTH: Depth = "bytes"  # what makes a backup a verified one: the manifest alone says nothing of its rows
NAME = re.compile(rf"verified/(\d{{8}}T\d{{6}}\.\d{{6}}Z)-({'|'.join(DEPTHS)})-(ok|failed)\.json")
STAMP = "%Y%m%dT%H%M%S.%fZ"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One verification that ended.

    Attributes:
        at: aware; when it began.
    """

    at: datetime
    depth: Depth
    ok: bool

    def object_name(self, backup_id: str) -> str:
        """Where it is kept."""
        stamp = self.at.astimezone(UTC).strftime(STAMP)
        return f"{folder(backup_id)}verified/{stamp}-{self.depth}-{'ok' if self.ok else 'failed'}.json"


def parse(backup_id: str, object_name: str) -> Outcome | None:
    """The outcome that an object is; None for another object."""
    named = NAME.fullmatch(object_name.removeprefix(folder(backup_id)))
    if named is None:
        return None
    at = datetime.strptime(named[1], STAMP).replace(tzinfo=UTC)
    return Outcome(at, DEPTHS[DEPTHS.index(named[2])], named[3] == "ok")


def is_verified(outcomes: Iterable[Outcome]) -> bool:
    """Whether some good outcome looked at the bytes, and each failure was followed by one that looked as deep."""
    known = list(outcomes)
    good = [outcome for outcome in known if outcome.ok]
    deep_enough = any(DEPTHS.index(o.depth) >= DEPTHS.index(LEAST_DEPTH) for o in good)
    return deep_enough and all(_is_lifted(failure, good) for failure in known if not failure.ok)


def _is_lifted(failure: Outcome, good: Iterable[Outcome]) -> bool:
    return any(o.at > failure.at and DEPTHS.index(o.depth) >= DEPTHS.index(failure.depth) for o in good)
