"""What a benchmark prints: one line a piece of work, ours and its reference side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any


@dataclass(slots=True)
class Times:
    """Seconds of repeated runs of one thing."""

    seconds: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        if not self.seconds:
            return "-"
        low, high = min(self.seconds), max(self.seconds)
        return f"{self.median:.3g} s ({low:.3g}-{high:.3g})" if len(self.seconds) > 1 else f"{self.median:.3g} s"

    @property
    def median(self) -> float:
        """The middle one."""
        return median(self.seconds)


@dataclass(slots=True)
class Rates:
    """Answers (or rows) a second of repeated runs of one thing, with how long single answers took.

    Attributes:
        rates: by run.
        p50_ms, p99_ms: by run.
        cpu_us: microseconds of processor time for each answer, of the server and of PostgreSQL, by run. On a machine
            that others use too it says more than the clock.
        unit: of ``rates``.
    """

    unit: str = "/s"
    rates: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)

    def add(self, rate: float, p50_ms: float, p99_ms: float, cpu_us: float) -> None:
        """Keep one run."""
        self.rates.append(rate)
        self.cpu_us.append(cpu_us)
        self.p50_ms.append(p50_ms)
        self.p99_ms.append(p99_ms)

    def __str__(self) -> str:
        if not self.rates:
            return "-"
        span = f" ({min(self.rates):,.0f}-{max(self.rates):,.0f})" if len(self.rates) > 1 else ""
        latency = f"p50 {median(self.p50_ms):.3g} ms, p99 {median(self.p99_ms):.3g} ms"
        return f"{self.median:,.0f}{self.unit}{span}, {latency}, processor {median(self.cpu_us):,.0f} µs each"

    @property
    def median(self) -> float:
        """The middle rate."""
        return median(self.rates)


@dataclass(frozen=True, slots=True)
class Line:
    """One piece of work.

    Attributes:
        work: what was done.
        ours: how Rowdock did.
        reference: how what it is compared with did.
        ratio: the figure that the goal is about, or None where there is nothing to compare.
        goal: the goal in words.
        met: whether it is reached; None where there is no goal.
    """

    work: str
    ours: str
    reference: str = ""
    ratio: float | None = None
    goal: str = ""
    met: bool | None = None


def faster(work: str, ours: Times, name: str, reference: Times, at_least: float) -> Line:
    """A line for a goal of the kind "at least 6x faster"."""
    goal = f"{at_least:g}x" if at_least != 1 else "no slower"
    if not reference.seconds or not ours.seconds:
        return Line(work, str(ours), f"{name} not measured", goal=goal)
    ratio = reference.median / ours.median
    return Line(work, str(ours), f"{reference}  {name}", ratio, goal, ratio >= at_least)


def rate(work: str, ours: Rates, name: str, reference: Rates, at_least: float | None = None) -> Line:
    """A line for a goal of the kind "at least 0.7x its rate"; without ``at_least`` the ratio is told alone.

    The ratio is the middle one of the rounds': what disturbs a round slows both, where medians of each may come from
    different times.
    """
    goal = f"at least {at_least:g}x its rate" if at_least else ""
    if not ours.rates or not reference.rates:
        return Line(work, str(ours), f"{name} not measured", goal=goal)
    ratio = median(a / b for a, b in zip(ours.rates, reference.rates, strict=True))
    return Line(work, str(ours), f"{reference}  {name}", ratio, goal, ratio >= at_least if at_least else None)


def under(work: str, value: float, limit: float, unit: str, shown: str = "") -> Line:
    """A line for a goal of the kind "under 300 MB"; ``shown`` says more than ``value`` alone."""
    return Line(work, shown or f"{value:.3g} {unit}", "", None, f"under {limit:g} {unit}", value < limit)


def as_text(lines: Sequence[Line]) -> str:
    """The table."""
    rows = [("work", "ours: median (min-max)", "beside it", "ratio", "goal", "")]
    for line in lines:
        ratio = "" if line.ratio is None else f"{line.ratio:.2f}x"
        met = {True: "met", False: "NOT MET", None: ""}[line.met]
        rows.append((line.work, line.ours, line.reference, ratio, line.goal, met))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def as_json(lines: Sequence[Line], **rest: Any) -> dict[str, Any]:
    """The same for programs."""
    return {**rest, "lines": [asdict(line) for line in lines]}
