"""Which delimiter, which header, which columns."""

from __future__ import annotations

import pytest

from functions.ingest.dialect import Dialect, detect
from shared.dictionary import load
from shared.errors import FileRefused

TABLE = load().tables["hired_employees"]
COLUMNS = ("id", "employee_name", "hired_date", "department_id", "job_id")
ROW = b"1,Ann,2021-11-07T02:48:42Z,2,3\n"
HEADER = b"id,employee_name,hired_date,department_id,job_id\n"


def test_without_header_columns_go_by_position() -> None:
    assert detect(TABLE, ROW * 3, True) == Dialect(b",", COLUMNS, False, ())
    assert detect(TABLE, ROW.rstrip(), True).has_header is False
    assert detect(TABLE, b"", True) == Dialect(b",", COLUMNS, False, ())
    assert detect(TABLE, b"\n\n", True).has_header is False


@pytest.mark.parametrize(
    ("header", "fields"),
    [
        (HEADER, COLUMNS),
        (b"\r\n  \r\n" + HEADER.replace(b"\n", b"\r\n"), COLUMNS),
        (b"ID, Name ,DateTime,\tDEPARTMENT,job\n", COLUMNS),
        (b"job_id,department_id,hired_date,employee_name,id\n", COLUMNS[::-1]),
        (b'"id","name","datetime","department","job"\n', COLUMNS),
        (b'id,"na""me",name,datetime,department,job\n', ("id", None, *COLUMNS[1:])),
        (b"id,name,datetime,department,job,_reject_id,_reasons,_line,_raw\n", (*COLUMNS, "_reject_id", *[None] * 3)),
        (b"id,name,datetime,department,job,,\n", (*COLUMNS, None, None)),
    ],
    ids=["names", "after blank lines", "aliases", "reversed", "quoted", "unknown", "our export", "without name"],
)
def test_a_header_names_the_columns_in_any_order_and_case(header: bytes, fields: tuple[str | None, ...]) -> None:
    found = detect(TABLE, header + ROW, True)
    assert (found.has_header, found.fields) == (True, fields)


def test_unknown_names_are_told_and_our_own_are_not() -> None:
    assert detect(TABLE, b"id,name,datetime,department,job,Salary,_raw\n", True).ignored == ("Salary",)


def refusal(head: bytes, at_end: bool = True) -> tuple[str, str]:
    with pytest.raises(FileRefused) as caught:
        detect(TABLE, head, at_end)
    return caught.value.code, str(caught.value)


def test_a_header_that_lacks_a_required_column_refuses_the_file_and_says_what() -> None:
    code, message = refusal(b"id,name,wage,department,job\n" + ROW)
    assert code == "file.header"
    assert "hired_date (or datetime)" in message
    assert "wage" in message
    assert "employee_name" not in message


@pytest.mark.parametrize(
    "header", [b"id,id,name,datetime,department,job\n", b"id,name,employee_name,datetime,department,job\n",
               b"id,name,datetime,department,job,x,X\n"], ids=["same", "alias of the same", "unknown"],
)  # fmt: skip
def test_a_name_that_stands_twice_refuses_the_file(header: bytes) -> None:
    assert refusal(header)[0] == "file.header"


def test_a_first_row_with_a_number_or_without_a_known_name_is_a_row() -> None:
    """A person may be called Job."""
    assert detect(TABLE, b"7,Job,2021-11-07T02:48:42Z,2,3\n", True).has_header is False
    assert detect(TABLE, b"a,b,c,d,e\n", True).has_header is False


@pytest.mark.parametrize("delimiter", [b",", b";", b"\t"])
@pytest.mark.parametrize("header", [b"", HEADER])
def test_the_delimiter_is_told_from_the_first_lines(delimiter: bytes, header: bytes) -> None:
    rows = b'1,"Lee, Ann; x",2021-11-07T02:48:42Z,2,3\n' + ROW.replace(b",", delimiter) * 4
    found = detect(TABLE, header.replace(b",", delimiter) + (rows if delimiter == b"," else rows[41:]), True)
    assert (found.delimiter, found.has_header) == (delimiter, bool(header))


def test_commas_in_names_do_not_hide_the_semicolon() -> None:
    assert detect(TABLE, b"1;Lee, Ann;2021-11-07T02:48:42Z;2;3\n" * 3, True).delimiter == b";"


def test_a_head_that_ends_in_the_middle_of_a_line_is_read_without_it() -> None:
    assert detect(TABLE, HEADER + ROW + b"2,Bo,20", False).has_header
    assert detect(TABLE, b'1,"' + b"x" * 5000, False).delimiter == b","


def test_lines_that_end_in_a_carriage_return_alone_refuse_the_file() -> None:
    assert refusal(ROW.replace(b"\n", b"\r") * 3)[0] == "file.line_ends"
    assert detect(TABLE, ROW.replace(b"\n", b"\r"), True).has_header is False  # one line cannot tell
    assert detect(TABLE, b'1,"A\rnn",2021-11-07T02:48:42Z,2,3', True).has_header is False  # in quotes it is text
