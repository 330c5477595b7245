"""Which backups there are: what the bucket has a manifest of, in the order of their snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from shared.backups import manifest as manifests
from shared.backups.manifest import ID, MOST_BYTES, ROOT, Manifest, manifest_name
from shared.errors import BackupDamaged, NoSuchBackup, ObjectNotFound

if TYPE_CHECKING:
    from shared.objectstore import ObjectInfo, ObjectStore

LATEST = "latest"
READS_AT_ONCE = 8
CLOCKS_APART = timedelta(minutes=1)  # the store's and ours, at the most


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A backup whose manifest cannot be used.

    Attributes:
        written_at: when, by the clock of the store.
    """

    backup_id: str
    written_at: datetime
    error: BackupDamaged


@dataclass(frozen=True, slots=True)
class Listing:
    """All backups of a bucket.

    Attributes:
        manifests: newest snapshot first.
        unreadable: those whose manifest is there and is damaged.
    """

    manifests: tuple[Manifest, ...]
    unreadable: tuple[Unreadable, ...]


class Catalogue:
    """The backups of one bucket."""

    def __init__(self, store: ObjectStore, bucket: str) -> None:
        self._store = store
        self._bucket = bucket

    def list(self) -> Listing:
        """Every backup that has a manifest.

        Raises:
            StoreUnavailable, StoreRefused: the bucket cannot be read.
        """
        with ThreadPoolExecutor(READS_AT_ONCE, thread_name_prefix="manifests") as pool:
            found = list(pool.map(self._attempt, self._listed()))
        read = [item for item in found if isinstance(item, Manifest)]
        return Listing(
            manifests=tuple(sorted(read, key=_age, reverse=True)),
            unreadable=tuple(item for item in found if isinstance(item, Unreadable)),
        )

    def read(self, backup_id: str) -> Manifest:
        """The manifest of one backup.

        Raises:
            NoSuchBackup: there is none of this id.
            BackupDamaged: its manifest cannot be used.
            StoreUnavailable, StoreRefused: the bucket cannot be read.
        """
        found = self.find(backup_id)
        if found is None:
            raise NoSuchBackup(f"there is no backup {backup_id!r}; list them to see which there are")
        return found

    def find(self, backup_id: str) -> Manifest | None:
        """As ``read``, but None if there is none."""
        if not manifests.is_id(backup_id):
            return None
        try:
            body = self._body(manifest_name(backup_id))
        except ObjectNotFound:
            return None
        manifest = manifests.parse(body)
        if manifest.backup_id != backup_id:
            raise BackupDamaged(f"the manifest in the folder of {backup_id} is that of {manifest.backup_id}")
        return manifest

    def choose(
        self, backup: str = LATEST, *, as_of: datetime | None = None, table: str | None = None, whole: bool = False
    ) -> Manifest:
        """The backup of that id; for ``latest`` the one whose snapshot is the newest, of those up to ``as_of``.

        Copies that a restore made to be undone are chosen by their id alone: after a restore the newest of them holds
        just what the restore was to mend. The newest is never passed over because it is damaged.

        Args:
            backup: id, or ``latest``.
            as_of: aware; the snapshot's instant is this one or earlier.
            table: dictionary key or ``schema.name`` that the backup must hold.
            whole: of the latest only those that hold every table; one that is named may hold some.

        Raises:
            NoSuchBackup: none is of this id, that old, or holds the table.
            BackupDamaged: the manifest of the chosen one, or of one that may be newer, cannot be used.
            StoreUnavailable, StoreRefused: the bucket cannot be read.
        """
        if backup != LATEST:
            return _holding(self.read(backup), table)
        listing = self.list()
        chosen = next((m for m in listing.manifests if _may_be_chosen(m, as_of, table, whole=whole)), None)
        for unreadable in listing.unreadable:
            if _may_be_newer(unreadable, chosen, as_of):
                raise BackupDamaged(
                    f"backup {unreadable.backup_id}, which may be the newest, is damaged ({unreadable.error});"
                    " choose another by its id"
                )
        if chosen is None:
            wanted = "".join(
                [
                    f" of {table}" if table else "",
                    " of every table" if whole else "",
                    f" up to {as_of.isoformat()}" if as_of else "",
                ]
            )
            raise NoSuchBackup(f"there is no backup{wanted}; list them to see which there are")
        return chosen

    def _listed(self) -> Iterator[tuple[str, datetime]]:
        """Id of each backup that has a manifest, and when that was written."""
        for info in self._store.list(self._bucket, ROOT):
            backup_id = info.name.removeprefix(ROOT).removesuffix("/manifest.json")
            if info.name.endswith("/manifest.json") and ID.fullmatch(backup_id):
                yield backup_id, info.updated

    def _attempt(self, listed: tuple[str, datetime]) -> Manifest | Unreadable | None:
        """None if it was removed since it was listed."""
        try:
            return self.find(listed[0])
        except BackupDamaged as error:
            return Unreadable(*listed, error)

    def _body(self, name: str) -> bytes:
        info: ObjectInfo = self._store.stat(self._bucket, name)
        if info.size > MOST_BYTES:
            raise BackupDamaged(f"{name} has {info.size:,} bytes; no manifest is longer than {MOST_BYTES:,}")
        with self._store.open_read(self._bucket, name, info.generation) as reader:
            return reader.read()


def _age(manifest: Manifest) -> tuple[datetime, str]:
    return manifest.snapshot_at, manifest.backup_id


def _may_be_chosen(manifest: Manifest, as_of: datetime | None, table: str | None, *, whole: bool) -> bool:
    if manifest.kind == "undo" or (as_of is not None and manifest.snapshot_at > as_of):
        return False
    if whole and not manifest.whole:
        return False
    return table is None or manifest.table(table) is not None


def _may_be_newer(unreadable: Unreadable, chosen: Manifest | None, as_of: datetime | None) -> bool:
    """By its id and by when it was written, which is all that is left of it."""
    named = ID.fullmatch(unreadable.backup_id)
    if named is None or named[2] == "undo":
        return False
    if as_of is not None and datetime.strptime(named[1], "%Y%m%dT%H%M%S%z") > as_of:
        return False
    return chosen is None or unreadable.written_at >= chosen.finished_at - CLOCKS_APART


def _holding(manifest: Manifest, table: str | None) -> Manifest:
    if table is not None and manifest.table(table) is None:
        held = ", ".join(t.dictionary_key or t.full_name for t in manifest.tables)
        raise NoSuchBackup(f"backup {manifest.backup_id} does not hold {table!r}; it holds {held}")
    return manifest
