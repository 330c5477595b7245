"""The bytes of an object as UTF-8 text: decompressed, without byte order mark, in constant memory, or refused."""

from __future__ import annotations

import codecs
import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

import zstandard

from functions.ingest.peeked import Peeked, Readable
from shared.dictionary import Table
from shared.errors import FileRefused

HEAD_BYTES = 4096  # what compression and encoding are told from
INPUT_BYTES = 1 << 18
# A zstd block of 4 bytes may stand for 128 KiB. The library has no limit on what one call gives back, so its input
# comes in slices: 1 KiB gives 32 MiB at the very worst.
ZSTD_SLICE_BYTES = 1 << 10
OUTPUT_BYTES = 1 << 20
MAX_WINDOW_BYTES = 1 << 27  # what zstd itself reads unless told otherwise (`--long=27`): the decoder holds that much
MAX_RATIO = 1_000  # DEFLATE cannot do more than 1,032
RATIO_COUNTS_FROM_BYTES = 1 << 26  # a small file of one repeated line is no bomb
MAX_DECODED_BYTES = 1 << 40

UNREAD_FORMATS = {
    b"PK\x03\x04": "a ZIP archive or an Excel workbook",
    b"BZh": "compressed by bzip2",
    b"\xfd7zXZ\0": "compressed by xz",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
}
WIDE_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
NUL_SHARE = 0.2  # of the head; ASCII in UTF-16 has one half, and a stray NUL is one record's matter

UNDECODABLE = "rowdock.undecodable"


def _mark_undecodable(error: UnicodeError) -> tuple[str, int]:
    """Stand in for bytes that are none of the encoding: half a surrogate pair, which is no UTF-8 afterwards either."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\udcff", error.end


codecs.register_error(UNDECODABLE, _mark_undecodable)


class Reader(Protocol):
    """The text of an object.

    Attributes:
        compressed: whether the object is gzip or zstd.
        transcoded: whether it was in another encoding than UTF-8.
        skipped_bytes: bytes of a byte order mark before the first byte that ``readinto`` gives. Where an object is
            neither compressed nor transcoded, they are what its offsets differ by.
    """

    compressed: bool
    transcoded: bool
    skipped_bytes: int

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill ``buffer`` from its start; returns the bytes filled, 0 at the end."""


def decoded(reader: Readable, table: Table, *, name: str) -> Reader:
    """The text of the object ``name`` of ``table``, whose stored bytes ``reader`` gives.

    Raises:
        FileRefused: now or while it is read. ``file.compression``: unknown, damaged, cut off or past a limit;
            ``file.encoding``: not the dictionary's.
    """
    stored = Peeked(reader, HEAD_BYTES)
    for magic, what in UNREAD_FORMATS.items():
        if stored.head.startswith(magic):
            raise FileRefused("file.compression", f"{name} is {what}; send plain CSV, gzip or zstd")
    decompress = DECOMPRESSORS.get(stored.head[:4]) or DECOMPRESSORS.get(stored.head[:2])
    if decompress is None:
        return _Text(stored, table, name, compressed=False)
    return _Text(Peeked(_Decompressed(stored, decompress, name), HEAD_BYTES), table, name, compressed=True)


class _Chunks:
    """Gives what an iterator of byte strings yields, however much is asked for at a time."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readinto(self, buffer: memoryview, /) -> int:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        given = min(len(self._rest), len(buffer))
        buffer[:given] = self._rest[:given]
        self._rest = self._rest[given:]
        return given


def _read(reader: Readable) -> Iterator[bytes]:
    buffer = memoryview(bytearray(INPUT_BYTES))
    while got := reader.readinto(buffer):
        yield bytes(buffer[:got])


class _Decompressed(_Chunks):
    """What a decompressor makes of a stored object, within the limits."""

    def __init__(self, stored: Peeked, decompress: Callable[[Iterator[bytes]], Iterator[bytes]], name: str) -> None:
        super().__init__(self._limited(stored, decompress, name))

    def _limited(
        self, stored: Peeked, decompress: Callable[[Iterator[bytes]], Iterator[bytes]], name: str
    ) -> Iterator[bytes]:
        given = 0
        try:
            for chunk in decompress(_read(stored)):
                given += len(chunk)
                _check_limits(stored.bytes_read, given, name)
                yield chunk
        except EOFError:
            raise FileRefused("file.compression", f"{name} is cut off: its compressed data do not end") from None
        except (zlib.error, zstandard.ZstdError) as error:
            raise FileRefused("file.compression", f"{name} cannot be decompressed: {error}") from error


def _check_limits(stored_bytes: int, given_bytes: int, name: str) -> None:
    if given_bytes > MAX_DECODED_BYTES:
        raise FileRefused("file.compression", f"{name} holds more than {MAX_DECODED_BYTES} bytes; send it in parts")
    if given_bytes > RATIO_COUNTS_FROM_BYTES and given_bytes > MAX_RATIO * stored_bytes:
        raise FileRefused(
            "file.compression", f"{name} grows to more than {MAX_RATIO} times its size; send it less compressed"
        )


def _gunzip(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Members one after the other; zeros after one are padding."""
    member, members = None, 0
    for chunk in chunks:
        data = chunk
        while data:
            if member is None:
                data = data.lstrip(b"\0") if members else data
                if not data:
                    break
                member, members = zlib.decompressobj(wbits=31), members + 1
            yield member.decompress(data, OUTPUT_BYTES)
            data = member.unused_data if member.eof else member.unconsumed_tail
            member = None if member.eof else member
    if member is not None:
        raise EOFError


def _unzstd(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Frames one after the other."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    frame = None
    for chunk in chunks:
        for start in range(0, len(chunk), ZSTD_SLICE_BYTES):
            data = chunk[start : start + ZSTD_SLICE_BYTES]
            while data:
                frame = frame or decompressor.decompressobj()
                yield frame.decompress(data)
                data = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError


DECOMPRESSORS = {b"\x1f\x8b": _gunzip, b"\x28\xb5\x2f\xfd": _unzstd}


class _Text:
    """UTF-8 of a file whose encoding is told from its head and the dictionary."""

    def __init__(self, stored: Peeked, table: Table, name: str, *, compressed: bool) -> None:
        self.compressed = compressed
        codec = codecs.lookup(table.encoding).name
        is_utf8 = codec in ("utf-8", "utf-8-sig") or stored.head.startswith(codecs.BOM_UTF8)
        self.transcoded = not is_utf8
        if not codec.startswith(("utf-16", "utf-32")):
            _check_not_wide(stored.head, name)
        self._reader: Readable = stored if is_utf8 else _Chunks(_transcode(stored, codec, name))
        self.skipped_bytes = len(codecs.BOM_UTF8) if is_utf8 and stored.head.startswith(codecs.BOM_UTF8) else 0
        if self.skipped_bytes:
            stored.readinto(memoryview(bytearray(self.skipped_bytes)))

    def readinto(self, buffer: memoryview, /) -> int:
        return self._reader.readinto(buffer)


def _check_not_wide(head: bytes, name: str) -> None:
    wide = next((wide for mark, wide in WIDE_MARKS.items() if head.startswith(mark)), None)
    if wide or head.count(0) > NUL_SHARE * len(head):
        raise FileRefused(
            "file.encoding",
            f"{name} is {'in ' + wide if wide else 'full of NUL bytes: UTF-16, or no text at all'}; "
            "send UTF-8, or name the `encoding` in the dictionary",
        )


def _transcode(stored: Peeked, codec: str, name: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(codec)(UNDECODABLE)
    begun = False
    try:
        for chunk in _read(stored):
            text = decoder.decode(chunk)
            yield (text if begun else text.removeprefix("\ufeff")).encode("utf-8", "surrogatepass")
            begun = begun or bool(text)
        yield decoder.decode(b"", True).encode("utf-8", "surrogatepass")
    except UnicodeError as error:
        raise FileRefused("file.encoding", f"{name} cannot be read as {codec}: {error.args[-1]}") from error
