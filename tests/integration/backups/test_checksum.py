"""The content's checksum: the same rows give the same sum in any order, and no other rows do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from psycopg2 import sql

from shared.avro.schema import Field
from shared.backups import checksum

# For each type: values of which no two are the same to a restore, although PostgreSQL takes some for equal.
VALUES = {
    "smallint": ["-32768", "0", "1", "32767"],
    "integer": ["-2147483648", "0", "1", "2147483647"],
    "bigint": ["-9223372036854775808", "-1", "0", "9223372036854775807"],
    "boolean": ["true", "false"],
    "text": ["", "a", "A", "a ", " a", "á", "😀", "null"],
    "character varying(9)": ["", "a", "a "],
    "date": ["-infinity", "0001-01-01", "2021-02-03", "infinity"],
    "timestamp with time zone": ["-infinity", "2021-02-03 04:05:06.000001+00", "2021-02-03 04:05:06+00", "infinity"],
    "timestamp without time zone": ["-infinity", "2021-02-03 04:05:06.000001", "2021-02-03 04:05:06", "infinity"],
    "time without time zone": ["00:00:00", "24:00:00", "04:05:06.000001"],
    "uuid": ["00000000-0000-0000-0000-000000000000", "00000000-0000-0000-0000-000000000001"],
    "numeric(10,2)": ["NaN", "-0.01", "0.00", "0.01"],
    "numeric": ["NaN", "Infinity", "0", "0.0", "1.00", "1"],
    "real": ["NaN", "-0", "0", "Infinity", "1e-45"],
    "double precision": ["NaN", "-0", "0", "-Infinity", "5e-324"],
    "bytea": ["", "\\x00", "\\x0000"],
    "jsonb": ["null", "{}", "1", "1.0", "1.00", '"1"'],
    "json": ["{}", "{ }", "null"],
    "interval": ["1 day", "24:00:00", "1 mon", "30 days"],
    "text[]": ["{}", "{NULL}", '{"NULL"}', "{a}", "{{a}}", "[0:0]={a}"],
    "inet": ["10.0.0.1", "10.0.0.1/8"],
}


@pytest.fixture
def cursor(lent_database: Any) -> Iterator[Any]:
    conn = lent_database.connect("restore")
    with conn.cursor() as opened:
        yield opened
    conn.rollback()
    conn.close()


def sum_of(cursor: Any, type_: str, rows: list[tuple[str | None, ...]], nullable: bool = True) -> tuple[int, str]:
    """Rows and checksum of a temporary table of columns of that type that holds ``rows``."""
    names = [f"c{number}" for number in range(len(rows[0]))] if rows else ["c0"]
    cursor.execute("drop table if exists pg_temp.t")
    cursor.execute(f"create temporary table t ({', '.join(f'{name} {type_}' for name in names)})")
    for row in rows:
        cursor.execute(f"insert into t values ({', '.join(['%s'] * len(row))})", row)
    fields = [Field(name, name, type_, nullable) for name in names]
    return checksum.of(cursor.connection, sql.Identifier("pg_temp", "t"), fields)


@pytest.mark.parametrize("type_", VALUES)
@pytest.mark.parametrize("nullable", [True, False])
def test_every_two_values_of_a_type_have_two_sums(cursor: Any, type_: str, nullable: bool) -> None:
    """NULL too, where the column may be; what PostgreSQL takes for equal, such as 0 and -0, included."""
    values: list[str | None] = [*VALUES[type_], *([None] if nullable else [])]
    sums = {value: sum_of(cursor, type_, [(value,)], nullable) for value in values}
    assert len({value for _, value in sums.values()}) == len(values)
    assert {rows for rows, _ in sums.values()} == {1}


def test_the_order_of_rows_does_not_matter_and_doubles_do(cursor: Any) -> None:
    """A sum over the rows: XOR would lose what is there twice."""
    assert sum_of(cursor, "text", [("a",), ("b",)]) == sum_of(cursor, "text", [("b",), ("a",)])
    once, twice, never = (sum_of(cursor, "text", [("a",)] * times) for times in (1, 2, 0))
    assert (never, once[0], twice[0]) == ((0, "0"), 1, 2)
    assert int(twice[1]) == 2 * int(once[1]) != 0


@pytest.mark.parametrize("nullable", [True, False])
def test_values_that_change_places_change_the_sum(cursor: Any, nullable: bool) -> None:
    """Between columns, and between rows: each row is hashed as a whole."""
    straight = sum_of(cursor, "text", [("a", "b"), ("c", "d")], nullable)
    assert straight != sum_of(cursor, "text", [("b", "a"), ("c", "d")], nullable)
    assert straight != sum_of(cursor, "text", [("a", "d"), ("c", "b")], nullable)
    if nullable:
        assert sum_of(cursor, "text", [(None, "a")]) != sum_of(cursor, "text", [("a", None)])


def test_a_wider_integer_has_the_same_sum(cursor: Any) -> None:
    """A column that was widened since is compared as it stands."""
    rows: list[tuple[str | None, ...]] = [("-5",), ("0",), ("32767",)]
    assert len({sum_of(cursor, type_, rows) for type_ in ("smallint", "integer", "bigint")}) == 1


def test_settings_of_the_session_do_not_matter(cursor: Any) -> None:
    """What goes as text looks the same whoever asks."""
    told = []
    for style in ("iso_8601", "sql_standard"):
        cursor.execute("set local intervalstyle = %s", (style,))
        told.append(sum_of(cursor, "interval", [("1 day 02:03:04",)]))
    assert told[0] == told[1]


def test_sixty_nullable_columns_are_summed_in_no_time(cursor: Any) -> None:
    """The hash so far stands once in each step: an expression that doubled with every column would never end."""
    rows, _ = sum_of(cursor, "integer", [tuple(str(number) for number in range(60)), (None,) * 60])
    assert rows == 2
