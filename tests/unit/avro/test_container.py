"""What is no file of ours, or not the one that was written, is refused, and by no other error than BackupDamaged."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import random
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from uuid import UUID

import fastavro
import pytest

from shared.avro import container
from shared.avro.container import Block, Reader, header, packed, varint
from shared.avro.decode import Decoder
from shared.avro.encode import Encoder
from shared.avro.schema import Field, record_schema
from shared.avro.table_in import PartToRead, check_part
from shared.errors import BackupDamaged
from tests.parts import as_part, part_of
from tests.unit.avro.tuples import datum, tuple_of

SYNC = b"0123456789abcdef"
TYPES = {
    "id": ("integer", 7),
    "big": ("bigint", -(2**60)),
    "words": ("text", "é🙂"),
    "yes": ("boolean", True),
    "day": ("date", 9000),
    "instant": ("timestamp with time zone", 10**15),
    "clock": ("time without time zone", 10**9),
    "twice": ("double precision", 0.1),
    "key": ("uuid", UUID(int=5)),
    "price": ("numeric(10,2)", Decimal("-12.50")),
    "doc": ("jsonb", '{"a": 1}'),
    "raw": ("bytea", b"\0\xff"),
}
FIELDS = [Field(name, name, sql_type, name != "id") for name, (sql_type, _) in TYPES.items()]
SCHEMA = record_schema("public", "things", FIELDS)
ROWS = [
    [
        None if name != "id" and (number + place) % 5 == 0 else value
        for place, (name, (_, value)) in enumerate(TYPES.items())
    ]
    for number in range(60)
]


def ours(rows: int = len(ROWS)) -> bytes:
    """A file of so many rows as ``copy_out`` writes it, each ten of them a block."""
    blocks = [
        packed(Encoder(FIELDS).encode([tuple_of(FIELDS, row) for row in ROWS[first : min(first + 10, rows)]]), SYNC)
        for first in range(0, rows, 10)
    ]
    return header(SCHEMA, SYNC) + b"".join(blocks)


def by_fastavro(block_bytes: int) -> bytes:
    """The rows not compressed, so that a damaged byte gets to the decoder."""
    records = [{field.avro_name: datum(field, value) for field, value in zip(FIELDS, row, strict=True)} for row in ROWS]
    out = io.BytesIO()
    fastavro.writer(out, SCHEMA, records, codec="null", sync_interval=block_bytes, sync_marker=SYNC)
    return out.getvalue()


def blocks_of(content: bytes) -> list[Block]:
    return list(Reader(io.BytesIO(content).read, "a part").blocks())


def with_metadata(*entries: tuple[bytes, bytes]) -> bytes:
    texts = b"".join(varint(len(text)) + text for entry in entries for text in entry)
    return b"Obj\x01" + varint(len(entries)) + texts + varint(0) + SYNC


def one_block(rows: int, data: bytes, size: int | None = None, sync: bytes = SYNC) -> bytes:
    return header(SCHEMA, SYNC) + varint(rows) + varint(len(data) if size is None else size) + data + sync


def deflated(data: bytes) -> bytes:
    return zlib.compress(data, 9, -15)


AVRO_SCHEMA = json.dumps(SCHEMA).encode()
REFUSED = {
    "nothing": (b"", "ends here"),
    "another magic": (b"Obj\x02" + ours()[4:], "no AVRO file"),
    "another codec": (with_metadata((b"avro.codec", b"snappy"), (b"avro.schema", AVRO_SCHEMA)), "codec is neither"),
    "a codec of no letters": (
        with_metadata((b"avro.codec", b"\xff"), (b"avro.schema", AVRO_SCHEMA)),
        "codec is neither",
    ),
    "no schema": (with_metadata((b"avro.codec", b"deflate")), "schema is no JSON"),
    "a schema that is no JSON": (with_metadata((b"avro.schema", b"{")), "schema is no JSON"),
    "a schema that is not UTF-8": (with_metadata((b"avro.schema", b'"\xff\xfe\xfd"')), "schema is no JSON"),
    "a schema that is deep": (with_metadata((b"avro.schema", b"[" * 100_000)), "schema is no JSON"),
    "a schema that is no record": (with_metadata((b"avro.schema", b'"int"')), "schema is no record"),
    "an entry of 1 TB": (b"Obj\x01" + varint(1) + varint(1 << 40), "an entry of"),
    "an entry of less than nothing": (b"Obj\x01" + varint(1) + varint(-1), "an entry of"),
    "a count of eleven bytes": (b"Obj\x01" + b"\xff" * 11, "more than ten bytes"),
    "a count of 70 bits": (b"Obj\x01" + b"\xff" * 9 + b"\x7f", "more than 64 bits"),
    "another sync marker": (one_block(1, deflated(b"x"), sync=b"x" * 16), "sync marker"),
    "a block that is not deflate's": (one_block(1, b"\xff\xff\xff"), "cannot be decompressed"),
    "a block that is cut": (one_block(1, deflated(bytes(range(256)))[:-9]), "decompressed"),
    "fewer rows than none": (one_block(-1, deflated(b"x")), "-1 rows"),
    "fewer bytes than none": (one_block(1, b"", size=-1), "-1 bytes"),
    "more bytes than any block": (one_block(1, b"", size=(1 << 30) + 1), "1073741825 bytes"),
    "more rows than bytes": (one_block(1 << 40, deflated(b"x")), "rows in 1 bytes"),
    "bytes behind the last block": (ours() + b"\0", "ends here"),
}


@pytest.mark.parametrize(("content", "why"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_file_is_refused(content: bytes, why: str) -> None:
    """With the reason, and the file's name."""
    with pytest.raises(BackupDamaged, match=f"^a part, before byte .*{why}"):
        blocks_of(content)


def test_a_block_that_grows_too_much_is_refused_before_it_has_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a few bytes would become, no more than the cap is made of them."""
    monkeypatch.setattr(container, "MOST_BLOCK_BYTES", 100_000)
    assert len(blocks_of(one_block(1, deflated(bytes(100_000))))[0].data) == 100_000
    with pytest.raises(BackupDamaged, match="more than 100,000 bytes"):
        blocks_of(one_block(1, deflated(bytes(100_001))))


def test_deflate_at_its_limit_is_within_the_cap() -> None:
    """Zeros shrink the most; a block of them is read."""
    assert blocks_of(one_block(1, deflated(bytes(1 << 20))))[0].data == bytes(1 << 20)


def test_bytes_behind_the_deflate_stream_of_a_block_are_passed_over() -> None:
    """fastavro leaves three there in each block."""
    assert blocks_of(one_block(1, deflated(b"xyz") + b"\1\2\3"))[0].data == b"xyz"


def test_metadata_in_several_pieces_with_their_sizes_is_read() -> None:
    """A negative count is followed by the size of the entries, as the specification allows."""
    pieces = [varint(len(t)) + t for t in (b"avro.schema", AVRO_SCHEMA, b"avro.codec", b"null")]
    first, second = b"".join(pieces[:2]), b"".join(pieces[2:])
    content = b"Obj\x01" + varint(-1) + varint(len(first)) + first + varint(1) + second + varint(0) + SYNC
    reader = Reader(io.BytesIO(content).read, "a part")
    assert (reader.schema, reader.codec, list(reader.blocks())) == (SCHEMA, "null", [])


def test_a_file_that_is_cut_anywhere_is_refused_or_ends_with_a_block() -> None:
    """Every prefix: only between two blocks can a cut go unseen, and there the manifest's sums see it."""
    content, whole = ours(30), blocks_of(ours(30))
    complete = []
    for size in range(len(content)):
        try:
            found = blocks_of(content[:size])
        except BackupDamaged:
            continue
        complete.append(size)
        assert found == whole[: len(found)]
    assert len(complete) == len(whole)
    for size in complete:
        with pytest.raises(BackupDamaged, match="the backup says"):
            check_part(with_content(part_of(content), content[:size]), "decode", FIELDS)


def with_content(part: PartToRead, content: bytes) -> PartToRead:
    """The part as if the store had other bytes."""
    return replace(part, open=as_part(content, 0, "").open)


FILES = {
    "ours, compressed": ours,
    "many small blocks": lambda: by_fastavro(100),
    "one block": lambda: by_fastavro(1 << 20),
}


@pytest.mark.parametrize("make", FILES.values(), ids=FILES)
def test_a_byte_that_changed_is_refused(make: Callable[[], bytes]) -> None:
    """Anywhere in the file; never another error, though all is decoded before the sums are compared."""
    content, chance = make(), random.Random(20261125)
    part = part_of(content)
    check_part(part, "decode", FIELDS)
    for changed in itertools.islice(changes(content, chance), 700):
        with pytest.raises(BackupDamaged):
            check_part(with_content(part, changed), "decode", FIELDS)


@pytest.mark.parametrize("make", FILES.values(), ids=FILES)
def test_a_foreign_file_with_changed_bytes_is_refused_or_read(make: Callable[[], bytes]) -> None:
    """Where the sums are of the changed bytes, what is left is what a decoder alone can see."""
    content, chance = make(), random.Random(5)
    outcomes = set()
    for changed in itertools.islice(changes(content, chance), 700):
        try:
            blocks = blocks_of(changed)
            datums = hashlib.sha256(b"".join(block.data for block in blocks)).hexdigest()
            check_part(as_part(changed, sum(block.rows for block in blocks), datums), "decode", FIELDS)
            outcomes.add("read")
        except BackupDamaged:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_one_block_of_many_rows_among_small_ones_costs_no_memory_for_each() -> None:
    """Foreign files may have such, and a damaged count makes one."""
    fields = [Field("yes", "yes", "boolean", False)]
    blocks = [Block(1, b"\1")] * 300 + [Block(200_000, bytes(200_000))]
    tracemalloc.start()
    try:
        assert sum(rows for _, rows in Decoder(fields).batches(blocks)) == 200_300
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


def changes(content: bytes, chance: random.Random) -> Iterator[bytes]:
    """The file with one byte changed, again and again."""
    while True:
        changed = bytearray(content)
        changed[chance.randrange(len(content))] ^= chance.randrange(1, 256)
        yield bytes(changed)
