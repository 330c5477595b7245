"""The reasons of many rows at once: every row has the number of its set of reasons, and the sets are few."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from shared.copy_binary import Ints, Var


class ReasonSets:
    """Which reasons each row of a block has.

    Attributes:
        of_row: int64 ``(n,)``, index into ``sets``; 0 is the empty set, a row that breaks no rule.
        sets: tuples of reasons, in the order in which they were found.
    """

    def __init__(self, count: int) -> None:
        self.of_row: Ints = np.zeros(count, np.int64)
        self.sets: list[tuple[str, ...]] = [()]
        self._numbers: dict[tuple[str, ...], int] = {(): 0}

    def add(self, rows: Ints, more: Sequence[tuple[str, ...]], which: NDArray[np.integer] | int = 0) -> None:
        """Give each of ``rows``, none of them twice, the reasons ``more[which]``, besides those that it has."""
        if not len(rows):
            return
        pairs = self.of_row[rows] * len(more) + which
        renumbered = np.zeros(int(pairs.max()) + 1, np.int64)
        for pair in np.flatnonzero(np.bincount(pairs)).tolist():
            before, added = divmod(pair, len(more))
            renumbered[pair] = self._number(self.sets[before] + more[added])
        self.of_row[rows] = renumbered[pairs]

    def _number(self, reasons: tuple[str, ...]) -> int:
        number = self._numbers.setdefault(reasons, len(self.sets))
        if number == len(self.sets):
            self.sets.append(reasons)
        return number

    def counts(self) -> Counter[str]:
        """How many rows have each reason."""
        counts: Counter[str] = Counter()
        for reasons, times in zip(self.sets, np.bincount(self.of_row).tolist(), strict=False):
            counts.update(dict.fromkeys(reasons, times) if times else {})
        return counts

    def having(self, *reasons: str) -> NDArray[np.bool_]:
        """Mask ``(n,)`` of the rows that have one of ``reasons``."""
        hit = np.array([not set(reasons).isdisjoint(owned) for owned in self.sets])
        return hit[self.of_row]

    def encoded(self, rows: Ints, encode: Callable[[tuple[str, ...]], bytes]) -> Var:
        """Each row's reasons as ``encode`` writes them, as a column."""
        return Var.of(encode(reasons) for reasons in self.sets).take(self.of_row[rows])
