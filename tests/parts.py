"""A file that somebody else wrote, as a manifest would describe it; its sums by other people's code."""

from __future__ import annotations

import hashlib
import io
from base64 import b64encode

import fastavro
import google_crc32c

from shared.avro.table_in import PartToRead


def part_of(content: bytes, name: str = "a part") -> PartToRead:
    """The part with sums that fit it."""
    blocks = list(fastavro.block_reader(io.BytesIO(content)))
    datums = b"".join(block.bytes_.getvalue() for block in blocks)
    return as_part(content, sum(block.num_records for block in blocks), hashlib.sha256(datums).hexdigest(), name)


def as_part(content: bytes, rows: int, datums_sha256: str, name: str = "a part") -> PartToRead:
    """The part with these sums of its datums."""
    return PartToRead(
        open=lambda: io.BytesIO(content),  # type: ignore[arg-type,return-value]  # what is read of a reader
        rows=rows,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        crc32c=b64encode(google_crc32c.Checksum(content).digest()).decode(),
        datums_sha256=datums_sha256,
        name=name,
    )
