"""Everything that comes from the environment, read in one place; no other module of ours looks there.

``deploy.yaml`` sets these in production, the emulator sets the same names. A value with a secret is never printed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from shared.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Settings:
    """What a function or command needs to know of where it runs.

    Attributes:
        database_url: libpq connection string; the role in it decides what may be done.
        storage_url: ``gs://`` for Google Cloud Storage (``gs+http://host:port`` for a server that speaks its API), or
            ``s3://key:secret@host:port`` / ``s3+http://…`` for an S3-like store.
        upload_bucket: bucket whose files are loaded.
        backup_bucket: bucket that backups are written to.
        events_url: where ``events.send`` posts a CloudEvent (broker, emulator or queue), or None if nothing takes them.
        caller_auth: ``oidc`` checks the caller's identity token; ``platform`` trusts that the platform did (Cloud Run
            IAM, a cluster-local Knative service); ``off`` is accepted under the emulator, on loopback, alone.
        caller_issuer: ``iss`` of the identity tokens.
        caller_jwks_url: where the issuer's public keys are.
        caller_audience: ``aud`` that a token for this function carries.
        caller_identities: ``email`` or ``sub`` of who may call.
        identity_token_url: where a token for our own outgoing events is had (metadata server, emulator), or None.
        api_auth: ``required`` asks every caller of the API for a key or a token; ``off`` is accepted under the
            emulator, from loopback, alone.
        api_jwt_issuer: ``iss`` of the tokens (OIDC) that the API takes; empty for none.
        api_jwt_audience: ``aud`` that they carry.
        api_jwt_jwks_url: where their issuer's public keys are.
        api_jwt_scope_claim: claim that holds their scopes, as words in a text or as a list.
        deadline_s: seconds that one invocation may take, a little under the platform's own limit.
        pool_size: connections that one process may hold.
        keep_days: days that every backup is kept, whatever it is.
        keep_daily, keep_weekly, keep_monthly, keep_yearly: verified backups that are kept longer, the last one of each
            day, week, month and year.
        keep_least: verified backups that are kept at the least.
        environment: ``emulator`` on a laptop, ``production`` anywhere else.
    """

    database_url: str = field(repr=False)
    storage_url: str = field(repr=False)
    upload_bucket: str
    backup_bucket: str
    events_url: str | None
    caller_auth: Literal["oidc", "platform", "off"]
    caller_issuer: str
    caller_jwks_url: str
    caller_audience: str
    caller_identities: tuple[str, ...]
    identity_token_url: str | None
    api_auth: Literal["required", "off"]
    api_jwt_issuer: str
    api_jwt_audience: str
    api_jwt_jwks_url: str
    api_jwt_scope_claim: str
    deadline_s: float
    pool_size: int
    keep_days: int
    keep_daily: int
    keep_weekly: int
    keep_monthly: int
    keep_yearly: int
    keep_least: int
    environment: Literal["emulator", "production"]


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from ``environ`` (the process's own when None).

    Raises:
        SettingsError: a value cannot be used; the message names the variable and what it takes, never the value.
    """
    env = os.environ if environ is None else environ
    caller_auth = env.get("CALLER_AUTH", "oidc")
    environment = env.get("ROWDOCK_ENVIRONMENT", "production")
    if caller_auth not in ("oidc", "platform", "off"):
        raise SettingsError("CALLER_AUTH takes oidc, platform or off")
    if environment not in ("emulator", "production"):
        raise SettingsError("ROWDOCK_ENVIRONMENT takes emulator or production")
    if caller_auth == "off" and environment != "emulator":
        raise SettingsError("CALLER_AUTH=off is for the emulator alone; set oidc or platform")
    api_auth = env.get("API_AUTH", "required")
    if api_auth not in ("required", "off"):
        raise SettingsError("API_AUTH takes required or off")
    if api_auth == "off" and environment != "emulator":
        raise SettingsError("API_AUTH=off is for the emulator alone; leave it out, and make keys: rowdock api-keys new")
    jwt = {name: env.get(name, "") for name in ("API_JWT_ISSUER", "API_JWT_AUDIENCE", "API_JWT_JWKS_URL")}
    if any(jwt.values()) and not all(jwt.values()):
        absent = " and ".join(name for name, value in jwt.items() if not value)
        raise SettingsError(f"tokens need issuer, audience and key set together: set {absent} too")
    return Settings(
        database_url=env.get("DATABASE_URL", ""),
        storage_url=env.get("STORAGE_URL", "gs://"),
        upload_bucket=env.get("UPLOAD_BUCKET", "csv-uploads"),
        backup_bucket=env.get("BACKUP_BUCKET", "avro-backups"),
        events_url=env.get("EVENTS_URL") or env.get("K_SINK") or None,
        caller_auth=caller_auth,  # type: ignore[arg-type]  # checked above
        caller_issuer=env.get("CALLER_ISSUER", "https://accounts.google.com"),
        caller_jwks_url=env.get("CALLER_JWKS_URL", "https://www.googleapis.com/oauth2/v3/certs"),
        caller_audience=env.get("CALLER_AUDIENCE", ""),
        caller_identities=tuple(part.strip() for part in env.get("CALLER_IDENTITIES", "").split(",") if part.strip()),
        identity_token_url=env.get("IDENTITY_TOKEN_URL") or None,
        api_auth=api_auth,  # type: ignore[arg-type]  # checked above
        api_jwt_issuer=jwt["API_JWT_ISSUER"],
        api_jwt_audience=jwt["API_JWT_AUDIENCE"],
        api_jwt_jwks_url=jwt["API_JWT_JWKS_URL"],
        api_jwt_scope_claim=env.get("API_JWT_SCOPE_CLAIM", "scope"),
        deadline_s=_number(env, "DEADLINE_S", 500.0),
        pool_size=int(_number(env, "POOL_SIZE", 8)),
        keep_days=_count(env, "KEEP_DAYS", 7),
        keep_daily=_count(env, "KEEP_DAILY", 14),
        keep_weekly=_count(env, "KEEP_WEEKLY", 8),
        keep_monthly=_count(env, "KEEP_MONTHLY", 12),
        keep_yearly=_count(env, "KEEP_YEARLY", 3),
        keep_least=_count(env, "KEEP_LEAST", 3, least=1),
        environment=environment,  # type: ignore[arg-type]  # checked above
    )


def _number(env: Mapping[str, str], name: str, default: float) -> float:
    try:
        value = float(env.get(name, default))
    except ValueError:
        raise SettingsError(f"{name} takes a number") from None
    if value <= 0:
        raise SettingsError(f"{name} takes a number above 0")
    return value


def _count(env: Mapping[str, str], name: str, default: int, least: int = 0) -> int:
    text = env.get(name, str(default)).strip()
    if not (text.isascii() and text.isdigit() and len(text) < 6 and int(text) >= least):
        raise SettingsError(f"{name} takes a whole number from {least} to 99999")
    return int(text)
