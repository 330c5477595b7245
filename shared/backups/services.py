"""What backup and restore need from outside, handed to them: the one place where their adapters are wired."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from shared import dictionary, objectstore, postgres, settings
from shared.dictionary import Dictionary
from shared.settings import Settings

if TYPE_CHECKING:
    from shared.objectstore import ObjectStore
    from shared.postgres import Database


@dataclass(frozen=True, slots=True)
class Services:
    """Adapters of one process."""

    settings: Settings
    dictionary: Dictionary
    database: Database
    store: ObjectStore

    @property
    def bucket(self) -> str:
        """Where backups lie."""
        return self.settings.backup_bucket


@cache
def production() -> Services:
    """The services that the environment describes, made at first use: nothing connects at import."""
    current = settings.load()
    return Services(
        settings=current,
        dictionary=dictionary.load(),
        database=postgres.database(),
        store=objectstore.connect(current.storage_url),
    )
