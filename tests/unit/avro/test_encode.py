"""Datums are those that fastavro's own writer makes, and decode to the tuples that they came from."""

from __future__ import annotations

import io
from typing import Any

import fastavro
import numpy as np
import pytest
from hypothesis import given, settings

from shared.avro.container import Block
from shared.avro.decode import Decoder
from shared.avro.encode import Encoder
from shared.avro.schema import Field, record_schema
from tests.unit.avro.tuples import datum, tables, tuple_of


def by_fastavro(fields: list[Field], rows: list[list[Any]]) -> list[bytes]:
    schema = fastavro.parse_schema(record_schema("public", "things", fields))
    datums = []
    for row in rows:
        out = io.BytesIO()
        record = {field.avro_name: datum(field, value) for field, value in zip(fields, row, strict=True)}
        fastavro.schemaless_writer(out, schema, record)
        datums.append(out.getvalue())
    return datums


@settings(max_examples=300, deadline=None)
@given(tables())
def test_datums_are_byte_for_byte_what_fastavro_writes(table: tuple[list[Field], list[list[Any]]]) -> None:
    """Rows of any types, NULL or not, become the same bytes."""
    fields, rows = table
    encoded = Encoder(fields).encode([tuple_of(fields, row) for row in rows])
    expected = by_fastavro(fields, rows)
    assert encoded.data.tobytes() == b"".join(expected)
    assert encoded.ends.tolist() == np.cumsum([len(one) for one in expected]).tolist()


@pytest.mark.parametrize("rows_in_block", [1, 7, 1000])
@settings(max_examples=100, deadline=None)
@given(table=tables())
def test_datums_are_decoded_to_the_tuples_they_came_from(
    rows_in_block: int, table: tuple[list[Field], list[list[Any]]]
) -> None:
    """Over few blocks, which are passed over one by one, and over many at once."""
    fields, rows = table
    sent = [tuple_of(fields, row) for row in rows]
    datums = Encoder(fields).encode(sent)
    ends = [0, *datums.ends.tolist()]
    blocks = [
        Block(
            len(sent[i : i + rows_in_block]), datums.data[ends[i] : ends[min(i + rows_in_block, len(sent))]].tobytes()
        )
        for i in range(0, len(sent), rows_in_block)
    ]
    pieces = list(Decoder(fields).batches(blocks))
    assert b"".join(piece for piece, _ in pieces) == b"".join(sent)
    assert sum(rows for _, rows in pieces) == len(rows)
