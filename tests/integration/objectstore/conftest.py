"""Every store that Rowdock speaks to, as a real server; places in them; a line to them that can be cut."""

from __future__ import annotations

import signal
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from _pytest.mark.structures import ParameterSet

from local_emulator import stores
from local_emulator.stores import StoreServer
from shared import objectstore
from shared.objectstore import ObjectStore
from tests.proxy import CuttingProxy

VERSIONED = "rowdock-versioned"
PLAIN = "rowdock-plain"

NEEDS_MINIO = [
    pytest.mark.store,
    pytest.mark.skipif(
        stores.minio_binary() is None, reason="neither silo nor minio is on PATH; decision 0004 says how to build it"
    ),
]
KINDS = [pytest.param(kind, marks=NEEDS_MINIO if kind == "minio" else []) for kind in stores.LAUNCHERS]


def places(*kinds: str, buckets: Sequence[str] = (VERSIONED, PLAIN)) -> list[ParameterSet]:
    """Parameters of the fixture ``place`` for these kinds of store; fake-gcs-server keeps no earlier generations."""
    return [
        pytest.param((kind, bucket), marks=NEEDS_MINIO if kind == "minio" else [], id=f"{kind}-{bucket}")
        for kind in kinds
        for bucket in buckets
        if (kind, bucket) != ("fake-gcs", VERSIONED)
    ]


@dataclass(frozen=True)
class Place:
    """A store, a bucket in it, and a folder there that no other test uses."""

    server: StoreServer
    store: ObjectStore
    client: Any  # a plain S3 client, for what the interface leaves out; None for fake-gcs-server
    bucket: str
    folder: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def keeps_generations(self) -> bool:
        return self.bucket == VERSIONED

    def name(self, last: str = "data.csv") -> str:
        return f"{self.folder}/{last}"


def launch(kind: str, state_dir: Path, port: int | None = None) -> StoreServer:
    """A server with one versioned bucket and one without versions."""
    if kind == "fake-gcs":
        return stores.fake_gcs(state_dir, [PLAIN], port=port)
    server = stores.LAUNCHERS[kind](state_dir, [VERSIONED], port=port)
    client = stores.s3_client(server)
    with suppress(client.exceptions.BucketAlreadyOwnedByYou):
        client.create_bucket(Bucket=PLAIN)
    return server


class Running:
    """Each kind of store, started once, when a test first asks for it."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._servers: dict[str, tuple[StoreServer, ObjectStore, Any]] = {}

    def place(self, kind: str, bucket: str) -> Place:
        if kind not in self._servers:
            server = launch(kind, self._state_dir / kind)
            client = None if kind == "fake-gcs" else stores.s3_client(server)
            self._servers[kind] = server, objectstore.connect(server.url), client
        return Place(*self._servers[kind], bucket)

    def kill(self) -> None:
        for server, _, _ in self._servers.values():
            server.child.stop(signal.SIGKILL)


@pytest.fixture(scope="session")
def running() -> Iterator[Running]:
    with tempfile.TemporaryDirectory(prefix="rowdock-store-", ignore_cleanup_errors=True) as directory:
        stores_here = Running(Path(directory))
        yield stores_here
        stores_here.kill()


@pytest.fixture(params=places(*stores.LAUNCHERS))
def place(request: pytest.FixtureRequest, running: Running) -> Place:
    """Every kind of store, with and without versions."""
    kind, bucket = request.param
    return running.place(kind, bucket)


@pytest.fixture
def proxied(place: Place) -> Iterator[tuple[CuttingProxy, Place]]:
    """The place as it is seen through a line that the test can cut."""
    with CuttingProxy(place.server.port) as proxy:
        url = place.server.url.replace(f":{place.server.port}", f":{proxy.port}")
        yield proxy, Place(place.server, objectstore.connect(url), place.client, place.bucket)
