"""Who may do what: every route has a policy, every caller is somebody."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Literal

from functions.api.problems import Problem
from shared import identity

if TYPE_CHECKING:
    from functions.api.messages import Request
    from functions.api.services import Services
    from shared.settings import Settings

Policy = Literal["open", "read", "write", "admin", "platform"]
# A scope includes those before it.
SCOPES = ("read", "write", "admin")


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller.

    Attributes:
        name: for the log and for what is kept by caller, such as ``key:3f9c…`` or ``jwt:…``; never a secret.
        scopes: what it may do.
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
        CallerRefused: the policy is ``platform``, and the caller is not one of its identities.
        TransientError: what the proof is checked against cannot be had now.
    """
    if policy == "open":
        return NOBODY
    if policy == "platform":
        return Principal(f"platform:{_caller(request, services.settings)}")
    if services.settings.api_auth == "off":
        return _from_loopback(request)
    raise NotImplementedError


def _caller(request: Request, settings: Settings) -> str:
    """The platform's own identity that calls.

    Under CALLER_AUTH=platform a function trusts that the platform let its triggers in alone. Into the API it may let
    others too: where CALLER_AUDIENCE is set, the token is checked here all the same.
    """
    if settings.caller_auth == "off":
        _from_loopback(request)
    if settings.caller_auth == "platform" and settings.caller_audience:
        settings = replace(settings, caller_auth="oidc")
    return identity.require_caller(request.headers, settings)


def _from_loopback(request: Request) -> Principal:
    """Everybody on this machine. A page of another site that a browser here shows is not: its Host is another."""
    host = request.headers.get("host", "").rpartition(":")[0] or request.headers.get("host", "")
    if not ip_address(request.remote).is_loopback or host.strip("[]") not in ("localhost", "127.0.0.1", "::1"):
        raise Problem(403, "access.forbidden", "Without keys the API answers callers on its own machine alone.")
    return EVERYBODY
