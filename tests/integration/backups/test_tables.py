"""Which tables a backup holds, and what it knows of each."""

from __future__ import annotations

from typing import Any

import pytest

from shared import dictionary
from shared.avro.schema import Field
from shared.backups import tables
from shared.backups.manifest import Column, Sequence
from shared.backups.tables import TableName
from shared.errors import NoSuchTable

ALL = dictionary.load()


def test_every_table_that_rowdock_keeps_is_in_a_backup(lent_database: Any) -> None:
    """Data, history, rejects, keys: a table that a migration adds, and this list forgets, is found here."""
    found = lent_database.query(
        "select schemaname, tablename from pg_tables where schemaname in"
        " ('hired_employees', 'ingest_status', 'api_access', 'backup_status')"
    )
    assert sorted((table.schema, table.name) for table in tables.every(ALL)) == sorted(found)


def test_parents_come_before_their_children(lent_database: Any) -> None:
    """In the bookkeeping as in the data: a restore in this order finds every parent."""
    order = [table.full_name for table in tables.every(ALL)]
    for child, parent in lent_database.query(
        "select conrelid::regclass::text, confrelid::regclass::text from pg_constraint"
        " where contype = 'f' and connamespace::regnamespace::text ~ 'hired_employees|ingest|api_access|backup'"
    ):
        assert order.index(parent) < order.index(child)


@pytest.mark.parametrize("name", ["hired_employees", "employees", "hired_employees.hired_employees"])
def test_a_table_is_chosen_by_any_of_its_names(name: str) -> None:
    (chosen,) = tables.choose(ALL, [name])
    assert chosen == TableName("hired_employees", "hired_employees", "hired_employees")


def test_chosen_tables_keep_the_order_and_come_once() -> None:
    names = ["ingest_status.rejects", "employees", "jobs", "hired_employees"]
    found = [table.name for table in tables.choose(ALL, names)]
    assert found == ["jobs", "hired_employees", "rejects"]
    assert tables.choose(ALL, None) == tables.every(ALL)


def test_a_name_that_is_no_table_is_told_with_those_that_are() -> None:
    with pytest.raises(NoSuchTable, match=r"'rejects'; there are departments, .*ingest_status.rejects"):
        tables.choose(ALL, ["jobs", "rejects"])


def test_the_backup_role_can_describe_every_table(lent_database: Any) -> None:
    """Where the sequences stand included."""
    conn = lent_database.connect("backup")
    try:
        described = {table.full_name: tables.describe(conn, table) for table in tables.every(ALL)}
    finally:
        conn.close()
    employees = described["hired_employees.hired_employees"]
    assert employees.columns[2] == Column(
        "hired_date", "timestamp with time zone", True, None, identity="", generated=False, avro_name="hired_date"
    )
    assert employees.columns[0].identity == "d"
    assert (employees.primary_key, employees.integer_key) == (("id",), "id")
    assert employees.constraints == (
        "FOREIGN KEY (department_id) REFERENCES hired_employees.departments(id) NOT ENFORCED",
        "FOREIGN KEY (job_id) REFERENCES hired_employees.jobs(id) NOT ENFORCED",
        "PRIMARY KEY (id)",
    )
    assert employees.sequences == (Sequence("id", 1_000_000_000, is_called=False),)
    assert described["ingest_status.ingest_status"].sequences[0].column == "id"
    assert described["api_access.keys"].integer_key is None
    assert described["ingest_status.parts"].integer_key is None


def test_odd_names_and_generated_columns_are_described(database: Any) -> None:
    """Names that AVRO does not allow get one of their own; what is generated is no part of a row."""
    database.query(
        'create table hired_employees."od""d t/able" ("has space" text default \'x\'\'y\','
        ' "has-space" integer not null, "Ñ" numeric(10,2), dropped text,'
        ' doubled integer generated always as ("has-space" * 2) stored)'
    )
    database.query('alter table hired_employees."od""d t/able" drop column dropped')
    conn = database.connect()
    try:
        found = tables.describe(conn, TableName("hired_employees", 'od"d t/able'))
        query = found.rows_query.as_string(conn)
    finally:
        conn.close()
    assert [column.name for column in found.columns] == ["has space", "has-space", "Ñ", "doubled"]
    assert len({column.avro_name for column in found.columns}) == 4
    assert found.columns[0].default == "'x''y'::text"
    assert found.columns[3].generated
    assert [field.name for field in found.fields] == ["has space", "has-space", "Ñ"]
    assert isinstance(found.fields[2], Field)
    assert found.fields[2].nullable
    assert query == 'select "has space", "has-space", "Ñ" from "hired_employees"."od""d t/able"'
