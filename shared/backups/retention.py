"""Which backups to keep: grandfather, father, son over verified ones. A pure function; it removes nothing itself.

What must hold, whatever the policy: pinned ones are kept, and of each table the newest verified backup; where no newer
verified one took its place, none is removed; and one backup more never removes a newer one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from shared.backups.manifest import Kind


@dataclass(frozen=True, slots=True)
class Policy:
    """How much to keep.

    Attributes:
        days: every backup is kept that long.
        daily, weekly, monthly, yearly: of so many days, weeks (ISO), months and years that have one, in UTC, the last
            verified and whole backup is kept.
        least: so many verified and whole backups are kept, the newest.
    """

    days: int = 7
    daily: int = 14
    weekly: int = 8
    monthly: int = 12
    yearly: int = 3
    least: int = 3


@dataclass(frozen=True, slots=True)
class Candidate:
    """What decides about one backup.

    Attributes:
        tables: what it holds.
        is_whole: it holds every table that there was to back up.
        is_verified: its bytes were looked at, and nothing has failed since.
        is_pinned: somebody said that it is to stay.
    """

    backup_id: str
    kind: Kind
    snapshot_at: datetime
    tables: frozenset[str]
    is_whole: bool
    is_verified: bool
    is_pinned: bool

    @property
    def age(self) -> tuple[datetime, str]:
        """What backups are ordered by: the instant of the snapshot, never the name."""
        return self.snapshot_at, self.backup_id


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do.

    Attributes:
        keep: id of each backup that stays, and why; the newest first.
        remove: ids of the others, the oldest first.
    """

    keep: Mapping[str, tuple[str, ...]]
    remove: tuple[str, ...]


def plan(candidates: Iterable[Candidate], policy: Policy, now: datetime) -> Plan:
    """What ``policy`` keeps of ``candidates`` at the instant ``now`` (aware)."""
    newest_first = sorted(candidates, key=lambda c: c.age, reverse=True)
    reasons: dict[str, list[str]] = {}
    for candidate, reason in _reasons(newest_first, policy, now):
        reasons.setdefault(candidate.backup_id, []).append(reason)
    kept = {c.backup_id: tuple(reasons[c.backup_id]) for c in newest_first if c.backup_id in reasons}
    return Plan(kept, tuple(c.backup_id for c in reversed(newest_first) if c.backup_id not in kept))


def _reasons(newest_first: Sequence[Candidate], policy: Policy, now: datetime) -> Iterator[tuple[Candidate, str]]:
    regular = [c for c in newest_first if c.kind != "undo"]
    full = [c for c in regular if c.is_verified and c.is_whole]
    yield from ((c, "pinned") for c in newest_first if c.is_pinned)
    yield from ((c, "young") for c in newest_first if now - c.snapshot_at < timedelta(days=policy.days))
    yield from ((c, "not replaced") for c in regular if not full or c.age > full[0].age)
    yield from _newest_of_each_table(c for c in regular if c.is_verified)
    yield from ((c, "least") for c in full[: policy.least])
    for name, count, period in _slots(policy):
        yield from ((c, name) for c in _last_of_each(full, period, count))


def _newest_of_each_table(verified: Iterable[Candidate]) -> Iterator[tuple[Candidate, str]]:
    seen: set[str] = set()
    for candidate in verified:
        yield from ((candidate, f"newest of {table}") for table in sorted(candidate.tables - seen))
        seen |= candidate.tables


def _slots(policy: Policy) -> Iterator[tuple[str, int, Callable[[datetime], object]]]:
    yield "daily", policy.daily, lambda at: at.date()
    yield "weekly", policy.weekly, lambda at: at.isocalendar()[:2]
    yield "monthly", policy.monthly, lambda at: (at.year, at.month)
    yield "yearly", policy.yearly, lambda at: at.year


def _last_of_each(
    newest_first: Iterable[Candidate], period: Callable[[datetime], object], count: int
) -> list[Candidate]:
    """The last backup of each of the newest ``count`` periods that have one."""
    found: dict[object, Candidate] = {}
    for candidate in newest_first:
        found.setdefault(period(candidate.snapshot_at.astimezone(UTC)), candidate)
    return list(found.values())[:count]
