"""What the gateway answers itself, and where it sends the rest.

Reserved are ``/_events`` (events and webhooks in), ``/_identity`` (keys and tokens) and ``/_emulator`` (for the
commands). ``/functions/NAME/…`` is that function; everything else is the api function, as in production.
"""

from __future__ import annotations

import datetime
import hmac
import json
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from local_emulator import clock
from local_emulator.delivery import Deliveries
from local_emulator.gateway import Handler, Request, Response, Upstream, json_response, problem
from local_emulator.issuer import Issuer
from local_emulator.manifest import Manifest
from local_emulator.object_events import Announcement, announced_by_s3, announced_by_seaweed
from local_emulator.watch import BucketWatch
from shared import events
from shared.errors import EventRefused, RowdockError


@dataclass(slots=True)
class Access:
    """Secrets of one run: what webhooks, commands and functions show, and as whom the latter are then known."""

    command_key: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    webhook_token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    email_by_secret: dict[str, str] = field(default_factory=dict, repr=False)

    def token_path(self, email: str) -> str:
        """Return the path, made for ``email`` alone, where it gets identity tokens."""
        secret = secrets.token_urlsafe(24)
        self.email_by_secret[secret] = email
        return f"/_identity/token/{secret}"


@dataclass(slots=True)
class Routes:
    """The gateway's routes; ``deliveries`` and ``watch`` are None while the emulator starts.

    Attributes:
        url: of the gateway; events for it carry a token for this audience.
        upstreams: the functions that are ready, by name.
        status: what ``status`` prints.
    """

    url: str
    manifest: Manifest
    issuer: Issuer
    access: Access
    upstreams: Mapping[str, Upstream]
    status: Callable[[], dict[str, Any]]
    say: Callable[[str, str], None]
    deliveries: Deliveries | None = None
    watch: BucketWatch | None = None

    def target(self, request: Request) -> Handler | tuple[Upstream, str]:
        """Return what answers ``request``: a handler, or a function and the path there."""
        path = request.path
        if path.startswith(("/_events", "/_emulator/", "/_identity/")):
            return self._own_route(request.method, path)
        name, below = "api", request.target
        if path.startswith("/functions/"):
            name, _, rest = request.target.removeprefix("/functions/").partition("/")
            below = f"/{rest}"
        if name not in self.manifest.functions:
            return _answering(problem(404, f"there is no function {name}; known: {', '.join(self.manifest.functions)}"))
        if name not in self.upstreams:
            return _answering(problem(503, f"function {name} is starting"))
        return self.upstreams[name], below

    def _own_route(self, method: str, path: str) -> Handler:
        routes: dict[tuple[str, str], Handler] = {
            ("POST", "/_events"): self._take_event,
            ("POST", "/_events/minio"): self._take_s3_webhook,
            ("POST", "/_events/seaweedfs"): self._take_seaweed_webhook,
            ("POST", "/_emulator/announce"): self._for_commands(self._take_announcement),
            ("POST", "/_emulator/wake"): self._for_commands(self._wake),
            ("POST", "/_emulator/run"): self._for_commands(self._run_schedule),
            ("GET", "/_emulator/status"): self._for_commands(self._tell_status),
            ("GET", "/_identity/keys"): self._keys,
        }
        if method == "GET" and path.startswith("/_identity/token/"):
            return self._token
        return routes.get((method, path), _answering(problem(404, "the gateway has no such path or method")))

    def _for_commands(self, handler: Handler) -> Handler:
        async def guarded(request: Request) -> Response:
            if not _bears(request, self.access.command_key):
                return problem(403, "this is for the emulator's own commands")
            return await handler(request)

        return guarded

    async def _take_event(self, request: Request) -> Response:
        """Store an event of a function, or of a command: 202 says that it is on disk."""
        token = request.header("authorization").removeprefix("Bearer ")
        if self.issuer.caller(token, self.url) is None:
            return problem(401, "an event must carry an identity token of this emulator for this address")
        if self.deliveries is None:
            return problem(503, "the emulator is starting")
        try:
            event = events.parse(dict(request.headers), await request.body())
        except EventRefused as error:
            return problem(400, str(error))
        self.deliveries.accept(event)
        return Response(202)

    async def _take_s3_webhook(self, request: Request) -> Response:
        return await self._take_webhook(request, announced_by_s3)

    async def _take_seaweed_webhook(self, request: Request) -> Response:
        return await self._take_webhook(request, announced_by_seaweed)

    async def _take_webhook(self, request: Request, read: Callable[[Any], Iterable[Announcement]]) -> Response:
        if not _bears(request, self.access.webhook_token):
            return problem(401, "the webhook does not carry its token")
        try:
            announced = list(read(json.loads(await request.body() or b"{}")))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return problem(400, f"this is no webhook of the store ({type(error).__name__})")
        return await self._take(announced)

    async def _take_announcement(self, request: Request) -> Response:
        body = json.loads(await request.body())
        return await self._take([Announcement(body["bucket"], body["name"], body.get("generation"))])

    async def _take(self, announced: list[Announcement]) -> Response:
        if self.watch is None:
            return problem(503, "the emulator is starting; it lists the bucket when it is ready")
        try:
            await self.watch.take(announced)
        except RowdockError as error:
            return problem(503, f"the store does not tell what was written ({error.code}); a listing will find it")
        return Response(202)

    async def _wake(self, _request: Request) -> Response:
        if self.deliveries is not None:
            self.deliveries.wake()
        return Response(204)

    async def _run_schedule(self, request: Request) -> Response:
        """Make the call that ``name`` makes, of the moment ``at`` or of now; 202 tells its delivery."""
        found = self.manifest.schedules_called(request.query("name"))
        if len(found) != 1 or self.deliveries is None:
            known = ", ".join(schedule.name for schedule in found or self.manifest.schedules)
            return problem(404, f"there is not one schedule {request.query('name')!r}; known: {known}")
        at, now = request.query("at"), datetime.datetime.now(datetime.UTC)
        moment = datetime.datetime.fromtimestamp(float(at), datetime.UTC) if at else now
        delivery = clock.call_now(found[0], self.deliveries, self.say, moment)
        if delivery is None:
            return problem(409, f"the call of {found[0].name} before is still under way; events ls shows it")
        return json_response({"schedule": found[0].name, "delivery": delivery}, 202)

    async def _keys(self, _request: Request) -> Response:
        return Response(200, self.issuer.key_set())

    async def _token(self, request: Request) -> Response:
        """Give an identity token as Google's metadata server does, to whom the secret in the path was given."""
        email = self.access.email_by_secret.get(request.path.rpartition("/")[2])
        if email is None or request.header("metadata-flavor") != "Google" or not request.query("audience"):
            return problem(403, "no token is given here")
        return Response(200, self.issuer.token(email, request.query("audience")).encode(), "text/plain")

    async def _tell_status(self, _request: Request) -> Response:
        return json_response(self.status())


def _answering(response: Response) -> Handler:
    async def answer(_request: Request) -> Response:
        return response

    return answer


def _bears(request: Request, secret: str) -> bool:
    given = request.header("authorization").removeprefix("Bearer ")
    return hmac.compare_digest(given.encode("latin-1"), secret.encode())
