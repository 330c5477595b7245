"""Identity: who calls this function, and the token that proves who we are when we call.

A platform signs its calls with an OIDC token (RS256). Imports that cost time are made when the first token comes.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from shared import outbound
from shared.errors import CallerRefused, ServiceUnavailable, SettingsError

if TYPE_CHECKING:
    from shared.settings import Settings

KEYS_LIFETIME_S = 3600.0
KEYS_LIFETIME_WITHOUT_ANSWER_S = 24 * 3600.0  # as long as a platform keeps a retired key published, at the least
REFETCH_PAUSE_S = 10.0  # a stranger's made-up key ids cost one fetch in this time, not one each
FETCH_TIMEOUT_S = 5.0
LEEWAY_S = 30.0
ALGORITHMS = ["RS256", "ES256"]  # public keys alone: a token never says itself how it is to be checked
TOKEN_MARGIN_S = 300.0
STRIPPED_SIGNATURE = "SIGNATURE_REMOVED_BY_GOOGLE"  # what Cloud Run leaves once its own IAM check passed


def require_caller(headers: Mapping[str, str], settings: Settings) -> str:
    """Return the identity of the caller: its email or ``sub``, one of ``settings.caller_identities``.

    With ``caller_auth`` "platform" or "off" nothing is checked here, and the mode's name is returned.

    Raises:
        CallerRefused: no token, or one that does not prove it; says what is wrong, not what would be right.
        SettingsError: the settings leave nothing to check against.
        ServiceUnavailable: the issuer's keys cannot be had; try again.
    """
    if settings.caller_auth == "off" and settings.environment != "emulator":
        raise SettingsError("CALLER_AUTH=off is for the emulator alone; set oidc or platform")
    if settings.caller_auth in ("off", "platform"):
        return settings.caller_auth
    if not settings.caller_audience or not settings.caller_identities:
        raise SettingsError("CALLER_AUTH=oidc needs CALLER_AUDIENCE and CALLER_IDENTITIES")
    told = claims(
        _bearer(headers),
        issuer=settings.caller_issuer,
        audience=settings.caller_audience,
        jwks_url=settings.caller_jwks_url,
    )
    return _allowed(told, settings)


def require_platform_caller(headers: Mapping[str, str], settings: Settings) -> str:
    """Return the identity of a caller whose token the platform checked: one of ``settings.caller_identities``.

    For a function into which the platform lets others than its triggers. Nothing is proved here: a token without its
    signature says that the platform's check is on. Where it is off, anybody can write one.

    Raises:
        CallerRefused: no token, one that the platform did not check, or another caller.
        SettingsError: the settings do not say who may call.
    """
    import jwt

    if not settings.caller_identities:
        raise SettingsError(
            "under CALLER_AUTH=platform others may reach this path too: set CALLER_IDENTITIES, and CALLER_AUDIENCE"
            " where the platform does not check tokens"
        )
    token = _token(headers)
    if not token.endswith(STRIPPED_SIGNATURE):
        raise CallerRefused("the platform did not check this token: set CALLER_AUDIENCE, so that it is checked here")
    try:
        told = jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError) as error:
        raise CallerRefused(f"the identity token cannot be read: {type(error).__name__}") from None
    return _allowed(told, settings)


def _allowed(told: Mapping[str, Any], settings: Settings) -> str:
    names = [told.get("sub"), told.get("email") if told.get("email_verified", True) is True else None]
    for identity in settings.caller_identities:
        if identity in names:
            return identity
    raise CallerRefused("the caller is known, but is not one that may call this function")


def _token(headers: Mapping[str, str]) -> str:
    named = {name.lower(): value for name, value in headers.items()}
    scheme, _, token = named.get("authorization", "").strip().partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise CallerRefused("the call carries no identity token (Authorization: Bearer …)")
    return token.strip()


def _bearer(headers: Mapping[str, str]) -> str:
    token = _token(headers)
    if token.endswith(STRIPPED_SIGNATURE):
        raise CallerRefused(
            "the platform checked this token and took its signature away: set CALLER_AUTH=platform, and of the api"
            " no CALLER_AUDIENCE"
        )
    return token


def claims(token: str, *, issuer: str, audience: str, jwks_url: str) -> dict[str, Any]:
    """Return the claims of ``token`` after its signature, issuer, audience and times were checked.

    Raises:
        CallerRefused: it does not hold; says what is wrong, not what would be right.
        ServiceUnavailable: the issuer's keys cannot be had; try again.
    """
    import jwt

    try:
        key = _KEYS.key(jwks_url, str(jwt.get_unverified_header(token).get("kid")))
        return jwt.decode(
            token,
            key,
            algorithms=ALGORITHMS,
            issuer=issuer,
            audience=audience,
            leeway=LEEWAY_S,
            options={"require": ["exp", "iat", "iss", "aud"]},
        )
    except (
        jwt.PyJWTError,
        ValueError,
        TypeError,
    ) as error:  # the latter two: a key of another kind than the token says
        raise CallerRefused(f"the identity token does not hold: {type(error).__name__}") from None


@dataclass(slots=True)
class _KeySet:
    fetched_s: float = float("-inf")  # monotonic seconds of the last answer, and of the last question
    asked_s: float = float("-inf")
    by_id: dict[str, Any] = field(default_factory=dict)


class _KeyCache:
    """The public keys of each issuer, fetched when first needed, once an hour, and when an unknown key id comes."""

    def __init__(self) -> None:
        self._sets: dict[str, _KeySet] = {}
        self._lock = threading.Lock()

    def key(self, url: str, key_id: str) -> Any:
        """Return the public key ``key_id``.

        Raises:
            CallerRefused: the issuer publishes no such key.
            ServiceUnavailable: the issuer does not answer and nothing fetched is young enough.
        """
        with self._lock:
            keys = self._sets.setdefault(url, _KeySet())
            now = time.monotonic()
            stale = now - keys.fetched_s > KEYS_LIFETIME_S
            if (stale or key_id not in keys.by_id) and now - keys.asked_s > REFETCH_PAUSE_S:
                keys.asked_s = now
                self._refresh(url, keys, now)
            if now - keys.fetched_s > KEYS_LIFETIME_WITHOUT_ANSWER_S:
                raise ServiceUnavailable("the issuer's public keys could not be had; try again")
            if key_id not in keys.by_id:
                raise CallerRefused("the identity token is signed with a key that its issuer does not publish")
            return keys.by_id[key_id]

    @staticmethod
    def _refresh(url: str, keys: _KeySet, now: float) -> None:
        """Replace the keys, or leave them as they are if the issuer does not answer with a key set."""
        import jwt

        try:
            status, body = outbound.exchange("GET", url, timeout_s=FETCH_TIMEOUT_S)
            if status == 200:
                fetched = jwt.PyJWKSet.from_dict(json.loads(body)).keys
                keys.by_id, keys.fetched_s = {key.key_id: key.key for key in fetched if key.key_id}, now
        except (ServiceUnavailable, ValueError, jwt.PyJWTError):
            return


_KEYS = _KeyCache()


# --- Outgoing


def outgoing_headers(url: str, settings: Settings) -> dict[str, str]:
    """Return the ``Authorization`` header for a call to ``url``, or nothing where no token is to be had.

    Raises:
        ServiceUnavailable: the token's giver did not answer, or gave none.
    """
    if settings.identity_token_url is None:
        return {}
    parts = urlsplit(url)
    return {"authorization": f"Bearer {_TOKENS.token(settings.identity_token_url, f'{parts.scheme}://{parts.netloc}')}"}


class _TokenCache:
    """Our own identity tokens by audience, asked for again five minutes before they end."""

    def __init__(self) -> None:
        self._tokens: dict[tuple[str, str], tuple[str, float]] = {}
        self._lock = threading.Lock()

    def token(self, giver_url: str, audience: str) -> str:
        """Return a token for ``audience`` that holds for minutes yet.

        Raises:
            ServiceUnavailable: the giver did not answer, or gave none.
        """
        with self._lock:
            token, ends_s = self._tokens.get((giver_url, audience), ("", 0.0))
            if ends_s - TOKEN_MARGIN_S < time.time():
                token = _new_token(giver_url, audience)
                self._tokens[giver_url, audience] = (token, _expiry_s(token))
            return token


_TOKENS = _TokenCache()


def _new_token(giver_url: str, audience: str) -> str:
    joint = "&" if "?" in giver_url else "?"
    url = f"{giver_url}{joint}audience={quote(audience, safe='')}&format=full"
    status, body = outbound.exchange("GET", url, headers={"metadata-flavor": "Google"}, timeout_s=FETCH_TIMEOUT_S)
    if status != 200:
        raise ServiceUnavailable(f"the giver of identity tokens answered {status}")
    return body.decode("ascii", "replace").strip()


def _expiry_s(token: str) -> float:
    """Return when a token of ours ends, in seconds of the epoch; 0 if it does not say. Nothing is proved here."""
    try:
        payload = token.split(".")[1]
        return float(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["exp"])
    except (IndexError, KeyError, TypeError, ValueError):
        return 0.0
