"""The layout of COPY tuples: nothing of a neighbour is ever left over."""

from __future__ import annotations

import random
import struct
from decimal import Decimal

import numpy as np
import pytest

from shared.copy_binary import Constant, Data, Fixed, Var, decimal, numeric_binary, numeric_text, tuples
from tests.judging import read_tuples

LENGTHS = [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 62, 63, 64, 65, 127, 128, 129, 300]
FORMATS = {1: ">b", 4: ">i", 8: ">q"}


def random_column(rng: random.Random, count: int) -> tuple[Data | Constant, list[bytes | None]]:
    """A column, and what each of its fields has to be."""
    shape = rng.randrange(4)
    nulls = [rng.random() < 0.2 for _ in range(count)]
    if shape == 0:
        value = rng.randbytes(rng.choice([1, 8, 15]))
        return Constant(value), [value] * count
    if shape == 1:
        longest = rng.choice(LENGTHS)
        texts = [None if null else rng.randbytes(rng.choice([n for n in LENGTHS if n <= longest])) for null in nulls]
        return Var.of(texts), texts
    width = rng.choice([1, 4, 8])
    bound = 1 << 8 * width - 1
    numbers = [rng.choice([-bound, bound - 1, -1, 0, rng.randrange(-bound, bound)]) for _ in range(count)]
    packed: list[bytes | None] = [struct.pack(FORMATS[width], number) for number in numbers]
    if shape == 2:
        return Fixed(np.array(numbers, np.int64), width), packed
    packed = [None if null else value for null, value in zip(nulls, packed, strict=True)]
    return Fixed(np.array(numbers, np.int64), width, np.array(nulls)), packed


@pytest.mark.parametrize("seed", range(60))
def test_any_columns_side_by_side_are_read_back_as_they_were(seed: int) -> None:
    rng = random.Random(seed)
    count = rng.choice([1, 2, 50])
    columns, expected = zip(*[random_column(rng, count) for _ in range(rng.randrange(1, 6))], strict=True)
    assert read_tuples(tuples(columns, count)) == [list(row) for row in zip(*expected, strict=True)]


def test_no_rows_are_no_bytes() -> None:
    assert tuples([Var.of([])], 0) == b""


def test_rows_are_taken_and_joined_with_their_nulls() -> None:
    numbers = Fixed(np.array([1, 2, 3]), 4, np.array([False, True, False]))
    texts = Var.of([b"a", None, b"ccc"])
    order = np.array([2, 0])
    assert numbers.take(order).values.tolist() == [3, 1]
    assert numbers.take(order).nulls is None
    assert numbers.take(order).join(numbers).absent().tolist() == [False, False, False, True, False]
    assert texts.take(order).join(texts).texts() == [b"ccc", b"a", b"a", b"", b"ccc"]


def test_integers_have_their_decimal_texts() -> None:
    rng = random.Random(1)
    values = [
        0,
        1,
        -1,
        9,
        10,
        -10,
        2**63 - 1,
        -(2**63),
        *[rng.randrange(-(2**63), 2**63) >> rng.randrange(63) for _ in range(500)],
    ]
    assert decimal(np.array(values, np.int64)).texts() == [str(value).encode() for value in values]
    assert decimal(np.zeros(0, np.int64)).texts() == []


def test_numerics_are_read_back_digit_by_digit() -> None:
    rng = random.Random(2)
    for _ in range(500):
        whole, scale = str(rng.randrange(10 ** rng.randrange(1, 30))), rng.randrange(12)
        text = rng.choice(["", "-"]) + whole + ("." + "".join(rng.choices("0129", k=scale)) if scale else "")
        assert Decimal(numeric_text(numeric_binary(Decimal(text)))) == Decimal(text)
        assert len(numeric_text(numeric_binary(Decimal(text))).partition(".")[2]) == scale
