from __future__ import annotations

import pytest

from shared import reasons, rules
from shared.dictionary import Column
from tests.judging import ALL_VECTORS, Vector, table_of


@pytest.mark.parametrize("vector", ALL_VECTORS, ids=str)
def test_a_text_is_the_value_or_breaks_the_rule_that_the_vectors_say(vector: Vector) -> None:
    value, code = rules.judge(vector.column, vector.text)
    assert code == vector.code
    assert ("" if value is None else rules.canonical(value)) == (vector.canonical or "")


@pytest.mark.parametrize("vector", [v for v in ALL_VECTORS if v.canonical], ids=str)
def test_the_canonical_text_of_a_value_is_that_value(vector: Vector) -> None:
    assert rules.canonical(rules.parse(vector.column, vector.canonical)) == vector.canonical  # type: ignore[arg-type]


def test_half_a_surrogate_pair_is_no_text() -> None:
    """JSON can spell it, and bytes that are no UTF-8 arrive as it."""
    assert rules.judge(Column("name", "text"), "a\udc80b") == (None, reasons.ENCODING)
    assert rules.judge(Column("body", "jsonb"), '"a\udc80b"') == (None, reasons.NOT_JSON)


def test_json_that_nests_too_deep_is_refused_and_not_a_crash() -> None:
    column = Column("body", "jsonb")
    assert rules.judge(column, "[" * 500 + "]" * 500)[1] is None
    for depth in (501, 100_000):
        assert rules.judge(column, "[" * depth + "]" * depth) == (None, reasons.NOT_JSON)
        assert rules.judge(column, "[" * depth) == (None, reasons.NOT_JSON)
    assert rules.judge(column, '["' + "[" * 1000 + '"]')[1] is None  # brackets in a string do not nest


def test_an_endless_number_is_out_of_range_at_once() -> None:
    """Python refuses to read more than 4,300 digits; a file may hold a million."""
    assert rules.judge(Column("id", "bigint", minimum=1, maximum=9), "9" * 1_000_000) == (None, reasons.OUT_OF_RANGE)
    assert rules.judge(Column("body", "jsonb"), "9" * 200_000) == (None, reasons.NOT_JSON)


def test_every_reason_has_a_sentence_that_names_its_column() -> None:
    table = table_of(
        {
            "id": {"type": "integer"},
            "name": {"type": "text", "max_length": 3},
            "at": {"type": "timestamptz"},
            "price": {"type": "numeric(6,2)"},
        }
    )
    codes = [value for name, value in vars(reasons).items() if name.isupper() and isinstance(value, str)]
    for code in codes:
        if code.startswith("record."):
            assert reasons.describe(code, table) != code
        elif code not in ("quote", "column_count"):
            assert "name" in reasons.describe(f"name.{code}", table) or code == "superseded"
    assert "assume_zone" in reasons.describe("at.no_zone", table)
    assert "date_alone" in reasons.describe("at.no_time", table)
    assert reasons.describe("id.out_of_range", table) == "id is not between 1 and 2147483647"
    assert "4 digits before" in reasons.describe("price.out_of_range", table)
    assert reasons.describe("gone.missing", table) == "gone.missing"
    assert reasons.describe("record.of_tomorrow", table) == "record.of_tomorrow"
