"""What every object store promises to the rest of Rowdock, on every store, with and without versions."""

from __future__ import annotations

import gzip
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared.errors import ObjectExists, ObjectNotFound, StoreRefused
from shared.objectstore import PART_BYTES, ObjectInfo, ObjectWriter

from .conftest import VERSIONED, Place, places

MIB = 1024 * 1024
NAMES = [
    "plain.csv",
    "a b.csv",
    "a+b.csv",
    "a%20b%2Fc.csv",
    "deep/er/x.csv",
    "é ñ 数据 🎉.csv",
    "a'b\"c&d<e>;f=1,2.csv",
    "q?x=1#y.csv",
    "ends with a space ",
    "no-ending",
]


def noise(size: int, seed: int = 7) -> bytes:
    return random.Random(seed).randbytes(size)


def read_all(place: Place, info: ObjectInfo) -> bytes:
    with place.store.open_read(info.bucket, info.name, info.generation) as reader:
        return reader.read()


def listed(place: Place) -> list[ObjectInfo]:
    return list(place.store.list(place.bucket, place.folder))


def unfinished_uploads(place: Place) -> list[Any]:
    """Multipart uploads that wait in the test's folder; fake-gcs-server cannot list its resumable ones."""
    if place.server.kind == "fake-gcs":
        return []
    uploads = place.client.list_multipart_uploads(Bucket=place.bucket).get("Uploads", [])
    return [upload for upload in uploads if upload["Key"].startswith(place.folder)]


def test_stat_describes_the_object(place: Place) -> None:
    """Name, size, media type, time and a generation that stays the same as long as nobody writes."""
    written = place.store.put(place.bucket, place.name(), b"1,Sales\n", content_type="text/csv")
    found = place.store.stat(place.bucket, place.name())
    assert found == written
    assert (found.bucket, found.name, found.size) == (place.bucket, place.name(), 8)
    assert found.content_type == "text/csv"
    assert abs(found.updated - datetime.now(UTC)) < timedelta(minutes=1)
    assert place.store.stat(place.bucket, place.name(), found.generation) == found


def test_what_is_not_there_is_not_found(place: Place) -> None:
    another = place.store.put(place.bucket, place.name("another.csv"), b"1").generation
    for generation in (another, "d41d8cd98f00b204e9800998ecf8427e-0-1700000000"):
        with pytest.raises(ObjectNotFound):
            place.store.stat(place.bucket, place.name(), generation)
        with pytest.raises(ObjectNotFound):
            place.store.open_read(place.bucket, place.name(), generation)
    with pytest.raises(ObjectNotFound):
        place.store.stat(place.bucket, place.name())


def test_an_overwrite_makes_another_generation(place: Place) -> None:
    """The current one is the newest; the earlier one can be read where versions are kept, and elsewhere is gone."""
    first = place.store.put(place.bucket, place.name(), b"first")
    second = place.store.put(place.bucket, place.name(), b"second!")
    assert first.generation != second.generation
    assert place.store.stat(place.bucket, place.name()) == second
    assert read_all(place, second) == b"second!"
    if place.keeps_generations:
        assert read_all(place, first) == b"first"
        assert place.store.stat(place.bucket, place.name(), first.generation) == first
    else:
        with pytest.raises(ObjectNotFound):
            read_all(place, first)
        with pytest.raises(ObjectNotFound):
            place.store.stat(place.bucket, place.name(), first.generation)


def test_the_same_bytes_again_are_told_apart_by_versions(place: Place) -> None:
    """Without versions the same bytes in the same second may look the same, and then are."""
    first = place.store.put(place.bucket, place.name(), b"same")
    second = place.store.put(place.bucket, place.name(), b"same")
    if place.keeps_generations or place.server.kind == "fake-gcs":
        assert first.generation != second.generation
    assert read_all(place, second) == b"same"


def test_a_read_goes_on_in_its_generation_while_the_object_is_overwritten(place: Place) -> None:
    """All of the old bytes, or an error; never old ones followed by new ones."""
    old, new = b"o" * (24 * MIB), b"n" * (24 * MIB)
    info = place.store.put(place.bucket, place.name(), old)
    got = bytearray()
    with ThreadPoolExecutor(1) as pool:
        try:
            with place.store.open_read(place.bucket, place.name(), info.generation) as reader:
                got += reader.read(MIB)
                overwrite = pool.submit(place.store.put, place.bucket, place.name(), new)
                wait([overwrite], timeout=1)  # MinIO lets it wait until the object is read
                got += reader.read()
        except ObjectNotFound:
            assert not place.keeps_generations
        else:
            assert len(got) == len(old)
    assert got.count(b"o") == len(got)
    assert read_all(place, overwrite.result()) == new


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, None, b"0123456789"),
        (0, 10, b"0123456789"),
        (0, 99, b"0123456789"),
        (3, 7, b"3456"),
        (9, None, b"9"),
        (10, None, b""),
        (50, 60, b""),
        (4, 4, b""),
        (0, 0, b""),
    ],
)
def test_a_range_is_read_from_start_to_before_end(place: Place, start: int, end: int | None, expected: bytes) -> None:
    info = place.store.put(place.bucket, place.name(), b"0123456789")
    with place.store.open_read(place.bucket, place.name(), info.generation, start, end) as reader:
        assert reader.read() == expected
        assert reader.read(1) == b""
        assert (reader.info.generation, reader.info.size) == (info.generation, 10)


def test_reading_fills_the_callers_buffer_and_ends_with_0(place: Place) -> None:
    body = noise(3 * MIB + 17)
    info = place.store.put(place.bucket, place.name(), body)
    buffer, got = bytearray(64 * 1024), bytearray()
    with place.store.open_read(place.bucket, place.name(), info.generation) as reader:
        while filled := reader.readinto(memoryview(buffer)):
            got += buffer[:filled]
        assert reader.readinto(memoryview(buffer)) == 0
    assert got == body


@pytest.mark.parametrize("last", NAMES)
def test_any_name_survives_the_way_there_and_back(place: Place, last: str) -> None:
    name = place.name(last)
    info = place.store.put(place.bucket, name, last.encode())
    assert info.name == name
    assert [(found.name, found.generation) for found in listed(place)] == [(name, info.generation)]
    assert read_all(place, info) == last.encode()
    place.store.delete(place.bucket, name)
    assert listed(place) == []


def test_an_object_without_bytes_is_an_object(place: Place) -> None:
    put = place.store.put(place.bucket, place.name("put"), b"")
    with place.store.create(place.bucket, place.name("created")) as writer:
        pass
    assert writer.info is not None
    for info in (put, writer.info):
        assert (info.size, read_all(place, info)) == (0, b"")


def test_stored_bytes_come_as_they_are_stored(place: Place) -> None:
    """Content-Encoding: gzip is told and nothing is unpacked on the way; sizes stay the stored ones."""
    packed = gzip.compress(b"1,Sales\n" * 1000)
    if place.server.kind == "fake-gcs":
        blob = place.store.bucket(place.bucket).blob(place.name())  # type: ignore[attr-defined]
        blob.content_encoding = "gzip"
        blob.upload_from_string(packed)
    else:
        place.client.put_object(Bucket=place.bucket, Key=place.name(), Body=packed, ContentEncoding="gzip")
    info = place.store.stat(place.bucket, place.name())
    assert (info.content_encoding, info.size) == ("gzip", len(packed))
    assert read_all(place, info) == packed
    with place.store.open_read(place.bucket, place.name(), info.generation, 5, 25) as reader:
        assert reader.read() == packed[5:25]


def test_a_listing_has_the_current_generations_under_the_prefix_in_order(place: Place) -> None:
    """What was overwritten is there once, what was deleted is not, and what is listed can be read."""
    for last in ("b.csv", "a/2.csv", "a/1.csv", "gone.csv"):
        place.store.put(place.bucket, place.name(last), b"old")
    current = place.store.put(place.bucket, place.name("b.csv"), b"newer")
    place.store.delete(place.bucket, place.name("gone.csv"))
    found = listed(place)
    assert [info.name for info in found] == [place.name(last) for last in ("a/1.csv", "a/2.csv", "b.csv")]
    assert (found[-1].generation, found[-1].size, found[-1].etag) == (current.generation, 5, current.etag)
    assert [place.store.stat(i.bucket, i.name).generation for i in found] == [i.generation for i in found]
    assert [i.name for i in place.store.list(place.bucket, place.name("a/"))] == [i.name for i in found[:2]]


def test_a_listing_agrees_with_stat_on_objects_made_of_parts(place: Place) -> None:
    with place.store.create(place.bucket, place.name()) as writer:
        writer.write(noise(PART_BYTES + 1))
    assert writer.info is not None
    assert [info.generation for info in listed(place)] == [writer.info.generation]


@pytest.mark.parametrize("place", places("minio", "seaweedfs", buckets=[VERSIONED]), indirect=True)
def test_a_listing_goes_on_after_the_first_thousand(place: Place) -> None:
    names = [place.name(f"{number:04}.csv") for number in range(1005)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: place.client.put_object(Bucket=place.bucket, Key=name, Body=b""), names))
    assert [info.name for info in listed(place)] == names


def test_a_create_writes_a_new_object_and_describes_it(place: Place) -> None:
    with place.store.create(place.bucket, place.name(), content_type="application/avro") as writer:
        for piece in (b"Obj", b"", bytearray(b"\x01"), memoryview(b"rest")):
            assert writer.write(piece) == len(piece)
        writer.flush()
    assert writer.info == place.store.stat(place.bucket, place.name())
    assert writer.info is not None
    assert writer.info.content_type == "application/avro"
    assert read_all(place, writer.info) == b"Obj\x01rest"
    with pytest.raises(ValueError, match="committed or aborted"):
        writer.write(b"late")


@pytest.mark.parametrize("size", [PART_BYTES, 2 * PART_BYTES, 2 * PART_BYTES + 5])
def test_parts_join_without_a_seam(place: Place, size: int) -> None:
    body = noise(size)
    with place.store.create(place.bucket, place.name()) as writer:
        for start in range(0, size, 1_000_003):
            writer.write(body[start : start + 1_000_003])
    assert writer.info is not None
    assert writer.info.size == size
    assert read_all(place, writer.info) == body
    assert unfinished_uploads(place) == []


@pytest.mark.parametrize("size", [5, PART_BYTES + 5], ids=["small", "parts"])
def test_a_create_leaves_what_is_there(place: Place, size: int) -> None:
    before = place.store.put(place.bucket, place.name(), b"before")
    with pytest.raises(ObjectExists), place.store.create(place.bucket, place.name()) as writer:
        writer.write(noise(size))
    assert place.store.stat(place.bucket, place.name()) == before
    assert unfinished_uploads(place) == []


def test_a_create_may_follow_a_delete(place: Place) -> None:
    place.store.put(place.bucket, place.name(), b"before")
    place.store.delete(place.bucket, place.name())
    with place.store.create(place.bucket, place.name()) as writer:
        writer.write(b"after")
    assert writer.info is not None
    assert read_all(place, writer.info) == b"after"


def test_of_writers_at_once_exactly_one_wins(place: Place) -> None:
    def write(number: int, start: threading.Barrier) -> bytes | None:
        body = f"writer {number}".encode()
        try:
            with place.store.create(place.bucket, place.name()) as writer:
                writer.write(body)
                start.wait(10)
        except ObjectExists:
            return None
        return body

    winners = at_once(4, write)
    assert len(winners) == 1
    assert read_all(place, place.store.stat(place.bucket, place.name())) == winners[0]


@pytest.mark.parametrize("place", places("minio"), indirect=True)
def test_of_writers_of_parts_at_once_exactly_one_wins(place: Place) -> None:
    """SeaweedFS 4.48 and moto 5.2 compare before they write: there both may win (decision 0004)."""

    def write(number: int, start: threading.Barrier) -> bytes | None:
        body = noise(PART_BYTES + 100, seed=number)
        try:
            with place.store.create(place.bucket, place.name()) as writer:
                writer.write(body)
                start.wait(10)
        except ObjectExists:
            return None
        return body

    winners = at_once(2, write)
    assert len(winners) == 1
    assert read_all(place, place.store.stat(place.bucket, place.name())) == winners[0]
    assert unfinished_uploads(place) == []


def test_of_writers_of_parts_the_first_to_commit_wins(place: Place, request: pytest.FixtureRequest) -> None:
    """Both have begun and sent a part before either ends."""
    if place.server.kind == "fake-gcs":
        reason = "it does not look at ifGenerationMatch when a resumable upload ends"
        request.applymarker(pytest.mark.xfail(strict=True, reason=reason))
    first, second = (place.store.create(place.bucket, place.name()) for _ in range(2))
    for writer, body in ((first, b"1"), (second, b"2")):
        writer.write(body * (PART_BYTES + 1))
    info = first.commit()
    with pytest.raises(ObjectExists):
        second.commit()
    assert read_all(place, info) == b"1" * (PART_BYTES + 1)
    assert unfinished_uploads(place) == []


def at_once(count: int, write: Callable[[int, threading.Barrier], bytes | None]) -> list[bytes]:
    start = threading.Barrier(count)
    with ThreadPoolExecutor(count) as pool:
        bodies = list(pool.map(lambda number: write(number, start), range(count)))
    return [body for body in bodies if body is not None]


@pytest.mark.parametrize("size", [0, 5, 2 * PART_BYTES + 5], ids=["nothing", "small", "parts"])
def test_an_exception_leaves_nothing(place: Place, size: int) -> None:
    def write_and_fail(writer: ObjectWriter) -> None:
        writer.write(noise(size))
        raise InterruptedError

    with pytest.raises(InterruptedError), place.store.create(place.bucket, place.name()) as writer:
        write_and_fail(writer)
    assert writer.info is None
    assert listed(place) == []
    assert unfinished_uploads(place) == []


def test_a_delete_takes_the_current_object_or_one_generation(place: Place) -> None:
    first = place.store.put(place.bucket, place.name(), b"first")
    second = place.store.put(place.bucket, place.name(), b"second")
    place.store.delete(place.bucket, place.name(), first.generation)
    assert place.store.stat(place.bucket, place.name()) == second
    with pytest.raises(ObjectNotFound):
        read_all(place, first)
    place.store.delete(place.bucket, place.name())
    with pytest.raises(ObjectNotFound):
        place.store.stat(place.bucket, place.name())
    place.store.delete(place.bucket, place.name())
    place.store.delete(place.bucket, place.name(), first.generation)


def test_a_bucket_that_does_not_exist_is_refused_by_name(place: Place) -> None:
    """A bucket named wrongly is no object that was deleted: a load that took it for one would lose the file."""
    with pytest.raises(StoreRefused, match="rowdock-nowhere"):
        list(place.store.list("rowdock-nowhere"))
    with pytest.raises(StoreRefused, match="rowdock-nowhere"):
        place.store.put("rowdock-nowhere", "x", b"")
    with pytest.raises(StoreRefused, match="rowdock-nowhere"), place.store.create("rowdock-nowhere", "x") as writer:
        writer.write(b"x")
    for generation in (None, place.store.put(place.bucket, place.name(), b"1").generation):
        with pytest.raises(StoreRefused, match="rowdock-nowhere"):
            place.store.stat("rowdock-nowhere", "x", generation)
    with pytest.raises(StoreRefused, match="rowdock-nowhere"):
        place.store.open_read("rowdock-nowhere", "x", str(generation))
