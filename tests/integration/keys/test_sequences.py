"""Every sequence of one session ends as it ends with native keys: same rows, same outcome of each statement."""

from __future__ import annotations

import random
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest

from tests.integration.keys import twins
from tests.integration.keys.sessions import Copy, Step
from tests.integration.keys.twins import GUARDED, NATIVE, SCHEMAS


@dataclass(frozen=True)
class Case:
    """Steps of one session and the SQLSTATEs that they end in; ``prelude`` is run by the owner before."""

    name: str
    steps: tuple[Step, ...]
    errors: tuple[str, ...] = ()
    roles: tuple[str, ...] = ("owner", "api")
    prelude: tuple[Step, ...] = ()


def employee(number: int, department: object, job: object = 1) -> str:
    return f"({number}, 'Eve', '2021-11-12T13:14:15Z', {department}, {job})"


def insert(*employees: str) -> str:
    return f"insert into hired_employees values {', '.join(employees)}"


def upsert(row: str, do: str) -> str:
    return f"{insert(row)} on conflict (id) do {do}"


def merge(rows: str, *when: str) -> str:
    return f"merge into hired_employees e using (values {rows}) v (id, department_id) on e.id = v.id {' '.join(when)}"


def case(name: str, *steps: Step, fails: str = "", **more: Any) -> Case:
    return Case(name, steps, tuple(fails.split()), **more)


OWNER = {"roles": ("owner",)}
MISSING = 99
MOVE = "when matched then update set department_id = v.department_id"
HIRE = "when not matched then insert values (v.id, 'Mo', '2021-11-12T13:14:15Z', v.department_id, 1)"
FOUND = "insert into departments values (4, 'New')"
COPY_EMPLOYEES = "{s}.hired_employees"

INSERTS = [
    case("a child with its parents", insert(employee(20, 3))),
    case("a child without department", insert(employee(20, MISSING)), fails="23503"),
    case("a child without job", insert(employee(20, 3, MISSING)), fails="23503"),
    case("a child without either", insert(employee(20, MISSING, MISSING)), fails="23503"),
    case("one of many without parent", insert(employee(20, 1), employee(21, MISSING), employee(22, 3)), fails="23503"),
    case("no rows of a missing parent", f"insert into hired_employees select 1, 'x', now(), {MISSING}, 1 where false"),
    case("a null key where none may be", insert(employee(20, "null")), fails="23502"),
    case("a taken id and a missing parent", insert(employee(10, MISSING)), fails="23505"),
    case("a child before its parent", "begin", insert(employee(20, 4)), FOUND, "commit", fails="23503 25P02"),
    case("a parent before its child", "begin", FOUND, insert(employee(20, 4)), "commit"),
    case("returning", insert(employee(20, 3)) + " returning id, department_id"),
    case("a view that writes through", "insert into staffing values (20, 'V', 'epoch', 3, 1)",
         f"insert into staffing values (21, 'V', 'epoch', {MISSING}, 1)", fails="23503", **OWNER,
         prelude=("create view {s}.staffing as select * from {s}.hired_employees",)),
]  # fmt: skip
UPSERTS = [
    case("upsert that inserts", upsert(employee(20, 3), "nothing")),
    case("upsert that inserts without parent", upsert(employee(20, MISSING), "nothing"), fails="23503"),
    case("upsert that moves", upsert(employee(10, 3), "update set department_id = excluded.department_id"),
         "delete from departments where id = 3", fails="23503"),
    case("upsert that moves to no parent",
         upsert(employee(10, MISSING), "update set department_id = excluded.department_id"), fails="23503"),
    case("upsert that does nothing with a missing key", upsert(employee(10, MISSING), "nothing")),
    case("upsert that keeps the key", upsert(employee(10, MISSING), "update set employee_name = 'Zoe'")),
    case("upsert of both kinds", insert(employee(10, 3), employee(20, 2))
         + " on conflict (id) do update set department_id = excluded.department_id"),
    case("upsert of both kinds, one without parent", insert(employee(10, MISSING), employee(20, 2))
         + " on conflict (id) do update set department_id = excluded.department_id", fails="23503"),
    case("upsert of a parent with children", "insert into departments values (1, 'Research'), (5, 'Five')"
         " on conflict (id) do update set departments = excluded.departments", insert(employee(20, 5))),
    case("upsert that renumbers a parent with children",
         "insert into departments values (1, 'x') on conflict (id) do update set id = 77", fails="23503"),
]  # fmt: skip
MERGES = [
    case("merge that moves and hires", merge("(10, 3), (20, 2)", MOVE, HIRE)),
    case("merge that hires without parent", merge(f"(10, 3), (20, {MISSING})", MOVE, HIRE), fails="23503"),
    case("merge that moves to no parent", merge(f"(10, {MISSING}), (20, 3)", MOVE, HIRE), fails="23503"),
    case("merge that deletes children", merge("(10, 0), (11, 0)", "when matched then delete"),
         "delete from departments where id = 1"),
    case("merge of all three actions", merge("(10, 3), (20, 2)", MOVE, HIRE, "when not matched by source then delete")),
    case("merge that deletes a parent in use", "merge into departments d using (values (1), (3)) v (id) on d.id = v.id"
         " when matched then delete", fails="23503"),
    case("merge that deletes a free parent", "merge into departments d using (values (3)) v (id) on d.id = v.id"
         " when matched then delete", insert(employee(20, 3)), fails="23503"),
    case("merge that renumbers a parent in use", "merge into departments d using (values (2)) v (id) on d.id = v.id"
         " when matched then update set id = 22", fails="23503"),
]  # fmt: skip
COPIES = [
    case("copy", Copy(COPY_EMPLOYEES, "20,Eve,2021-11-12T13:14:15Z,3,1\n21,Eli,2021-11-12T13:14:15Z,1,2\n")),
    case("copy with one row without parent",
         Copy(COPY_EMPLOYEES, f"20,Eve,2021-11-12T13:14:15Z,3,1\n21,Eli,2021-11-12T13:14:15Z,1,{MISSING}\n"),
         fails="23503"),
    case("copy of nothing", Copy(COPY_EMPLOYEES, "")),
    case("copy of parents, then of children", "begin", Copy("{s}.departments", "7,Seven\n"),
         Copy(COPY_EMPLOYEES, "20,Eve,2021-11-12T13:14:15Z,7,1\n"), "commit"),
    case("copy of children, then of parents", "begin", Copy(COPY_EMPLOYEES, "20,Eve,2021-11-12T13:14:15Z,7,1\n"),
         Copy("{s}.departments", "7,Seven\n"), "rollback", fails="23503 25P02"),
]  # fmt: skip
ONE_STATEMENT = [
    case("parent and child", f"with p as (insert into departments values (4, 'New')) {insert(employee(20, 4))}"),
    case("child in the with, parent in the body", f"with c as ({insert(employee(20, 4))}) {FOUND}"),
    case("parent and a child of another", f"with p as ({FOUND}) {insert(employee(20, MISSING))}", fails="23503"),
    case("children and parent leave", "with c as (delete from hired_employees where department_id = 1)"
         " delete from departments where id = 1"),
    case("some children and parent leave", "with c as (delete from hired_employees where id = 10)"
         " delete from departments where id = 1", fails="23503"),
    case("children move and parent leaves", "with c as (update hired_employees set department_id = 3"
         " where department_id = 1) delete from departments where id = 1"),
    case("parent leaves and comes again", "with d as (delete from departments where id = 1 returning *)"
         " insert into departments select id, 'Again' from d"),
    case("parent leaves and a child comes",
         f"with d as (delete from departments where id = 3) {insert(employee(20, 3))}",
         fails="23503"),
    case("parent and children renumber", "with p as (update departments set id = 101 where id = 1)"
         " update hired_employees set department_id = 101 where department_id = 1"),
    case("parent and some children renumber", "with p as (update departments set id = 101 where id = 1)"
         " update hired_employees set department_id = 101 where id = 10", fails="23503"),
    case("parent renumbers, another takes its key",
         "update departments set id = case id when 1 then 100 else 1 end where id in (1, 3)"),
    case("children of two tables", f"with c as ({insert(employee(20, 3))}), s as (insert into staff values (4, 3))"
         " delete from jobs where id = 2", fails="23503"),
]  # fmt: skip
TRANSACTIONS = [
    case("delete and insert again", "begin", "delete from hired_employees where department_id = 1",
         "delete from departments where id = 1", "insert into departments values (1, 'Again')",
         insert(employee(10, 1)), "commit"),
    case("parent leaves first", "begin", "delete from departments where id = 1",
         "delete from hired_employees where department_id = 1", "commit", fails="23503 25P02"),
    case("child comes and goes, then the parent", "begin", insert(employee(20, 3)),
         "delete from hired_employees where id = 20", "delete from departments where id = 3", "commit"),
    case("child comes, the parent goes", "begin", insert(employee(20, 3)), "delete from departments where id = 3",
         "commit", fails="23503"),
    case("parent comes and goes", "begin", FOUND, "delete from departments where id = 4", insert(employee(20, 4)),
         "commit", fails="23503"),
    case("rolled back", "begin", FOUND, insert(employee(20, 4)), "rollback", insert(employee(20, 4)), fails="23503"),
    case("constraints deferred, which none may be", "begin", "set constraints all deferred", insert(employee(20, 4)),
         FOUND, "commit", fails="23503 25P02"),
    case("a loop with handled errors", """do $$ begin
           for i in 1..6 loop
             begin insert into hired_employees values (30 + i, 'Lo', '2021-11-12T13:14:15Z', i, 1);
             exception when foreign_key_violation then null; end;
           end loop; end $$"""),
    case("a prepared statement, often", "prepare hire as insert into hired_employees values ($1, 'P', 'epoch', $2, 1)",
         *(f"execute hire({40 + i}, {i % 4 + 1})" for i in range(12)),
         "update hired_employees set hired_date = '2000-01-01Z'",
         fails="23503 23503 23503"),
    case("a cursor's row", "begin",
         "declare c cursor for select * from departments where id in (1, 3) order by id desc for update",
         "fetch c", "delete from departments where current of c", "fetch c",
         "delete from departments where current of c", "commit", fails="23503"),
    case("read only", "begin read only", insert(employee(20, 3)), "rollback", fails="25006"),
]  # fmt: skip
UPDATES = [
    case("a parent in use renumbers", "update departments set id = 101 where id = 1", fails="23503"),
    case("a free parent renumbers", "update departments set id = 103 where id = 3", insert(employee(20, 103))),
    case("a free parent renumbers and is asked for", "update departments set id = 103 where id = 3",
         insert(employee(20, 3)), fails="23503"),
    case("all parents renumber", "update departments set id = id + 100", fails="23503"),
    # Each statement breaks the primary key or not as the rows lie, and then the foreign key: native keys say the same.
    case("all parents move up by one, where they lie in order and where not", "update departments set id = id + 1",
         "insert into departments values (9, 'x'), (8, 'x')", insert(employee(20, 8)),
         "update departments set id = id + 1 where id >= 8", fails="23505 23503"),
    case("a parent keeps its number", "update departments set id = id"),
    case("a parent is renamed", "update departments set departments = upper(departments)"),
    case("a child renumbers itself", "update hired_employees set id = id + 100"),
    case("a child moves", "update hired_employees set department_id = 3 where id = 10"),
    case("a child moves to no parent", f"update hired_employees set department_id = {MISSING} where id = 10",
         fails="23503"),
    case("children move to many", "update hired_employees set department_id = id - 9",
         "delete from departments where id = 1",
         fails="23503"),
    case("children move to many, one to none", "update hired_employees set department_id = id - 8", fails="23503"),
    case("children move away and the parent leaves",
         "update hired_employees set department_id = 3 where department_id = 1",
         "delete from departments where id = 1"),
    case("update of no row", f"update hired_employees set department_id = {MISSING} where false"),
    case("update from another table", "update hired_employees e set job_id = d.id from departments d"
         " where d.id = e.department_id", "delete from jobs where id = 2", fails="23503"),
    case("many parents leave, one in use", "delete from departments where id >= 2", fails="23503"),
    case("free parents leave", "delete from departments d where not exists"
         " (select from hired_employees e where e.department_id = d.id)"),
    case("delete using", "delete from departments d using hired_employees e where e.department_id = d.id",
         fails="23503"),
    case("no parent leaves", "delete from departments where id = 1000"),
]  # fmt: skip
SAVEPOINTS = [
    case("a bad child rolled back", "begin", "savepoint a", insert(employee(20, MISSING)), "rollback to a",
         insert(employee(20, 3)), "commit", fails="23503"),
    case("a parent's leaving rolled back", "begin", "savepoint a", "delete from departments where id = 3",
         "rollback to a",
         insert(employee(20, 3)), "commit"),
    case("a parent's coming rolled back", "begin", "savepoint a", FOUND, "rollback to a", insert(employee(20, 4)),
         "commit",
         fails="23503"),
    case("a child's coming rolled back", "begin", "savepoint a", insert(employee(20, 3)), "rollback to a",
         "delete from departments where id = 3", "commit"),
    case("a child's leaving rolled back", "begin", "savepoint a", "delete from hired_employees where department_id = 2",
         "rollback to a", "delete from departments where id = 2", "commit", fails="23503"),
    case("nested and released", "begin", "savepoint a", FOUND, "savepoint b", insert(employee(20, 4)), "release b",
         "release a", "delete from departments where id = 4", "commit", fails="23503"),
]  # fmt: skip
HIDDEN = [
    case("row security hides parents", insert(employee(20, 3)), insert(employee(21, MISSING)), fails="23503",
         roles=("ingest", "api"), prelude=("alter table {s}.departments enable row level security",)),
    case("row security hides children", "delete from departments where id = 1", "delete from departments where id = 3",
         fails="23503", roles=("api",), prelude=("alter table {s}.hired_employees enable row level security",)),
    case("no right to read the parents", insert(employee(20, 3)), insert(employee(21, MISSING)), fails="23503",
         roles=("api",), prelude=("revoke all on {s}.departments from rowdock_api",)),
    case("a temporary table named as the parent", "create temporary table departments (id integer primary key)",
         f"insert into departments values ({MISSING})",
         "insert into {s}.hired_employees values (20, 'x', now(), 99, 1)", fails="23503"),
    case("a temporary table named as the child", "create temporary table hired_employees (department_id integer)",
         "delete from departments where id = 1", fails="23503"),
    case("temporary tables named as what the triggers read", *(
            f"create temporary table {name} (id integer, department_id integer, job_id integer, hired_date timestamptz)"
            for name in ("added", "removed", "seen", "appended", "guard", "missing", "held")),
         insert(employee(20, MISSING)), insert(employee(21, 3)), "delete from departments where id = 3",
         "update departments set id = 9 where id = 1", fails="23503 23503 23503"),
    case("operators and functions of a schema that comes first", "set search_path = evil_{s}, {s}, pg_catalog",
         insert(employee(20, MISSING)), "delete from {s}.departments where id > 0", fails="23503 23503",
         prelude=("create schema evil_{s}", "grant usage on schema evil_{s} to public",
                  "create function evil_{s}.yes(integer, integer) returns boolean language sql immutable return true",
                  "create operator evil_{s}.= (leftarg = integer, rightarg = integer, function = evil_{s}.yes)",
                  "create function evil_{s}.cardinality(integer[]) returns integer language sql immutable return 0")),
    case("an empty search path", "set search_path = ''",
         "insert into {s}.hired_employees values (20, 'x', now(), 99, 1)",
         "delete from {s}.departments", fails="23503 23503"),
]  # fmt: skip
BEFORE = """create function {s}.meddle() returns trigger language plpgsql as $$ begin %s end $$;
    create trigger meddle before %s for each row execute function {s}.meddle()"""
TRIGGERS = [
    case("a trigger that drops the row", insert(employee(20, MISSING)), **OWNER,
         prelude=(BEFORE % ("return null;", "insert on {s}.hired_employees"),)),
    case("a trigger that takes the parent away", insert(employee(20, 3)), **OWNER, fails="23503",
         prelude=(BEFORE % ("new.department_id := 99; return new;", "insert on {s}.hired_employees"),)),
    case("a trigger that brings the parent", insert(employee(20, MISSING)), **OWNER,
         prelude=(BEFORE % ("insert into {s}.departments values (new.department_id, 'made'); return new;",
                            "insert on {s}.hired_employees"),)),
    case("a trigger that removes the children first", "delete from departments where id = 1", **OWNER,
         prelude=(BEFORE % ("delete from {s}.hired_employees where department_id = old.id; return old;",
                            "delete on {s}.departments"),)),
]  # fmt: skip
TRUNCATES = [
    case("a parent", "truncate departments", fails="0A000", **OWNER),
    case("the child", "truncate hired_employees", "delete from departments", **OWNER),
    case("both", "truncate departments, hired_employees", insert(employee(20, 1)), fails="23503", **OWNER),
    case("a parent, cascading", "truncate departments cascade", **OWNER),
    case("the child, rolled back", "begin", "truncate hired_employees", "rollback",
         "delete from departments where id = 1",
         fails="23503", **OWNER),
    case("both and new rows in one transaction", "begin", "truncate departments, jobs, hired_employees",
         "insert into departments values (1, 'x')", "insert into jobs values (1, 'x')", insert(employee(1, 1)),
         "commit",
         **OWNER),
    case("a parent whose children are gone", "delete from hired_employees", "truncate departments", fails="0A000",
         **OWNER),
]  # fmt: skip
SELF = [
    case("a tree in one statement, leaves first", "insert into staff values (6, 5), (5, 4), (4, null)"),
    case("one's own boss", "insert into staff values (4, 4)", "delete from staff where id = 4"),
    case("a boss who is not there", "insert into staff values (4, 99)", fails="23503"),
    case("a leaf leaves", "delete from staff where id = 3"),
    case("the middle leaves", "delete from staff where id = 2", fails="23503"),
    case("all leave at once", "delete from staff"),
    case("all renumber at once", "update staff set id = id + 10, boss = boss + 10"),
    case("ids renumber alone", "update staff set id = id + 10", fails="23503"),
    case("a circle", "update staff set boss = 3 where id = 1", "delete from staff where id = 1", "delete from staff",
         fails="23503"),
    case("no boss, then leave", "update staff set boss = null", "delete from staff where id = 1"),
    case("truncate", "truncate staff", "insert into staff values (2, 1)", fails="23503", **OWNER),
    case("leave and come again",
         "with d as (delete from staff where id = 1 returning *) insert into staff select * from d"),
    case("copy", Copy("{s}.staff", "5,4\n4,1\n"), Copy("{s}.staff", "7,99\n"), fails="23503"),
]  # fmt: skip
GROUPS = {
    "insert": INSERTS, "upsert": UPSERTS, "merge": MERGES, "copy": COPIES, "one statement": ONE_STATEMENT,
    "transaction": TRANSACTIONS, "update": UPDATES, "savepoint": SAVEPOINTS, "hidden": HIDDEN, "trigger": TRIGGERS,
    "truncate": TRUNCATES, "self": SELF,
}  # fmt: skip

KEY_TYPES = [
    ("integer", "integer", "1 2 3 4"),
    ("bigint", "bigint", "1 9000000000000000000 -5 4"),
    ("bigint", "integer", "1 2 3 4"),
    ("integer", "bigint", "1 2 3 9000000000000000000"),
    ("text", "text", "a A ä ''"),
    ("text", "varchar(20)", "a A ä b"),
    ("varchar(20)", "text", "a A ä b"),
    ("uuid", "uuid", " ".join(f"00000000-0000-0000-0000-00000000000{i}" for i in range(4))),
    ("numeric(10,2)", "numeric(10,2)", "1 1.50 -2.25 4"),
    ("numeric", "numeric", "1.0 1.50 NaN 4"),
    ("date", "date", "2021-01-01 -infinity 1999-12-31 2000-01-01"),
    ("timestamptz", "timestamptz", "2021-01-01T00:00:00Z 2021-01-01T00:00:00.000001Z infinity epoch"),
    ("boolean", "boolean", "true false true false"),
]  # fmt: skip


def assert_twins_agree(database: Any, steps: tuple[Step, ...], role: str = "owner") -> list[str]:
    """Run ``steps`` on both sides; returns the SQLSTATEs of those that failed."""
    guarded, native = (twins.run(database, schema, steps, role) for schema in SCHEMAS)
    assert guarded == native
    with closing(database.connect("superuser")) as connection:
        assert twins.rows(connection, GUARDED) == twins.rows(connection, NATIVE)
        assert twins.orphans(connection, GUARDED) == 0
    return twins.errors(guarded)


def trials(*, with_prelude: bool) -> Any:
    found = [
        pytest.param(c, role, id=f"{group}: {c.name} ({role})")
        for group, cases in GROUPS.items()
        for c in cases
        for role in c.roles
        if bool(c.prelude) == with_prelude
    ]
    return pytest.mark.parametrize(("trial", "role"), found)


@trials(with_prelude=False)
def test_a_sequence_ends_as_with_native_keys(module_twins: Any, trial: Case, role: str) -> None:
    """Same rows afterwards, same rows returned, same SQLSTATE of every statement."""
    twins.reset(module_twins)
    assert assert_twins_agree(module_twins, trial.steps, role) == list(trial.errors)


@trials(with_prelude=True)
def test_a_sequence_on_changed_tables_ends_as_with_native_keys(database: Any, trial: Case, role: str) -> None:
    """Row security, missing rights, triggers and objects of the user's own make no difference."""
    twins.make(database)
    for schema in SCHEMAS:
        assert not twins.errors(twins.run(database, schema, trial.prelude))
    assert assert_twins_agree(database, trial.steps, role) == list(trial.errors)


@pytest.mark.parametrize(("parent_type", "child_type", "values"), KEY_TYPES, ids=[f"{p}-{c}" for p, c, _ in KEY_TYPES])
def test_a_key_of_any_type_ends_as_with_native_keys(
    database: Any, parent_type: str, child_type: str, values: str
) -> None:
    """Nulls are no keys; cross-type keys compare as PostgreSQL compares them."""
    twins.make(database, parent_type=parent_type, child_type=child_type)
    a, b, c, absent = (f"'{value.strip(chr(39))}'" for value in values.split())
    if parent_type == "boolean":
        steps = (f"insert into zones values ({a})", f"insert into places values (1, {a}), (2, null)",
                 f"insert into places values (3, {b})", f"update zones set id = {b}", "delete from zones where id",
                 "delete from places", f"update zones set id = {b}")  # fmt: skip
        assert assert_twins_agree(database, steps) == ["23503"] * 3
        return
    steps = (
        f"insert into zones values ({a}), ({b}), ({c})",
        f"insert into places values (1, {a}), (2, {b}), (3, null), (4, {a})",
        "insert into places values (5, null)",
        f"insert into places values (6, null), (7, {absent})",
        f"update places set zone = {absent} where id = 1",
        f"update places set zone = {absent} where zone is null",
        f"delete from zones where id = {a}",
        f"delete from zones where id = {c}",
        f"insert into places values (8, {c})",
        f"update places set zone = null where zone = {a}",
        f"delete from zones where id = {a}",
        f"update zones set id = {c} where id = {b}",
        "update places set zone = null",
        f"update zones set id = {c} where id = {b}",
        f"update places set zone = {c}",
        "truncate zones",
        "delete from zones",
    )
    assert assert_twins_agree(database, steps) == ["23503"] * 6 + ["0A000", "23503"]


def random_step(rng: random.Random) -> str:
    """A statement over few keys, so that it often meets one in use or one that is missing.

    None whose outcome depends on how rows lie, as of one that breaks two constraints: how they lie depends on when a
    page was pruned, and so on what other sessions do meanwhile, native keys or not (see UPDATES).
    """
    department, other, number = rng.randint(1, 5), rng.randint(1, 5), rng.randint(10, 16)
    return rng.choice(
        [
            insert(employee(number, department, rng.randint(1, 3))) + " on conflict do nothing",
            upsert(employee(number, department), "update set department_id = excluded.department_id"),
            insert(*(employee(20 + i + number, rng.randint(1, 4)) for i in range(3))) + " on conflict do nothing",
            merge(f"({number}, {department}), ({number + 1}, {other})", MOVE, HIRE),
            f"update hired_employees set department_id = {department} where id = {number}",
            f"update hired_employees set department_id = {department} where department_id = {other}",
            f"update hired_employees set employee_name = 'R' where id = {number}",
            f"delete from hired_employees where id = {number}",
            f"delete from hired_employees where department_id = {department}",
            f"insert into departments values ({department}, 'R') on conflict do nothing",
            f"insert into departments values ({department}, 'U') on conflict (id) do update set id = {other}",
            f"delete from departments where id = {department}",
            f"delete from departments where id in ({department}, {other})",
            f"update departments set id = {other} where id = {department}",
            f"update departments set id = id + 100 where id between {department} and 99",
            "update departments set id = id - 100 where id > 100",
            f"with c as (delete from hired_employees where department_id = {department})"
            f" delete from departments where id = {department}",
            f"with p as (insert into departments values ({department}, 'W') on conflict do nothing)"
            f" {insert(employee(number, department))} on conflict do nothing",
            f"with p as (delete from departments where id = {department} returning *)"
            " insert into departments select * from p",
            "begin", "commit", "rollback", "savepoint s", "rollback to s", "release s",
        ]
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(12))
def test_random_sequences_end_as_with_native_keys(module_twins: Any, seed: int) -> None:
    """Sixty random statements of one session, transactions and savepoints among them."""
    twins.reset(module_twins)
    rng = random.Random(seed)
    steps = tuple(random_step(rng) for _ in range(60))
    assert "23503" in assert_twins_agree(module_twins, (*steps, "rollback"))
