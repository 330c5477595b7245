"""Backups over every store: a real MinIO, SeaweedFS, moto, and google-cloud-storage on fake-gcs-server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from shared.backups import verify
from shared.backups.asked import Request
from shared.backups.drill import drill
from shared.backups.manifest import folder, manifest_name
from shared.backups.restore import restore
from shared.errors import BackupDamaged
from shared.postgres import Database
from tests.integration.backups.conftest import Vault
from tests.integration.objectstore.conftest import PLAIN, VERSIONED, Place, Running, places, running

pytestmark = pytest.mark.slow  # each test takes backups of its own

__all__ = ["running"]  # a fixture: the stores, each started once
ROWS = "select * from hired_employees.hired_employees order by id"
PLACES = [*places("minio", "seaweedfs", "moto", buckets=[VERSIONED]), *places("fake-gcs", buckets=[PLAIN])]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, running: Running) -> Place:
    kind, bucket = request.param
    return running.place(kind, bucket)


@pytest.fixture
def here(place: Place, vault: Vault) -> Vault:
    """The vault, with its backups in this store."""
    settings = replace(vault.services.settings, backup_bucket=place.bucket)
    return Vault(replace(vault.services, store=place.store, settings=settings), vault.database, place.server)


def test_a_backup_is_taken_and_verified_in_every_store(here: Vault, people: int) -> None:
    """And another program reads its rows."""
    manifest = here.take()
    assert here.catalogue.read(manifest.backup_id) == manifest
    for depth in ("manifest", "bytes", "decode"):
        found = verify.verify(here.services, manifest.backup_id, depth, deadline_s=60)  # type: ignore[arg-type]
        assert (found.ok, found.failures) == (True, ())
    assert len(here.rows(manifest, "hired_employees")) == people


def test_a_table_is_put_back_from_every_store(here: Vault, people: int) -> None:
    """Removed and changed rows, by the restoring role, which takes its copy in that store too; and a drill."""
    manifest = here.take()
    before = here.query(ROWS)
    here.query(
        "delete from hired_employees.hired_employees where id % 10 = 1;"
        " update hired_employees.hired_employees set job_id = 1 where id % 10 = 2"
    )
    pool = Database(here.database.url_for("restore"), application_name="restore-test", pool_size=6)
    try:
        restorer = replace(here.services, database=pool)
        outcome = restore(restorer, Request("employees", manifest.backup_id, dry_run=False), deadline_s=60)
        assert here.query(ROWS) == before
        assert outcome.undo_backup_id is not None
        assert drill(restorer, outcome.undo_backup_id, deadline_s=60).ok
    finally:
        pool.close()


def test_a_flipped_bit_is_found_in_every_store(here: Vault, people: int) -> None:
    """Written over the part, as a store that loses bits would have it."""
    manifest = here.take(tables=["employees"])
    part = manifest.parts[0]
    body = bytearray(here.read(part.object))
    body[len(body) // 2] ^= 4
    here.services.store.put(here.services.bucket, part.object, bytes(body))
    found = verify.verify(here.services, manifest.backup_id, "bytes", deadline_s=60)
    assert type(verify.error_of([found])) is BackupDamaged


@contextmanager
def much(vault: Vault) -> Iterator[None]:
    """A table that takes more than one request to a store, compressed as it is."""
    vault.query(
        "insert into hired_employees.departments select i, (select string_agg(md5((i * 20 + j)::text), '')"
        " from generate_series(1, 20) j) from generate_series(1, 40000) i"
    )
    yield


def test_an_error_in_the_middle_of_the_copy_leaves_no_object_in_any_store(here: Vault, place: Place) -> None:
    """Not even the beginning of one: an upload in parts is given up."""

    def fail(_table: str, rows: int) -> None:
        if rows == 40_000:
            raise ZeroDivisionError

    before = here.objects()
    with much(here), pytest.raises(ZeroDivisionError):
        here.take("now", tables=["departments"], on_progress=fail)
    assert here.objects() == before
    if place.client is not None:
        assert place.client.list_multipart_uploads(Bucket=place.bucket).get("Uploads", []) == []
    manifest = here.take(tables=["departments"])
    assert sum(part.bytes for part in manifest.parts) > 8 << 20
    assert {part.object for part in manifest.parts} == set(here.objects(folder(manifest.backup_id))) - {
        manifest_name(manifest.backup_id)
    }
