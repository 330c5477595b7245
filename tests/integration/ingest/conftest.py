"""A dock: the ingest function's own code on a fresh database and a bucket of a real store, as the production role."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from functions.ingest import work
from functions.ingest.services import Services
from local_emulator import stores
from local_emulator.stores import StoreServer
from shared import dictionary, events, objectstore, settings
from shared.dictionary import Dictionary
from shared.events import Event
from shared.postgres import Database

DEPARTMENTS = b"1,Engineering\n2,Sales\n3,Support\n"
JOBS = b"1,Engineer\n2,Seller\n"


@dataclass
class Dock:
    """What a test drops files into and looks at."""

    services: Services
    connect: Callable[[str], Any]
    bucket: str
    sent: list[Event] = field(default_factory=list)
    _ids: Iterator[int] = field(default_factory=itertools.count)

    def put(self, name: str, content: bytes) -> str:
        """Put an object; returns its generation."""
        return self.services.store.put(self.bucket, name, content).generation

    def drop(self, name: str, content: bytes) -> dict[str, Any]:
        """Put an object and deliver its event; returns the fields of the log line."""
        return self.deliver(name, self.put(name, content))

    def deliver(self, name: str, generation: str | None = None, **data: Any) -> dict[str, Any]:
        return work.handle(self.services, self.finalized(name, generation, **data))

    def finalized(self, name: str, generation: str | None = None, **data: Any) -> Event:
        body = {"bucket": self.bucket, "name": name, "generation": generation} | data
        made = events.make(
            events.OBJECT_FINALIZED, body, source=f"//storage.googleapis.com/projects/_/buckets/{self.bucket}"
        )
        return replace(made, id=f"event-{next(self._ids)}")

    def force(self, name: str) -> dict[str, Any]:
        return work.handle(
            self.services, events.make(events.LOAD, {"bucket": self.bucket, "name": name, "force": True})
        )

    def ask(self, type_: str, data: dict[str, Any] | None = None) -> dict[str, Any]:
        return work.handle(self.services, events.make(type_, data or {}))

    def run_sent(self) -> None:
        """Deliver what the function sent to itself, and what that sends, until nothing is left."""
        while self.sent:
            work.handle(self.services, self.sent.pop(0))

    def parents(self) -> None:
        self.drop("departments.csv", DEPARTMENTS)
        self.drop("jobs.csv", JOBS)

    def query(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        conn = self.connect("owner")
        try:
            with conn, conn.cursor() as cursor:
                cursor.execute(statement, values or None)
                return cursor.fetchall() if cursor.description else []
        finally:
            conn.close()

    def employees(self) -> list[tuple[Any, ...]]:
        return self.query(
            "select id, employee_name, to_char(hired_date at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'),"
            " department_id, job_id from hired_employees.hired_employees order by id"
        )

    def rejects(self) -> list[tuple[Any, ...]]:
        """(line, reasons, raw) of open rejects in file order."""
        return self.query(
            "select line_number, reasons, raw from ingest_status.rejects where closed_as is null"
            " order by load_id, record_number"
        )

    def pending(self) -> list[tuple[Any, ...]]:
        return self.query(
            "select line_number, row_key, waits_on, waits_for from ingest_status.pending"
            " order by load_id, record_number"
        )

    def history(self) -> list[dict[str, Any]]:
        rows = self.query("select row_to_json(l) from ingest_status.ingest_status l order by id")
        return [row[0] for row in rows]

    def rollup_is_right(self) -> bool:
        """Whether the roll-up equals a recount."""
        (same,) = self.query(
            """
            with counted as (select extract(year from hired_date at time zone 'UTC')::int y,
              extract(quarter from hired_date at time zone 'UTC')::int q, department_id d, job_id j, count(*) n
              from hired_employees.hired_employees group by 1, 2, 3, 4)
            select (select coalesce(sum(n), 0) from counted)
                 = (select coalesce(sum(hired), 0) from metrics.hires_by_quarter)
               and not exists (select y, q, d, j, n from counted except
                               select year, quarter, department_id, job_id, hired from metrics.hires_by_quarter)
            """
        )
        return bool(same[0])


@dataclass
class Buckets:
    """Empty buckets with versions, used again: SeaweedFS takes 0.2 s for the first object of each new one."""

    client: Any
    free: list[str] = field(default_factory=list)

    def take(self) -> str:
        if self.free:
            return self.free.pop()
        bucket = f"csv-{uuid.uuid4().hex[:12]}"
        self.client.create_bucket(Bucket=bucket)
        self.client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        return bucket

    def give_back(self, bucket: str) -> None:
        for page in self.client.get_paginator("list_object_versions").paginate(Bucket=bucket):
            for version in page.get("Versions", []) + page.get("DeleteMarkers", []):
                self.client.delete_object(Bucket=bucket, Key=version["Key"], VersionId=version["VersionId"])
        self.free.append(bucket)


@pytest.fixture(scope="session")
def buckets(any_store: StoreServer) -> Buckets:
    return Buckets(stores.s3_client(any_store))


@pytest.fixture
def make_dock(database: Any, any_store: StoreServer, buckets: Buckets) -> Iterator[Callable[..., Dock]]:
    """Docks over the test's database, each with a bucket of its own; a dictionary may be given."""
    databases: list[Database] = []
    taken: list[str] = []

    def make(tables: Dictionary | None = None) -> Dock:
        bucket = buckets.take()
        taken.append(bucket)
        sent: list[Event] = []
        pool = Database(database.url_for("ingest"), application_name="ingest-test", pool_size=8)
        databases.append(pool)
        current = settings.load({"ROWDOCK_ENVIRONMENT": "emulator", "CALLER_AUTH": "off", "UPLOAD_BUCKET": bucket})
        services = Services(
            settings=current,
            dictionary=tables or dictionary.load(),
            database=pool,
            store=objectstore.connect(any_store.url),
            send=sent.append,
        )
        return Dock(services, database.connect, bucket, sent)

    yield make
    for pool in databases:
        pool.close()
    for bucket in taken:
        buckets.give_back(bucket)


@pytest.fixture
def dock(make_dock: Callable[..., Dock]) -> Dock:
    return make_dock()


@pytest.fixture
def loaded_parents(dock: Dock) -> Dock:
    dock.parents()
    return dock
