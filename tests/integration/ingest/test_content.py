"""The same bytes again, on every kind of store: nothing changes, and history names the load that brought them."""

from __future__ import annotations

import dataclasses

import pytest

from tests.integration.ingest.conftest import DEPARTMENTS, Dock
from tests.integration.objectstore.conftest import PLAIN, VERSIONED, Place, places, running

__all__ = ["running"]  # the fixture that ``in_place`` asks for by name

pytestmark = pytest.mark.slow  # it starts every store

STORES = [*places("minio", "seaweedfs", "moto", buckets=[VERSIONED]), *places("fake-gcs", buckets=[PLAIN])]


@pytest.fixture
def in_place(dock: Dock, request: pytest.FixtureRequest) -> tuple[Dock, Place]:
    """A dock whose bucket is one of the store that the test names."""
    kind, bucket = request.param
    place: Place = request.getfixturevalue("running").place(kind, bucket)
    services = dataclasses.replace(dock.services, store=place.store)
    return dataclasses.replace(dock, services=services, bucket=bucket), place


def seen_before(dock: Dock) -> list[int | None]:
    return [load["details"].get("content_seen_before") for load in dock.history()]


@pytest.mark.parametrize("in_place", STORES, indirect=True)
def test_the_same_bytes_under_another_name_are_told(in_place: tuple[Dock, Place]) -> None:
    """In Cloud Storage an etag belongs to the generation and crc32c to the bytes; an S3-like may know an etag alone."""
    dock, place = in_place
    first = dock.drop(place.name("departments.csv"), DEPARTMENTS)["load_id"]
    again = dock.drop(place.name("departments-again.csv"), DEPARTMENTS)
    assert (again["rows_read"], again["rows_unchanged"]) == (3, 3)
    dock.drop(place.name("departments-other.csv"), DEPARTMENTS.replace(b"Sales", b"Tales"))
    assert seen_before(dock) == [None, first, None]


@pytest.mark.parametrize("in_place", STORES, indirect=True)
def test_the_same_bytes_under_the_same_name_are_told(in_place: tuple[Dock, Place]) -> None:
    """A new generation of the object is a load of its own, and says that its content is not new."""
    dock, place = in_place
    first = dock.drop(place.name("departments.csv"), DEPARTMENTS)["load_id"]
    dock.put(place.name("departments.csv"), DEPARTMENTS[:-2])  # so that a store without versions has a generation more
    dock.drop(place.name("departments.csv"), DEPARTMENTS)
    assert seen_before(dock) == [None, first]


CLOUD_STORAGE = places("fake-gcs", buckets=[PLAIN])


@pytest.mark.parametrize("in_place", CLOUD_STORAGE, indirect=True)
def test_an_etag_of_the_generation_does_not_hide_the_same_bytes(in_place: tuple[Dock, Place]) -> None:
    """Cloud Storage gives each generation an etag of its own, where fake-gcs-server derives it from the bytes."""
    dock, place = in_place
    first = dock.drop(place.name("departments.csv"), DEPARTMENTS)["load_id"]
    dock.query("update ingest_status.ingest_status set etag = 'COjS2eC6vpADEAE='")
    dock.drop(place.name("departments-again.csv"), DEPARTMENTS)
    assert seen_before(dock) == [None, first]


@pytest.mark.parametrize("in_place", CLOUD_STORAGE, indirect=True)
def test_two_checksums_that_differ_are_two_contents(in_place: tuple[Dock, Place]) -> None:
    """Where both have a crc32c it decides alone; where one has none, the etag does."""
    dock, place = in_place
    first = dock.drop(place.name("departments.csv"), DEPARTMENTS)["load_id"]
    dock.query("update ingest_status.ingest_status set crc32c = 'AAAAAA=='")
    second = dock.drop(place.name("departments-2.csv"), DEPARTMENTS)["load_id"]
    dock.query("update ingest_status.ingest_status set crc32c = null where id = %s", first)
    dock.query("update ingest_status.ingest_status set crc32c = 'AAAAAA==' where id = %s", second)
    dock.drop(place.name("departments-3.csv"), DEPARTMENTS)
    assert seen_before(dock) == [None, None, first]
