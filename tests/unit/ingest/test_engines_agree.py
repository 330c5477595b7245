"""The fast path against the careful one, and both against what is known otherwise."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Sequence
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.ingest.judge import REJECTED, Judge
from shared import rules
from shared.copy_binary import column_of
from shared.dictionary import Column, Table
from tests.judging import (
    ALL_VECTORS,
    Outcome,
    Vector,
    csv_line,
    judge_file,
    outcomes,
    positional,
    read_tuples,
    table_of,
)

BY_COLUMN = [(column, list(group)) for column, group in groupby(ALL_VECTORS, key=lambda v: v.column)]


def some_present(column: Column, keys: Sequence[int | str]) -> set[int | str]:
    """Every key with an odd last character has a parent."""
    return {key for key in keys if str(key)[-1:] in ("1", "3", "5", "7", "9", "a", "e")}


def table_for(column: Column) -> Table:
    made = table_of({"key": {"type": "integer"}, "value": {"type": "text"}})
    return Table(
        key=made.key, schema="s", api_name="things", file_pattern="t", primary_key="key",
        columns=(made.columns[0], column),
    )  # fmt: skip


def expected_reasons(vector: Vector) -> tuple[str, ...]:
    """In a file a NUL is the record's matter; other rules are the column's."""
    record = ("record.nul",) if "\0" in vector.text else ()
    return (*record, f"{vector.column.name}.{vector.code}") if vector.code not in (None, "nul") else record


def check(group: list[Vector], found: list[Outcome]) -> None:
    assert len(found) == len(group)
    for vector, outcome in zip(group, found, strict=True):
        assert outcome.reasons == expected_reasons(vector), vector
        if vector.code is None:
            value = rules.parse(vector.column, vector.text)
            data = column_of(vector.column, [value])
            texts = (data if hasattr(data, "texts") else data.as_var()).texts()
            assert outcome.values is not None
            assert outcome.values[1] == (None if value is None else texts[0]), vector


@pytest.mark.parametrize("careful", [False, True], ids=["fast", "careful"])
@pytest.mark.parametrize(("column", "group"), BY_COLUMN, ids=[column.name for column, _ in BY_COLUMN])
class TestEveryEngineSaysWhatTheVectorsSay:
    def test_in_quoted_fields(self, column: Column, group: list[Vector], careful: bool) -> None:
        group = [v for v in group if "\n" not in v.text]
        data = b"".join(csv_line([str(number), v.text]) for number, v in enumerate(group, 1))
        check(group, judge_file(table_for(column), positional(table_for(column)), data, some_present, careful=careful))

    def test_in_plain_fields_of_a_file_with_any_line_end(
        self, column: Column, group: list[Vector], careful: bool
    ) -> None:
        group = [v for v in group if not set(v.text) & set(',"\n')]
        for end in ("\n", "\r\n"):
            data = "".join(f"{number},{v.text}{end}" for number, v in enumerate(group, 1)).encode()
            table = table_for(column)
            check(group, judge_file(table, positional(table), data, some_present, careful=careful))

    def test_one_at_a_time(self, column: Column, group: list[Vector], careful: bool) -> None:
        table = table_for(column)
        judge = Judge(table, positional(table), some_present, careful=careful)
        for vector in group:
            raw = csv_line(["1", vector.text]).removesuffix(b"\n")
            check([vector], outcomes(judge.judge_records([raw])))


EVERY_KIND = table_of(
    {
        "id": {"type": "integer"},
        "name": {"type": "text", "max_length": 6},
        "at": {"type": "timestamptz"},
        "day": {"type": "date", "required": False},
        "amount": {"type": "numeric(6,2)", "required": False},
        "flag": {"type": "boolean", "required": False},
        "code": {"type": "uuid", "required": False},
        "body": {"type": "jsonb", "required": False},
        "boss": {"type": "integer", "references": "things", "required": False},
        "place": {"type": "text", "references": "places"},
        "team": {"type": "bigint", "references": "teams", "parent_missing": "reject"},
    },
    max_record_bytes=300,
)
TEXT_KEY = table_of({"code": {"type": "text"}, "label": {"type": "text", "required": False}}, max_record_bytes=60)
ONE_COLUMN = table_of({"code": {"type": "text"}}, max_record_bytes=40)
UUID_KEY = table_of({"id": {"type": "uuid"}, "n": {"type": "integer", "minimum": -5}, "d": {"type": "date"}})
TABLES = [EVERY_KIND, TEXT_KEY, ONE_COLUMN, UUID_KEY]

UUIDS = ["123e4567-e89b-12d3-a456-426614174000", "223e4567-e89b-12d3-a456-42661417400f"]
GOOD = {
    "integer": ["1", "23", "4567", "99999999", "16777216", "2147483647"],
    "bigint": ["1", "123456789012", "16777217"],
    "text": ["Ann", "Bo", "É", "x y", "a", "c1e"],
    "timestamptz": ["2021-11-07T02:48:42Z", "2021-11-07T02:48:42.5+01:00"],
    "date": ["2021-11-07", ""],
    "numeric": ["1.5", "-20", ""],
    "boolean": ["true", "FALSE", ""],
    "uuid": UUIDS,
    "jsonb": ['{"a":[1]}', "1", ""],
}
ALL_TEXTS = [v.text for v in ALL_VECTORS]
NASTY = [
    b'"',
    b'""',
    b",",
    b"\n",
    b"\r\n",
    b"\r",
    b";",
    b" ",
    b"\t",
    b"\0",
    b"\xff",
    b"\xc3\xa9",
    b"\xc3",
    b"1",
    b"Ann",
]
NASTY += [b"\\.", b'"a\nb"', b"-", b"2021-11-07T02:48:42Z", b"\xe2\x82", b"x" * 45, b"y" * 320]


def random_row(rng: random.Random, table: Table, delimiter: str) -> bytes:
    texts = [
        rng.choice(GOOD[column.kind]) if rng.random() < 0.93 else rng.choice(ALL_TEXTS) for column in table.columns
    ]
    if rng.random() < 0.04:
        texts.append("more")
    out = []
    for text in texts:
        if rng.random() < 0.2 or set(text) & {'"', delimiter, "\n"}:
            text = '"' + text.replace('"', '""') + '"'
        out.append(" " * (rng.random() < 0.05) + text + " " * (rng.random() < 0.05))
    return delimiter.join(out).encode()


def random_file(rng: random.Random, table: Table, delimiter: str) -> bytes:
    """Rows that are mostly good, some of them spoiled, or bytes of no sense at all."""
    if rng.random() < 0.3:
        return b"".join(rng.choices(NASTY, k=rng.randrange(60)))
    spoil = rng.choice([0, 0, 0.02, 0.2])
    data = bytearray()
    for _ in range(rng.randrange(25)):
        row = bytearray(random_row(rng, table, delimiter))
        while rng.random() < spoil:
            at = rng.randrange(len(row) + 1)
            row[at : at + rng.randrange(2)] = rng.choice(NASTY)
        data += row + rng.choice([b"\n", b"\n", b"\n", b"\r\n", b"\n\n", b"\n  \r\n"])
    return bytes(data) if rng.random() < 0.5 else bytes(data.rstrip(b"\r\n"))


def check_places(data: bytes, found: list[Outcome]) -> None:
    """Numbers and places are right by the file itself; nothing overlaps."""
    last = 0
    for number, outcome in enumerate(found, 1):
        assert outcome.record_number == number
        assert outcome.byte_offset >= last
        assert outcome.line_number == data.count(b"\n", 0, outcome.byte_offset) + 1
        assert not data[last : outcome.byte_offset].strip(b" \t\r\n")
        last = outcome.byte_offset + outcome.byte_length
        raw = data[outcome.byte_offset : last]
        shown = (outcome.rejected or outcome.pending or (None,))[-1]
        assert shown is None or shown.decode() == raw.decode("utf-8", "replace").replace("\0", "\ufffd")
    assert not data[last:].strip(b" \t\r\n")


@pytest.mark.parametrize("seed", range(16))
def test_fast_and_careful_path_agree_wherever_blocks_end(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(25):
        table = rng.choice(TABLES)
        delimiter = rng.choice([",", ",", ";", "\t"])
        data = random_file(rng, table, delimiter)
        dialect = positional(table, delimiter.encode())
        careful = judge_file(table, dialect, data, some_present, careful=True)
        check_places(data, careful)
        for block_bytes in (1 << 20, rng.randrange(1, 40), rng.randrange(40, 400)):
            assert judge_file(table, dialect, data, some_present, block_bytes=block_bytes) == careful, data
        assert judge_file(table, dialect, data, some_present, block_bytes=64, careful=True) == careful, data


@given(st.lists(st.sampled_from(NASTY), max_size=40).map(b"".join), st.integers(1, 200), st.sampled_from(TABLES))
@settings(max_examples=200, deadline=None)
def test_the_paths_agree_on_any_bytes(data: bytes, block_bytes: int, table: Table) -> None:
    dialect = positional(table)
    careful = judge_file(table, dialect, data, some_present, careful=True)
    check_places(data, careful)
    assert judge_file(table, dialect, data, some_present, block_bytes=block_bytes) == careful


FREE_TEXT = st.text(st.sampled_from('a,";\n \té\\'), max_size=6)


@given(st.lists(st.tuples(FREE_TEXT, FREE_TEXT), max_size=12), st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]))
@settings(max_examples=150, deadline=None)
def test_what_the_csv_module_writes_is_read_as_it_was(rows: list[tuple[str, str]], quoting: int) -> None:
    """An engine that is not ours agrees on well-formed files, quoted line ends included."""
    rows = [row for row in rows if all(text.strip(" \t\n") for text in row)]
    table = table_of({"code": {"type": "text"}, "label": {"type": "text"}})
    out = io.StringIO()
    csv.writer(out, quoting=quoting, lineterminator="\r\n").writerows(rows)  # type: ignore[arg-type]
    found = judge_file(table, positional(table), out.getvalue().encode(), some_present, block_bytes=16)
    assert [o.values for o in found] == [tuple(text.strip(" \t\r\n").encode() for text in row) for row in rows]


def test_records_judged_alone_are_judged_as_in_their_file() -> None:
    """A re-drive gives every record, as it was kept, the reasons that it had."""
    rng = random.Random(5)
    for table in TABLES:
        data = random_file(rng, table, ",") + b"\n" + random_file(rng, table, ",")
        for outcome in judge_file(table, positional(table), data, some_present):
            raw = data[outcome.byte_offset : outcome.byte_offset + outcome.byte_length]
            again = outcomes(Judge(table, positional(table), some_present).judge_records([raw]))
            assert (again[0].status, again[0].reasons, again[0].values) == (
                outcome.status,
                outcome.reasons,
                outcome.values,
            )


def test_wider_encodings_hold_the_row_and_then_their_own_columns() -> None:
    table = EVERY_KIND
    judge = Judge(table, positional(table), some_present)
    line = b"1,Ann,2021-11-07T02:48:42Z,,,,,,,a,3"
    block = judge.judge_records([line, line.replace(b"1,", b"2,", 1), b"3,Bo" + line[5:]])
    rows = np.array([2, 0])
    plain = read_tuples(block.encode_rows(rows))
    assert [row[: len(table.columns)] for row in read_tuples(block.encode_staged(rows))] == plain
    assert [row[-1] for row in read_tuples(block.encode_staged(rows))] == [b"\0" * 7 + b"\3", b"\0" * 7 + b"\1"]
    doubles = read_tuples(block.encode_doubles(rows))
    assert [row[: len(table.columns)] for row in doubles] == plain
    assert [row[-1] for row in doubles] == [b"3,Bo" + line[5:], line]
    assert [len(value or b"") for value in doubles[0][-5:-1]] == [8, 8, 8, 4]
    assert not (block.status == REJECTED).any()
