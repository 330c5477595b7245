"""Lines that drop, answers that get lost, bytes that change, servers that die: what a caller sees of each."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from local_emulator.children import free_port
from shared import objectstore
from shared.errors import ObjectExists, ObjectNotFound, StoreRefused, StoreUnavailable
from shared.objectstore import PART_BYTES, ObjectStore
from tests.proxy import CuttingProxy

from .conftest import KINDS, PLAIN, VERSIONED, Place, launch, places

MIB = 1024 * 1024
BODY = bytes(range(256)) * (8 * MIB // 256)
ONE_EACH = places("moto", "seaweedfs", "minio", buckets=[VERSIONED]) + places("fake-gcs")


@pytest.mark.parametrize("place", ONE_EACH, indirect=True)
def test_a_line_that_drops_is_taken_up_at_the_next_byte(proxied: tuple[CuttingProxy, Place]) -> None:
    proxy, place = proxied
    info = place.store.put(place.bucket, place.name(), BODY)
    with place.store.open_read(place.bucket, place.name(), info.generation, 5) as reader:
        head = reader.read(1000)
        proxy.cut_at = 3 * MIB
        assert head + reader.read() == BODY[5:]
    assert proxy.faults == 1


@pytest.mark.parametrize("place", places("moto", "seaweedfs", "fake-gcs", buckets=[PLAIN]), indirect=True)
def test_a_line_that_drops_is_not_taken_up_in_another_generation(proxied: tuple[CuttingProxy, Place]) -> None:
    """Without versions an overwrite ends the read, by an error that says so."""
    proxy, place = proxied
    info = place.store.put(place.bucket, place.name(), BODY)
    with place.store.open_read(place.bucket, place.name(), info.generation) as reader:
        reader.read(1000)
        place.store.put(place.bucket, place.name(), BODY[::-1])
        proxy.cut_at = 3 * MIB
        with pytest.raises(ObjectNotFound):
            reader.read()
    assert proxy.faults == 1


@pytest.mark.parametrize("place", places("fake-gcs"), indirect=True)
def test_bytes_that_changed_on_the_way_are_not_passed_for_the_object(proxied: tuple[CuttingProxy, Place]) -> None:
    """Cloud Storage tells a CRC32C; an S3 store tells one only if the writer gave it."""
    proxy, place = proxied
    info = place.store.put(place.bucket, place.name(), BODY)
    proxy.garble_at = 2 * MIB
    with (
        place.store.open_read(place.bucket, place.name(), info.generation) as reader,
        pytest.raises(StoreUnavailable, match="CRC32C"),
    ):
        reader.read()
    assert proxy.faults == 1


def commit_of(kind: str, size: int) -> bytes:
    """What only the request holds that makes an object of ``size`` bytes; the parts before it may be on their way."""
    if kind != "fake-gcs":
        return b"If-None-Match: *"
    return b"ifGenerationMatch=0" if size <= PART_BYTES else b"-%d/%d\r\n" % (size - 1, size)  # Content-Range


@pytest.mark.parametrize("place", ONE_EACH, indirect=True)
@pytest.mark.parametrize("size", [5, PART_BYTES + 5], ids=["small", "parts"])
def test_a_writer_whose_answer_got_lost_knows_its_own_object(proxied: tuple[CuttingProxy, Place], size: int) -> None:
    """The request is sent again, the store says that the object exists, and it does: it is this writer's."""
    proxy, place = proxied
    body = BODY[:5] + b"x" * (size - 5)
    with place.store.create(place.bucket, place.name()) as writer:
        writer.write(body)
        proxy.mute = commit_of(place.server.kind, size)
    assert writer.info == place.store.stat(place.bucket, place.name())
    assert proxy.faults == 1
    with pytest.raises(ObjectExists), place.store.create(place.bucket, place.name()) as another:
        another.write(body)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.values != ("moto",)])
def test_a_store_that_dies_in_the_middle_of_a_read_is_unavailable_until_it_is_back(kind: str, tmp_path: Path) -> None:
    """The error is transient, and the object is whole again with the server (moto forgets, and is left out)."""
    bucket = PLAIN if kind == "fake-gcs" else VERSIONED
    server = launch(kind, tmp_path / "state")
    try:
        store = objectstore.connect(server.url)
        body = BODY * 8
        info = store.put(bucket, "big.csv", body)
        with store.open_read(bucket, "big.csv", info.generation) as reader:
            reader.read(MIB)
            server.child.process.kill()
            with pytest.raises(StoreUnavailable):
                reader.read()
        server.stop()
        server = launch(kind, tmp_path / "state", server.port)
        assert store.open_read(bucket, "big.csv", info.generation).read() == body
    finally:
        server.child.stop(signal.SIGKILL)


@pytest.mark.parametrize("form", ["s3+http://key:secret@127.0.0.1:{}", "gs+http://127.0.0.1:{}"])
def test_a_store_that_is_not_there_is_unavailable(form: str) -> None:
    store = objectstore.connect(form.format(free_port()[0]))
    with pytest.raises(StoreUnavailable, match="bucket/name"):
        store.open_read("bucket", "name", "1")


@pytest.mark.parametrize("place", places("minio", "seaweedfs", buckets=[VERSIONED]), indirect=True)
def test_a_wrong_secret_is_refused_and_not_repeated(place: Place) -> None:
    """Permanent, with the remedy, and without the secret."""
    store: ObjectStore = objectstore.connect(place.server.url.replace(place.server.secret, "not-the-secret"))
    info = place.store.put(place.bucket, place.name(), b"1")
    for call in (
        lambda: store.stat(place.bucket, place.name()),
        lambda: store.open_read(place.bucket, place.name(), info.generation),
        lambda: store.put(place.bucket, place.name(), b"2"),
        lambda: list(store.list(place.bucket)),
    ):
        with pytest.raises(StoreRefused, match=r"403.*credentials") as raised:
            call()
        assert "not-the-secret" not in str(raised.value)


MEASURE = """
import resource, sys
from shared import objectstore

store, bucket, name, size = objectstore.connect(sys.argv[1]), *sys.argv[2:4], int(sys.argv[4])

def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

def there_and_back(name, size):
    piece, buffer = bytes(64 * 1024), memoryview(bytearray(1024 * 1024))
    with store.create(bucket, name) as writer:
        for _ in range(size // len(piece)):
            writer.write(piece)
    with store.open_read(bucket, name, writer.info.generation) as reader:
        got = 0
        while filled := reader.readinto(buffer):
            got += filled
    assert got == size

there_and_back(name + "-small", 64 * 1024)
before = peak_mib()
there_and_back(name, size)
print(peak_mib() - before)
"""


@pytest.mark.parametrize("place", places("seaweedfs", "fake-gcs", buckets=[PLAIN]), indirect=True)
def test_memory_does_not_grow_with_the_object(place: Place) -> None:
    """64 MiB there and back take a few parts of memory, whatever the store."""
    arguments = [place.server.url, place.bucket, place.name(), str(64 * MIB)]
    done = subprocess.run([sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 5 * PART_BYTES / MIB
