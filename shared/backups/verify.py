"""Look at a backup as it lies in the bucket; what cannot be looked at has failed.

What is found is written beside the backup and into history, and decides which backups are kept.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from shared.avro.schema import Field
from shared.avro.table_in import PartToRead, check_part
from shared.backups import history, outcomes
from shared.backups.catalogue import LATEST, Catalogue
from shared.backups.manifest import ROOT, Manifest, Part
from shared.backups.outcomes import Depth, Outcome
from shared.errors import (
    BackupDamaged,
    DeadlineExceeded,
    NoSuchBackup,
    ObjectNotFound,
    RowdockError,
    TransientError,
)

if TYPE_CHECKING:
    from shared.backups.services import Services
    from shared.objectstore import ObjectInfo

ALL_UNVERIFIED = "all-unverified"
PARTS_AT_ONCE = 2  # one for each core: reading and decompressing are done without the interpreter's lock


@dataclass(frozen=True, slots=True)
class Failure:
    """One thing that is not as it was, or could not be looked at.

    Attributes:
        check: which look at it found that.
        object: the part or manifest; its name in the bucket.
        code: of the error.
        may_pass: the store did not answer: the next verification may find all well.
    """

    check: str
    object: str
    code: str
    message: str
    may_pass: bool


@dataclass(frozen=True, slots=True)
class Verification:
    """What one verification found.

    Attributes:
        parts, rows, bytes: what the manifest says and was looked at; 0 where it cannot be read.
    """

    backup_id: str
    depth: Depth
    started_at: datetime
    finished_at: datetime
    parts: int
    rows: int
    bytes: int
    failures: tuple[Failure, ...]

    @property
    def ok(self) -> bool:
        """Whether all was looked at and is as it was."""
        return not self.failures

    def as_json(self) -> dict[str, Any]:
        """For the bucket and for who asked."""
        instants = {name: getattr(self, name).isoformat() for name in ("started_at", "finished_at")}
        return {**asdict(self), **instants, "failures": [asdict(failure) for failure in self.failures], "ok": self.ok}


@dataclass(frozen=True, slots=True)
class Looked:
    """One part, what the store says of it now, and how to read it; ``info`` is None if there is no such object."""

    part: Part
    info: ObjectInfo | None
    to_read: PartToRead
    fields: tuple[Field, ...]


def _exists(looked: Looked) -> None:
    if looked.info is None:
        raise BackupDamaged(f"{looked.part.object} is not in the bucket: take another backup")


def _has_its_generation(looked: Looked) -> None:
    if looked.info and looked.info.generation != looked.part.generation:
        raise BackupDamaged(f"{looked.part.object} was written again since: its generation is another")


def _has_its_size(looked: Looked) -> None:
    if looked.info and looked.info.size != looked.part.bytes:
        raise BackupDamaged(f"{looked.part.object} has {looked.info.size} bytes, the backup says {looked.part.bytes}")


def _has_its_crc32c(looked: Looked) -> None:
    if looked.info and looked.info.crc32c not in (None, looked.part.crc32c):
        raise BackupDamaged(f"{looked.part.object} has another CRC32C in the store than the backup says")


def _has_its_bytes(looked: Looked) -> None:
    check_part(looked.to_read, "bytes", looked.fields)


def _has_its_rows(looked: Looked) -> None:
    check_part(looked.to_read, "decode", looked.fields)


Check = Callable[[Looked], None]
OF_THE_STORE: dict[str, Check] = {
    "exists": _exists,
    "generation": _has_its_generation,
    "size": _has_its_size,
    "crc32c": _has_its_crc32c,
}
CHECKS: dict[Depth, dict[str, Check]] = {
    "manifest": OF_THE_STORE,
    "bytes": {**OF_THE_STORE, "bytes": _has_its_bytes},
    "decode": {**OF_THE_STORE, "decode": _has_its_rows},  # reads and sums up the bytes too
}


def verify(
    services: Services, backup_id: str, depth: Depth, *, deadline_s: float, checks: dict[str, Check] | None = None
) -> Verification:
    """Look at one backup, and write down what was found.

    Args:
        services: its database takes the history.
        depth: ``manifest``, ``bytes`` or ``decode``.
        deadline_s: from now on.
        checks: of each part; those of ``depth`` if None.

    Raises:
        NoSuchBackup: there is none.
        DeadlineExceeded: the time was too short; nothing is written down.
        StoreUnavailable, StoreRefused: what was found cannot be written down.
    """
    started_at, ends_s = datetime.now(UTC), time.monotonic() + deadline_s
    failures: list[Failure] = []
    manifest = _manifest(services, backup_id, failures)
    if manifest is not None:
        history.published(services.database, manifest)
        failures += _looked_through(services, manifest, checks or CHECKS[depth], ends_s)
    found = Verification(
        backup_id,
        depth,
        started_at,
        datetime.now(UTC),
        parts=len(manifest.parts) if manifest else 0,
        rows=sum(table.rows for table in manifest.tables) if manifest else 0,
        bytes=sum(part.bytes for part in manifest.parts) if manifest else 0,
        failures=tuple(failures),
    )
    record(services, found)
    return found


def record(services: Services, found: Verification) -> None:
    """Write down what was found: beside the backup, and in history.

    Raises:
        StoreUnavailable, StoreRefused: it could not be written beside the backup.
    """
    outcome = Outcome(found.started_at, found.depth, found.ok)
    body = json.dumps(found.as_json(), sort_keys=True, indent=1).encode()
    name = outcome.object_name(found.backup_id)
    with services.store.create(services.bucket, name, content_type="application/json") as writer:
        writer.write(body)
    history.verified(services.database, found.backup_id, found.finished_at, found.depth, ok=found.ok)


def chosen(services: Services, which: str) -> list[str]:
    """Ids of the backups that ``which`` means: an id, ``latest``, or ``all-unverified``, the newest first.

    Raises:
        NoSuchBackup: there is none.
        BackupDamaged: the newest one cannot be told, because the manifest of one that may be it is damaged.
        StoreUnavailable, StoreRefused: the bucket cannot be read.
    """
    catalogue = Catalogue(services.store, services.bucket)
    if which == LATEST:
        return [catalogue.choose().backup_id]
    if which != ALL_UNVERIFIED:
        try:
            return [catalogue.read(which).backup_id]
        except BackupDamaged:
            return [which]  # it is there: what is wrong with it is for the verification to say
    listing = catalogue.list()
    ids = [unreadable.backup_id for unreadable in listing.unreadable] + [m.backup_id for m in listing.manifests]
    known = outcomes_by_backup(services)
    return [backup_id for backup_id in ids if not outcomes.is_verified(known.get(backup_id, ()))]


def outcomes_by_backup(services: Services) -> dict[str, list[Outcome]]:
    """Of every backup in the bucket.

    Raises:
        StoreUnavailable, StoreRefused: the bucket cannot be read.
    """
    found: dict[str, list[Outcome]] = {}
    for info in services.store.list(services.bucket, ROOT):
        backup_id = info.name.removeprefix(ROOT).partition("/")[0]
        if outcome := outcomes.parse(backup_id, info.name):
            found.setdefault(backup_id, []).append(outcome)
    return found


def part_to_read(services: Services, part: Part) -> PartToRead:
    """A part for ``copy_in`` and ``check_part``: the generation that the manifest names, and no other."""
    return PartToRead(
        open=partial(services.store.open_read, services.bucket, part.object, part.generation),
        rows=part.rows,
        bytes=part.bytes,
        sha256=part.sha256,
        crc32c=part.crc32c,
        datums_sha256=part.datums_sha256,
        name=part.object,
    )


def _manifest(services: Services, backup_id: str, failures: list[Failure]) -> Manifest | None:
    """The manifest; None, and a failure more, if it is there and cannot be used."""
    try:
        return Catalogue(services.store, services.bucket).read(backup_id)
    except NoSuchBackup:
        raise
    except RowdockError as error:
        failures.append(_failure("manifest", f"{ROOT}{backup_id}/manifest.json", error))
        return None


def _looked_through(services: Services, manifest: Manifest, checks: dict[str, Check], ends_s: float) -> list[Failure]:
    """What is wrong with the parts, in their order."""
    work = [(part, table.fields) for table in manifest.tables for part in table.parts]

    def look(given: tuple[Part, tuple[Field, ...]]) -> list[Failure]:
        if time.monotonic() > ends_s:
            raise DeadlineExceeded("the verification did not end within its time")
        return _looked_at(services, *given, checks)

    with ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="parts") as pool:
        return [failure for failures in pool.map(look, work) for failure in failures]


def _looked_at(services: Services, part: Part, fields: tuple[Field, ...], checks: dict[str, Check]) -> list[Failure]:
    """What is wrong with one part: the first thing, for what comes after it follows from it."""
    try:
        info = services.store.stat(services.bucket, part.object)
    except ObjectNotFound:
        info = None
    except RowdockError as error:
        return [_failure("exists", part.object, error)]
    looked = Looked(part, info, part_to_read(services, part), fields)
    for name, check in checks.items():
        try:
            check(looked)
        except RowdockError as error:
            return [_failure(name, part.object, error)]
    return []


def _failure(check: str, name: str, error: RowdockError) -> Failure:
    return Failure(check, name, error.code, str(error), may_pass=isinstance(error, TransientError))


def error_of(found: Sequence[Verification]) -> RowdockError | None:
    """What to answer: BackupDamaged if anything is, TransientError if the store did not answer, None if all is well."""
    failed = [verification for verification in found if not verification.ok]
    if not failed:
        return None
    told = "; ".join(f"{v.backup_id}: {v.failures[0].message}" for v in failed)
    every = [failure for verification in failed for failure in verification.failures]
    kind: type[RowdockError] = TransientError if all(failure.may_pass for failure in every) else BackupDamaged
    return kind(told)
