"""One file in, every row accounted for."""

from __future__ import annotations

import pytest

from tests.integration.ingest.conftest import Dock

GOOD = b"1,Harold Vogt,2021-11-07T02:48:42Z,2,1\n"
OTHER_GOOD = b"3,Lyman Hadye,2021-09-01T23:27:38+02:00,1,2"
GOOD_ROW = (1, "Harold Vogt", "2021-11-07T02:48:42Z", 2, 1)
OTHER_GOOD_ROW = (3, "Lyman Hadye", "2021-09-01T21:27:38Z", 1, 2)


def test_rows_that_keep_the_rules_go_in(loaded_parents: Dock) -> None:
    """Each row is stored as the file has it, its time in UTC, and history says what came of the file."""
    dock = loaded_parents
    fields = dock.drop("in/hired_employees.csv", GOOD + OTHER_GOOD)
    assert fields["state"] == "loaded"
    assert dock.employees() == [GOOD_ROW, OTHER_GOOD_ROW]
    last = dock.history()[-1]
    assert (last["rows_read"], last["rows_inserted"], last["last_id"]) == (2, 2, 3)
    assert (last["kind"], last["file_name"], last["file_size"]) == (
        "file",
        "in/hired_employees.csv",
        len(GOOD + OTHER_GOOD),
    )
    assert dock.rollup_is_right()


@pytest.mark.parametrize(
    ("line", "reasons"),
    [
        (b"2,,2021-05-30T05:43:46Z,1,1", ["employee_name.missing"]),
        (b"2,Ty Hofer,,1,1", ["hired_date.missing"]),
        (b"2,Ty Hofer,2021-05-30T05:43:46Z,,", ["department_id.missing", "job_id.missing"]),
        (b"x,Ty Hofer,2021-05-30T05:43:46Z,1,1", ["id.not_integer"]),
        (b"2147483648,Ty Hofer,2021-05-30T05:43:46Z,1,1", ["id.out_of_range"]),
        (b"2,Ty Hofer,2021-02-30T05:43:46Z,1,1", ["hired_date.not_timestamp"]),
        (b"2,Ty Hofer,2021-05-30,1,1", ["hired_date.no_time"]),
        (b"2,Ty Hofer,2021-05-30T05:43:46,1,1", ["hired_date.no_zone"]),
        (b"2,Ty Hofer,2021-05-30T05:43:46Z,1", ["record.column_count"]),
        (b'2,Ty "Hofer,2021-05-30T05:43:46Z,1,1', ["record.quote"]),
        (b"2,Ty\0Hofer,2021-05-30T05:43:46Z,1,1", ["record.nul"]),
        (b"2,Ty H\xf6fer,2021-05-30T05:43:46Z,1,1", ["record.encoding"]),
        (b"1,Another,2021-05-30T05:43:46Z,1,1", ["id.duplicate"]),
        (b"\\.", ["record.column_count"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_a_bad_row_is_logged_with_its_reasons_and_its_neighbours_go_in(
    loaded_parents: Dock, line: bytes, reasons: list[str]
) -> None:
    """One bad line costs one row: the others load, and the reject has line, reasons and raw text."""
    dock = loaded_parents
    dock.drop("employees.csv", GOOD + line + b"\n" + OTHER_GOOD)
    assert dock.employees() == [GOOD_ROW, OTHER_GOOD_ROW]
    raw = line.decode("utf-8", "replace").replace("\0", "\ufffd")
    assert dock.rejects() == [(2, reasons, raw)]
    last = dock.history()[-1]
    assert last["rejects_by_reason"] == dict.fromkeys(reasons, 1)
    assert (last["rows_read"], last["rows_inserted"], last["rows_rejected"]) == (3, 2, 1)


def test_the_same_content_again_changes_nothing(loaded_parents: Dock) -> None:
    """Every row is unchanged, and no row version is written."""
    dock = loaded_parents
    dock.drop("employees.csv", GOOD + OTHER_GOOD)
    before = dock.query("select id, xmin from hired_employees.hired_employees order by id")
    fields = dock.drop("employees-again.csv", GOOD + OTHER_GOOD)
    assert (fields["rows_unchanged"], fields["rows_inserted"], fields["rows_updated"]) == (2, 0, 0)
    assert dock.query("select id, xmin from hired_employees.hired_employees order by id") == before
    assert "content_seen_before" in dock.history()[-1]["details"]


def test_a_corrected_file_updates_by_id(loaded_parents: Dock) -> None:
    """The changed row is updated, the same row left alone, the new one added."""
    dock = loaded_parents
    dock.drop("employees.csv", GOOD + OTHER_GOOD)
    corrected = GOOD.replace(b"Vogt", b"Voigt") + OTHER_GOOD + b"\n4,New One,2020-01-01T00:00:00Z,3,1\n"
    fields = dock.drop("employees.csv", corrected)
    assert (fields["rows_updated"], fields["rows_unchanged"], fields["rows_inserted"]) == (1, 1, 1)
    assert [row[1] for row in dock.employees()] == ["Harold Voigt", "Lyman Hadye", "New One"]
    assert dock.rollup_is_right()


def test_an_identical_double_is_unchanged_and_a_different_one_rejected(loaded_parents: Dock) -> None:
    """The first valid row of an id wins, whether it is new to the table or not."""
    dock = loaded_parents
    for _ in range(2):
        fields = dock.drop("employees.csv", GOOD + GOOD + GOOD.replace(b"Harold", b"Gerald"))
        assert (fields["rows_unchanged"] + fields["rows_inserted"], fields["rows_rejected"]) == (2, 1)
        assert dock.employees() == [GOOD_ROW]
    assert [reasons for _, reasons, _ in dock.rejects()] == [["id.duplicate"]] * 2


def test_an_early_row_waits_and_goes_in_by_itself(dock: Dock) -> None:
    """A child file before its parents: its rows are pending, then go in when the parents come."""
    fields = dock.drop("employees.csv", GOOD + OTHER_GOOD)
    assert (fields["rows_pending"], fields["rows_inserted"]) == (2, 0)
    assert [row[1:] for row in dock.pending()] == [("1", "department_id", "2"), ("3", "department_id", "1")]
    dock.parents()
    dock.run_sent()
    assert dock.employees() == [GOOD_ROW, OTHER_GOOD_ROW]
    assert dock.pending() == []
    assert dock.rollup_is_right()


def test_a_file_of_another_name_is_refused_and_says_why(dock: Dock) -> None:
    """No pattern matches: history names the patterns; nothing is loaded."""
    assert dock.drop("salaries.csv", b"1,2\n")["state"] == "refused"
    last = dock.history()[-1]
    assert last["reason_code"] == "file.unknown_table"
    assert "emplo" in last["reason"]


def test_a_file_of_a_name_that_means_two_tables_is_refused_naming_both(dock: Dock) -> None:
    """It is acknowledged and recorded; nothing is loaded into either, and a second delivery says nothing new."""
    generation = dock.put("2021/Job_of_Employees.csv", b"1,Engineer\n")
    assert dock.deliver("2021/Job_of_Employees.csv", generation)["state"] == "refused"
    (last,) = dock.history()
    assert (last["state"], last["reason_code"], last["rows_read"]) == ("refused", "file.ambiguous_table", 0)
    assert last["reason"] == (
        "the name 'Job_of_Employees.csv' matches more than one table (jobs: 'job', hired_employees: 'emplo');"
        " rename the file"
    )
    assert dock.deliver("2021/Job_of_Employees.csv", generation)["state"] == "duplicate"
    assert dock.query("select from hired_employees.jobs") == dock.employees() == []


@pytest.mark.parametrize("name", ["JOBS.CSV", "in/2021/depar_emplo/My Jobs (2).csv", "employees/jOb"])
def test_an_object_in_any_folder_and_any_case_finds_its_table(dock: Dock, name: str) -> None:
    """The base name alone decides, whatever the folders are called."""
    assert dock.drop(name, b"1,Engineer\n")["table"] == "jobs"
    assert dock.query("select job from hired_employees.jobs") == [("Engineer",)]


def test_a_header_without_a_required_column_refuses_the_file(dock: Dock) -> None:
    """The file is refused whole, naming what is missing and what is unknown."""
    assert dock.drop("employees.csv", b"id,name,salary\n1,Bob,3\n")["state"] == "refused"
    last = dock.history()[-1]
    assert last["reason_code"] == "file.header"
    assert "hired_date" in last["reason"]
    assert "salary" in last["reason"]
    assert last["rows_read"] == 0


def test_a_header_may_come_in_any_order_and_case(loaded_parents: Dock) -> None:
    """Columns go by the header's names and aliases."""
    dock = loaded_parents
    dock.drop("employees.csv", b"Job,DateTime,Name,ID,Department\n1,2021-11-07T02:48:42Z,Harold Vogt,1,2\n")
    assert dock.employees() == [GOOD_ROW]


def test_a_file_that_renames_most_departments_is_rolled_back(loaded_parents: Dock) -> None:
    """A file under the wrong name changes nothing, keeps its rejects, says why, and can be forced."""
    dock = loaded_parents
    wrong = b"1,Engineer\n2,Seller\n3,\n9,Nine\n"
    assert dock.drop("departments-2.csv", wrong)["state"] == "rolled_back"
    last = dock.history()[-1]
    assert last["reason_code"] == "threshold.max_update_ratio"
    assert (last["rows_rejected"], last["rows_rolled_back"]) == (1, 3)
    assert dock.query("select departments from hired_employees.departments order by id")[0] == ("Engineering",)
    assert len(dock.rejects()) == 1
    assert dock.force("departments-2.csv")["state"] == "loaded"
    assert dock.query("select departments from hired_employees.departments order by id")[0] == ("Engineer",)


def test_keys_that_share_a_bit_of_the_filter_are_told_apart(loaded_parents: Dock) -> None:
    """Ids 2^29 apart look alike to the bitmap: both go in, or wait, and a true double is still found."""
    dock = loaded_parents
    near, far = b"5,Near,2021-11-07T02:48:42Z,1,1\n", b"536870917,Far,2021-11-07T02:48:42Z,1,1\n"
    waiting = far.replace(b"536870917", b"536870918").replace(b",1,1\n", b",9,1\n")
    early = waiting.replace(b"536870918", b"6")
    fields = dock.drop("employees.csv", near + far + far + near.replace(b"Near", b"Other") + early + waiting + waiting)
    assert [row[0] for row in dock.employees()] == [5, 536_870_917]
    assert [row[1] for row in dock.pending()] == ["6", "536870918"]
    assert (fields["rows_unchanged"], fields["rows_rejected"], fields["rows_pending"]) == (2, 1, 2)
    assert [reasons for _, reasons, _ in dock.rejects()] == [["id.duplicate"]]
