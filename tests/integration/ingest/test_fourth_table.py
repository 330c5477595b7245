"""A table added by one dictionary entry and one migration, no other code: it loads, rejects, waits and is checked."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from shared import check, dictionary, migrate
from tests.integration.ingest.conftest import Dock

ENTRY = """
[tables.contracts]
schema = "hired_employees"
api_name = "contracts"
file_pattern = "contract"
primary_key = "code"
[tables.contracts.columns.code]
type = "uuid"
[tables.contracts.columns.employee_id]
type = "integer"
references = "hired_employees"
[tables.contracts.columns.replaces]
type = "uuid"
references = "contracts"
required = false
[tables.contracts.columns.signed_on]
type = "date"
[tables.contracts.columns.salary]
type = "numeric(10,2)"
[tables.contracts.columns.hours]
type = "bigint"
[tables.contracts.columns.permanent]
type = "boolean"
[tables.contracts.columns.terms]
type = "jsonb"
required = false
"""
MIGRATION = """
create table hired_employees.contracts (
  code uuid primary key,
  employee_id integer not null,
  replaces uuid,
  signed_on date not null,
  salary numeric(10,2) not null,
  hours bigint not null,
  permanent boolean not null,
  terms jsonb,
  constraint contracts_employee_id_fkey
    foreign key (employee_id) references hired_employees.hired_employees not enforced,
  constraint contracts_replaces_fkey foreign key (replaces) references hired_employees.contracts not enforced
);
select rowdock.guard('hired_employees.contracts');
"""
A = "aaaaaaaa-0000-4000-8000-000000000001"
B = "bbbbbbbb-0000-4000-8000-000000000002"
C = "cccccccc-0000-4000-8000-000000000003"
GOOD = f'{A},1,,2021-11-07,1234.50,40,true,"{{""a"": [1, null]}}"\n'
EMPLOYEE = b"1,Harold Vogt,2021-11-07T02:48:42Z,2,1\n"


@pytest.fixture
def with_contracts() -> dictionary.Dictionary:
    return dictionary.parse(tomllib.loads(dictionary.DICTIONARY_PATH.read_text() + ENTRY))


@pytest.fixture
def dock(make_dock: Callable[..., Dock], database: Any, tmp_path: Path, with_contracts: dictionary.Dictionary) -> Dock:
    (tmp_path / "9001_contracts.sql").write_text(MIGRATION)
    assert migrate.migrate(database.owner_url, [migrate.MIGRATIONS, tmp_path]) == ["9001_contracts"]
    made = make_dock(with_contracts)
    made.parents()
    return made


def contracts(dock: Dock) -> list[tuple[Any, ...]]:
    return dock.query(
        "select code::text, employee_id, replaces::text, signed_on::text, salary::text, hours, permanent, terms::text"
        " from hired_employees.contracts order by code"
    )


def test_dictionary_and_database_agree(dock: Dock, with_contracts: dictionary.Dictionary, tmp_path: Path) -> None:
    """rowdock check finds nothing to say of the table that the migration and the entry describe."""
    conn = dock.connect("owner")
    found = check.check(conn, with_contracts, migrate.read([migrate.MIGRATIONS, tmp_path]))
    conn.close()
    assert found == []


def test_it_loads_every_type(dock: Dock) -> None:
    """Values arrive exactly."""
    dock.drop("employees.csv", EMPLOYEE)
    assert dock.drop("contracts.csv", GOOD.encode())["rows_inserted"] == 1
    assert contracts(dock) == [(A, 1, None, "2021-11-07", "1234.50", 40, True, '{"a": [1, null]}')]


BROKEN = [
    (A, "not-a-uuid", "code.not_uuid"),
    ("2021-11-07", "2021-02-30", "signed_on.not_date"),
    ("1234.50", "1e3", "salary.not_numeric"),
    ("1234.50", "1234.505", "salary.out_of_range"),
    ("1234.50", "123456789.00", "salary.out_of_range"),
    (",40,", ",9223372036854775808,", "hours.out_of_range"),
    ("true", "perhaps", "permanent.not_boolean"),
    ('""a""', '""a', "terms.not_json"),
    (",1,", ",,", "employee_id.missing"),
]


def test_it_rejects_by_type(dock: Dock) -> None:
    """Each type has its rule and its reason."""
    dock.drop("employees.csv", EMPLOYEE)
    dock.drop("contracts.csv", "".join(GOOD.replace(old, new, 1) for old, new, _ in BROKEN).encode())
    assert [reasons for _, reasons, _ in dock.rejects()] == [[reason] for _, _, reason in BROKEN]
    assert contracts(dock) == []


def test_it_waits_for_its_parent(dock: Dock) -> None:
    """A contract comes before its employee, who comes before the department."""
    dock.drop("contracts.csv", GOOD.encode())
    assert [row[1:] for row in dock.pending()] == [(A, "employee_id", "1")]
    dock.drop("employees.csv", EMPLOYEE.replace(b",2,1", b",7,1"))
    dock.run_sent()
    assert contracts(dock) == []
    dock.drop("departments-7.csv", b"7,Seven\n")
    dock.run_sent()
    assert [row[0] for row in contracts(dock)] == [A]


def test_rows_that_reference_one_another_go_in_whatever_their_order(dock: Dock) -> None:
    """A self-reference in reverse order: each row waits for the one that follows it in the file."""
    dock.drop("employees.csv", EMPLOYEE)
    chain = GOOD.replace(",1,,", f",1,{B},") + GOOD.replace(A, B).replace(",1,,", f",1,{C},") + GOOD.replace(A, C)
    dock.drop("contracts.csv", chain.encode())
    dock.run_sent()
    assert [(row[0], row[2]) for row in contracts(dock)] == [(A, B), (B, C), (C, None)]


def test_a_corrected_file_updates_it_and_the_same_changes_nothing(dock: Dock) -> None:
    """Keys that are no numbers are told from each other exactly."""
    dock.drop("employees.csv", EMPLOYEE)
    dock.drop("contracts.csv", (GOOD + GOOD.replace(A, B)).encode())
    fields = dock.drop(
        "contracts.csv", (GOOD.replace(",40,", ",20,") + GOOD.replace(A, B) + GOOD.replace(A, B)).encode()
    )
    assert (fields["rows_updated"], fields["rows_unchanged"], fields["rows_inserted"]) == (1, 2, 0)


def test_its_keys_are_guarded(dock: Dock) -> None:
    """No writer makes an orphan of it."""
    for statement in (
        f"insert into hired_employees.contracts values ('{B}', 99, null, now(), 1, 1, true, null)",
        "delete from hired_employees.hired_employees",
    ):
        dock.drop("employees.csv", EMPLOYEE)
        dock.drop("contracts.csv", GOOD.encode())
        with pytest.raises(psycopg2.errors.ForeignKeyViolation):
            dock.query(statement)


def test_a_migration_that_forgets_the_guard_is_found(
    make_dock: Callable[..., Dock], database: Any, tmp_path: Path, with_contracts: dictionary.Dictionary
) -> None:
    """rowdock check names each guard that is missing, and each right."""
    forgetful = MIGRATION.replace("select rowdock.guard('hired_employees.contracts');", "")
    (tmp_path / "9001_contracts.sql").write_text(forgetful)
    migrate.migrate(database.owner_url, [migrate.MIGRATIONS, tmp_path])
    conn = database.connect()
    found = check.check(conn, with_contracts, migrate.read([migrate.MIGRATIONS, tmp_path]))
    conn.close()
    assert any("rowdock_insert is missing" in line for line in found)
    assert any("rowdock_ingest lacks SELECT" in line for line in found)


def test_a_record_far_from_the_dictionary_is_no_crash(dock: Dock) -> None:
    """Whatever stands in the fields, every row ends in one way."""
    dock.drop("employees.csv", EMPLOYEE)
    fields = dock.drop("contracts.csv", (GOOD + "x,y\n,,,,,,,\n" + GOOD.replace(A, B)).encode())
    assert (fields["rows_read"], fields["rows_inserted"], fields["rows_rejected"]) == (4, 2, 2)
