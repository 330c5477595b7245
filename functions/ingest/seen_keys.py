"""Which keys this load has met before: a bitmap of fixed size, exact for small integers, a filter for the rest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# 2^29 bits are 64 MiB at most, of which only the touched pages are resident: exact for ids below 536,870,912.
BITS = 29


class SeenKeys:
    """Keys met so far, by their 64-bit codes; may say "met" of one that was not, never the opposite.

    Attributes:
        exact: every code so far has had a bit of its own, so that "met" was always true.
    """

    def __init__(self, bits: int = BITS) -> None:
        self._mask = np.int64((1 << bits) - 1)
        self._bitmap = np.zeros(1 << (bits - 3), np.uint8)
        self._highest = -1
        self.exact = True

    def add(self, codes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Note ``codes`` (any shape ``(n,)``) and tell of each whether it may have been met before, also among them."""
        if not len(codes):
            return np.zeros(0, bool)
        slots = codes & self._mask
        own_slots = bool((slots == codes).all())
        self.exact &= own_slots
        increasing = own_slots and bool((codes[1:] > codes[:-1]).all())
        byte, bit = slots >> 3, np.left_shift(1, slots & 7).astype(np.uint8)
        if increasing and codes[0] > self._highest:
            met = np.zeros(len(codes), bool)
        else:
            met = (self._bitmap[byte] & bit) != 0
            if not increasing:
                met |= _repeated(slots)
        # What may alias a smaller slot ends the short cut for good.
        self._highest = max(self._highest, int(codes[-1])) if increasing else int(self._mask)
        np.bitwise_or.at(self._bitmap, byte, bit)
        return met


def _repeated(slots: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Mask of every element that equals an earlier one."""
    order = np.argsort(slots, kind="stable")
    ordered = slots[order]
    repeated = np.zeros(len(slots), bool)
    repeated[order[1:]] = ordered[1:] == ordered[:-1]
    return repeated
