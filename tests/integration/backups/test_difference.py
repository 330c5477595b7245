"""The difference between a live table and what was loaded for it, found and brought in, as the restoring role."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest

from shared.backups import references
from shared.backups.apply import apply, raise_sequence
from shared.backups.difference import Counts, Difference, find
from tests.integration.backups.relations import content, difference, execute, load, loaded

PARENTS = """
insert into hired_employees.departments values (1, 'Sales'), (2, 'Support'), (3, 'Legal');
insert into hired_employees.jobs values (1, 'Seller'), (2, 'Engineer');
insert into hired_employees.hired_employees values
  (1, 'Ann', '2021-01-02T03:04:05Z', 1, 1), (2, 'Bob', '2021-05-02Z', 2, 2), (3, 'Cy', '2021-08-02Z', 3, 2);
"""
UNIQUE = """
create table hired_employees.badges (
  id integer generated always as identity primary key,
  code text collate "C" not null unique,
  number serial,
  price numeric,
  note json,
  twice integer generated always as (id * 2) stored
);
insert into hired_employees.badges (code, price, note) values ('a', 1.0, '{}'), ('b', 2, '[]'), ('c', 3, null);
create table hired_employees.doors (
  name text primary key,
  badge_id integer references hired_employees.badges on delete cascade,
  behind text references hired_employees.doors
);
insert into hired_employees.doors values ('front', 1, null), ('back', 2, 'front'), ('side', 3, 'back');
grant select, insert, update, delete on hired_employees.badges, hired_employees.doors to rowdock_restore;
grant usage, select, update on all sequences in schema hired_employees to rowdock_restore;
"""
BADGES = {"id": "integer", "code": "text", "number": "integer", "price": "numeric", "note": "json"}
DOORS = {"name": "text", "badge_id": "integer", "behind": "text"}


@pytest.fixture
def conn(database: Any) -> Iterator[Any]:
    """In a transaction of the restore function's role, over tables with rows."""
    database.query(PARENTS)
    database.query(UNIQUE)
    conn = database.connect("restore")
    yield conn
    conn.close()


def badges(number: int = 0, **options: Any) -> Difference:
    return difference("badges", number, columns=BADGES, **options)


def doors(number: int = 1, **options: Any) -> Difference:
    return difference("doors", number, columns=DOORS, key=("name",), **options)


def load_badges(conn: Any, *rows: str) -> Difference:
    """The relation has the columns that a backup has: none that is generated."""
    found = badges()
    execute(
        conn,
        f"create temporary table loaded_0 on commit drop as select {', '.join(BADGES)} from hired_employees.badges",
    )
    if rows:
        execute(conn, "truncate pg_temp.loaded_0")
        execute(conn, f"insert into pg_temp.loaded_0 values {', '.join(f'({row})' for row in rows)}")
    return found


@pytest.mark.parametrize("table", ["departments", "jobs", "hired_employees"])
def test_what_was_removed_changed_and_added_since_is_undone(conn: Any, table: str) -> None:
    """Each table of the dictionary, damaged in three ways, becomes what was loaded; a second look finds nothing."""
    employees = difference("hired_employees")
    found = difference(table, 1)
    if table != "hired_employees":
        execute(conn, "delete from hired_employees.hired_employees")
    load(conn, found)
    text = "employee_name" if found.name == employees.name else found.columns[1].name
    execute(conn, f"delete from hired_employees.{table} where id = 1")
    execute(conn, f"update hired_employees.{table} set {text} = 'Damaged' where id = 2")
    execute(
        conn,
        f"insert into hired_employees.{table} select 9, {', '.join(c.name for c in found.columns[1:])}"
        f" from hired_employees.{table} where id = 2",
    )
    assert find(conn, found) == Counts(insert=1, update=1, delete=1)
    assert apply(conn, [found]) == [Counts(insert=1, update=1, delete=1)]
    assert content(conn, found) == loaded(conn, found)
    execute(conn, "drop table pg_temp.difference_1")
    assert find(conn, found) == Counts()


def test_roll_ups_follow(conn: Any) -> None:
    """The triggers count what a restore removes, moves to another cell and adds."""
    found = difference("hired_employees")
    load(conn, found)
    execute(
        conn,
        "delete from hired_employees.hired_employees where id = 1;"
        "update hired_employees.hired_employees set department_id = 1, hired_date = '1999-01-01Z' where id = 2",
    )
    find(conn, found)
    apply(conn, [found])
    conn.commit()
    cells = "select year, quarter, department_id, job_id, hired from metrics.{} order by 1, 2, 3, 4"
    assert execute(conn, cells.format("hires_by_quarter")) == execute(conn, cells.format("hires_recounted"))


def test_merge_leaves_rows_that_the_backup_lacks(conn: Any) -> None:
    """What came since stays; what is gone comes back; what changed is as it was."""
    found = difference("jobs", mode="merge")
    load(conn, found, "2, 'Welder'", "7, 'Planner'")
    assert find(conn, found) == Counts(insert=1, update=1)
    assert apply(conn, [found]) == [Counts(insert=1, update=1)]
    assert content(conn, found) == [("(1,Seller)",), ("(2,Welder)",), ("(7,Planner)",)]


def test_add_changes_no_row_that_is_there(conn: Any) -> None:
    """For keys of the API and the like: what was revoked since stays revoked."""
    found = difference("jobs", mode="add")
    load(conn, found, "2, 'Welder'", "7, 'Planner'")
    assert find(conn, found) == Counts(insert=1)
    apply(conn, [found])
    assert content(conn, found) == [("(1,Seller)",), ("(2,Engineer)",), ("(7,Planner)",)]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)], ids=["parents first", "children first"])
def test_tables_that_reference_each_other_come_back_together_in_any_order(conn: Any, order: tuple[int, ...]) -> None:
    """A child moves from a parent that leaves to one that comes, one leaves with its parent, one comes with its own."""
    differences = [difference(name, n) for n, name in enumerate(("departments", "jobs", "hired_employees"))]
    load(conn, differences[0], "1, 'Sales'", "8, 'Research'")
    load(conn, differences[1], "2, 'Engineer'", "5, 'Planner'")
    load(conn, differences[2], "1, 'Ann', '2021-01-02Z', 8, 5", "4, 'Dee', '2022-01-01Z', 8, 2")
    for found in differences:
        find(conn, found)
    apply(conn, [differences[place] for place in order])
    conn.commit()
    load(conn, differences[2])
    assert [row[0].split(",", 2)[0] for row in content(conn, differences[2])] == ["(1", "(4"]
    assert len(content(conn, differences[0])) == len(content(conn, differences[1])) == 2


def test_a_key_that_would_not_hold_undoes_all_of_it(conn: Any) -> None:
    """Whatever was looked at before: the guard has the last word."""
    found = difference("departments")
    load(conn, found, "1, 'Renamed'")
    find(conn, found)
    with pytest.raises(psycopg2.errors.ForeignKeyViolation, match="hired_employees_department_id_fkey"):
        apply(conn, [found])
    conn.rollback()
    assert len(content(conn, found)) == 3


def test_values_are_compared_byte_by_byte(conn: Any) -> None:
    """1.0 is not 1.00, and json, which has no equality, is compared all the same."""
    found = load_badges(conn, "1, 'a', 1, 1.00, '{}'", "2, 'b', 2, 2, '[ ]'", "3, 'c', 3, 3, null")
    assert find(conn, found) == Counts(update=2)


def test_generated_columns_are_left_to_the_table(conn: Any) -> None:
    """A row of an identity that is always generated comes back with its own; what follows from it is computed."""
    found = load_badges(conn)
    execute(conn, "delete from hired_employees.doors; delete from hired_employees.badges where id = 2")
    find(conn, found)
    apply(conn, [found])
    assert execute(conn, "select id, number, twice from hired_employees.badges where code = 'b'") == [(2, 2, 4)]


def test_a_unique_value_passes_from_a_row_that_leaves_to_one_that_comes(conn: Any) -> None:
    found = load_badges(conn, "1, 'a', 1, 1.0, '{}'", "2, 'b', 2, 2, '[]'", "7, 'c', 3, 3, null")
    execute(conn, "delete from hired_employees.doors")
    find(conn, found)
    assert apply(conn, [found]) == [Counts(insert=1, delete=1)]
    assert execute(conn, "select id from hired_employees.badges where code = 'c'") == [(7,)]


def test_rows_that_changed_places_in_a_unique_column_change_back(conn: Any) -> None:
    """Rewritten in one statement; updated one after the other they would meet."""
    execute(conn, "delete from hired_employees.doors")
    load_badges(conn, "1, 'b', 1, 1.0, '{}'", "2, 'a', 2, 2, '[]'", "3, 'c', 3, 3, null")
    found = badges(rewrite=True)
    find(conn, found)
    assert apply(conn, [found]) == [Counts(insert=2, delete=2)]
    assert execute(conn, "select code from hired_employees.badges order by id") == [("b",), ("a",), ("c",)]


def test_nothing_cascades_when_parent_and_child_are_restored_together(conn: Any) -> None:
    """A child that points elsewhere afterwards is not removed with the parent that it had."""
    load_badges(conn, "2, 'b', 2, 2, '[]'")
    behind = doors()
    load(conn, behind, "'front', 2, null", "'back', 2, 'front'", "'side', null, 'new'", "'new', 2, 'side'")
    for found in (badges(), behind):
        find(conn, found)
    apply(conn, [badges(), behind])
    conn.commit()
    assert content(conn, behind) == [("(back,2,front)",), ("(front,2,)",), ("(new,2,side)",), ("(side,,new)",)]


def test_sequences_rise_and_never_fall(conn: Any) -> None:
    """The next number is beyond the backup's and beyond the live one's, whichever is greater."""
    from psycopg2 import sql

    sequence = sql.Identifier("hired_employees", "jobs_id_seq")
    assert raise_sequence(conn, sequence, 1_000_000_004, True)
    assert not raise_sequence(conn, sequence, 1_000_000_001, True)
    assert not raise_sequence(conn, sequence, 1_000_000_004, True)
    assert raise_sequence(conn, sequence, 1_000_000_009, False)
    assert execute(conn, "insert into hired_employees.jobs (job) values ('x') returning id") == [(1_000_000_009,)]


def orphans(conn: Any, *differences: Difference) -> dict[str, int]:
    by_table = {(found.schema, found.name): found for found in differences}
    found = {r.name: references.rows_without_parent(conn, r, by_table) for r in references.read(conn, list(by_table))}
    return {name: count for name, count in found.items() if count}


def test_children_of_a_parent_that_would_leave_are_counted(conn: Any) -> None:
    """By key, guarded or native; not those that leave or move as well."""
    departments, employees = difference("departments", 2), difference("hired_employees", 3)
    load(conn, departments, "1, 'Sales'")
    find(conn, departments)
    assert orphans(conn, departments) == {"hired_employees_department_id_fkey": 2}
    load(conn, employees, "1, 'Ann', '2021-01-02T03:04:05Z', 1, 1", "2, 'Bob', '2021-05-02Z', 1, 2")
    find(conn, employees)
    assert orphans(conn, departments, employees) == {}
    load_badges(conn, "2, 'b', 2, 2, '[]'")
    find(conn, badges())
    assert orphans(conn, badges()) == {"doors_badge_id_fkey": 2}


def test_rows_whose_parent_is_no_longer_there_are_counted(conn: Any) -> None:
    """Not those whose parent comes back with them."""
    employees, departments = difference("hired_employees", 2), difference("departments", 3)
    load(conn, employees, "1, 'Ann', '2021-01-02Z', 7, 1", "5, 'Eve', '2021-01-02Z', 7, 9")
    find(conn, employees)
    assert orphans(conn, employees) == {"hired_employees_department_id_fkey": 2, "hired_employees_job_id_fkey": 1}
    load(conn, departments, "7, 'Research'")
    find(conn, departments)
    assert orphans(conn, employees, departments) == {"hired_employees_job_id_fkey": 1}


def test_a_self_reference_is_judged_by_what_will_be_there(conn: Any) -> None:
    """A row may need one that comes with it; one that leaves is needed by none that does."""
    found = doors()
    load(conn, found, "'front', 1, null", "'attic', null, 'cellar'", "'cellar', null, 'attic'", "'shed', null, 'moon'")
    find(conn, found)
    assert orphans(conn, found) == {"doors_behind_fkey": 1}


def test_keys_that_would_reach_into_a_child_are_told(conn: Any) -> None:
    """ON DELETE CASCADE of a native key; a guard only refuses."""
    told = {
        r.name: r.on_delete for r in references.read(conn, [("hired_employees", "badges"), ("hired_employees", "jobs")])
    }
    assert told == {"doors_badge_id_fkey": "CASCADE", "hired_employees_job_id_fkey": "NO ACTION"}
