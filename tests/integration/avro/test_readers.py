"""Other people's readers find in our files what PostgreSQL holds, and we read what other people's writers write."""

from __future__ import annotations

import io
import json
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any
from uuid import UUID

import avro.datafile
import avro.io
import avro.schema
import fastavro
import polars
import pytest

from shared.avro.schema import Field, record_schema
from tests.integration.avro.conftest import Bench, columns_of
from tests.parts import part_of

ROWS = 5_000  # more than two of the vectors of 2,048 rows that some readers have
COLUMNS = {  # name → type, and a value of n
    "small": ("smallint", "n - 2500"),
    "whole": ("integer", "n * 429496 - 1073741824"),
    "big": ("bigint", "(n - 2500)::bigint * 3689348814741910"),
    "yes": ("boolean", "n % 3 = 0"),
    "words": ("text", "repeat('é🙂', n % 40) || n"),
    "short": ("varchar(9)", "'v' || n"),
    "day": ("date", "date '1890-01-01' + n * 17"),
    "instant": ("timestamptz", "timestamptz '1901-01-01 00:00:00.000001+00' + n * interval '9 days 1.000007 seconds'"),
    "local": ("timestamp", "timestamp '1901-01-01 00:00:00.000001' + n * interval '9 days 1.000007 seconds'"),
    "clock": ("time", "time '00:00' + n * interval '17.000003 seconds'"),
    "single": ("real", "(n - 2500) / 8.0"),
    "twice": ("double precision", "(n - 2500) / 7.0"),
    "key": ("uuid", "md5(n::text)::uuid"),
    "price": ("numeric(10,2)", "(n - 2500) * 1.25"),
    "long": ("numeric(38,10)", "(n - 2500) * 123456789012345678901234.0123456789"),
    "doc": ("jsonb", """jsonb_build_object('n', n, 'é', '🙂"')"""),
    "raw": ("bytea", r"decode(repeat(lpad(to_hex(n % 256), 2, '0'), n % 70), 'hex')"),
    "span": ("interval", "n * interval '1 month 2 days 00:00:03.5'"),
    "tags": ("text[]", "array['a', null, n::text]"),
}
UNKNOWN_TYPE = "ignore:Unknown local-timestamp-micros, using long"
AS_TEXT = {"doc", "span", "tags"}
EPOCH = datetime(1970, 1, 1)

Row = tuple[Any, ...]


@pytest.fixture
def things(workbench: Bench) -> Bench:
    """A table of every kind of column; in each column every ninth row is NULL, another ninth for each."""
    declared = ", ".join(f"{name} {sql_type}" for name, (sql_type, _) in COLUMNS.items())
    values = ", ".join(
        f"case when n % 9 <> {number % 9} then {value} end" for number, (_, value) in enumerate(COLUMNS.values())
    )
    workbench.execute("set local timezone = 'UTC'")
    workbench.execute(f"create table things (id integer not null, {declared})")
    workbench.execute(f"insert into things select n, {values} from generate_series(1, {ROWS}) n")
    workbench.execute("create table others (like things)")
    return workbench


@pytest.fixture
def file(things: Bench) -> bytes:
    (part,) = things.out("things")
    return things.shelf.bytes_of(part)


def selected(bench: Bench) -> list[Row]:
    """The rows by psycopg2."""
    columns = ", ".join(f"{name}::text" if name in AS_TEXT else name for name in COLUMNS)
    rows = bench.execute(f"select id, {columns} from things order by id")
    return [tuple(bytes(v) if isinstance(v, memoryview) else v for v in row) for row in rows]


def same(found: list[Row], expected: list[Row]) -> None:
    """Equal but for their order, with the first row that is not in the failure."""
    assert len(found) == len(expected)
    found = sorted(found, key=itemgetter(0))  # a scan may begin in the middle of a table
    assert [pair for pair in zip(found, expected, strict=True) if pair[0] != pair[1]][:1] == []


def with_column(rows: list[Row], name: str, change: Any) -> list[Row]:
    at = 1 + list(COLUMNS).index(name)
    return [(*row[:at], None if row[at] is None else change(row[at]), *row[at + 1 :]) for row in rows]


def microseconds(instant: datetime) -> int:
    return (instant - EPOCH) // timedelta(microseconds=1)


def test_fastavro_reads_every_value(things: Bench, file: bytes) -> None:
    """Every kind of column, NULL or not; a uuid as a UUID."""
    found = [tuple(record.values()) for record in fastavro.reader(io.BytesIO(file))]
    same(found, with_column(selected(things), "key", UUID))


@pytest.mark.filterwarnings(UNKNOWN_TYPE)
def test_apache_avro_reads_every_value(things: Bench, file: bytes) -> None:
    """Every kind of column, NULL or not; a local timestamp as microseconds, a uuid as its text."""
    with avro.datafile.DataFileReader(io.BytesIO(file), avro.io.DatumReader()) as reader:
        found = [tuple(record.values()) for record in reader]
    same(found, with_column(selected(things), "local", microseconds))


def test_polars_reads_every_value(things: Bench, file: bytes) -> None:
    """Every kind of column, NULL or not; a uuid as its text."""
    same(polars.read_avro(io.BytesIO(file)).rows(), selected(things))


def other_schema(fields: list[Field], *, reverse: bool, null_last: bool) -> dict[str, Any]:
    """The same columns as other writers may describe them."""
    schema = record_schema("elsewhere", "rows", fields)
    if null_last:
        for field in schema["fields"]:
            field.pop("default", None)
            field["type"] = field["type"][::-1] if isinstance(field["type"], list) else field["type"]
    return {**schema, "fields": schema["fields"][::-1] if reverse else schema["fields"]}


def records(bench: Bench) -> list[dict[str, Any]]:
    return [dict(zip(["id", *COLUMNS], row, strict=True)) for row in selected(bench)]


@pytest.mark.parametrize("codec", ["null", "deflate"])
@pytest.mark.parametrize("block_bytes", [16_000, 1_000_000])
@pytest.mark.parametrize(("reverse", "null_last"), [(False, False), (True, True)])
def test_files_of_fastavro_are_read(
    things: Bench, codec: str, block_bytes: int, reverse: bool, null_last: bool
) -> None:
    """Either codec, small blocks or large, columns in another order, null first or last."""
    out = io.BytesIO()
    schema = other_schema(columns_of(things.conn, "things"), reverse=reverse, null_last=null_last)
    fastavro.writer(out, schema, records(things), codec=codec, sync_interval=block_bytes)
    assert things.into("others", [part_of(out.getvalue())]) == ROWS
    assert things.differences("things", "others") == 0


@pytest.mark.filterwarnings(UNKNOWN_TYPE)
def test_files_of_apache_avro_are_read(things: Bench) -> None:
    """Its own writer's blocks, compressed."""
    schema = record_schema("public", "things", columns_of(things.conn, "things"))
    out = io.BytesIO()
    with avro.datafile.DataFileWriter(
        out, avro.io.DatumWriter(), avro.schema.parse(json.dumps(schema)), codec="deflate"
    ) as writer:
        for record in records(things):
            writer.append({**record, "local": record["local"] and microseconds(record["local"])})
        writer.flush()
        content = out.getvalue()
    assert things.into("others", [part_of(content)]) == ROWS
    assert things.differences("things", "others") == 0
