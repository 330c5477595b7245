"""What a backup writes does not depend on the machine's time zone, nor on how columns are named; texts stay whole."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import fastavro
from psycopg2 import sql

from tests.conftest import TestDatabase
from tests.integration.avro.conftest import Bench, columns_of

REPOSITORY = Path(__file__).parents[3]
DATUMS = """
import sys, psycopg2
from shared import objectstore
from tests.integration.avro.conftest import Bench, Shelf
database, store = sys.stdin.read().split()
bench = Bench(psycopg2.connect(database), Shelf(objectstore.connect(store)))
bench.execute("create temporary table things (d date, s timestamp, i timestamptz, t time, z timetz,"
    " r tstzrange, a timestamptz[], f interval)")
bench.execute("insert into things select '2024-02-29', '2024-02-29 23:59', '2024-02-29 23:59+00', '23:59',"
    " '23:59+05', tstzrange('2024-02-29 23:59+00', null), array['1900-01-01 00:00+00'::timestamptz], '1 day 2 hours'")
print(bench.execute("show timezone")[0][0], *[part.datums_sha256 for part in bench.out("things")])
"""


def datums_in(zone: str, database: str, store: str) -> list[str]:
    """The session's time zone, and the sum of what a process in that zone writes."""
    done = subprocess.run(
        [sys.executable, "-c", DATUMS],
        input=f"{database} {store}",
        env={**os.environ, "TZ": zone, "PGTZ": zone},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_datums_are_the_same_in_any_time_zone(lent_database: TestDatabase, backup_store_url: str) -> None:
    """Of instants as numbers and as texts; Bogota is where the data comes from."""
    zone, here = datums_in("America/Bogota", lent_database.owner_url, backup_store_url)
    utc, there = datums_in("UTC", lent_database.owner_url, backup_store_url)
    assert (zone, utc) == ("America/Bogota", "UTC")
    assert here == there


NAMES = {
    "has space": "has_space",
    "has_space": "has_space_2",
    "has-space": "has_space_3",
    "select": "select",
    "Ñ": "_",
    "1st": "_1st",
    "x" * 63: "x" * 63,
    'quo"te%s': "quo_te_s",
}


def test_columns_of_any_name_come_back(workbench: Bench) -> None:
    """Reserved, with spaces, as long as PostgreSQL lets them be, and such as are one after they are escaped."""
    declared = sql.SQL(", ").join(sql.SQL("{} integer").format(sql.Identifier(name)) for name in NAMES)
    with workbench.conn.cursor() as cursor:
        cursor.execute(sql.SQL("create table things ({})").format(declared))
    workbench.execute("insert into things values (1, 2, 3, 4, 5, 6, 7, 8)")
    workbench.execute("create table others (like things)")
    (part,) = workbench.out("things")
    assert list(fastavro.reader(io.BytesIO(workbench.shelf.bytes_of(part)))) == [
        {avro_name: number for number, avro_name in enumerate(NAMES.values(), 1)}
    ]
    assert workbench.into("others", [part]) == 1
    assert workbench.differences("things", "others") == 0


def test_a_table_without_rows_is_one_part_with_the_schema_alone(workbench: Bench) -> None:
    """So that a restore knows that there were none."""
    workbench.execute("create table things (id integer not null, words text)")
    fields = columns_of(workbench.conn, "things")
    (part,) = workbench.out("things")
    reader = fastavro.reader(io.BytesIO(workbench.shelf.bytes_of(part)))
    assert list(reader) == []
    assert reader.metadata["avro.codec"] == "deflate"
    assert [f["name"] for f in reader.writer_schema["fields"]] == [f.avro_name for f in fields]
    assert part.rows == 0
    assert workbench.into("things", [part]) == 0


def test_a_table_without_columns_keeps_its_number_of_rows(workbench: Bench) -> None:
    """PostgreSQL has such tables; their rows have no bytes."""
    workbench.execute("create table things (); insert into things select from generate_series(1, 100000)")
    parts = workbench.out("things")
    assert workbench.into("things", parts) == 100_000
    assert workbench.execute("select count(*) from things") == [(200_000,)]


def test_texts_of_any_length_come_back(workbench: Bench) -> None:
    """Emoji, no characters beside NULL, and a megabyte among short ones; by fastavro too."""
    texts = ["🙂👩\u200d👩\u200d👧", "", None, "é" * 500_000, "x", None, "", "\u0301", "y" * 1_048_576]
    workbench.execute("create table things (words text, others text)")
    for text in texts:
        workbench.execute("insert into things values (%s, %s)", text, text and text[::-1])
    workbench.execute("create table others (like things)")
    (part,) = workbench.out("things")
    read = fastavro.reader(io.BytesIO(workbench.shelf.bytes_of(part)))
    assert [record["words"] for record in read] == texts
    assert workbench.into("others", [part]) == len(texts)
    assert workbench.execute("select words, others from others") == [(t, t and t[::-1]) for t in texts]
