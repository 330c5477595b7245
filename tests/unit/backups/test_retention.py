"""What is kept of backups: whatever they are and whatever the policy, some things never go."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.backups.outcomes import DEPTHS, Outcome, is_verified, parse
from shared.backups.retention import Candidate, Plan, Policy, plan

NOW = datetime(2028, 3, 1, 4, 0, tzinfo=UTC)  # behind a leap day
ALL = frozenset({"departments", "jobs"})
NOTHING = Policy(days=0, daily=0, weekly=0, monthly=0, yearly=0, least=0)

candidates = st.builds(
    Candidate,
    backup_id=st.uuids().map(str),
    kind=st.sampled_from(["scheduled", "now", "undo"]),
    snapshot_at=st.integers(0, 1500 * 24).map(lambda hours: NOW - timedelta(hours=hours)),
    tables=st.sampled_from([ALL, frozenset({"jobs"})]),
    is_whole=st.booleans(),
    is_verified=st.booleans(),
    is_pinned=st.sampled_from([False, False, False, True]),
)
many = st.lists(candidates, max_size=25, unique_by=lambda candidate: candidate.backup_id)
counts = st.integers(0, 6)
policies = st.builds(
    Policy, days=st.integers(0, 40), daily=counts, weekly=counts, monthly=counts, yearly=counts, least=counts
)


def full(backup_id: str, at: datetime, **changed: Any) -> Candidate:
    made = Candidate(backup_id, "scheduled", at, ALL, is_whole=True, is_verified=True, is_pinned=False)
    return replace(made, **changed)


def daily(days: int, hour: int = 3) -> list[Candidate]:
    """A backup of each of the last so many days, the oldest first; its id is its date."""
    midnight = NOW.replace(hour=hour)
    return [full(f"{midnight - timedelta(days=n):%Y-%m-%d}", midnight - timedelta(days=n)) for n in range(days)][::-1]


@given(many, policies)
def test_every_backup_is_kept_for_a_reason_or_removed(found: list[Candidate], policy: Policy) -> None:
    made = plan(found, policy, NOW)
    assert sorted([*made.keep, *made.remove]) == sorted(c.backup_id for c in found)
    assert all(made.keep.values())


@given(many, policies)
def test_the_newest_verified_backup_of_each_table_is_never_removed(found: list[Candidate], policy: Policy) -> None:
    """A copy before a restore holds what was to be mended, and is none."""
    made = plan(found, policy, NOW)
    for table in ALL:
        of_table = [c for c in found if c.is_verified and table in c.tables and c.kind != "undo"]
        if of_table:
            assert max(of_table, key=lambda c: c.age).backup_id in made.keep


@given(many, policies)
def test_what_is_pinned_is_never_removed(found: list[Candidate], policy: Policy) -> None:
    assert not {c.backup_id for c in found if c.is_pinned} & set(plan(found, policy, NOW).remove)


@given(many, policies)
def test_nothing_goes_before_a_verified_whole_one_took_its_place(found: list[Candidate], policy: Policy) -> None:
    """Days without a verification cost no backup."""
    for removed in plan(found, policy, NOW).remove:
        (candidate,) = (c for c in found if c.backup_id == removed)
        assert candidate.kind == "undo" or any(
            c.is_verified and c.is_whole and c.kind != "undo" and c.age >= candidate.age for c in found
        )


@settings(max_examples=300)
@given(many, candidates, policies)
def test_one_backup_more_never_removes_a_newer_one(found: list[Candidate], more: Candidate, policy: Policy) -> None:
    """Monotone: what was kept and is newer than the added one is kept."""
    before, after = plan(found, policy, NOW), plan([*found, more], policy, NOW)
    newer = {c.backup_id for c in found if c.age > more.age}
    assert set(before.keep) & newer <= set(after.keep)


@given(many, policies, st.randoms())
def test_names_and_order_do_not_matter(found: list[Candidate], policy: Policy, chance: Any) -> None:
    """A backup is as old as its snapshot, whatever it is called (and in whatever order the bucket lists it)."""
    instants = {c.snapshot_at for c in found}
    if len(instants) < len(found):
        return
    names = [f"{n:02}" for n in range(len(found))]
    chance.shuffle(names)
    renamed = {c.backup_id: name for c, name in zip(found, names, strict=True)}
    shuffled = [replace(c, backup_id=renamed[c.backup_id]) for c in found]
    chance.shuffle(shuffled)
    assert {renamed[i] for i in plan(found, policy, NOW).remove} == set(plan(shuffled, policy, NOW).remove)


@given(many, policies)
def test_what_stays_would_stay_again(found: list[Candidate], policy: Policy) -> None:
    """A second run at once removes nothing more."""
    made = plan(found, policy, NOW)
    left = [c for c in found if c.backup_id in made.keep]
    assert plan(left, policy, NOW).remove == ()


def kept(made: Plan, reason: str) -> list[str]:
    return sorted(backup_id for backup_id, reasons in made.keep.items() if reason in reasons)


def test_the_last_of_each_day_week_month_and_year_is_kept() -> None:
    """Four years of daily backups; the last day of a month is a leap day too."""
    made = plan(daily(1500), replace(NOTHING, daily=2, weekly=2, monthly=3, yearly=2), NOW)
    assert kept(made, "daily") == ["2028-02-29", "2028-03-01"]
    assert kept(made, "weekly") == ["2028-02-27", "2028-03-01"]
    assert kept(made, "monthly") == ["2028-01-31", "2028-02-29", "2028-03-01"]
    assert kept(made, "yearly") == ["2027-12-31", "2028-03-01"]
    assert len(made.keep) == 5


def test_days_without_a_backup_take_no_slot() -> None:
    """Two months of holidays do not use up the daily ones."""
    old = [full(f"old {n}", NOW - timedelta(days=60 + n)) for n in range(5)]
    made = plan([*old, full("new", NOW)], replace(NOTHING, daily=3), NOW)
    assert sorted(made.keep) == ["new", "old 0", "old 1"]


def test_what_was_not_verified_takes_no_slot() -> None:
    """A damaged or partial one does not push a good one out."""
    good = full("good", NOW - timedelta(days=9, hours=2))
    poor = [
        full("failed", NOW - timedelta(days=9), is_verified=False),
        full("partial", NOW - timedelta(days=9), is_whole=False, tables=frozenset({"jobs"})),
        full("undo", NOW - timedelta(days=9), kind="undo"),
    ]
    last = full("last", NOW - timedelta(days=1))
    made = plan([good, *poor, last], replace(NOTHING, daily=2), NOW)
    assert sorted(made.keep) == ["good", "last"]


def test_without_any_verified_one_nothing_goes_but_old_copies_before_restores() -> None:
    found = [full(f"{n}", NOW - timedelta(days=500 + n), is_verified=False) for n in range(9)]
    undo = full("undo", NOW - timedelta(days=8), kind="undo")
    assert plan([*found, undo], Policy(), NOW).remove == ("undo",)


def test_the_young_stay_whatever_they_are() -> None:
    found = [full(kind, NOW - timedelta(days=6), kind=kind) for kind in ("scheduled", "now", "undo")]
    assert plan([*found, full("last", NOW)], replace(NOTHING, days=7), NOW).remove == ()


def test_so_many_are_kept_at_the_least() -> None:
    made = plan(daily(20), replace(NOTHING, least=4), NOW)
    assert sorted(made.keep) == ["2028-02-27", "2028-02-28", "2028-02-29", "2028-03-01"]


# --- Outcomes


def outcome(minute: int, depth: Any, ok: bool) -> Outcome:
    return Outcome(NOW + timedelta(minutes=minute), depth, ok)


@pytest.mark.parametrize(
    ("outcomes", "verified"),
    [
        ([], False),
        ([outcome(1, "manifest", True)], False),
        ([outcome(1, "bytes", True)], True),
        ([outcome(1, "decode", True), outcome(2, "bytes", False)], False),
        ([outcome(1, "decode", False), outcome(2, "bytes", True)], False),
        ([outcome(1, "bytes", False), outcome(2, "decode", True)], True),
        ([outcome(2, "bytes", False), outcome(1, "decode", True)], False),
        ([outcome(1, "decode", True), outcome(2, "manifest", False)], False),
        ([outcome(1, "decode", True), outcome(2, "manifest", False), outcome(3, "manifest", True)], True),
    ],
    ids=lambda value: "" if isinstance(value, bool) else " ".join(f"{o.depth}:{o.ok}" for o in value) or "none",
)
def test_a_failure_stands_until_something_as_deep_went_well(outcomes: list[Outcome], verified: bool) -> None:
    """In whatever order the bucket lists them."""
    assert is_verified(outcomes) is is_verified(outcomes[::-1]) is verified


@pytest.mark.parametrize("depth", DEPTHS)
def test_an_outcome_is_read_from_its_name(depth: Any) -> None:
    for ok in (True, False):
        made = Outcome(NOW + timedelta(microseconds=1), depth, ok)
        assert parse("20261125T031500Z", made.object_name("20261125T031500Z")) == made
    for other in ("manifest.json", "verified/x.json", "0a/hired_employees.jobs/00000.avro"):
        assert parse("20261125T031500Z", f"backups/20261125T031500Z/{other}") is None
