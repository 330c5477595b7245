"""What the judge encodes is what PostgreSQL stores, for every kind and every vector."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest

from functions.ingest.judge import ACCEPTED, Judge
from functions.ingest.sender import COPY_HEADER, COPY_TRAILER
from shared.dictionary import Table
from tests.judging import ALL_VECTORS, csv_line, positional, table_of

if TYPE_CHECKING:
    from tests.conftest import TestDatabase

COLUMNS = list(dict.fromkeys(vector.column for vector in ALL_VECTORS))
AS_CANONICAL = {
    "timestamptz": """replace(to_char(value at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), '.000000', '')""",
    "date": "to_char(value, 'YYYY-MM-DD')",
}


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.name)
@pytest.mark.parametrize("careful", [False, True], ids=["fast", "careful"])
def test_every_accepted_value_arrives_as_it_was_meant(lent_database: TestDatabase, column, careful: bool) -> None:
    """The stored value is the canonical one; jsonb is what PostgreSQL makes of the text itself."""
    vectors = [v for v in ALL_VECTORS if v.column == column and v.code is None]
    key = table_of({"key": {"type": "integer"}}).columns[0]
    table = Table(
        key="things", schema="s", api_name="things", file_pattern="t", primary_key="key", columns=(key, column)
    )
    data = b"".join(csv_line([str(number), v.text]) for number, v in enumerate(vectors, 1))
    conn = lent_database.connect()
    with conn, conn.cursor() as cursor:
        cursor.execute(f"create temporary table things (key integer, value {column.sql_type})")
        for block in Judge(table, positional(table), lambda c, k: set(k), careful=careful).blocks(io.BytesIO(data)):
            assert (block.status == ACCEPTED).all()
            sent = COPY_HEADER + block.encode_rows(np.arange(block.n)) + COPY_TRAILER
            cursor.copy_expert("copy things from stdin (format binary)", io.BytesIO(sent))
        stored = AS_CANONICAL.get(column.kind, "value::text")
        cursor.execute(f"select {stored}, value is null from things order by key")
        found = cursor.fetchall()
        if column.kind == "jsonb":
            cursor.execute("select array_agg(v::jsonb::text order by o) from unnest(%s) with ordinality t (v, o)",
                           ([v.text for v in vectors],))  # fmt: skip
            assert [text for text, _ in found] == cursor.fetchone()[0]
        else:
            assert [None if is_null else text for text, is_null in found] == [v.canonical or None for v in vectors]
    conn.close()


def test_json_is_refused_where_postgresql_refuses_it(lent_database: TestDatabase) -> None:
    """A document that passed here and failed there would end the whole COPY."""
    documents = [v for v in ALL_VECTORS if v.column.kind == "jsonb" and v.text.strip() and "\0" not in v.text]
    rows = lent_database.query(
        "select pg_input_is_valid(v, 'jsonb') from unnest(%s) with ordinality t (v, o) order by o",
        [v.text for v in documents],
    )
    assert [valid for (valid,) in rows] == [v.code is None for v in documents]
    depth = "[" * 500 + "]" * 500
    assert lent_database.query("select pg_input_is_valid(%s, 'jsonb')", depth) == [(True,)]
