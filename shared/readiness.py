"""Whether a function can do its work: the database answers, and has what this version's code needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared import migrate
from shared.errors import NotReady

if TYPE_CHECKING:
    from shared.postgres import Database


def require(database: Database) -> None:
    """Return if ``database`` answers and has every migration of this version.

    Migrations that only a later version knows are none of our business: they are applied while this version still
    serves, until the later one takes over.

    Raises:
        NotReady: a migration is missing; the message names them.
        RowdockError: the database does not answer, or is none that can serve.
    """
    with database.connection() as conn:
        have = migrate.applied(conn)
    missing = [f"{m.version:04d}_{m.name}" for m in migrate.read() if m.version not in have]
    if missing:
        raise NotReady(f"the database lacks {', '.join(missing)}: run rowdock migrate")
