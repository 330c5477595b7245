"""Manifests for tests: made up, and complete."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from shared.avro.schema import canonical_sha256, record_schema
from shared.backups.manifest import (
    Checksum,
    Column,
    Kind,
    Manifest,
    Part,
    Sequence,
    TableBackup,
    new_id,
    part_name,
)

AT = datetime(2026, 11, 25, 3, 15, tzinfo=UTC)
COLUMNS = (
    Column("id", "integer", not_null=True, default=None, identity="d", generated=False, avro_name="id"),
    Column("job", "text", not_null=True, default=None, identity="", generated=False, avro_name="job"),
)


def a_part(backup_id: str, number: int = 0, **changed: Any) -> Part:
    part = Part(
        object=part_name(backup_id, "0a1b2c3d", "hired_employees", "jobs", number),
        rows=2,
        bytes=100,
        sha256="ab" * 32,
        crc32c="AAAAAA==",
        generation="1",
        datums_sha256="cd" * 32,
    )
    return replace(part, **changed)


def a_table(backup_id: str, **changed: Any) -> TableBackup:
    schema = record_schema("hired_employees", "jobs", [column.field for column in COLUMNS])
    table = TableBackup(
        schema="hired_employees",
        name="jobs",
        dictionary_key="jobs",
        columns=COLUMNS,
        primary_key=("id",),
        constraints=("PRIMARY KEY (id)",),
        sequences=(Sequence("id", 1_000_000_000, is_called=False),),
        avro_schema=schema,
        avro_schema_sha256=canonical_sha256(schema),
        rows=4,
        key_max=4,
        checksum=Checksum("chained-extended-hash", 18, "-12345678901234567890"),
        has_infinity=(),
        parts=(a_part(backup_id), a_part(backup_id, 1)),
    )
    return replace(table, **changed)


def a_manifest(kind: Kind = "scheduled", at: datetime = AT, **changed: Any) -> Manifest:
    """A backup asked for at ``at``, its snapshot half a second later."""
    backup_id = new_id(kind, at)
    manifest = Manifest(
        backup_id=backup_id,
        kind=kind,
        tool_version="0.1.0",
        scheduled_at=at if kind == "scheduled" else None,
        snapshot_at=at + timedelta(seconds=0.5),
        finished_at=at + timedelta(seconds=5),
        snapshot="10:10:",
        wal_lsn="0/16B3748",
        server_version=180000,
        encoding="UTF8",
        whole=True,
        tables=(a_table(backup_id),),
    )
    return replace(manifest, **changed)
