"""Idempotency-Key (IETF httpapi draft): a request that comes twice is done once, and answered twice alike.

The answer is kept in the transaction that does the work, for a day. Kept is what was done: good answers, and those that
say why rows were rejected. A request that failed before, or at the database, may be sent again under its key.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from psycopg2.extras import Json

from functions.api.messages import Response
from functions.api.problems import Problem

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812  # as in messages

    from functions.api.messages import Call, Request

# A structured-field string (RFC 9651, 3.3.3), or the same without its quotes; visible ASCII.
QUOTED = re.compile(r'"((?:[!#-\[\]-~]|\\["\\])+)"\Z')
BARE = re.compile(r"[!-~]+\Z")
LONGEST_KEY = 255
CONSTRAINTS = ("idempotency_pkey",)  # a twin committed between the look for an answer and ours
FORGOTTEN_AT_ONCE = 100
IN_FLIGHT_RETRY_S = 1

FORGET = """
    delete from api_access.idempotency where (principal, key) in (
      select principal, key from api_access.idempotency where created_at < now() - interval '24 hours'
      order by created_at limit %(limit)s for update skip locked)
"""
FIND = """
    select fingerprint, status, headers, body from api_access.idempotency
    where principal = %(principal)s and key = %(key)s and created_at >= now() - interval '24 hours'
"""
KEEP = """
    insert into api_access.idempotency (principal, key, fingerprint, status, headers, body)
    values (%(principal)s, %(key)s, %(fingerprint)s, %(status)s, %(headers)s, %(body)s)
    on conflict (principal, key) do update
      set fingerprint = excluded.fingerprint, status = excluded.status, headers = excluded.headers,
          body = excluded.body, created_at = excluded.created_at
      where idempotency.created_at < now() - interval '24 hours'
    returning 1
"""


def key_of(request: Request) -> str | None:
    """The request's key, without quotes; None where it has none.

    Raises:
        Problem: 400 for a key that is none.
    """
    given = request.headers.get("idempotency-key")
    if given is None:
        return None
    given = given.strip()
    if quoted := QUOTED.match(given):
        key = re.sub(r"\\(.)", r"\1", quoted[1])
    else:
        key = given if BARE.match(given) and '"' not in given else ""
    if not 1 <= len(key) <= LONGEST_KEY:
        detail = f"Idempotency-Key takes 1 to {LONGEST_KEY} visible ASCII characters, such as a UUID, quoted or not."
        raise Problem(400, "request.malformed", detail, errors=[{"header": "Idempotency-Key", "detail": detail}])
    return key


def once(call: Call, key: str, work: Callable[[Connection], Response]) -> Response:
    """The answer that ``work`` gives, done now or by an earlier request of the same key.

    Raises:
        Problem: 409 while a request of this key is under way, 422 when it was another request.
        RowdockError: as ``work``; nothing is kept then.
    """
    names = {"principal": call.principal.name, "key": key}
    fingerprint = _fingerprint(call.request)
    with call.transaction() as conn, conn.cursor() as cursor:
        cursor.execute(
            "select pg_try_advisory_xact_lock(hashtextextended(%s, 0))", (f"idempotency:{json.dumps(names)}",)
        )
        if not cursor.fetchone()[0]:  # type: ignore[index]  # a function call gives one row
            raise _in_flight()
        cursor.execute(FORGET + ";" + FIND, names | {"limit": FORGOTTEN_AT_ONCE})
        if found := cursor.fetchone():
            return _again(found, fingerprint)
        response = work(conn)
        cursor.execute(KEEP, names | _kept(response, fingerprint))
        return response


def _in_flight() -> Problem:
    detail = "A request of this Idempotency-Key is under way; ask again for its answer."
    return Problem(409, "idempotency.in_flight", detail, headers={"Retry-After": str(IN_FLIGHT_RETRY_S)})


def _fingerprint(request: Request) -> bytes:
    """Names all of a request that decides what is done and answered."""
    told = (repr(request.headers.get(name)) for name in ("content-type", "prefer"))
    head = "\n".join((request.method, request.path, urlencode(request.query), *told, ""))
    return hashlib.sha256(head.encode() + hashlib.sha256(request.body).digest()).digest()


def _again(found: tuple[Any, ...], fingerprint: bytes) -> Response:
    kept, status, headers, body = found
    if bytes(kept) != fingerprint:
        differs = "another method, path, query, body, Content-Type or Prefer"
        detail = f"This Idempotency-Key came with {differs}. Take a new key for a new request."
        raise Problem(422, "idempotency.reused", detail)
    content_type = headers.pop("Content-Type")
    return Response(status, bytes(body), content_type, headers | {"Idempotency-Replayed": "true"})


def _kept(response: Response, fingerprint: bytes) -> dict[str, Any]:
    headers = {"Content-Type": response.content_type} | response.headers
    return {
        "fingerprint": fingerprint,
        "status": response.status,
        "headers": Json(headers),
        "body": response.body,
    }
