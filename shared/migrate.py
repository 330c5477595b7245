"""Migrations: forward only, each once, each in a transaction of its own, under a lock."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2

from shared.errors import PermanentError
from shared.postgres import require_server, translate

if TYPE_CHECKING:
    from psycopg2.extensions import connection

MIGRATIONS = Path(__file__).with_name("migrations")
FILE_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql\Z")
LOCK = "select pg_advisory_lock(hashtextextended('rowdock.migrate', 0))"
UNLOCK = "select pg_advisory_unlock(hashtextextended('rowdock.migrate', 0))"


class MigrationRefused(PermanentError):
    """The database cannot be brought forward as it stands; the message says why and what to do."""

    code = "migration"


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: ``NNNN_name.sql``."""

    version: int
    name: str
    statements: str

    @property
    def sha256(self) -> str:
        """Hexadecimal digest of the file, by which a changed one is found."""
        return hashlib.sha256(self.statements.encode()).hexdigest()


def read(directories: Sequence[Path] = (MIGRATIONS,)) -> list[Migration]:
    """Every migration of ``directories``, in order of version.

    Raises:
        MigrationRefused: a file name that is none, or two of one version.
    """
    found: dict[int, Migration] = {}
    for path in (p for directory in directories for p in sorted(directory.glob("*.sql"))):
        named = FILE_NAME.match(path.name)
        if named is None:
            raise MigrationRefused(f"{path.name} is not named like 0001_what_it_does.sql")
        migration = Migration(int(named[1]), named[2], path.read_text(encoding="utf-8"))
        if migration.version in found:
            raise MigrationRefused(f"{path.name} and {found[migration.version].name} have the same number")
        found[migration.version] = migration
    return [found[version] for version in sorted(found)]


def migrate(url: str, directories: Sequence[Path] = (MIGRATIONS,)) -> list[str]:
    """Bring the database at ``url`` forward; returns the names of the migrations applied now, none if it was current.

    Only one run works at a time; another waits. The role owns the database and may create roles; it needs no superuser.

    Raises:
        ServerTooOld: the server is older than PostgreSQL 18.
        MigrationRefused: an applied migration is unknown here, or was changed; or one failed, and was rolled back.
        TransientError: the database cannot be reached or is busy.
    """
    wanted = read(directories)
    try:
        with closing(psycopg2.connect(url, application_name="rowdock-migrate", connect_timeout=10)) as conn:
            conn.autocommit = True
            require_server(conn)
            _execute(conn, LOCK)
            try:
                return [_apply(conn, migration) for migration in _outstanding(conn, wanted)]
            finally:
                _execute(conn, UNLOCK)
    except psycopg2.Error as error:
        raise translate(error) from error


def applied(conn: connection) -> dict[int, tuple[str, str]]:
    """Version → (name, sha256) of every migration that the database has; empty for a database without any."""
    with conn.cursor() as cursor:
        cursor.execute("select to_regclass('rowdock.migrations') is not null")
        if not cursor.fetchone()[0]:  # type: ignore[index]  # a function call gives one row
            return {}
        cursor.execute("select version, name, sha256 from rowdock.migrations order by version")
        return {version: (name, sha256) for version, name, sha256 in cursor.fetchall()}


def differences(conn: connection, wanted: Sequence[Migration]) -> list[str]:
    """What stands between the database and ``wanted``, a sentence each; empty if it is current."""
    have = applied(conn)
    known = {m.version: m for m in wanted}
    unknown = [f"{v:04d}_{have[v][0]} is applied but not known here" for v in have if v not in known]
    changed = [
        f"{m.version:04d}_{m.name} was changed after it was applied"
        for m in wanted
        if m.version in have and have[m.version][1] != m.sha256
    ]
    missing = [f"{m.version:04d}_{m.name} is not applied: run rowdock migrate" for m in wanted if m.version not in have]
    return unknown + changed + missing


def _outstanding(conn: connection, wanted: Sequence[Migration]) -> list[Migration]:
    _execute(
        conn,
        "create schema if not exists rowdock;"
        "create table if not exists rowdock.migrations (version integer primary key, name text not null,"
        " sha256 text not null, applied_at timestamptz not null default now())",
    )
    have = applied(conn)
    if wrong := [d for d in differences(conn, wanted) if "is not applied" not in d]:
        raise MigrationRefused(f"{wrong[0]}; migrations only go forward: deploy the version that the database has")
    newest = max(have, default=0)
    if late := [m for m in wanted if m.version not in have and m.version < newest]:
        raise MigrationRefused(f"{late[0].version:04d}_{late[0].name} comes before {newest:04d}, which is applied")
    return [m for m in wanted if m.version not in have]


def _apply(conn: connection, migration: Migration) -> str:
    with conn.cursor() as cursor:
        cursor.execute("begin")
        try:
            cursor.execute(migration.statements)
            cursor.execute(
                "insert into rowdock.migrations (version, name, sha256) values (%s, %s, %s)",
                (migration.version, migration.name, migration.sha256),
            )
            cursor.execute("commit")
        except psycopg2.Error as error:
            if conn.closed:
                raise
            cursor.execute("rollback")
            raise MigrationRefused(
                f"{migration.version:04d}_{migration.name} failed and changed nothing: SQLSTATE {error.pgcode}, "
                f"{error.diag.message_primary}"
            ) from error
    return f"{migration.version:04d}_{migration.name}"


def _execute(conn: connection, statement: str) -> None:
    with conn.cursor() as cursor:
        cursor.execute(statement)
