"""One bounded HTTP exchange: for the events we send, the tokens we are given and the keys we check tokens with.

The standard library's client, because these are one small request each and a cold start pays for every import.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import SplitResult, urlsplit

from shared.errors import ServiceUnavailable, SettingsError

MOST_ANSWER_BYTES = 1024 * 1024  # Google's key set is under 4 kB; nothing we ask for comes near


def exchange(
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    timeout_s: float = 10.0,
) -> tuple[int, bytes]:
    """Send one request; return its status and up to 1 MiB of its answer. Redirects are answers, not followed.

    Raises:
        ServiceUnavailable: nothing answered within ``timeout_s``; the message names the host, not the path.
        SettingsError: ``url`` is not http or https.
    """
    parts = urlsplit(url)
    connection = _connection(parts, timeout_s)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request(method, target, body=body, headers=dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.read(MOST_ANSWER_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise ServiceUnavailable(f"{parts.hostname} did not answer: {type(error).__name__}") from error
    finally:
        connection.close()


def _connection(parts: SplitResult, timeout_s: float) -> http.client.HTTPConnection:
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError("an address for outgoing calls must be http:// or https:// with a host")
    if parts.scheme == "https":
        return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=timeout_s, context=_tls())
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()
