"""Where a guarded key differs from a native one, each as the difference it is."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import psycopg2
import pytest

from tests.integration.keys import twins
from tests.integration.keys.sessions import DONE, ORPHANS, sqlstate
from tests.integration.keys.twins import GUARDED, NATIVE

MISSING_DEPARTMENT = "insert into hired_employees values (20, 'Eve', '2021-11-12T13:14:15Z', 99, 1)"
GUARDS = "select tgname, tgenabled from pg_trigger where starts_with(tgname, 'rowdock_')"


@pytest.fixture
def both(module_twins: Any) -> Any:
    twins.reset(module_twins)
    return module_twins


@pytest.fixture
def alterable(database: Any) -> Any:
    """Both sides in a database of the test's own."""
    twins.make(database)
    return database


def outcome(database: Any, schema: str, *steps: str, role: str = "owner") -> list[str]:
    return twins.errors(twins.run(database, schema, steps, role))


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
@pytest.mark.parametrize(
    "statement",
    ["delete from departments where id = 3", "update departments set id = 33 where id = 3"],
    ids=["remove", "renumber"],
)
def test_a_free_parent_leaves_at_read_committed_only(both: Any, isolation: str, statement: str) -> None:
    """An older snapshot does not see a child that was committed since, so the guard refuses to look at one."""
    steps = (f"begin isolation level {isolation}", statement, "rollback")
    assert outcome(both, GUARDED, *steps) == ["0A000"]
    assert outcome(both, NATIVE, *steps) == []
    assert outcome(both, GUARDED, "begin isolation level read committed", statement, "commit") == []


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_a_parent_that_keeps_its_key_may_change_at_any_level(both: Any, isolation: str) -> None:
    rename = "update departments set departments = 'Renamed', id = id"
    assert outcome(both, GUARDED, f"begin isolation level {isolation}", rename, "commit") == []


def test_a_key_is_never_deferred(alterable: Any) -> None:
    """A native key may wait for the end of the transaction; a guarded one is checked after each statement."""
    key = "alter table native.hired_employees alter constraint hired_employees_department_id_fkey"
    alterable.query(f"{key} deferrable initially deferred")
    steps = ("begin", MISSING_DEPARTMENT, "insert into departments values (99, 'Late')", "commit")
    assert outcome(alterable, NATIVE, *steps) == []
    assert outcome(alterable, GUARDED, *steps) == ["23503", "25P02"]


def test_a_trigger_after_each_row_may_remove_the_children(alterable: Any) -> None:
    """Native keys look before the user's row triggers, guarded ones after the statement's last."""
    for schema in twins.SCHEMAS:
        alterable.query(
            f"create function {schema}.cascade() returns trigger language plpgsql as $$ begin"
            f" delete from {schema}.hired_employees where department_id = old.id; return null; end $$;"
            f"create trigger zzz after delete on {schema}.departments for each row execute function {schema}.cascade()"
        )
    assert outcome(alterable, NATIVE, "delete from departments where id = 1") == ["23503"]
    assert outcome(alterable, GUARDED, "delete from departments where id = 1") == []
    assert alterable.query(ORPHANS) == [(0,)]


def test_disabling_and_enabling_all_triggers_leaves_them_no_longer_always(alterable: Any) -> None:
    """As pg_restore --disable-triggers does. They fire for ordinary writers; guard() puts them right."""
    for table in ("hired_employees", "departments"):
        alterable.query(f"alter table hired_employees.{table} disable trigger all", role="superuser")
        alterable.query(f"alter table hired_employees.{table} enable trigger all", role="superuser")
    states = dict(alterable.query(f"{GUARDS} and tgrelid = 'hired_employees.hired_employees'::regclass"))
    assert set(states.values()) == {"O"}
    assert outcome(alterable, GUARDED, MISSING_DEPARTMENT) == ["23503"]
    alterable.query("select rowdock.guard('hired_employees.hired_employees')")
    states = dict(
        alterable.query(f"{GUARDS} and tgrelid::regclass::text ~ '^hired_employees.(hired_employees|departments)'")
    )
    assert set(states.values()) == {"A"}


def test_guards_go_on_under_the_replica_role(both: Any) -> None:
    """Native keys stop there, and let an orphan in."""
    steps = ("set session_replication_role = replica", MISSING_DEPARTMENT, "delete from departments where id = 1")
    assert outcome(both, GUARDED, *steps, role="superuser") == ["23503", "23503"]
    assert outcome(both, NATIVE, *steps, role="superuser") == []


def test_an_owner_can_switch_a_guard_off(alterable: Any) -> None:
    """A native key's triggers ask for a superuser; so rowdock check looks at the state of ours."""
    assert outcome(alterable, NATIVE, "alter table hired_employees disable trigger all") == ["42501"]
    assert (
        outcome(alterable, GUARDED, "alter table hired_employees disable trigger rowdock_insert", MISSING_DEPARTMENT)
        == []
    )
    assert alterable.query(ORPHANS) == [(1,)]


@pytest.mark.parametrize("role", ["ingest", "api", "restore"])
def test_no_function_role_can_switch_a_guard_off(both: Any, role: str) -> None:
    steps = ("alter table hired_employees disable trigger rowdock_insert", "set session_replication_role = replica")
    assert outcome(both, GUARDED, *steps, role=role) == ["42501", "42501"]


@pytest.fixture
def planted(alterable: Any) -> Any:
    """An orphan that came while the guard was off, as data of a dump comes before its triggers."""
    on_off = "alter table hired_employees.hired_employees {} trigger rowdock_insert"
    outcome(alterable, GUARDED, on_off.format("disable"), MISSING_DEPARTMENT, on_off.format("enable always"))
    assert alterable.query(ORPHANS) == [(1,)]
    return alterable


def test_a_guard_does_not_look_at_rows_that_were_there_before(planted: Any) -> None:
    """So a restore ends with a count of orphans; a native key is checked when it is made."""
    assert outcome(planted, GUARDED, "select rowdock.guard('hired_employees.hired_employees')") == []
    assert planted.query(ORPHANS) == [(1,)]


def test_an_orphan_cannot_be_changed_before_its_parent_comes(planted: Any) -> None:
    """A native key looks at changed keys only; the guard at every key that a statement writes."""
    rename = "update hired_employees set employee_name = 'Eva' where id = 20"
    assert outcome(planted, GUARDED, rename) == ["23503"]
    assert outcome(planted, GUARDED, "insert into departments values (99, 'Late')", rename) == []


def test_the_way_back_to_native_keys_finds_orphans(planted: Any) -> None:
    key = "alter table hired_employees.hired_employees alter constraint hired_employees_department_id_fkey enforced"
    assert outcome(planted, GUARDED, key) == ["23503"]
    assert outcome(planted, GUARDED, "delete from hired_employees where id = 20", key, MISSING_DEPARTMENT) == ["23503"]


def test_transition_tables_count_against_the_limit_of_temporary_files(alterable: Any) -> None:
    alterable.query(f"alter role ingest in database {alterable.name} set temp_file_limit = '1MB'", role="superuser")
    many = (
        "insert into hired_employees select i, repeat('x', 100), '2021-11-12T13:14:15Z', 3, 1"
        " from (select generate_series(100, 100000) as i) s"
    )
    assert outcome(alterable, GUARDED, "set work_mem = '64kB'", many, role="ingest") == ["53400"]
    assert outcome(alterable, NATIVE, "set work_mem = '64kB'", many, role="ingest") == []


def test_errors_read_as_those_of_native_keys(both: Any) -> None:
    """Schema, table, constraint and message are the same, and the missing key is named."""
    statements = (
        MISSING_DEPARTMENT,
        MISSING_DEPARTMENT.replace("99, 1", "1, 77"),
        "update hired_employees set department_id = 98",
        "delete from departments where id = 1",
        "update jobs set id = 11 where id = 1",
    )
    for statement in statements:
        ours, theirs = (diagnosis(both, schema, statement) for schema in twins.SCHEMAS)
        assert (ours.table_name, ours.constraint_name, ours.message_primary) == (
            theirs.table_name,
            theirs.constraint_name,
            theirs.message_primary,
        )
        assert ours.schema_name == GUARDED
        if statement.startswith(("insert", "update hired")):
            assert ours.message_detail == theirs.message_detail


def diagnosis(database: Any, schema: str, statement: str) -> Any:
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(f"set search_path = {schema}")
        with pytest.raises(psycopg2.errors.ForeignKeyViolation) as raised:
            cursor.execute(statement)
        return raised.value.diag


@pytest.mark.parametrize(
    ("hidden", "statement"),
    [
        ("departments", "insert into hired_employees.hired_employees values (20, 'E', now(), 99, 1)"),
        ("departments", "delete from hired_employees.departments where id = 1"),
        ("hired_employees", "delete from hired_employees.departments where id = 1"),
    ],
)
def test_forced_row_security_makes_the_guard_fail_and_never_look_past_a_row(
    alterable: Any, hidden: str, statement: str
) -> None:
    """Native keys see what the owner is forced not to see. Ours, run as the owner, refuse to go on."""
    alterable.query(f"alter table hired_employees.{hidden} enable row level security, force row level security")
    alterable.query("create policy all_rows on hired_employees.departments to rowdock_api using (true)")
    with closing(alterable.connect("api")) as connection:
        assert sqlstate(connection, statement) == "42501"
    alterable.query(f"alter table hired_employees.{hidden} no force row level security")
    assert alterable.query(ORPHANS) == [(0,)]


def test_the_guard_goes_on_when_row_security_is_not_forced(alterable: Any) -> None:
    alterable.query("alter table hired_employees.departments enable row level security")
    with closing(alterable.connect("api")) as connection:
        assert sqlstate(connection, f"set search_path = {GUARDED}; {MISSING_DEPARTMENT}") == "23503"
        connection.rollback()
        assert sqlstate(connection, f"set search_path = {GUARDED}; {MISSING_DEPARTMENT.replace('99', '3')}") == DONE
