"""Compression and encoding: what is read, what is refused, and that memory stays bounded."""

from __future__ import annotations

import codecs
import gzip
import io
import tracemalloc

import pytest
import zstandard

from functions.ingest import source
from shared.dictionary import Table
from shared.errors import FileRefused
from tests.judging import judge_file, positional, table_of

TEXT = b"".join(b"%d,Bo\xc3\xa9 %d\n" % (i, i * 7919 % 65536) for i in range(5000))
TABLE = table_of({"id": {"type": "integer"}, "name": {"type": "text"}})


def in_encoding(encoding: str) -> Table:
    return table_of({"id": {"type": "integer"}, "name": {"type": "text"}}, encoding=encoding)


class Trickle(io.RawIOBase):
    """Gives a few bytes at a time, as a network does."""

    def __init__(self, data: bytes, step: int) -> None:
        self._data, self._step = io.BytesIO(data), step

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        return self._data.readinto(buffer[: self._step])


def read_all(data: bytes, table: Table = TABLE, step: int = 1 << 20) -> bytes:
    reader = source.decoded(Trickle(data, step), table, name="file.csv")
    out, buffer = b"", memoryview(bytearray(10_000))
    while got := reader.readinto(buffer):
        out += buffer[:got]
    return out


def refused(data: bytes, table: Table = TABLE) -> str:
    with pytest.raises(FileRefused) as caught:
        read_all(data, table)
    assert "file.csv" in str(caught.value)
    return caught.value.code


def zst(data: bytes, **settings: int) -> bytes:
    return zstandard.ZstdCompressor(**settings).compress(data)


@pytest.mark.parametrize("step", [1, 3, 4096, 1 << 20])
@pytest.mark.parametrize(
    "stored",
    [
        TEXT,
        gzip.compress(TEXT),
        gzip.compress(TEXT[:7]) + gzip.compress(b"") + gzip.compress(TEXT[7:]),
        gzip.compress(TEXT) + bytes(512),
        zst(TEXT),
        zst(TEXT[:7]) + zst(b"") + zst(TEXT[7:]),
        codecs.BOM_UTF8 + TEXT,
        gzip.compress(codecs.BOM_UTF8 + TEXT),
    ],
    ids=["plain", "gz", "gz of members", "gz padded", "zst", "zst of frames", "bom", "bom in gz"],
)
def test_the_text_is_what_was_stored_however_it_arrives(stored: bytes, step: int) -> None:
    assert read_all(stored, step=step) == TEXT


def test_what_is_known_of_the_object_is_told() -> None:
    def told(data: bytes, table: Table = TABLE) -> tuple[bool, bool, int]:
        reader = source.decoded(io.BytesIO(data), table, name="f")
        return reader.compressed, reader.transcoded, reader.skipped_bytes

    assert told(TEXT) == (False, False, 0)
    assert told(codecs.BOM_UTF8 + TEXT) == (False, False, 3)
    assert told(gzip.compress(TEXT)) == (True, False, 0)
    assert told(b"1,Ann", in_encoding("latin-1")) == (False, True, 0)


@pytest.mark.parametrize("cut", [1, 4, 8, 20, 100])
@pytest.mark.parametrize("compress", [gzip.compress, zst], ids=["gz", "zst"])
def test_a_compressed_file_that_was_cut_off_is_refused(compress: object, cut: int) -> None:
    """Its rows would look complete."""
    whole = compress(TEXT)  # type: ignore[operator]
    assert refused(whole[:-cut]) == "file.compression"
    assert refused(whole + whole[:-cut]) == "file.compression"


def test_damage_and_what_follows_a_member_is_refused() -> None:
    packed = bytearray(gzip.compress(TEXT))
    packed[len(packed) // 2] ^= 255
    assert refused(bytes(packed)) == "file.compression"
    assert refused(gzip.compress(TEXT) + b"rubbish") == "file.compression"
    assert refused(zst(TEXT) + b"rubbish") == "file.compression"
    assert refused(b"\x1f\x8b") == "file.compression"


@pytest.mark.parametrize(
    "head", [b"PK\x03\x04....", b"BZh91AY&SY", b"\xfd7zXZ\0", b"7z\xbc\xaf\x27\x1c"], ids=["zip", "bz2", "xz", "7z"]
)
def test_other_formats_are_named(head: bytes) -> None:
    assert refused(head + TEXT) == "file.compression"


def test_a_bomb_is_refused_in_bounded_memory() -> None:
    """A gigabyte of one line in 100 KB: gzip cannot do it, zstd can."""
    reader = io.BytesIO(zst(b"1,Ann\n" * 10_000_000, level=19) * 20)
    buffer = memoryview(bytearray(1 << 20))
    text = source.decoded(reader, TABLE, name="file.csv")
    tracemalloc.start()
    try:
        with pytest.raises(FileRefused, match="1000 times its size"):
            sum(iter(lambda: text.readinto(buffer), 0))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 50e6


def test_a_frame_that_asks_for_too_large_a_window_is_refused() -> None:
    settings = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    frame = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    assert refused(frame.compress(TEXT) + frame.flush()) == "file.compression"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-32-be"])
def test_wide_encodings_are_refused_unless_the_dictionary_names_them(encoding: str) -> None:
    wide = TEXT.decode().encode(encoding)
    assert refused(wide) == "file.encoding"
    assert read_all(wide, in_encoding(encoding), step=777) == TEXT
    assert read_all(("\ufeff" + TEXT.decode()).encode(encoding.removesuffix("-")), in_encoding(encoding)) == TEXT


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "iso8859-15", "shift_jis", "gb18030"])
def test_an_encoding_that_the_dictionary_names_is_read(encoding: str) -> None:
    text = "1,日本\n" * 3000 if encoding in ("shift_jis", "gb18030") else "1,Zoë\n" * 3000
    assert read_all(text.encode(encoding), in_encoding(encoding), step=1001) == text.encode()


def test_a_utf8_mark_says_more_than_the_dictionary() -> None:
    assert read_all(codecs.BOM_UTF8 + TEXT, in_encoding("cp1252")) == TEXT


def test_bytes_that_are_none_of_the_encoding_cost_their_own_row() -> None:
    data = read_all(b"1,Ann\n2,B\x81o\n3,Cy\n", in_encoding("cp1252"))
    found = judge_file(TABLE, positional(TABLE), data, lambda column, keys: set())
    assert [o.reasons for o in found] == [(), ("record.encoding",), ()]


def test_a_stray_nul_is_its_rows_matter_and_many_are_the_files() -> None:
    assert read_all(b"1,A\0nn\n" + TEXT) == b"1,A\0nn\n" + TEXT
    assert refused(b"\0" * 5000) == "file.encoding"
