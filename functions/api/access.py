"""Who may do what: every route has a policy, every caller is somebody.

A caller shows an API key (``X-API-Key``, or as a bearer token) or a token of the configured issuer (OIDC). What was
proved once is remembered for a while, so that a request costs neither a look into the database nor a signature.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from functions.api.problems import Problem
from shared import api_keys, identity
from shared.api_keys import SCOPES
from shared.errors import CallerRefused

if TYPE_CHECKING:
    from functions.api.messages import Request
    from functions.api.services import Services
    from shared.settings import Settings

Policy = Literal["open", "read", "write", "admin", "platform"]

REMEMBERED = 4096  # proofs
KEY_LIFETIME_S = 30.0  # how long a revoked key may go on in a process that knows it
TOKEN_LIFETIME_S = 300.0  # a token is checked again after this, or when it ends
FAILURES_WINDOW_S = 60.0
REALM = 'Bearer realm="rowdock"'
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
UNSAFE_IN_SUBJECT = re.compile(r"[^A-Za-z0-9._@|:-]")
LONGEST_SUBJECT = 128


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller.

    Attributes:
        name: for the log and for what is kept by caller, such as ``key:3f9c…`` or ``token:…``; never a secret.
        scopes: what it may do; each includes those before it.
    """

    name: str
    scopes: frozenset[str] = frozenset()

    def may(self, policy: Policy) -> bool:
        """Whether one of its scopes is, or includes, the one that ``policy`` names."""
        if policy not in SCOPES:
            return policy == "open"
        return not self.scopes.isdisjoint(SCOPES[SCOPES.index(policy) :])


NOBODY = Principal("nobody")
EVERYBODY = Principal("loopback", frozenset(SCOPES))


def require(policy: Policy, request: Request, services: Services) -> Principal:
    """The caller of ``request``, who may do what ``policy`` asks for.

    Raises:
        Problem: 401 without proof of who it is, 403 when it may not.
        TransientError: what the proof is checked against cannot be had now.
    """
    if policy == "open":
        return NOBODY
    if policy == "platform":
        return Principal(f"platform:{_caller(request, services.settings)}")
    if services.settings.api_auth == "off":
        return _from_loopback(request)
    principal = _proved(request, services)
    if not principal.may(policy):
        detail = f"This needs the scope {policy}; the caller has {', '.join(sorted(principal.scopes)) or 'none'}."
        challenge = {"WWW-Authenticate": f'{REALM}, error="insufficient_scope", scope="{policy}"'}
        raise Problem(403, "access.forbidden", detail, headers=challenge)
    return principal


def _caller(request: Request, settings: Settings) -> str:
    """The platform's own identity that calls.

    Under CALLER_AUTH=platform a function trusts that the platform let its triggers in alone. Into the API it lets
    others too: there the token is checked here where CALLER_AUDIENCE is set, and where it is not, the token that the
    platform checked has to be of one of CALLER_IDENTITIES.
    """
    if settings.caller_auth == "off":
        _from_loopback(request)
    if settings.caller_auth == "platform":
        if not settings.caller_audience:
            return identity.require_platform_caller(request.headers, settings)
        settings = replace(settings, caller_auth="oidc")
    return identity.require_caller(request.headers, settings)


def _from_loopback(request: Request) -> Principal:
    """Everybody on this machine; but no page that a browser here shows, other than our own, by whatever name.

    Not of another port either: what listens there may show what strangers wrote, and its forms need no leave of ours.
    """
    host = request.headers.get("host", "")
    is_ours = request.headers.get("origin") in (None, f"http://{host}")
    if not (is_ours and _host(host) in LOOPBACK_NAMES and _is_loopback(request.remote)):
        raise Problem(403, "access.forbidden", "Without keys the API answers callers on its own machine alone.")
    return EVERYBODY


@lru_cache(maxsize=64)
def _host(authority: str) -> str | None:
    try:
        return urlsplit(f"//{authority}").hostname
    except ValueError:
        return None


@lru_cache(maxsize=64)
def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


def _proved(request: Request, services: Services) -> Principal:
    given = _credential(request.headers)
    if given is None:
        detail = "Send an API key as X-API-Key, or a token as Authorization: Bearer."
        raise Problem(401, "access.unauthenticated", detail, headers={"WWW-Authenticate": REALM})
    digest = hashlib.sha256(given.encode("utf-8", "surrogateescape")).digest()
    known = _PROOFS.get(digest)
    if known is not None:
        return known
    try:
        principal, lifetime_s = _check(given, services)
    except CallerRefused:
        detail = "The key or token does not hold: it is unknown, ended, revoked, or meant for somebody else."
        headers = {"WWW-Authenticate": f'{REALM}, error="invalid_token"'}
        raise Problem(401, "access.unauthenticated", detail, headers=headers) from None
    _PROOFS.put(digest, principal, lifetime_s)
    return principal


def _credential(headers: Mapping[str, str]) -> str | None:
    """The key or token; X-API-Key wins, since a platform may use Authorization for its own check."""
    if key := headers.get("x-api-key", "").strip():
        return key
    scheme, _, token = headers.get("authorization", "").strip().partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def _check(given: str, services: Services) -> tuple[Principal, float]:
    """Who shows this, and for how many seconds that may be remembered.

    Raises:
        CallerRefused: it does not hold.
        TransientError: the database, or the issuer, does not answer.
    """
    if api_keys.TEXT.match(given):
        with services.database.connection() as conn:
            key = api_keys.find(conn, given)
        if key is None:
            raise CallerRefused("there is no such API key, or it ended")
        left_s = KEY_LIFETIME_S if key.expires_at is None else key.expires_at.timestamp() - time.time()
        return Principal(f"key:{key.id}", key.scopes), min(KEY_LIFETIME_S, left_s)
    return _of_token(given, services.settings)


def _of_token(token: str, settings: Settings) -> tuple[Principal, float]:
    if not settings.api_jwt_issuer:
        raise CallerRefused("no issuer of tokens is configured")
    claims = identity.claims(
        token,
        issuer=settings.api_jwt_issuer,
        audience=settings.api_jwt_audience,
        jwks_url=settings.api_jwt_jwks_url,
    )
    subject = _plain(str(claims.get("sub", "")))
    scopes = frozenset(_words(claims.get(settings.api_jwt_scope_claim))) & set(SCOPES)
    return Principal(f"token:{subject}", scopes), min(TOKEN_LIFETIME_S, float(claims["exp"]) - time.time())


def _plain(subject: str) -> str:
    """``subject`` if a log can take it, else what it resembles and a digest: no two subjects have one name.

    Raises:
        CallerRefused: there is none.
    """
    if not subject:
        raise CallerRefused("the token has no subject")
    plain = UNSAFE_IN_SUBJECT.sub("_", subject)[:LONGEST_SUBJECT]
    if plain == subject:
        return plain
    return f"{plain}~{hashlib.sha256(subject.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


def _words(claim: Any) -> Collection[str]:
    """The scopes in a claim: a text of words (RFC 8693, 4.2) or a list of them, as issuers differ."""
    if isinstance(claim, str):
        return claim.split()
    return [word for word in claim if isinstance(word, str)] if isinstance(claim, list) else []


@dataclass(slots=True)
class _Proofs:
    """Principals by the digest of what proved them, each until its time is over; the oldest go when there are many."""

    kept: OrderedDict[bytes, tuple[Principal, float]] = field(default_factory=OrderedDict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, digest: bytes) -> Principal | None:
        found = self.kept.get(digest)
        return found[0] if found and found[1] > time.monotonic() else None

    def put(self, digest: bytes, principal: Principal, lifetime_s: float) -> None:
        with self.lock:
            self.kept[digest] = (principal, time.monotonic() + lifetime_s)
            self.kept.move_to_end(digest)
            while len(self.kept) > REMEMBERED:
                self.kept.popitem(last=False)

    def forget(self) -> None:
        with self.lock:
            self.kept.clear()


_PROOFS = _Proofs()


class Failures:
    """How many callers were refused lately, for the log: a rate that rises is somebody who tries."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=10_000)

    def note(self) -> int:
        """Count one now; returns how many there were in the last ``FAILURES_WINDOW_S`` seconds."""
        now = time.monotonic()
        self._times.append(now)
        while self._times[0] < now - FAILURES_WINDOW_S:
            self._times.popleft()
        return len(self._times)


failures = Failures()
