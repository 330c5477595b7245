"""API keys: made by a command, shown once, known to the database by a digest of their secret."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from shared.errors import PermanentError

if TYPE_CHECKING:
    from psycopg2.extensions import connection

SCOPES = ("read", "write", "admin")
# rdk_<id>_<secret>: the prefix lets scanners of leaked secrets know one, the id lets the database find it.
TEXT = re.compile(r"rdk_([0-9a-z]{12})_([A-Za-z0-9_-]{43})\Z")
SECRET_BYTES = 32


class NoSuchKey(PermanentError):
    """There is no API key of that id; ``rowdock api-keys ls`` shows those that there are."""

    code = "api_key.not_found"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key that holds now.

    Attributes:
        id: safe to show and to log.
        scopes: of ``SCOPES``.
        expires_at: when it ends by itself, aware; None for never.
    """

    id: str
    scopes: frozenset[str]
    expires_at: datetime | None
    secret_sha256: bytes = field(repr=False)


def make(conn: connection, name: str, scopes: Collection[str], days: float | None) -> str:
    """Make a key and return its text: the only time that the secret can be seen.

    Args:
        name: who or what it is for.
        days: after which it ends by itself; None for never.

    Raises:
        PermanentError: no scope, or one that is none.
    """
    if not scopes or not set(scopes) <= set(SCOPES):
        raise PermanentError(
            f"a key has one or more of the scopes {', '.join(SCOPES)}, not {', '.join(scopes) or 'none'}"
        )
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(SECRET_BYTES)
    with conn.cursor() as cursor:
        cursor.execute(
            "insert into api_access.keys (id, name, secret_sha256, scopes, expires_at)"
            " values (%s, %s, %s, %s, now() + %s * interval '1 day')",
            (key_id, name, hashlib.sha256(secret.encode()).digest(), sorted(set(scopes)), days),
        )
    return f"rdk_{key_id}_{secret}"


def revoke(conn: connection, key_id: str) -> None:
    """End a key; a process that knows it already takes it for at most as long as it remembers keys.

    Raises:
        NoSuchKey: there is none of that id, or it was revoked before.
    """
    with conn.cursor() as cursor:
        cursor.execute(
            "update api_access.keys set revoked_at = now() where id = %s and revoked_at is null returning id", (key_id,)
        )
        if cursor.fetchone() is None:
            raise NoSuchKey(f"there is no API key {key_id!r} that could be revoked; rowdock api-keys ls shows all")


def listed(conn: connection) -> list[dict[str, Any]]:
    """Every key, the newest first, with its state: active, expired or revoked."""
    with conn.cursor() as cursor:
        cursor.execute(
            "select id, name, scopes, case when revoked_at is not null then 'revoked'"
            " when expires_at <= now() then 'expired' else 'active' end as state, created_at, expires_at, revoked_at"
            " from api_access.keys order by created_at desc, id"
        )
        names = [column.name for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def find(conn: connection, text: str) -> ApiKey | None:
    """The key whose text this is, if it holds now. The secret is compared in constant time, whether the id is known."""
    found = TEXT.match(text)
    if found is None:
        return None
    with conn.cursor() as cursor:
        cursor.execute(
            "select id, scopes, expires_at, secret_sha256 from api_access.keys"
            " where id = %s and revoked_at is null and (expires_at is null or expires_at > now())",
            (found[1],),
        )
        row = cursor.fetchone()
    given = hashlib.sha256(found[2].encode()).digest()
    kept = bytes(row[3]) if row else bytes(len(given))
    if not hmac.compare_digest(given, kept) or row is None:
        return None
    return ApiKey(row[0], frozenset(row[1]), row[2], kept)
