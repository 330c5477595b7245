"""Which parents are there: each distinct key is asked for once, and the answer is kept in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from shared.copy_binary import Data, Fixed, Ints, Mask, values_of
from shared.dictionary import Column

Present = Callable[[Column, Sequence[int | str]], set[int | str]]

SMALL = 1 << 24  # keys below have a byte each in a table of 16 MiB, of which only the touched pages are resident
MAX_OTHERS = 1 << 18  # other keys that are remembered; past that all are forgotten, and asked for again
UNKNOWN, PRESENT, ABSENT = 0, 1, 2


class Parents:
    """Answers for one column that references a table.

    Where the table is the column's own, "absent" is not kept: the parent may stand earlier in the same file.
    """

    def __init__(self, column: Column, present: Present, *, keep_absent: bool) -> None:
        self._column = column
        self._ask = present
        self._keep_absent = keep_absent
        self._small = np.zeros(SMALL if column.kind in ("integer", "bigint") else 0, np.uint8)
        self._others: dict[int | str, bool] = {}

    def missing(self, data: Data) -> Mask:
        """Mask over the column's rows: there is a key, and no parent of that key."""
        if isinstance(data, Fixed) and len(self._small):
            return self._missing_integers(data.values, data.absent())
        return self._missing_others(values_of(self._column, data), data.absent())

    def _missing_integers(self, keys: Ints, absent: Mask) -> Mask:
        if not len(keys) or (int(keys.min()) >= 0 and int(keys.max()) < SMALL):
            return self._missing_small(keys, absent)
        is_large = (keys < 0) | (keys >= SMALL)
        missing = self._missing_small(np.where(is_large, 0, keys), absent | is_large)
        large = np.flatnonzero(is_large)
        missing[large] = self._missing_others(keys[large].tolist(), absent[large])
        return missing

    def _missing_small(self, keys: Ints, absent: Mask) -> Mask:
        states = self._small[keys]
        if (states == PRESENT).all():
            return np.zeros(len(keys), bool)
        unknown = np.unique(keys[(states == UNKNOWN) & ~absent])
        if len(unknown):
            self._small[unknown] = ABSENT
            found = self._ask(self._column, unknown.tolist())
            self._small[np.fromiter(found, np.int64, len(found))] = PRESENT
            states = self._small[keys]
            if not self._keep_absent:
                self._small[unknown[self._small[unknown] == ABSENT]] = UNKNOWN
        missing: Mask = (states == ABSENT) & ~absent
        return missing

    def _missing_others(self, keys: Sequence[int | str], absent: Mask) -> Mask:
        wanted = {key for key, skip in zip(keys, absent.tolist(), strict=True) if not skip}
        if len(self._others) + len(wanted) > MAX_OTHERS:
            self._others.clear()
        unknown = sorted(wanted.difference(self._others))
        if unknown:
            found = self._ask(self._column, unknown)
            self._others.update((key, key in found) for key in unknown)
        missing = np.fromiter((not self._others.get(key, True) for key in keys), bool, len(keys)) & ~absent
        if not self._keep_absent:
            self._others = {key: there for key, there in self._others.items() if there}
        return missing
