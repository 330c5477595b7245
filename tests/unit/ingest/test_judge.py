"""Parents, keys, doubles and reasons over blocks of rows."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from functions.ingest import parents
from functions.ingest.dialect import detect
from functions.ingest.judge import ACCEPTED, PENDING, REJECTED, Judge, Judged
from shared.dictionary import Column, Table, load
from tests.judging import judge_file, outcomes, positional, read_array, read_tuples, table_of

EMPLOYEES = load().tables["hired_employees"]
ROW = "{},Ann,2021-11-07T02:48:42Z,{},{}\n"


class Parents:
    """A set of parents that remembers what it was asked."""

    def __init__(self, *present: int | str) -> None:
        self.present = set(present)
        self.asked: list[tuple[str, int | str]] = []

    def __call__(self, column: Column, keys: Sequence[int | str]) -> set[int | str]:
        self.asked += [(column.name, key) for key in keys]
        return self.present & set(keys)


def judge_all(table: Table, data: str, present: Parents, **settings: int) -> list[Judged]:
    judge = Judge(table, positional(table), present, **settings)  # type: ignore[arg-type]
    return list(judge.blocks(io.BytesIO(data.encode())))


def test_each_parent_key_is_asked_for_once() -> None:
    present = Parents(2, 3)
    data = "".join(ROW.format(n, n % 3 + 1, 3) for n in range(1, 2000))
    blocks = judge_all(EMPLOYEES, data, present, block_bytes=1000)
    assert sorted(present.asked) == [("department_id", 1), ("department_id", 2), ("department_id", 3), ("job_id", 3)]
    assert sum(int((b.status == PENDING).sum()) for b in blocks) == 666
    assert sum(int((b.status == ACCEPTED).sum()) for b in blocks) == 1333


def test_a_row_without_its_parent_waits_for_the_first_one_missing() -> None:
    data = b"1,Ann,2021-11-07T02:48:42Z,8,9\n007,Bo,2021-11-07T02:48:42Z,2,09\n3,,2021-11-07T02:48:42Z,8,9\n"
    found = judge_file(EMPLOYEES, positional(EMPLOYEES), data, Parents(2))
    assert [o.status for o in found] == [PENDING, PENDING, REJECTED]
    assert found[2].reasons == ("employee_name.missing",)  # waiting is no reason, and mends nothing
    texts = [[value and value.decode() for value in (o.pending or ())[5:9]] for o in found[:2]]
    assert texts == [
        ["hired_employees", "1", "department_id", "8"],
        ["hired_employees", "7", "job_id", "9"],
    ]
    assert [o.pending and o.pending[9] for o in found[:2]] == data.splitlines()[:2]


def test_where_waiting_makes_no_sense_a_missing_parent_is_a_reason_beside_the_others() -> None:
    table = table_of(
        {
            "id": {"type": "integer"},
            "a": {"type": "integer", "references": "parents", "parent_missing": "reject"},
            "b": {"type": "integer", "references": "parents"},
        }
    )
    found = judge_file(table, positional(table), b"1,5,5\nx,6,6\n2,6,6\n3,5,6\n", Parents(5))
    assert [o.reasons for o in found] == [
        (), ("id.not_integer", "a.parent_missing"), ("a.parent_missing",), ()
    ]  # fmt: skip
    assert [o.status for o in found] == [ACCEPTED, REJECTED, REJECTED, PENDING]


@pytest.mark.parametrize(
    ("kind", "there", "gone"),
    [
        ("integer", "16777216", "16777215"),
        ("bigint", "9223372036854775807", "4294967298"),
        ("text", "É", "E"),
        ("uuid", "123E4567-e89b-12d3-a456-426614174000", "123e4567-e89b-12d3-a456-426614174001"),
        ("date", "2021-11-07", "2021-11-08"),
        ("numeric(6,2)", "7.5", "7"),
        ("timestamptz", "2021-11-07T00:30:00+01:00", "2021-11-07T00:30:00Z"),
    ],
)
def test_parents_of_every_kind_are_known_by_their_canonical_key(kind: str, there: str, gone: str) -> None:
    table = table_of(
        {"id": {"type": kind}, "parent": {"type": kind, "references": "parents"}, "n": {"type": "integer"}}
    )
    key: int | str = int(there) if kind in ("integer", "bigint") else there.lower().replace("é", "É")
    key = {"7.5": "7.50", "2021-11-07t00:30:00+01:00": "2021-11-06T23:30:00Z"}.get(str(key), key)
    present = Parents(key)
    data = "".join(f'{there},"{parent}",{n}\n' for n, parent in enumerate([there, gone, there, gone], 1))
    for careful in (False, True):
        found = judge_file(table, positional(table), data.encode(), present, careful=careful)
        assert [o.status for o in found] == [ACCEPTED, PENDING] * 2
        assert [o.key for o in found] == [key] * 4
    assert len({repr(asked) for asked in present.asked}) == 2


def test_a_parent_in_the_same_table_is_asked_for_again_while_it_is_absent() -> None:
    """It may stand earlier in the same file."""
    table = table_of(
        {"id": {"type": "integer"}, "boss": {"type": "integer", "references": "things", "required": False}}
    )
    present = Parents()
    judge = Judge(table, positional(table), present, block_bytes=8)
    statuses = []
    for block in judge.blocks(io.BytesIO(b"1,\n2,1\n3,1\n4,1\n5,900000000\n6,900000000\n")):
        statuses += block.status.tolist()
        present.present |= set(block.keys(np.flatnonzero(block.status == ACCEPTED))) | (
            {900000000} if len(statuses) >= 5 else set()
        )
    assert statuses[:2] in ([0, 1], [0, 0])
    assert statuses[2:4] == [0, 0]
    assert statuses[-1] == 0


def test_memory_of_parents_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the bound answers are forgotten and asked for again; they stay right."""
    monkeypatch.setattr(parents, "MAX_OTHERS", 10)
    table = table_of({"id": {"type": "integer"}, "parent": {"type": "text", "references": "parents"}})
    present = Parents(*[f"k{n}" for n in range(0, 100, 2)])
    data = "".join(f"{n},k{n % 100}\n" for n in range(1, 500))
    blocks = judge_all(table, data, present, block_bytes=60)
    assert [int(s) for b in blocks for s in b.status] == [PENDING if n % 2 else ACCEPTED for n in range(1, 500)]
    assert len(present.asked) > 100


def test_rows_can_be_rejected_for_one_more_reason() -> None:
    (block,) = judge_all(EMPLOYEES, ROW.format(1, 2, 3) + ROW.format(2, 2, 3) + ROW.format("x", 2, 3), Parents(2, 3))
    block.reject(np.array([1]), "id.duplicate")
    block.reject(np.array([2]), "record.superseded")
    assert block.status.tolist() == [ACCEPTED, REJECTED, REJECTED]
    assert block.reason_counts() == Counter({"id.duplicate": 1, "id.not_integer": 1, "record.superseded": 1})
    sent = read_tuples(block.encode_rejects(np.array([1, 2]), 7))
    assert [read_array(row[5] or b"") for row in sent] == [["id.duplicate"], ["id.not_integer", "record.superseded"]]


def test_a_reject_has_its_place_its_reasons_and_its_record() -> None:
    data = b"\n1,,2021-11-07,2,x\n"
    (outcome,) = judge_file(EMPLOYEES, positional(EMPLOYEES), data, Parents(2))
    assert outcome.rejected is not None
    numbers = [int.from_bytes(value or b"", "big") for value in outcome.rejected[:5]]
    assert numbers == [7, 1, 2, 1, 17]
    reasons = ["employee_name.missing", "hired_date.no_time", "job_id.not_integer"]
    assert read_array(outcome.rejected[5] or b"") == reasons
    assert outcome.rejected[6] == b"1,,2021-11-07,2,x"


def test_reject_ids_of_a_mended_file_are_told_with_their_rows() -> None:
    head = b"id,name,datetime,department,job,_reject_id,_reasons\n"
    rows = [b"1,Ann,2021-11-07T02:48:42Z,2,3,%s,x" % i for i in (b"12-345", b"", b"x-1", b'" 7-8 "', b"0-1", b"9-99")]
    data = head + b"\n".join(rows) + b"\nlost\n"
    dialect = detect(EMPLOYEES, data, True)
    for careful in (False, True):
        (block,) = Judge(EMPLOYEES, dialect, Parents(2, 3), careful=careful).blocks(io.BytesIO(data))
        assert block.reject_ids == [(12, 345), (7, 8), (9, 99)]
        assert block.reject_id_rows.tolist() == [0, 3, 5]
    (block,) = judge_all(EMPLOYEES, ROW.format(1, 2, 3), Parents(2, 3))
    assert block.reject_ids == []


def test_columns_that_a_header_leaves_out_are_null_and_the_order_is_the_tables() -> None:
    table = table_of(
        {
            "id": {"type": "integer"},
            "note": {"type": "text", "required": False},
            "day": {"type": "date", "required": False},
            "n": {"type": "integer", "required": False},
        }
    )
    data = b'n,extra,id\n5,x,1\n,y,2\n6,"z""",3\n'
    found = judge_file(table, detect(table, data, True), data, Parents())
    assert [o.values for o in found] == [
        (b"\0\0\0\1", None, None, b"\0\0\0\5"), (b"\0\0\0\2", None, None, None), (b"\0\0\0\3", None, None, b"\0\0\0\6")
    ]  # fmt: skip


def test_records_judged_alone_keep_counting() -> None:
    judge = Judge(EMPLOYEES, positional(EMPLOYEES), Parents(2, 3))
    raws = [
        b"1,Ann,2021-11-07T02:48:42Z,2,3",
        b'2,"A\nB",2021-11-07T02:48:42Z,2,3',
        b"",
        b"x" * 9,
        b'1,"A',
        b"1,A\nB,,,",
    ]
    first = judge.judge_records(raws)
    assert first.record_numbers.tolist() == [1, 2, 3, 4, 5, 6]
    assert [first.reasons(row) for row in range(6)] == [
        (), (), ("record.column_count",), ("record.column_count",), ("record.quote",), ("record.quote",)
    ]  # fmt: skip
    assert judge.judge_records(raws[:1]).record_numbers.tolist() == [7]
    assert judge.judge_records([]).n == 0
    assert [o.key for o in outcomes(judge.judge_records(raws[:1] * 3))] == [1, 1, 1]


def test_a_record_alone_may_be_too_long() -> None:
    table = table_of({"id": {"type": "integer"}, "name": {"type": "text"}}, max_record_bytes=10)
    judge = Judge(table, positional(table), Parents())
    for raws in ([b"1," + b"A" * 9, b"1,A"], [b'1,"' + b"A" * 9, b"1,A"]):
        block = judge.judge_records(raws)
        assert [block.reasons(0), block.reasons(1)] == [("record.too_long",), ()]


def test_keys_that_are_no_integers_have_the_same_code_for_the_same_key() -> None:
    table = table_of({"code": {"type": "text"}, "n": {"type": "integer"}})
    (block,) = judge_all(table, 'é,1\n"é",2\nf,3\n', Parents())
    assert not block.keys_exact
    assert block.keys(np.arange(3)) == ["é", "é", "f"]
    assert block.key_codes[0] == block.key_codes[1] != block.key_codes[2]
