"""A vault: backup's own code on a fresh database and a bucket of a real store, as the production role."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from local_emulator import stores
from local_emulator.stores import StoreServer
from shared import dictionary, objectstore, settings
from shared.backups.catalogue import Catalogue
from shared.backups.services import Services
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
def vault(make_vault: Callable[..., Vault]) -> Vault:
    return make_vault()
