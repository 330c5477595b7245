"""What a restore is asked for, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from shared.backups.catalogue import LATEST
from shared.backups.difference import Counts

if TYPE_CHECKING:
    from shared.backups.manifest import Manifest
    from shared.objectstore import ObjectInfo

Mode = Literal["replace", "merge", "new_table"]
MODES: tuple[Mode, ...] = ("replace", "merge", "new_table")
ALL = "*"
MOST_FILES = 1000  # of those loaded later, in an answer


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be put back.

    Attributes:
        table: any of its names, or ``*`` for every table of the backup; the latest is then one that holds all.
        backup: id, or ``latest``.
        as_of: aware; the latest backup whose snapshot is of this instant or earlier.
        mode: ``replace`` makes the table what was backed up; ``merge`` leaves rows that the backup does not have;
            ``new_table`` leaves the table alone and makes ``target`` in the schema ``restored``.
        dry_run: only say what would be done.
        file: an AVRO file without manifest in the backup bucket, instead of a backup (``shared.backups.foreign``).
    """

    table: str
    backup: str = LATEST
    as_of: datetime | None = None
    mode: Mode = "replace"
    target: str | None = None
    dry_run: bool = True
    file: str | None = None


@dataclass(slots=True)
class Restored:
    """What a restore did to one table, or would do.

    Attributes:
        notes: differences of columns that it got over.
        rows_before: in the live table.
    """

    table: str
    target: str
    rows_in_backup: int
    rows_before: int = 0
    counts: Counts = field(default_factory=Counts)
    notes: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For an answer."""
        return {
            "table": self.table,
            "target": self.target,
            "rows_before": self.rows_before,
            "rows_in_backup": self.rows_in_backup,
            "inserted": self.counts.insert,
            "updated": self.counts.update,
            "deleted": self.counts.delete,
            "notes": list(self.notes),
            "keys": list(self.keys),
        }


@dataclass(slots=True)
class Outcome:
    """What a restore did, or would do.

    Attributes:
        manifest: None of a file that has none.
        file: the object that was read instead, of that generation.
        roll_up_verified: whether the roll-up equals a recount afterwards; None where nothing was changed.
        undo_backup_id: the copy of the tables as they were; None if nothing was changed, or nothing was there.
        later_files: loaded after the snapshot, and so undone unless they are loaded again by force; the first
            ``MOST_FILES`` of ``later_count``.
    """

    manifest: Manifest | None
    mode: Mode
    dry_run: bool
    tables: list[Restored]
    file: ObjectInfo | None = None
    undo_backup_id: str | None = None
    later_files: list[dict[str, Any]] = field(default_factory=list)
    later_count: int = 0
    roll_up_verified: bool | None = None
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """For an answer: instants as texts."""
        at = self.manifest.snapshot_at if self.manifest else None
        return {
            "backup_id": self.manifest.backup_id if self.manifest else None,
            "file": self.file.name if self.file else None,
            "file_generation": self.file.generation if self.file else None,
            "file_crc32c": self.file.crc32c if self.file else None,
            "snapshot_at": at.isoformat() if at else None,
            "age_s": round((datetime.now(UTC) - at).total_seconds()) if at else None,
            "mode": self.mode,
            "dry_run": self.dry_run,
            "lock": "SHARE ROW EXCLUSIVE: readers go on, writers wait" if self.mode != "new_table" else None,
            "tables": [table.as_json() for table in self.tables],
            "undo_backup_id": self.undo_backup_id,
            "files_loaded_later": self.later_files,
            "files_loaded_later_count": self.later_count,
            "roll_up_verified": self.roll_up_verified,
            "seconds": round(self.seconds, 3),
        }
