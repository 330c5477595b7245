"""The emulator as issuer of identity tokens: its calls are signed as the platform signs its own."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

TOKEN_LIFETIME_S = 3600
REUSE_MARGIN_S = 600


class Issuer:
    """One RSA key, kept in a file, and the tokens it signs.

    Args:
        key_file: where the key is kept; made when absent, readable by its owner alone.
        url: ``iss`` of the tokens.
    """

    def __init__(self, key_file: Path, url: str) -> None:
        self.url = url
        self._key = _key(key_file)
        public = jwt.algorithms.RSAAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        self._key_id = str(public["n"])[-16:]
        self._public = {**public, "kid": self._key_id, "use": "sig", "alg": "RS256"}
        self._tokens: dict[tuple[str, str], tuple[str, float]] = {}

    def key_set(self) -> bytes:
        """Return the JWKS document with the public key."""
        return json.dumps({"keys": [self._public]}).encode()

    def token(self, email: str, audience: str) -> str:
        """Return a token that says that ``email`` calls ``audience``; one is reused for most of its hour."""
        token, ends_at = self._tokens.get((email, audience), ("", 0.0))
        if ends_at - REUSE_MARGIN_S < time.time():
            token, ends_at = self._signed(email, audience), time.time() + TOKEN_LIFETIME_S
            self._tokens[email, audience] = (token, ends_at)
        return token

    def caller(self, token: str, audience: str) -> str | None:
        """Return the email of a token that this issuer signed for ``audience``, or None."""
        try:
            claims: dict[str, Any] = jwt.decode(
                token, self._key.public_key(), algorithms=["RS256"], issuer=self.url, audience=audience
            )
        except jwt.PyJWTError:
            return None
        return str(claims["email"])

    def _signed(self, email: str, audience: str) -> str:
        now = int(time.time())
        claims = {"iss": self.url, "aud": audience, "sub": email, "email": email, "email_verified": True}
        times = {"iat": now, "exp": now + TOKEN_LIFETIME_S}
        return jwt.encode(claims | times, self._key, algorithm="RS256", headers={"kid": self._key_id})


def _key(path: Path) -> rsa.RSAPrivateKey:
    if path.exists():
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        if isinstance(key, rsa.RSAPrivateKey):
            return key
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(pem)
    return key
