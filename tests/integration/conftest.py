"""A real object store for tests whose promise does not depend on which one it is."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from local_emulator import stores
from local_emulator.stores import StoreServer


@pytest.fixture(scope="session")
def any_store() -> Iterator[StoreServer]:
    """MinIO where its binary is on PATH, else SeaweedFS: what these tests promise does not depend on the store."""
    with tempfile.TemporaryDirectory(prefix="rowdock-store-", ignore_cleanup_errors=True) as directory:
        launch = stores.minio if stores.minio_binary() else stores.seaweedfs
        server = launch(Path(directory), [])
        yield server
        server.stop()


def remove_bucket(client: Any, bucket: str) -> None:
    """With all that is in it: each bucket holds volumes of SeaweedFS, which has none left after some sixty."""
    for page in client.get_paginator("list_object_versions").paginate(Bucket=bucket):
        for version in page.get("Versions", []) + page.get("DeleteMarkers", []):
            client.delete_object(Bucket=bucket, Key=version["Key"], VersionId=version["VersionId"])
    client.delete_bucket(Bucket=bucket)
