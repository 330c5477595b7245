"""rowdock.guard(): what it takes, what it refuses, and that nobody can borrow its functions."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import psycopg2
import pytest

from tests.integration.keys.sessions import DONE, sqlstate

ODD = [
    "period", "counted", "seen", "added", "removed", "guard", "present", "absent", "gone", "found",
    "k1", "x", "p", "c", "o", "key", "held", "missing",
]  # fmt: skip


@pytest.fixture
def parent(database: Any) -> Any:
    database.query(
        "create table hired_employees.regions (id integer primary key, code integer unique, unique (id, code));"
        "create table hired_employees.parts (id integer primary key) partition by range (id);"
        "insert into hired_employees.regions values (1, 10), (2, 20)"
    )
    return database


@pytest.mark.parametrize("column", ODD)
def test_a_column_may_have_any_name(module_database: Any, column: str) -> None:
    """Also one that the trigger functions use for a variable, an alias or a table of theirs."""
    owners, things = f"hired_employees.owners_{column}", f"hired_employees.things_{column}"
    module_database.query(
        f'create table {owners} ("{column}" integer primary key);'
        f'create table {things} (id integer primary key, "{column}" integer,'
        f' constraint things_fkey foreign key ("{column}") references {owners} not enforced);'
        f"select rowdock.guard('{owners}'); select rowdock.guard('{things}');"
        f"insert into {owners} values (1), (2); insert into {things} values (1, 1)"
    )
    with closing(module_database.connect()) as connection:
        connection.autocommit = True
        with pytest.raises(psycopg2.errors.ForeignKeyViolation, match=rf"\({column}\)=\(7\) is not present"):
            connection.cursor().execute(f"insert into {things} values (2, 7)")
        assert sqlstate(connection, f"delete from {owners}") == "23503"
        assert sqlstate(connection, f'update {owners} set "{column}" = 9 where "{column}" = 1') == "23503"
        assert sqlstate(connection, f'delete from {owners} where "{column}" = 2') == DONE


def test_names_may_need_quotes(database: Any) -> None:
    """Percent signs, quotes and capitals in every name."""
    s = "hired_employees"
    database.query(
        f"""create table {s}."Owner's % Größe" ("I'd %s" integer primary key);
        create table {s}."Thing's % $check$" (id integer, "Owner's ""%%I" integer,
          constraint "key's %" foreign key ("Owner's ""%%I") references {s}."Owner's % Größe" not enforced);
        select rowdock.guard('{s}."Owner''s % Größe"'); select rowdock.guard('{s}."Thing''s % $check$"');
        insert into {s}."Owner's % Größe" values (1); insert into {s}."Thing's % $check$" values (1, 1)"""
    )
    with closing(database.connect()) as connection:
        connection.autocommit = True
        assert sqlstate(connection, f"""insert into {s}."Thing's % $check$" values (2, 2)""") == "23503"
        assert sqlstate(connection, f"""delete from {s}."Owner's % Größe" """) == "23503"


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("foreign key (region, code) references hired_employees.regions (id, code)", "not a plain one"),
        ("foreign key (code) references hired_employees.regions (code)", "not a plain one"),
        ("foreign key (region) references hired_employees.regions on delete cascade", "not a plain one"),
        ("foreign key (region) references hired_employees.regions on update set null", "not a plain one"),
        ("foreign key (region) references hired_employees.regions on delete restrict", "not a plain one"),
        ("foreign key (region) references hired_employees.regions match full", "not a plain one"),
        ("foreign key (region) references hired_employees.regions deferrable", "not a plain one"),
        ("foreign key (region) references hired_employees.parts", "parts is partitioned"),
    ],
)
def test_a_key_that_triggers_would_not_keep_is_refused(parent: Any, key: str, reason: str) -> None:
    """Better no table than one whose key looks declared and is not kept."""
    parent.query(
        f"create table hired_employees.towns (id integer primary key, region integer, code integer, {key} not enforced)"
    )
    with pytest.raises(psycopg2.errors.FeatureNotSupported, match=reason):
        parent.query("select rowdock.guard('hired_employees.towns')")


def test_a_partitioned_child_is_refused(parent: Any) -> None:
    """Rows put into a partition pass the triggers of the whole by."""
    parent.query(
        "create table hired_employees.towns (id integer, region integer,"
        " foreign key (region) references hired_employees.regions not enforced) partition by range (id);"
        "create table hired_employees.towns_1 partition of hired_employees.towns default"
    )
    for table in ("towns", "towns_1"):
        with pytest.raises(psycopg2.errors.FeatureNotSupported, match="partition"):
            parent.query(f"select rowdock.guard('hired_employees.{table}')")


def test_tables_of_one_name_and_of_long_names_have_guards_of_their_own(database: Any) -> None:
    """Trigger functions are named by schema and table, cut and made distinct where that is too long."""
    database.query("create schema other; create table other.departments (id integer primary key)")
    tables = ["hired_employees.departments", "other.departments"]
    tables += [f"hired_employees.{'t' * 62}{letter}" for letter in "ab"]
    for table in tables:
        child = f"hired_employees.{'c' * 30}_{tables.index(table)}"
        database.query(
            f"create table if not exists {table} (id integer primary key);"
            f"create table {child} (parent integer, foreign key (parent) references {table} not enforced);"
            f"select rowdock.guard('{table}'); select rowdock.guard('{child}')"
        )
        with pytest.raises(psycopg2.errors.ForeignKeyViolation, match=table.partition(".")[2]):
            database.query(f"insert into {child} values (7)")
    (shared,) = database.query("select count(*) - count(distinct tgfoid) from pg_trigger where not tgisinternal")[0]
    assert shared == 0


def test_a_rolled_up_table_may_have_more_keys_than_the_roll_up(parent: Any) -> None:
    """Another foreign key on the employees is checked, and the roll-up counts as before."""
    s = "hired_employees"
    parent.query(
        f"alter table {s}.hired_employees add region integer,"
        f" add constraint region_fkey foreign key (region) references {s}.regions not enforced;"
        f"select rowdock.guard('{s}.hired_employees');"
        f"insert into {s}.departments values (1, 'a'); insert into {s}.jobs values (1, 'b');"
        f"insert into {s}.hired_employees values (1, 'A', '2021-01-01Z', 1, 1, 1), (2, 'B', '2021-01-01Z', 1, 1, 2),"
        " (3, 'C', '2021-01-01Z', 1, 1, null)"
    )
    assert parent.query("select * from metrics.hires_by_quarter") == [(2021, 1, 1, 1, 3)]
    assert parent.query("select count(*) from metrics.hires_deltas") == [(1,)]
    with pytest.raises(psycopg2.errors.ForeignKeyViolation, match="region_fkey"):
        parent.query(f"update {s}.hired_employees set region = 3")


def test_a_roll_up_over_columns_that_are_no_keys_is_refused(parent: Any) -> None:
    """Their rows would be taken off the roll-up and never be counted."""
    parent.query(
        "create table metrics.town_deltas (decade integer, code integer, n bigint);"
        "create table metrics.towns (decade integer, code integer, n bigint);"
        "create table hired_employees.towns (id integer primary key, code integer);"
        "insert into rowdock.roll_ups values"
        " ('hired_employees.towns', '{code}', 'id / 10', '{decade}', 'period', 'n',"
        " 'metrics.town_deltas', 'metrics.towns')"
    )
    with pytest.raises(psycopg2.errors.FeatureNotSupported, match="its roll-up counts by code"):
        parent.query("select rowdock.guard('hired_employees.towns')")


def test_guarding_again_changes_nothing(database: Any) -> None:
    state = (
        "select md5(string_agg(pg_get_functiondef(oid), '' order by proname)) from pg_proc"
        " where pronamespace = 'rowdock'::regnamespace"
        " union all select md5(string_agg(pg_get_triggerdef(oid) || tgenabled::text, '' order by tgrelid, tgname))"
        " from pg_trigger where not tgisinternal"
    )
    before = database.query(state)
    for table in ("jobs", "hired_employees", "departments"):
        database.query(f"select rowdock.guard('hired_employees.{table}')")
    assert database.query(state) == before


@pytest.mark.parametrize("role", ["ingest", "api", "restore"])
@pytest.mark.parametrize(
    ("function", "event", "transition"),
    [
        ("insert_hired_employees_hired_employees", "insert", "referencing new table as added"),
        ("delete_hired_employees_hired_employees", "delete", "referencing old table as removed"),
        ("truncate_hired_employees_hired_employees", "truncate", ""),
        ("insert_hired_employees_departments", "insert", "referencing new table as added"),
    ],
)
def test_nobody_hangs_our_trigger_functions_on_a_table_of_his_own(
    module_database: Any, role: str, function: str, event: str, transition: str
) -> None:
    """They run with the owner's rights: on a made-up table they would write made-up deltas and wake-ups."""
    with closing(module_database.connect(role)) as connection:
        cursor = connection.cursor()
        cursor.execute("create temporary table t (id int, hired_date timestamptz, department_id int, job_id int)")
        with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="permission denied for function"):
            cursor.execute(
                f"create trigger x after {event} on t {transition} for each statement"
                f" execute function rowdock.{function}()"
            )


def test_no_function_of_ours_is_everybodys(module_database: Any) -> None:
    executable = module_database.query(
        "select p.oid::regprocedure::text from pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a"
        " where p.pronamespace in ('rowdock'::regnamespace, 'metrics'::regnamespace) and a.grantee = 0"
    )
    assert executable == []


def test_one_call_leads_back_to_native_keys_and_keeps_roll_up_and_wakeups(database: Any) -> None:
    """And one more, with the keys NOT ENFORCED again, leads forth."""
    s = "hired_employees"
    keys = "select bool_and(conenforced), count(*) from pg_constraint where contype = 'f' and conrelid = %s::regclass"
    missing = f"insert into {s}.hired_employees values (9, 'C', '2021-01-01Z', 1, 7)"
    database.query(
        f"insert into {s}.departments values (1, 'a'), (2, 'b'); insert into {s}.jobs values (1, 'b');"
        f"insert into {s}.hired_employees values (1, 'A', '2021-01-01Z', 1, 1); delete from ingest_status.wakeups;"
        f"select rowdock.native_keys('{s}.hired_employees')"
    )
    assert database.query(keys, f"{s}.hired_employees") == [(True, 2)]
    database.query(
        f"insert into {s}.hired_employees values (2, 'B', '2021-01-01Z', 1, 1), (3, 'C', '2022-04-01Z', 1, 1);"
        f"delete from {s}.hired_employees where id = 1; insert into {s}.jobs values (2, 'c')"
    )
    cells = database.query("select * from metrics.hires_by_quarter order by 1")
    assert cells == [(2021, 1, 1, 1, 1), (2022, 2, 1, 1, 1)]
    assert database.query("select parent_table from ingest_status.wakeups") == [("jobs",)]
    with pytest.raises(psycopg2.errors.ForeignKeyViolation) as native:
        database.query(missing)
    assert "RI_FKey" not in str(native.value)
    assert {state for (state,) in database.query(STATES)} == {"in place"}

    with closing(database.connect()) as connection, connection:
        for key in ("department_id", "job_id"):
            connection.cursor().execute(
                f"alter table {s}.hired_employees alter constraint hired_employees_{key}_fkey not enforced"
            )
        connection.cursor().execute(f"select rowdock.guard('{s}.hired_employees')")
    with pytest.raises(psycopg2.errors.ForeignKeyViolation, match="job_id_fkey"):
        database.query(missing)
    assert {state for (state,) in database.query(STATES)} == {"in place"}


STATES = """
    select g.state from unnest('{departments,jobs,hired_employees}'::text[]) t,
      rowdock.guard_state(('hired_employees.' || t)::regclass) g
"""


def test_native_keys_are_refused_while_there_is_an_orphan(database: Any) -> None:
    s = "hired_employees"
    database.query(
        f"alter table {s}.hired_employees disable trigger rowdock_insert;"
        f"insert into {s}.hired_employees values (1, 'A', '2021-01-01Z', 1, 1)"
    )
    with pytest.raises(psycopg2.errors.ForeignKeyViolation):
        database.query(f"select rowdock.native_keys('{s}.hired_employees')")


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ("drop trigger rowdock_update on hired_employees.hired_employees", "missing"),
        ("alter table hired_employees.hired_employees disable trigger rowdock_update", "disabled"),
        ("alter table hired_employees.hired_employees enable trigger rowdock_update", "not always"),
        ("alter table hired_employees.hired_employees enable replica trigger rowdock_update", "not always"),
        ("create or replace function rowdock.update_hired_employees_hired_employees() returns trigger"
         " language plpgsql security definer as 'begin return null; end'", "stale"),
        ("alter function rowdock.update_hired_employees_hired_employees() security invoker", "stale"),
        ("delete from rowdock.roll_ups; select rowdock.guard('hired_employees.hired_employees');"
         "create trigger rowdock_update_too after update on hired_employees.hired_employees"
         " for each statement execute function rowdock.update_hired_employees_hired_employees()", "left over"),
        ("alter table hired_employees.hired_employees add boss integer references hired_employees.jobs not enforced",
         "stale"),
    ],
    ids=["dropped", "disabled", "enabled", "replica", "hollow", "invoker", "one more", "a key was added"],
)  # fmt: skip
def test_a_guard_that_is_not_as_it_must_be_is_told(database: Any, change: str, state: str) -> None:
    """guard_state() says so, and guard() puts right all but what is left over."""
    states = "select state from rowdock.guard_state('hired_employees.hired_employees')"
    assert set(database.query(states)) == {("in place",)}
    database.query(change)
    assert (state,) in database.query(states, role="api")
    database.query("select rowdock.guard('hired_employees.hired_employees')")
    assert ((state,) in database.query(states)) == (state == "left over")
