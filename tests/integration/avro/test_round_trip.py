"""What comes out of PostgreSQL goes in again, bit for bit."""

from __future__ import annotations

import pytest

from tests.integration.avro.conftest import Bench

EXTREMES = {
    "smallint": ["-32768", "32767", "0", "-1"],
    "integer": ["-2147483648", "2147483647", "0", "-1", "63", "64", "-64", "-65"],
    "bigint": ["-9223372036854775808", "9223372036854775807", "0"],
    "boolean": ["true", "false"],
    "text": ["", "é🙂", "a\tb\nc\\", "\x01", "x" * 100_000, "NULL"],
    "varchar(5)": ["", "12345", "ab   "],
    "char(5)": ["", "ab", "12345"],
    "date": ["4713-01-01 BC", "5874897-12-31", "infinity", "-infinity", "1970-01-01", "2000-01-01", "1999-12-31"],
    "timestamptz": [
        "4713-01-01 BC",
        "294247-01-10 04:00:54.775806+00",
        "infinity",
        "-infinity",
        "1969-12-31T23:59:59.999999Z",
    ],
    "timestamp": ["4713-01-01 BC", "294247-01-10 04:00:54.775806", "infinity", "-infinity", "2000-01-01"],
    "timestamp(3)": ["2024-02-29 23:59:59.999"],
    "time": ["00:00", "24:00:00", "23:59:59.999999"],
    "real": ["NaN", "Infinity", "-Infinity", "-0", "1e-45", "3.4028235e38"],
    "double precision": ["NaN", "Infinity", "-Infinity", "-0", "5e-324", "1.7976931348623157e308", "0.1"],
    "uuid": ["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"],
    "numeric(1,0)": ["9", "-9", "0"],
    "numeric(18,4)": ["99999999999999.9999", "-99999999999999.9999", "0.0001", "100", "0", "-0.5"],
    "numeric(18,18)": ["0.999999999999999999", "-0.000000000000000001"],
    "numeric(38,10)": ["9999999999999999999999999999.9999999999", "-0.0000000001", "12800000000000000000"],
    "jsonb": ['{"a": [1, 1.50, "é🙂", null]}', "[]", "1e400", '"\\u0001"'],
    "bytea": ["", "\\x00ff", "\\x" + "00" * 5000],
    # as texts
    "numeric": ["NaN", "Infinity", "-Infinity", "1.5000", "9" * 500 + "." + "1" * 500],
    "numeric(40,2)": ["NaN", "12345678901234567890123456789012345678.90"],
    "numeric(3,-2)": ["12300", "99900"],
    "numeric(2,5)": ["0.00099"],
    "json": ['{"a":   1, "a": 2}'],
    "interval": ["1 year 2 mons -3 days 04:05:06.789", "-00:00:00.000001", "infinity"],
    "timetz": ["24:00:00+15:59", "00:00:00-15:59"],
    "money": ["-92233720368547758.08", "92233720368547758.07"],
    "int[]": ["{}", "{1,NULL,3}", "{{1,2},{3,4}}", "[0:1]={1,2}"],
    "text[]": ['{"",NULL,"NULL","a\\"b","é🙂"}'],
    "char(3)[]": ['{"a  ","abc"}'],
    "tstzrange": ["empty", "[2000-01-01 00:00:00+00,infinity)", "(,)"],
    "daterange": ["[2000-01-01,2000-02-01)"],
    "inet": ["::1/64", "10.0.0.1"],
    "bit(3)": ["101"],
    "varbit": ["", "1010"],
    "point": ["(0.1,-1e300)"],
    '"char"': ["", "x"],
    "name": ["n"],
    "tsvector": ["'a':1 'b':2A"],
    "mood": ["sad", "it's"],
    "positive": ["1"],
    "pair": ['(1,"a,""b")', "(,)"],
    "oid": ["4294967295"],
    "pg_lsn": ["16/B374D848"],
}
TYPES = (
    "create type mood as enum ('sad', 'it''s'); create domain positive as integer check (value > 0);"
    " create type pair as (a integer, b text)"
)


@pytest.mark.parametrize("nullable", [False, True], ids=["not null", "nullable"])
def test_extremes_of_every_type_come_back_as_they_were(workbench: Bench, nullable: bool) -> None:
    """Whether AVRO has the type or the value goes as text; beside NULL or without."""
    workbench.execute(TYPES)
    for sql_type, values in EXTREMES.items():
        workbench.execute("drop table if exists things, others")
        workbench.execute(
            f"create table things (a integer, v {sql_type} {'' if nullable else 'not null'}, z text not null)"
        )
        given = [*values, None] if nullable else values
        for number, value in enumerate(given):
            workbench.execute("insert into things values (%s, %s, 'end')", number if number % 3 else None, value)
        workbench.execute("create table others (like things including all)")
        assert workbench.into("others", workbench.out("things")) == len(given), sql_type
        assert workbench.differences("things", "others") == 0, sql_type
