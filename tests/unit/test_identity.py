"""Identity: a token proves its bearer only if signature, issuer, audience, time and name all hold."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from shared import identity
from shared.errors import CallerRefused, ServiceUnavailable, SettingsError
from shared.settings import load

ISSUER, AUDIENCE, CALLER = "https://issuer.test", "https://ingest.test", "trigger@p.iam.gserviceaccount.com"


@pytest.fixture(scope="module")
def keys():
    return [rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2)]


def jwks(**keys_by_id):
    algorithm = jwt.algorithms.RSAAlgorithm(jwt.algorithms.RSAAlgorithm.SHA256)
    published = [
        algorithm.to_jwk(k.public_key(), as_dict=True) | {"kid": i, "use": "sig"} for i, k in keys_by_id.items()
    ]
    return json.dumps({"keys": published}).encode()


@pytest.fixture
def issuer(http_server, keys, monkeypatch):
    monkeypatch.setattr(identity, "_KEYS", identity._KeyCache())
    http_server.answer("/keys", 200, jwks(one=keys[0]))
    return http_server


@pytest.fixture
def settings(issuer):
    return replace(
        load({}),
        caller_issuer=ISSUER,
        caller_jwks_url=issuer.url("/keys"),
        caller_audience=AUDIENCE,
        caller_identities=("somebody@else.test", CALLER),
    )


def bearer(key, key_id="one", algorithm="RS256", **changed):
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "1234", "email": CALLER, "email_verified": True}
    claims |= {"iat": now, "exp": now + 3600} | changed
    claims = {name: value for name, value in claims.items() if value is not None}
    return {"Authorization": "Bearer " + jwt.encode(claims, key, algorithm=algorithm, headers={"kid": key_id})}


def test_a_token_of_the_platform_proves_the_caller(keys, settings):
    """The identity that matched is returned."""
    assert identity.require_caller(bearer(keys[0]), settings) == CALLER


def test_a_subject_counts_as_an_email_does(keys, settings):
    """A Kubernetes service account has a subject and no email."""
    account = "system:serviceaccount:default:trigger"
    token = bearer(keys[0], sub=account, email=None, email_verified=None)
    assert identity.require_caller(token, replace(settings, caller_identities=(account,))) == account


NOT_HELD = {
    "expired": {"exp": 1_700_000_000},
    "of the future": {"iat": 4_000_000_000, "exp": 4_000_000_900},
    "another issuer": {"iss": "https://other.test"},
    "another audience": {"aud": "https://api.test"},
    "no audience": {"aud": None},
    "no end": {"exp": None},
    "another caller": {"email": "stranger@p.test"},
    "email not verified": {"email_verified": False},
    "email verified as text": {"email_verified": "true"},
    "email is a list": {"email": [CALLER]},
}


@pytest.mark.parametrize("changed", NOT_HELD.values(), ids=NOT_HELD)
def test_one_wrong_claim_is_enough_to_refuse(keys, settings, changed):
    """Signature and all else being right, each claim is needed."""
    with pytest.raises(CallerRefused) as refused:
        identity.require_caller(bearer(keys[0], **changed), settings)
    assert CALLER not in str(refused.value)
    assert AUDIENCE not in str(refused.value)


def test_a_signature_of_another_key_is_refused(keys, settings):
    """The key id is claimed, the signature is not of that key."""
    with pytest.raises(CallerRefused, match="InvalidSignature"):
        identity.require_caller(bearer(keys[1]), settings)


def test_the_public_key_is_not_taken_for_a_secret(settings):
    """HS256, with any key, is no signature of the issuer."""
    with pytest.raises(CallerRefused, match="InvalidAlgorithm"):
        identity.require_caller(bearer("x" * 64, algorithm="HS256"), settings)


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({}, "no identity token"),
        ({"authorization": "Basic eDp5"}, "no identity token"),
        ({"authorization": "Bearer"}, "no identity token"),
        ({"authorization": "Bearer x"}, "DecodeError"),
        ({"authorization": "bearer a.b.SIGNATURE_REMOVED_BY_GOOGLE"}, "CALLER_AUTH=platform"),
    ],
)
def test_no_token_is_refused_with_what_to_do(settings, headers, said):
    """A call without a token, or with what is none, is refused before any key is fetched."""
    with pytest.raises(CallerRefused, match=said):
        identity.require_caller(headers, settings)


def test_keys_are_fetched_once_for_many_calls(keys, settings, issuer):
    """Ten calls, one fetch."""
    for _ in range(10):
        identity.require_caller(bearer(keys[0]), settings)
    assert len(issuer.calls) == 1


def test_a_rotated_key_is_fetched_and_made_up_ones_are_not_fetched_each(keys, settings, issuer, monkeypatch):
    """An unknown key id leads to a fetch, but not to one for every stranger's guess."""
    identity.require_caller(bearer(keys[0]), settings)
    for guess in range(20):
        with pytest.raises(CallerRefused, match="does not publish"):
            identity.require_caller(bearer(keys[1], key_id=f"guess-{guess}"), settings)
    assert len(issuer.calls) == 1
    issuer.answer("/keys", 200, jwks(two=keys[1]))
    monkeypatch.setattr(identity, "REFETCH_PAUSE_S", 0.0)
    assert identity.require_caller(bearer(keys[1], key_id="two"), settings) == CALLER
    assert len(issuer.calls) == 2


def test_keys_once_fetched_serve_while_the_issuer_is_away(keys, settings, issuer, monkeypatch):
    """A stale key set is better than an outage, for a day."""
    identity.require_caller(bearer(keys[0]), settings)
    issuer.answer("/keys", 500)
    monkeypatch.setattr(identity, "REFETCH_PAUSE_S", 0.0)
    monkeypatch.setattr(identity, "KEYS_LIFETIME_S", 0.0)
    assert identity.require_caller(bearer(keys[0]), settings) == CALLER
    assert len(issuer.calls) == 2


@pytest.mark.parametrize("answer", [(500, b""), (200, b"<html>"), (200, b'{"keys": []}')])
def test_no_keys_at_all_is_transient(keys, settings, issuer, answer):
    """Who cannot be checked now may be checked later: no refusal."""
    issuer.answer("/keys", *answer)
    with pytest.raises(ServiceUnavailable, match="keys"):
        identity.require_caller(bearer(keys[0]), settings)


@pytest.mark.parametrize("missing", ["caller_audience", "caller_identities"])
def test_settings_that_would_let_anybody_in_are_refused(keys, settings, missing):
    """No audience or no identity means nothing to check against, never anybody."""
    empty = "" if missing == "caller_audience" else ()
    with pytest.raises(SettingsError, match="CALLER_AUDIENCE and CALLER_IDENTITIES"):
        identity.require_caller(bearer(keys[0]), replace(settings, **{missing: empty}))


def test_off_is_for_the_emulator_alone(settings):
    """Even settings made by hand do not switch the check off in production."""
    with pytest.raises(SettingsError, match="emulator alone"):
        identity.require_caller({}, replace(settings, caller_auth="off", environment="production"))
    assert identity.require_caller({}, replace(settings, caller_auth="off", environment="emulator")) == "off"


def test_our_own_token_is_kept_until_it_nears_its_end(keys, settings, issuer):
    """One fetch serves many calls; a token about to end is replaced."""
    giver = replace(settings, identity_token_url=issuer.url("/own"))
    for lifetime_s, fetches in [(3600, 1), (60, 3)]:
        issuer.calls.clear()
        token = bearer(keys[0], exp=int(time.time()) + lifetime_s)["Authorization"]
        issuer.answer("/own", 200, token.removeprefix("Bearer ").encode())
        url = f"https://receiver-{lifetime_s}.test/path"
        assert [identity.outgoing_headers(url, giver)["authorization"] for _ in range(3)] == [token] * 3
        assert len(issuer.calls) == fetches


def test_a_giver_that_gives_no_token_is_transient(settings, issuer):
    """No token now, perhaps later."""
    issuer.answer("/own", 503)
    with pytest.raises(ServiceUnavailable, match="503"):
        identity.outgoing_headers("https://x.test/", replace(settings, identity_token_url=issuer.url("/own")))
