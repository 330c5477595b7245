"""The bitmap of keys: never misses one, and knows when it cannot be sure."""

from __future__ import annotations

import numpy as np
import pytest

from functions.ingest.seen_keys import SeenKeys


@pytest.mark.parametrize("seed", range(20))
def test_a_key_that_came_before_is_always_met(seed: int) -> None:
    """Against a set, over blocks in and out of order, small keys and hashes."""
    chance = np.random.default_rng(seed)
    seen, known = SeenKeys(bits=12), set()
    for _ in range(30):
        high = int(chance.choice([200, 4096, 1 << 40]))
        codes = chance.integers(-5 if high > 4096 else 0, high, chance.integers(1, 60))
        if chance.random() < 0.5:
            codes = np.sort(codes)
        met = seen.add(codes)
        for code, told in zip(codes.tolist(), met.tolist(), strict=True):
            truth = code in known
            known.add(code)
            assert told or not truth
            assert told == truth or not seen.exact


def test_it_is_exact_until_a_code_shares_a_bit() -> None:
    """Below the bitmap's size every key has its own bit."""
    seen = SeenKeys(bits=12)
    seen.add(np.array([0, 5, 4095]))
    assert seen.exact
    seen.add(np.array([4096]))
    assert not seen.exact
