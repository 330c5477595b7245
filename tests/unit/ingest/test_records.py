"""What is a record, where it stands, and what one bad line costs: decided case by case, on both paths."""

from __future__ import annotations

import io
import tracemalloc
from collections import Counter
from collections.abc import Sequence

import pytest

from functions.ingest.dialect import detect
from functions.ingest.judge import ACCEPTED, Judge
from functions.ingest.window import Window
from shared.dictionary import Column, load
from tests.judging import Outcome, judge_file, positional, table_of

EMPLOYEES = load().tables["hired_employees"]
PAIRS = table_of({"id": {"type": "integer"}, "name": {"type": "text"}}, max_record_bytes=100)
TAIL = b",2021-11-07T02:48:42Z,2,3"


def everyone(column: Column, keys: Sequence[int | str]) -> set[int | str]:
    return set(keys)


@pytest.fixture(params=[(False, 1 << 20), (True, 1 << 20), (False, 7)], ids=["fast", "careful", "small blocks"])
def judge_pairs(request: pytest.FixtureRequest):
    careful, block_bytes = request.param

    def judge(data: bytes, delimiter: bytes = b",") -> list[Outcome]:
        dialect = positional(PAIRS, delimiter)
        return judge_file(PAIRS, dialect, data, everyone, careful=careful, block_bytes=block_bytes)

    return judge


def seen(found: list[Outcome]) -> list[tuple[int, str | tuple[str, ...]]]:
    """(line, name) of accepted rows, (line, reasons) of the others."""
    return [(o.line_number, o.values[1].decode() if o.values else o.reasons) for o in found]  # type: ignore[union-attr]


QUOTE, COUNT = ("record.quote",), ("record.column_count",)
CASES = {
    "last line without end": (b"1,A\n2,B", [(1, "A"), (2, "B")]),
    "empty file": (b"", []),
    "only blank lines": (b"\n\r\n  \n\t\n", []),
    "blank lines between and behind": (b"\n1,A\n\n \r\n2,B\n\n\n", [(2, "A"), (5, "B")]),
    "crlf": (b"1,A\r\n2,B\r\n", [(1, "A"), (2, "B")]),
    "mixed line ends": (b"1,A\r\n2,B\n3,C\r\n4,D", [(1, "A"), (2, "B"), (3, "C"), (4, "D")]),
    "carriage return twice": (b"1,A\r\r\n2,B\r\r\n", [(1, "A"), (2, "B")]),
    "carriage return inside": (b"1,A\rB\n", [(1, "A\rB")]),
    "carriage return alone at the end": (b"1,A\r", [(1, "A")]),
    "backslash dot": (b"1,A\n\\.\n2,B\n", [(1, "A"), (2, COUNT), (3, "B")]),
    "backslash dot as value": (b"1,\\.\n", [(1, "\\.")]),
    "null words": (b"1,NULL\n2,\\N\n", [(1, "NULL"), (2, "\\N")]),
    "quoted and plain empty": (b'1,""\n2,\n3," "\n', [(n, ("name.missing",)) for n in (1, 2, 3)]),
    "quoted id": (b'"1","A"\n', [(1, "A")]),
    "delimiter in quotes": (b'1,"A,B"\n', [(1, "A,B")]),
    "doubled quotes": (b'1,"A ""B"" C"\n2,""""\n', [(1, 'A "B" C'), (2, '"')]),
    "blanks around quotes": (b'1, "A" \n2,\t"B"\t\r\n', [(1, "A"), (2, "B")]),
    "quoted line end": (b'1,"A\nB"\n\n2,C\n', [(1, "A\nB"), (4, "C")]),
    "quoted crlf": (b'1,"A\r\nB"\r\n2,C\r\n', [(1, "A\r\nB"), (3, "C")]),
    "quoted blank line": (b'1,"A\n\nB"\n2,C', [(1, "A\n\nB"), (4, "C")]),
    "quote in a field": (b'1,A"B\n2,C\n', [(1, QUOTE), (2, "C")]),
    "two quotes in a field": (b'1,A"B"C\n2,C\n', [(1, QUOTE), (2, "C")]),
    "inches": (b'1,5" pipe\n2,6" pipe\n', [(1, QUOTE), (2, QUOTE)]),
    "text after a quoted field": (b'1,"A"B\n2,C\n', [(1, QUOTE), (2, "C")]),
    "quote never closed": (b'1,"A\n2,B\n3,C\n', [(1, QUOTE), (2, "B"), (3, "C")]),
    "quote never closed on the last line": (b'1,A\n2,"B', [(1, "A"), (2, QUOTE)]),
    "two quotes never closed": (b'1,"A\n2,B\n3,"C\n4,D\n', [(1, QUOTE), (2, "B"), (3, QUOTE), (4, "D")]),
    "several lines, id wrong": (b'x,"A\nB"\n2,C\n', [(1, QUOTE), (2, QUOTE), (3, "C")]),
    "several lines, too many fields": (b'1,"A\n2,B",C\n3,D\n', [(1, QUOTE), (2, QUOTE), (3, "D")]),
    "a stray quote joins rows": (b'1,"A\n2,B\n3,"C\n', [(1, QUOTE), (2, "B"), (3, QUOTE)]),
    "column count": (b"1\n2,A,B\n3,C\n", [(1, COUNT), (2, COUNT), (3, "C")]),
    "only delimiters": (b",\n", [(1, ("id.missing", "name.missing"))]),
    "nul": (b"1,A\0\n2,B\n", [(1, ("record.nul",)), (2, "B")]),
    "not utf-8": (b"1,\xe9\n2,B\n3,\xc3\xa9\n", [(1, ("record.encoding",)), (2, "B"), (3, "é")]),
    "cut character before a line end": (b"1,A\xc3\n2,B\n", [(1, ("record.encoding",)), (2, "B")]),
    "surrogate in utf-8": (b"1,\xed\xa0\x80\n", [(1, ("record.encoding",))]),
    "all reasons of a row": (b"x,\n0,\xff\0\n", [(1, ("id.not_integer", "name.missing")),
                             (2, ("record.nul", "record.encoding", "id.out_of_range"))]),
    "too long": (b"1," + b"A" * 99 + b"\n2,B\n", [(1, ("record.too_long",)), (2, "B")]),
    "as long as may be": (b"1," + b"A" * 98 + b"\n2,B\n", [(1, "A" * 98), (2, "B")]),
    "too long by several lines": (b'1,"' + b"A\n" * 50 + b'"\n2,B\n', [(1, QUOTE), *[(n, COUNT) for n in range(2, 51)],
                                  (51, QUOTE), (52, "B")]),
    "too long at the end": (b"1,A\n" + b"x" * 1000, [(1, "A"), (2, ("record.too_long",))]),
    "many columns": (b"," * 60 + b"\n1,A\n", [(1, COUNT), (2, "A")]),
}  # fmt: skip


@pytest.mark.parametrize(("data", "expected"), CASES.values(), ids=CASES)
def test_each_shape_of_line_has_its_decided_outcome(judge_pairs, data: bytes, expected: list[object]) -> None:
    assert seen(judge_pairs(data)) == expected


@pytest.mark.parametrize("delimiter", [b";", b"\t"])
def test_other_delimiters_follow_the_same_rules(judge_pairs, delimiter: bytes) -> None:
    data = b'1,A;,\n"2","B\tC"\n,\n3, "D" \n'.replace(b",", delimiter).replace(b"A;", b"A")
    found = seen(judge_pairs(data, delimiter))
    assert found[1:] == [(2, "B\tC"), (3, ("id.missing", "name.missing")), (4, "D")]
    assert found[0] == (1, COUNT)


def test_a_reject_shows_its_record_cut_between_characters() -> None:
    """8,192 characters, however many bytes; what is no text is shown as U+FFFD."""
    rows = b"x," + "é".encode() * 9000 + b"\nx,\xffA\0\n"
    found = judge_file(EMPLOYEES, positional(EMPLOYEES), rows, everyone)
    shown = [o.rejected[-1].decode() for o in found if o.rejected and o.rejected[-1]]
    assert shown == ["x," + "é" * 8190, "x,\ufffdA\ufffd"]
    assert [o.byte_length for o in found] == [18002, 5]


@pytest.mark.parametrize(
    "header", [b"", b"id,name,datetime,department,job\n", b'\n"id","na\nme",name,datetime,department,job\n']
)
def test_records_are_numbered_after_the_header_and_lines_with_it(header: bytes) -> None:  # fmt: skip
    extra = b",x" if b"na\nme" in header else b""
    rows = b"1" + extra + b",Ann" + TAIL + b"\n\n2" + extra + b"," + TAIL + b"\n"
    data = header + rows
    dialect = detect(EMPLOYEES, data, True)
    assert dialect.has_header is bool(header)
    for block_bytes in (1 << 20, 16):
        found = judge_file(EMPLOYEES, dialect, data, everyone, block_bytes=block_bytes)
        first = header.count(b"\n") + 1
        assert [(o.record_number, o.line_number) for o in found] == [(1, first), (2, first + 2)]
        assert [o.byte_offset for o in found] == [len(header), len(header) + rows.index(b"2" + extra + b",,")]
        assert [o.reasons for o in found] == [(), ("employee_name.missing",)]


def test_numbers_go_on_where_an_earlier_part_of_the_file_ended() -> None:
    judge = Judge(PAIRS, positional(PAIRS), everyone, first_line=100, first_record=90, first_byte=5000)
    (block,) = judge.blocks(io.BytesIO(b"1,A\n\n2,B\n"))
    assert block.line_numbers.tolist() == [100, 102]
    assert block.record_numbers.tolist() == [90, 91]
    assert block.byte_offsets.tolist() == [5000, 5005]


def test_a_line_of_any_length_takes_bounded_memory_and_its_neighbours_go_in() -> None:
    """50 MB without a line end, and a quote that is open for 50 MB."""

    class Long(io.RawIOBase):
        def __init__(self, begin: bytes, middle: bytes, end: bytes) -> None:
            self._parts = [begin, *[middle] * (50 * (1 << 20) // len(middle)), end]

        def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
            if not self._parts:
                return 0
            part = self._parts[0][: len(buffer)]
            self._parts[0] = self._parts[0][len(buffer) :]
            if not self._parts[0]:
                self._parts.pop(0)
            buffer[: len(part)] = part
            return len(part)

    rows = (b"2,Bo" + TAIL + b"\n") * 1000
    between = 50 * (1 << 20) // len(rows) * 1000
    for reader, accepted, reasons in (
        (Long(b"1,Ann" + TAIL + b"\n2,", b"x" * (1 << 16), TAIL + b"\n3,Cy" + TAIL), 2, {"record.too_long": 1}),
        (Long(b'1,"Ann' + TAIL + b"\n", rows, b"3,Cy" + TAIL), between + 1, {"record.quote": 1}),
    ):
        tracemalloc.start()
        found, why = 0, Counter[str]()
        for block in Judge(EMPLOYEES, positional(EMPLOYEES), everyone).blocks(reader):
            found += int((block.status == ACCEPTED).sum())
            why.update(block.reason_counts())
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert found == accepted
        assert why == reasons
        assert peak < 60e6


def test_a_window_gives_back_whole_lines_only() -> None:
    window = Window(io.BytesIO(b"ab\ncd\nef"), 4, 100)
    window.fill()
    assert window.buffer[window.start : window.whole_lines_end()] == b"ab\n"
    window.drop(window.whole_lines_end())
    assert window.offset == 3
    while window.grow() and not window.at_end:
        pass
    assert window.buffer[window.start : window.stop] == b"cd\nef\n"


def test_one_field_may_fill_the_longest_record_and_a_line_may_have_ten_thousand_fields() -> None:
    longest = EMPLOYEES.max_record_bytes
    name = b"x" * (longest - len(b"1," + TAIL))
    data = b"1," + name + TAIL + b"\n2,x" + name + TAIL + b"\n" + b"," * 9_999 + b"\n3,Cy" + TAIL
    for careful in (False, True):
        found = judge_file(EMPLOYEES, positional(EMPLOYEES), data, everyone, careful=careful)
        assert [o.reasons for o in found] == [(), ("record.too_long",), COUNT, ()]
        assert found[0].values is not None
        assert found[0].values[1] == name


@pytest.mark.parametrize("line", [b'1,"A\n', b'1,"A""\n', b'1,A"\n', b'"\n', b'1,"A"\n1,"B\n'])
def test_however_quotes_are_strewn_no_line_is_read_more_than_twice(line: bytes) -> None:
    """Going back to the second line must not make the time grow with the square of the file."""
    judge = Judge(PAIRS, positional(PAIRS), everyone, block_bytes=4096)
    reads, read = [], judge._reader.read
    judge._reader.read = lambda *where: reads.append(where) or read(*where)
    data = line * 5000
    rows = sum(block.n for block in judge.blocks(io.BytesIO(data)))
    blocks = len(data) // 4096 + 2
    assert rows >= 5000
    assert len(reads) <= data.count(b"\n") + blocks
    assert all(stop - start <= PAIRS.max_record_bytes + 1 for _, start, stop in reads)
