"""The columns of a backup beside the live ones: what fits, what fits by rule, what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared.backups.compare import Comparison, compare, is_wider
from shared.backups.manifest import Column

ID = Column("id", "integer", not_null=True, default=None, identity="d", generated=False, avro_name="id")
JOB = Column("job", "text", not_null=True, default=None, identity="", generated=False, avro_name="job")


def compared(backup: list[Column], live: list[Column], **aliases: tuple[str, ...]) -> Comparison:
    return compare(backup, live, ["id"], ["id"], aliases)


def test_the_same_columns_are_identical_in_any_order() -> None:
    """Matched in the order of the live table; what is generated is nobody's to restore."""
    twice = replace(JOB, name="twice", default="(id * 2)", generated=True)
    found = compared([JOB, ID, twice], [ID, JOB, twice])
    assert found.is_identical
    assert [(column.name, column.cast) for column in found.matched] == [("id", False), ("job", False)]


ADDED = [
    (replace(JOB, name="level", not_null=False), "rows that come get null, others keep theirs"),
    (replace(JOB, name="level", default="'x'::text"), "rows that come get its default, others keep theirs"),
    (replace(ID, name="level"), "rows that come get its default, others keep theirs"),
]


@pytest.mark.parametrize(("column", "what"), ADDED, ids=["nullable", "with default", "identity"])
def test_a_column_that_came_since_is_no_obstacle_if_it_can_fill_itself(column: Column, what: str) -> None:
    found = compared([ID, JOB], [ID, JOB, column])
    assert (found.notes, found.refusals) == ((f"level: the backup has no such column; {what}",), ())


def test_a_column_that_came_since_and_needs_a_value_is_refused() -> None:
    found = compared([ID, JOB], [ID, JOB, replace(JOB, name="level")])
    assert found.refusals == (
        "level: the backup has no such column, and the table allows neither null nor has a default for it",
    )


def test_a_column_that_went_is_said_to_stay_away() -> None:
    found = compared([ID, JOB], [ID])
    assert found.notes == ("job: is no longer a column of the table; what the backup has of it stays away",)
    assert not found.is_identical


def test_a_column_that_was_renamed_is_found_by_an_alias() -> None:
    """Unless the table has a column of that name again, or two aliases could be meant."""
    title = replace(JOB, name="title")
    found = compared([ID, JOB], [ID, title], title=("job", "post"))
    assert [(column.name, column.loaded) for column in found.matched] == [("id", "id"), ("title", "job")]
    assert found.notes == ("job: is called title now",)
    assert compared([ID, JOB], [ID, JOB, title], title=("job",)).refusals
    assert compared([ID, JOB, replace(JOB, name="post")], [ID, title], title=("job", "post")).refusals


def test_a_wider_type_is_cast_and_a_narrower_one_refused() -> None:
    wide = replace(ID, type="bigint")
    assert [(column.sql_type, column.cast) for column in compared([ID], [wide]).matched] == [("bigint", True)]
    assert compared([ID], [wide]).notes == ("id: was integer and is bigint, which holds every value",)
    assert compared([wide], [ID]).refusals == ("id: was bigint and is integer, which cannot hold every value",)


def test_a_column_that_must_be_filled_now_is_to_be_looked_at() -> None:
    """Whether it fits depends on the rows."""
    found = compared([ID, replace(JOB, not_null=False)], [ID, JOB])
    assert (found.must_be_filled, found.refusals) == ((("job", "job"),), ())
    assert found.notes == ("job: could be null and cannot now",)


@pytest.mark.parametrize(("backup", "live"), [(["id"], ["job"]), (["id"], []), (["id", "job"], ["id"])])
def test_another_primary_key_is_refused(backup: list[str], live: list[str]) -> None:
    """Rows are told from each other by it."""
    assert len(compare([ID, JOB], [ID, JOB], backup, live, {}).refusals) == 1


WIDER = [
    ("integer", "bigint"),
    ("numeric(5,2)", "numeric(10,2)"),
    ("character varying(5)", "character varying(10)"),
    ("character varying(5)", "character varying"),
    ("character varying(5)", "text"),
    ("character varying", "text"),
]
NOT_WIDER = [
    ("numeric(5,2)", "numeric(10,3)"),
    ("numeric", "numeric(10,2)"),
    ("bigint", "double precision"),
    ("text", "character varying"),
    ("character varying", "character varying(10)"),
    ("text", "bytea"),
    ("date", "timestamp with time zone"),
    ("character(5)", "text"),
]


def test_widening_loses_nothing() -> None:
    """What is not known to keep every value is no widening, and the way back never is one."""
    assert all(is_wider(*pair) for pair in WIDER)
    assert not any(is_wider(*pair) for pair in NOT_WIDER)
    assert not any(is_wider(second, first) for first, second in WIDER)
