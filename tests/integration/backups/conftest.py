"""A vault: backup's own code on a fresh database and a bucket of a real store, as the production role."""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import fastavro
import pytest

from local_emulator import stores
from local_emulator.stores import StoreServer
from shared import dictionary, objectstore, settings
from shared.backups.catalogue import Catalogue
from shared.backups.manifest import Kind, Manifest
from shared.backups.services import Services
from shared.backups.take import take
from shared.dictionary import Dictionary
from shared.postgres import Database
from tests.integration.conftest import remove_bucket


@dataclass
class Vault:
    """What a test backs up and looks at."""

    services: Services
    database: Any
    store_server: StoreServer

    @property
    def catalogue(self) -> Catalogue:
        return Catalogue(self.services.store, self.services.bucket)

    def query(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = self.database.query(statement, *values)
        return rows

    def take(self, kind: Kind = "now", **given: Any) -> Manifest:
        return take(self.services, kind=kind, **{"deadline_s": 60, **given})

    def read(self, name: str) -> bytes:
        """The current bytes of an object."""
        store, bucket = self.services.store, self.services.bucket
        with store.open_read(bucket, name, store.stat(bucket, name).generation) as reader:
            return reader.read()

    def rows(self, manifest: Manifest, table: str) -> list[dict[str, Any]]:
        """The rows that a backup holds of a table, as fastavro reads them."""
        held = manifest.table(table)
        assert held is not None
        return [row for part in held.parts for row in fastavro.reader(io.BytesIO(self.read(part.object)))]

    def history(self) -> list[dict[str, Any]]:
        return [row for (row,) in self.query("select row_to_json(b) from backup_status.backup_status b order by id")]

    def objects(self, prefix: str = "backups/") -> list[str]:
        return [info.name for info in self.services.store.list(self.services.bucket, prefix)]


@pytest.fixture
def make_vault(database: Any, any_store: StoreServer) -> Iterator[Callable[..., Vault]]:
    """Vaults over the test's database, each with a bucket of its own; a dictionary and a role may be given."""
    pools: list[Database] = []
    buckets: list[str] = []
    client = stores.s3_client(any_store)

    def make(tables: Dictionary | None = None, role: str = "backup") -> Vault:
        bucket = f"avro-{uuid.uuid4().hex[:12]}"
        client.create_bucket(Bucket=bucket)
        buckets.append(bucket)
        pool = Database(database.url_for(role), application_name="backup-test", pool_size=6)
        pools.append(pool)
        environment = {"ROWDOCK_ENVIRONMENT": "emulator", "CALLER_AUTH": "off", "BACKUP_BUCKET": bucket}
        services = Services(
            settings=settings.load(environment),
            dictionary=tables or dictionary.load(),
            database=pool,
            store=objectstore.connect(any_store.url),
        )
        return Vault(services, database, any_store)

    yield make
    for pool in pools:
        pool.close()
    for bucket in buckets:
        remove_bucket(client, bucket)


@pytest.fixture
def people(database: Any) -> int:
    """Two departments, two jobs and a thousand employees; returns how many these are."""
    database.query(
        "insert into hired_employees.departments values (1, 'Engineering'), (2, 'Sales');"
        " insert into hired_employees.jobs values (1, 'Engineer'), (2, 'Seller');"
        " insert into hired_employees.hired_employees select i, 'Name ' || i,"
        " '2021-01-01 00:00:00.000001Z'::timestamptz + i * interval '7 hours', i % 2 + 1, i % 2 + 1"
        " from generate_series(1, 1000) i"
    )
    return 1000


@pytest.fixture
def vault(make_vault: Callable[..., Vault]) -> Vault:
    return make_vault()
