"""The emulator's database: embedded or given, brought forward, with one login for each function."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import encrypt_password

from local_emulator.postgresql import PostgresServer, bin_dir
from shared import migrate

DATABASE = "employee_data_db"
OWNER = "rowdock"
LOGINS = ("ingest", "api", "backup", "restore")


@dataclass(slots=True)
class Database:
    """A database that is ready.

    Attributes:
        owner_url: of the role that owns it; for migrations and for ``exec``.
        url_by_login: of each function's own role.
    """

    owner_url: str = field(repr=False)
    url_by_login: Mapping[str, str] = field(repr=False)
    server: PostgresServer | None

    def libpq_variables(self) -> dict[str, str]:
        """Return PGHOST and its like for the owner, as libpq reads them."""
        with closing(psycopg2.connect(self.owner_url)) as conn:
            given = conn.info.dsn_parameters
            names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "dbname": "PGDATABASE"}
            found = {variable: given[name] for name, variable in names.items() if name in given}
            return found | ({"PGPASSWORD": conn.info.password} if conn.info.password else {})

    def binaries(self) -> Path | None:
        """Return the folder of psql and pg_dump that fit the embedded server, or None."""
        return bin_dir() if self.server else None


def embedded(folder: Path, on_line: Callable[[str], None]) -> Database:
    """Start the embedded server, its data below ``folder``, and make the database if it is absent."""
    server = PostgresServer(folder, on_line=on_line)
    with closing(psycopg2.connect(server.url())) as conn:
        conn.autocommit = True
        with conn.cursor() as cursor:
            _ensure_login(cursor, OWNER, server.password, "createrole")
            cursor.execute("select 1 from pg_database where datname = %s", (DATABASE,))
            if cursor.fetchone() is None:
                statement = sql.SQL("create database {} owner {}")
                cursor.execute(statement.format(sql.Identifier(DATABASE), sql.Identifier(OWNER)))
    owner_url = server.url(DATABASE, OWNER)
    migrate.migrate(owner_url)
    with closing(psycopg2.connect(server.url(DATABASE))) as conn, conn, conn.cursor() as cursor:
        for login in LOGINS:
            _ensure_login(cursor, login, server.password, "", in_role=f"rowdock_{login}")
    return Database(owner_url, {login: server.url(DATABASE, login) for login in LOGINS}, server)


def given(url: str, say: Callable[[str], None]) -> Database:
    """Use the database at ``url``, whose role owns it; without the right to make logins every function is the owner."""
    migrate.migrate(url)
    password = secrets.token_urlsafe(24)
    try:
        with closing(psycopg2.connect(url)) as conn, conn, conn.cursor() as cursor:
            for login in LOGINS:
                _ensure_login(cursor, f"emulator_{login}", password, "", in_role=f"rowdock_{login}")
    except psycopg2.errors.InsufficientPrivilege:
        say("the role of --db may not make logins: every function works as this role")
        return Database(url, dict.fromkeys(LOGINS, url), None)
    return Database(url, {login: _as(url, f"emulator_{login}", password) for login in LOGINS}, None)


def _ensure_login(
    cursor: psycopg2.extensions.cursor, name: str, password: str, options: str, *, in_role: str | None = None
) -> None:
    cursor.execute("select 1 from pg_roles where rolname = %s", (name,))
    verb = "alter" if cursor.fetchone() else "create"
    statement = sql.SQL(f"{verb} role {{}} login password {{}} {options}")
    # Hashed here, so that a statement that fails shows no password in the server's log.
    secret = encrypt_password(password, name, cursor.connection, "scram-sha-256")
    cursor.execute(statement.format(sql.Identifier(name), sql.Literal(secret)))
    if in_role is not None:
        cursor.execute(sql.SQL("grant {} to {}").format(sql.Identifier(in_role), sql.Identifier(name)))


def _as(url: str, user: str, password: str) -> str:
    """Return ``url`` with another login."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{quote(user)}:{quote(password)}@{host}").geturl()
