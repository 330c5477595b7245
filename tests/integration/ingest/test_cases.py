"""Files that behave strangely, each through a whole load: what docs/ingest-cases.md says becomes of them."""

from __future__ import annotations

import gzip
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from local_emulator import stores
from shared import dictionary, migrate
from tests.integration.ingest.conftest import Dock

BOM = b"\xef\xbb\xbf"
HEADER = b"id,name,datetime,department,job\n"
ONE = b"1,Ada,2021-11-07T02:48:42Z,1,1\n"
TWO = b"2,Bo,2021-11-07T02:48:42Z,2,1\n"
BAD = b"3,,2021-11-07T02:48:42Z,1,1\n"
AS_WRITTEN = {
    "byte order mark and header": (BOM + HEADER + ONE + BAD + TWO, 3),
    "byte order mark alone": (BOM + ONE + BAD + TWO, 2),
    "quoted header after blank lines": (b'\n\n"id","name","datetime","department","job"\n' + ONE + BAD + TWO, 5),
    "header in another case": (HEADER.upper() + ONE + BAD + TWO, 3),
    "more columns than known": (b"wage," + HEADER + b"9," + ONE + b"9," + BAD + b"9," + TWO, 3),
    "cr lf": ((HEADER + ONE + BAD + TWO).replace(b"\n", b"\r\n"), 3),
    "cr lf and lf": (ONE.replace(b"\n", b"\r\n") + BAD + TWO, 2),
    "no end of the last line": ((ONE + BAD + TWO).rstrip(), 2),
    "blank lines behind": (ONE + BAD + TWO + b"\n \r\n\n", 2),
    "semicolons": ((HEADER + ONE + BAD + TWO).replace(b",", b";"), 3),
    "tabs": ((ONE + BAD + TWO).replace(b",", b"\t"), 2),
    "a byte of latin-1 in row 3": (ONE + TWO + b"3,Zo\xeb,2021-11-07T02:48:42Z,1,1\n", 3),
}


@pytest.mark.parametrize(("content", "bad_line"), AS_WRITTEN.values(), ids=AS_WRITTEN)
def test_however_a_file_is_written_its_rows_are_the_same(loaded_parents: Dock, content: bytes, bad_line: int) -> None:
    """The two good rows go in as they are, and the bad one is found at its own line."""
    fields = loaded_parents.drop("employees.csv", content)
    assert (fields["state"], fields["rows_read"]) == ("loaded", 3)
    assert [row[:2] for row in loaded_parents.employees()] == [(1, "Ada"), (2, "Bo")]
    assert [line for line, _, _ in loaded_parents.rejects()] == [bad_line]


COUNTRIES = """
[tables.countries]
schema = "hired_employees"
api_name = "countries"
file_pattern = "countr"
primary_key = "code"
[tables.countries.columns.code]
type = "text"
max_length = 3
[tables.countries.columns.label]
type = "text"
[tables.countries.columns.note]
type = "text"
required = false
"""
COUNTRIES_MIGRATION = """
create table hired_employees.countries (code text primary key, label text not null, note text);
select rowdock.guard('hired_employees.countries');
"""


@pytest.fixture
def countries(make_dock: Callable[..., Dock], database: Any, tmp_path: Path) -> Dock:
    """A dock with one more table, whose first column is text."""
    (tmp_path / "9001_countries.sql").write_text(COUNTRIES_MIGRATION)
    migrate.migrate(database.owner_url, [migrate.MIGRATIONS, tmp_path])
    return make_dock(dictionary.parse(tomllib.loads(dictionary.DICTIONARY_PATH.read_text() + COUNTRIES)))


def rows_of(countries: Dock) -> list[tuple[Any, ...]]:
    return countries.query('select * from hired_employees.countries order by code collate "C"')


def test_a_byte_order_mark_never_becomes_a_part_of_the_first_value(countries: Dock) -> None:
    """Without a header the mark would stick to the first text, unseen: a key that no other row can ever meet."""
    countries.drop("countries.csv", BOM + b"DE,Germany,\nFR,France,\n")
    assert rows_of(countries) == [("DE", "Germany", None), ("FR", "France", None)]
    assert countries.drop("countries-2.csv", b"DE,Germany,\n")["rows_unchanged"] == 1


def test_a_header_may_leave_out_a_column_that_is_not_required(countries: Dock) -> None:
    """It is null in every row of that file."""
    countries.drop("countries.csv", b"label,code\nGermany,DE\n")
    assert rows_of(countries) == [("DE", "Germany", None)]


def test_a_text_is_measured_in_characters(countries: Dock) -> None:
    """Three characters of four bytes each fit into three; four letters do not, and cut is nothing."""
    countries.drop("countries.csv", "😀😀😀,Smiles,\nABCD,Four,\n".encode())
    assert [row[0] for row in rows_of(countries)] == ["😀😀😀"]
    assert [reasons for _, reasons, _ in countries.rejects()] == [["code.too_long"]]


STORED = {
    "content-encoding gzip": ("employees.csv", {"ContentEncoding": "gzip", "ContentType": "text/csv"}),
    "content-type gzip": ("employees.csv.gz", {"ContentType": "application/gzip"}),
    "called plain text": ("employees.csv", {"ContentType": "text/csv"}),
}


@pytest.mark.parametrize(("name", "told"), STORED.values(), ids=STORED)
@pytest.mark.parametrize("members", [1, 2], ids=["one member", "two members"])
def test_gzip_is_known_by_its_bytes_whatever_the_object_says(
    loaded_parents: Dock, any_store: Any, name: str, told: dict[str, str], members: int
) -> None:
    """Neither name nor headers count; a second member, as ``cat a.gz b.gz`` makes it, is read like the first."""
    dock = loaded_parents
    parts = (ONE + BAD + TWO,) if members == 1 else (ONE + BAD[:4], BAD[4:] + TWO)
    packed = b"".join(map(gzip.compress, parts))
    stores.s3_client(any_store).put_object(Bucket=dock.bucket, Key=name, Body=packed, **told)  # type: ignore[arg-type]
    fields = dock.deliver(name)
    assert (fields["state"], fields["rows_inserted"], fields["rows_rejected"]) == ("loaded", 2, 1)
    assert [row[:2] for row in dock.employees()] == [(1, "Ada"), (2, "Bo")]
    assert dock.history()[-1]["file_size"] == len(packed)


@pytest.mark.parametrize("name", ["archive/2021/salaries.csv", "employees/2021.csv", "departments-and-jobs.csv"])
def test_a_folder_says_nothing_and_a_name_must_say_one_table(loaded_parents: Dock, name: str) -> None:
    """An object that no pattern, or more than one, knows by its base name is refused once, and says which there are."""
    dock = loaded_parents
    assert dock.drop(name, ONE)["state"] == "refused"
    last = dock.history()[-1]
    assert last["reason_code"] in ("file.unknown_table", "file.ambiguous_table")
    assert "job" in last["reason"]
    assert dock.deliver(name)["state"] == "duplicate"
    assert dock.employees() == []
