"""Who may do what: keys, tokens and scopes; every route has a policy, and the policy holds."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from functions.api import access, app
from functions.api.routes import Route
from shared import api_keys, identity
from tests.integration.api.conftest import Api

ISSUER, AUDIENCE = "https://issuer.test", "https://api.test"
# What everybody may see: that it lives, and how it is to be used.
OPEN = {"/health", "/ready", "/docs", "/docs/problems", "/docs/assets/<name>", "/openapi.json"}
FOR_PROBE = {"read": "GET", "write": "POST", "admin": "GET"}


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "_PROOFS", access._Proofs())
    monkeypatch.setattr(identity, "_KEYS", identity._KeyCache())


@pytest.fixture
def guarded(api: Api) -> Api:
    """The same API as anywhere but on a laptop: it asks for keys."""
    return api.with_settings(
        api_auth="required",
        environment="production",
        caller_audience="https://api.test",
        caller_identities=("trigger@p.test",),
    )


@pytest.fixture(scope="module")
def signing_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
def with_tokens(guarded: Api, http_server: Any, signing_key: rsa.RSAPrivateKey) -> Api:
    """It takes tokens of an issuer too, whose key set a server on loopback publishes."""
    public = jwt.algorithms.RSAAlgorithm.to_jwk(signing_key.public_key(), as_dict=True) | {"kid": "one", "use": "sig"}
    http_server.answer("/keys", 200, json.dumps({"keys": [public]}).encode())
    return guarded.with_settings(
        api_jwt_issuer=ISSUER, api_jwt_audience=AUDIENCE, api_jwt_jwks_url=http_server.url("/keys")
    )


def key_of(api: Api, *scopes: str, days: float | None = None) -> str:
    conn = api.connect("owner")
    try:
        with conn:
            return api_keys.make(conn, "a test", scopes, days)
    finally:
        conn.close()


def token(key: rsa.RSAPrivateKey, **changed: Any) -> str:
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "anna", "scope": "openid read", "iat": now, "exp": now + 600}
    claims = {name: value for name, value in (claims | changed).items() if value is not None}
    return jwt.encode(claims, key, algorithm="RS256", headers={"kid": "one"})


def routes(api: Api) -> tuple[Route, ...]:
    return app.route_table(api.services).routes


def a_path(route: Route) -> str:
    return re.sub(r"<[^>]*>", "2021" if "year" in route.path else "1", route.path)


def test_every_route_has_a_policy_and_only_the_known_ones_are_open(api: Api) -> None:
    """A route that somebody adds without thinking is found here."""
    for route in routes(api):
        assert route.policy in ("open", "read", "write", "admin", "platform"), route
        assert (route.policy == "open") == (route.path in OPEN), route
        assert route.method == "GET" or route.policy not in ("read", "open"), route


def test_no_guarded_route_answers_a_caller_without_a_key(guarded: Api) -> None:
    """401 with a challenge (RFC 9110, 11.6.1), and nothing else; the platform's route asks for its identity."""
    for route in routes(guarded):
        if route.policy == "open":
            continue
        answer = guarded.call(route.method, a_path(route), b"{}")
        if route.policy == "platform":
            assert answer.status == 403, route
            continue
        assert (answer.status, answer.json["code"]) == (401, "access.unauthenticated"), route
        assert answer.headers["www-authenticate"].startswith("Bearer "), route
        assert "data" not in answer.json


def test_a_scope_opens_its_routes_and_those_of_lesser_ones_only(guarded: Api) -> None:
    """read, write and admin each include those before; what is beyond is 403, and names the scope that is needed."""
    for held in api_keys.SCOPES:
        key = key_of(guarded, held)
        for route in (r for r in routes(guarded) if r.policy in api_keys.SCOPES):
            answer = guarded.call(route.method, a_path(route), b"[", x_api_key=key)
            beyond = api_keys.SCOPES.index(route.policy) > api_keys.SCOPES.index(held)
            assert (answer.status == 403) == beyond, (held, route, answer.status)
            assert answer.status < 500
            if beyond:
                assert f'scope="{route.policy}"' in answer.headers["www-authenticate"]


def test_a_key_is_taken_as_its_own_header_or_as_a_bearer_token(guarded: Api) -> None:
    """X-API-Key wins, since a platform may use Authorization for a check of its own."""
    key = key_of(guarded, "read")
    assert access.require("read", _request(x_api_key=key), guarded.services).scopes == {"read"}
    assert access.require("read", _request(authorization=f"bearer {key}"), guarded.services).scopes == {"read"}
    both = _request(x_api_key=key, authorization="Bearer a.b.SIGNATURE_REMOVED_BY_GOOGLE")
    assert access.require("read", both, guarded.services).name.startswith("key:")


def _request(**headers: str) -> Any:
    from functions.api.messages import Request

    return Request("GET", "/", headers={name.replace("_", "-"): value for name, value in headers.items()})


def _refused(api: Api, **headers: str) -> bool:
    with pytest.raises(access.Problem) as refused:
        access.require("read", _request(**headers), api.services)
    return refused.value.status == 401


def test_a_key_that_is_wrong_by_one_letter_unknown_ended_or_revoked_is_refused(guarded: Api) -> None:
    """And no answer tells which of these it was."""
    key = key_of(guarded, "read")
    other = "A" if key[-1] != "A" else "B"
    for wrong in (key[:-1] + other, "rdk_" + "0" * 12 + key[16:], key + "x", key[:-1], "", "rdk__", "\udcff"):
        assert _refused(guarded, x_api_key=wrong), wrong
    assert _refused(guarded, x_api_key=key_of(guarded, "read", days=-1))
    conn = guarded.connect("owner")
    with conn:
        api_keys.revoke(conn, key.split("_")[1])
    conn.close()
    assert _refused(guarded, x_api_key=key)


def test_a_revoked_key_is_forgotten_within_half_a_minute(guarded: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has seen it takes it until then, and asks the database anew afterwards."""
    key = key_of(guarded, "read")
    access.require("read", _request(x_api_key=key), guarded.services)
    guarded.query("update api_access.keys set revoked_at = now()")
    access.require("read", _request(x_api_key=key), guarded.services)
    later = time.monotonic() + access.KEY_LIFETIME_S + 0.1
    monkeypatch.setattr(access.time, "monotonic", lambda: later)
    assert access.KEY_LIFETIME_S <= 30
    assert _refused(guarded, x_api_key=key)


def test_the_database_holds_no_secret_and_the_api_cannot_make_keys(guarded: Api) -> None:
    """Who reads the table, or a backup of it, cannot call; the API's role may look a key up and nothing more."""
    key = key_of(guarded, "admin")
    ((row,),) = guarded.query("select k::text from api_access.keys k")
    assert key.split("_", 2)[2] not in row
    conn = guarded.connect("api")
    insert = "insert into api_access.keys select 'aaaaaaaaaaaa', 'x', decode(repeat('00', 32), 'hex'), '{admin}', now()"
    for statement in (
        insert,
        "update api_access.keys set scopes = '{admin}'",
        "delete from api_access.keys",
    ):
        with pytest.raises(Exception, match="permission denied"), conn, conn.cursor() as cursor:
            cursor.execute(statement)
    conn.close()


def test_a_token_of_the_issuer_opens_what_its_scopes_say(with_tokens: Api, signing_key: rsa.RSAPrivateKey) -> None:
    """As words in a text or as a list; scopes of others are ignored."""
    principal = access.require("read", _request(authorization=f"Bearer {token(signing_key)}"), with_tokens.services)
    assert (principal.name, principal.scopes) == ("token:anna", {"read"})
    admin = token(signing_key, scope=["admin", "root", 7])
    assert access.require("write", _request(authorization=f"Bearer {admin}"), with_tokens.services).scopes == {"admin"}
    none = _request(authorization=f"Bearer {token(signing_key, scope=None)}")
    with pytest.raises(access.Problem) as refused:
        access.require("read", none, with_tokens.services)
    assert refused.value.status == 403


def test_no_two_subjects_have_one_name(with_tokens: Api, signing_key: rsa.RSAPrivateKey) -> None:
    """What is kept by caller, such as answers under an Idempotency-Key, is no other's; the log gets plain text."""
    subjects = ["a/b", "a_b", "a b", "x" * 128, "x" * 129, "x" * 130, "\ud800", "\ud801", "a\r\nb"]
    names = [
        access.require("read", _request(authorization=f"Bearer {token(signing_key, sub=s)}"), with_tokens.services).name
        for s in subjects
    ]
    assert len(set(names)) == len(subjects)
    assert all(re.fullmatch(r"token:[A-Za-z0-9._@|:~-]{1,150}", name) for name in names)


WRONG = {
    "ended": {"exp": 1_700_000_000},
    "another issuer": {"iss": "https://other.test"},
    "another audience": {"aud": "https://ingest.test"},
    "no audience": {"aud": None},
    "no end": {"exp": None},
    "no subject": {"sub": None},
}


@pytest.mark.parametrize("changed", WRONG.values(), ids=WRONG)
def test_a_token_with_one_wrong_claim_is_refused(
    with_tokens: Api, signing_key: rsa.RSAPrivateKey, changed: dict[str, Any]
) -> None:
    """All else being right."""
    assert _refused(with_tokens, authorization=f"Bearer {token(signing_key, **changed)}")


def test_a_token_signed_by_nobody_or_by_its_own_word_is_refused(
    with_tokens: Api, signing_key: rsa.RSAPrivateKey
) -> None:
    """alg none, HMAC with the public key, another's key under the known id, rubbish."""
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    claims = jwt.decode(token(signing_key), options={"verify_signature": False})
    none = jwt.encode(claims, None, algorithm="none", headers={"kid": "one"})
    symmetric = jwt.encode(claims, "x" * 32, algorithm="HS256", headers={"kid": "one"})
    for wrong in (token(stranger), none, symmetric, "a.b.c", "x", token(signing_key)[:-4] + "AAAA"):
        assert _refused(with_tokens, authorization=f"Bearer {wrong}"), wrong


def test_an_issuer_that_does_not_answer_is_a_503_and_no_open_door(guarded: Api, signing_key: rsa.RSAPrivateKey) -> None:
    """What cannot be checked is not let in, and may be tried again."""
    deaf = guarded.with_settings(
        api_jwt_issuer=ISSUER, api_jwt_audience=AUDIENCE, api_jwt_jwks_url="http://127.0.0.1:1/keys"
    )
    with pytest.raises(access.identity.ServiceUnavailable):
        access.require("read", _request(authorization=f"Bearer {token(signing_key)}"), deaf.services)


def test_without_an_issuer_no_token_is_taken(guarded: Api, signing_key: rsa.RSAPrivateKey) -> None:
    """A well-formed one of anybody included."""
    assert _refused(guarded, authorization=f"Bearer {token(signing_key)}")


def test_refusals_are_counted_in_the_log(guarded: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """A rate that rises is somebody who tries; neither key nor token is logged."""
    app.route_table(guarded.services)
    guarded_route = next((r for r in routes(guarded) if r.policy == "read"), None)
    assert guarded_route is not None
    for _ in range(3):
        guarded.get(a_path(guarded_route), x_api_key="rdk_secretsecret")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    counts = [line["refused_last_minute"] for line in lines]
    assert counts == list(range(counts[0], counts[0] + 3))
    assert {line["severity"] for line in lines} == {"WARNING"}
    assert "secretsecret" not in json.dumps(lines)


FOREIGN = {
    "another host": {"host": "rowdock.example:8887"},
    "no host": {"host": ""},
    "a name that begins alike": {"host": "127.0.0.1.evil.example"},
    "a page of another site": {"host": "localhost:8887", "origin": "https://evil.example"},
    "a page without an origin": {"host": "localhost:8887", "origin": "null"},
    "a broken host": {"host": "[::1"},
}


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN)
def test_without_keys_a_foreign_caller_is_refused(api: Api, headers: dict[str, str]) -> None:
    """An open API on a laptop is open to the laptop, not to what its browser shows."""
    with pytest.raises(access.Problem) as refused:
        access.require("read", _request(**headers), api.services)
    assert refused.value.status == 403
    for host in ("localhost:8887", "127.0.0.1:8887", "[::1]:8887", "localhost"):
        assert access.require("write", _request(host=host), api.services) is access.EVERYBODY


def test_the_command_makes_lists_and_revokes(database: Any) -> None:
    """The text is shown once; the list has states and no secret."""
    command = [str(Path(sys.executable).with_name("rowdock")), "--database-url", database.owner_url, "api-keys"]

    def run(*arguments: str) -> str:
        return subprocess.run([*command, *arguments], check=True, capture_output=True, text=True, timeout=60).stdout

    text = run("new", "the payroll", "--scope", "write", "--days", "30").strip()
    assert api_keys.TEXT.match(text)
    key_id, secret = text.split("_", 2)[1:]
    shown = run("ls")
    assert (key_id in shown, "write" in shown, "active" in shown, secret in shown) == (True, True, True, False)
    assert run("revoke", key_id) == f"revoked {key_id}\n"
    assert "revoked" in run("ls")
    again = subprocess.run([*command, "revoke", key_id], capture_output=True, text=True, check=False, timeout=60)
    assert (again.returncode, "no API key" in again.stderr) == (1, True)
