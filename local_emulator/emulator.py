"""The emulator itself: its parts started in order, kept running, and ended with nothing left behind."""

from __future__ import annotations

import asyncio
import datetime
import errno
import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from local_emulator import clock, database, stores
from local_emulator.children import ChildFailed
from local_emulator.database import Database
from local_emulator.delivery import Deliveries
from local_emulator.event_queue import EventQueue
from local_emulator.functions import FunctionServer, Surroundings, processes
from local_emulator.gateway import Gateway, Upstream
from local_emulator.issuer import Issuer
from local_emulator.manifest import Manifest
from local_emulator.routes import Access, Routes
from local_emulator.state import Running, StateFolder, listen, port_holder
from local_emulator.stores import StoreServer, Webhook
from local_emulator.terminal import Terminal
from local_emulator.watch import BucketWatch
from shared import objectstore, postgres
from shared.errors import RowdockError

T = TypeVar("T")
TRIGGER = "trigger@rowdock.emulator"
OPERATOR = "operator@rowdock.emulator"
ASKED_BY_OPERATORS = ("backup", "restore")  # as roles/run.invoker of a person lets them in production
LISTING_INTERVAL_S = {"minio": 5.0, "seaweedfs": 5.0, "moto": 2.0, "url": 2.0}
SUPERVISION_S = 0.5


class PartFailed(Exception):
    """A part of the emulator did not start, or ended; the message names it and shows the end of its output."""

    def __init__(self, part: str, why: str) -> None:
        super().__init__(f"{part}: {why}")
        self.part = part


class PortTaken(Exception):
    """The gateway's port is taken, and the message says by whom; or the system does not give it."""


@dataclass(frozen=True, slots=True)
class Options:
    """What ``up`` was told.

    Attributes:
        port: of the gateway; 0 for any that is free.
        storage: auto, minio, seaweedfs, moto or a store's URL.
        db: auto or the URL of a database that its role owns.
        time_scale: what the pauses before retries are multiplied with.
        listing_s: seconds between two listings of the bucket; None for what suits the store.
        api_keys: the API asks for keys, as in production, instead of answering everybody on this machine.
    """

    state: Path
    root: Path
    port: int = 8887
    storage: str = "auto"
    db: str = "auto"
    fresh: bool = False
    time_scale: float = 0.1
    listing_s: float | None = None
    api_keys: bool = False


class Emulator:
    """Use as: ``await start()``, ``await run()`` until it returns, ``await stop()`` in any case."""

    def __init__(self, options: Options, manifest: Manifest, terminal: Terminal) -> None:
        self.options = options
        self.manifest = manifest
        self.say = terminal.say
        self._lines_of = terminal.lines_of
        self._access = Access()
        self._state = StateFolder(options.state)
        self._stack = AsyncExitStack()
        self._servers: dict[str, FunctionServer] = {}
        self._upstreams: dict[str, Upstream] = {}
        self._started = time.monotonic()
        self._database: Database | None = None
        self._store: StoreServer | None = None
        self._watch: BucketWatch | None = None
        self._deliveries: Deliveries | None = None

    # Start

    async def start(self) -> None:
        """Start every part; on return the emulator is ready and the commands find it.

        Raises:
            StateHeld: another emulator uses the folder.
            FolderRefused: the folder cannot keep the state, or holds what --fresh must not remove.
            PortTaken: something else listens on the gateway's port, or the system does not give it.
            PartFailed: a part did not become ready.
        """
        self._state.hold(fresh=self.options.fresh)
        self._stack.callback(self._state.release)
        queue = EventQueue(self._state.queue)
        self._stack.callback(queue.close)  # after the gateway: what functions send while they end is kept
        await self._open_gateway()
        self.bucket, self.backup_bucket = self._buckets()
        self._stack.push_async_callback(self._stop_parts)
        queue.forget_old()
        if again := queue.recover():
            self.say("queue", f"{again} deliveries were under way when the emulator ended; they are made again")
        await asyncio.gather(self._start_database(), self._start_store())
        await asyncio.gather(*(self._start_function(name) for name in self.manifest.functions))
        self._deliveries = Deliveries(
            queue, self.manifest, self._upstreams, self._sign, self.say, self.options.time_scale
        )
        self._watch = BucketWatch(
            objectstore.connect(self.storage_url), self.bucket, self._deliveries, self.say, self._listing_interval_s()
        )
        self._routes.deliveries, self._routes.watch = self._deliveries, self._watch
        self._state.announce(self._running())
        took_s = time.monotonic() - self._started
        self.say("emulator", f"ready after {took_s:.1f} s: {self.url}  (database, {self.storage_kind}, functions)")

    async def _open_gateway(self) -> None:
        try:
            listener = listen(self.options.port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise PortTaken(f"port {self.options.port} cannot be had ({error.strerror}); give --port") from error
            holder = port_holder(self.options.port)
            raise PortTaken(f"port {self.options.port} is taken by {holder}; end it, or give --port") from error
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._issuer = Issuer(self._state.path / "issuer-key.pem", f"{self.url}/_identity")
        self._routes = Routes(
            self.url, self.manifest, self._issuer, self._access, self._upstreams, self._status, self.say
        )
        gateway = Gateway(listener, self._routes.target)
        await gateway.start()
        self._stack.push_async_callback(gateway.stop)

    def _buckets(self) -> tuple[str, str]:
        """Return the names that deploy.yaml gives to the two buckets."""
        plain = [function.environment for function in self.manifest.functions.values()]
        uploads = next((env["UPLOAD_BUCKET"] for env in plain if "UPLOAD_BUCKET" in env), "csv-uploads")
        return uploads, next((env["BACKUP_BUCKET"] for env in plain if "BACKUP_BUCKET" in env), "avro-backups")

    async def _start_database(self) -> None:
        def start() -> Database:
            if self.options.db == "auto":
                return database.embedded(self._state.path / "postgres", self._lines_of("postgres"))
            return database.given(self.options.db, self._lines_of("database"))

        self._database = await self._part("database", start)

    async def _start_store(self) -> None:
        kind = self.options.storage
        if "://" in kind:
            self.storage_kind, self.storage_url = "url", kind
            return await self._part("store", self._look_into_store)
        if kind != "auto":
            return await self._launch_store(kind)
        if stores.minio_binary() and await self._could_launch("minio", "seaweedfs"):
            return None
        if await self._could_launch("seaweedfs", "moto, which keeps nothing when it ends"):
            return None
        return await self._launch_store("moto")

    async def _could_launch(self, kind: str, next_one: str) -> bool:
        """Launch ``kind``, or say in one line why not and what comes instead.

        Raises:
            PartFailed: its binary runs, but what it holds cannot be used: another store would hide that.
        """
        try:
            await self._launch_store(kind)
        except PartFailed as failure:
            if not isinstance(failure.__cause__, ChildFailed | FileNotFoundError):
                raise
            lines = str(failure.__cause__).splitlines()
            why = f"{lines[0]} {lines[-1].strip()}" if len(lines) > 1 else lines[0]
            self.say(kind, f"cannot be had here: {why}; going on with {next_one}")
            return False
        return True

    async def _launch_store(self, kind: str) -> None:
        hook = "minio" if kind == "minio" else "seaweedfs"
        webhook = Webhook(f"{self.url}/_events/{hook}", self._access.webhook_token, (self.bucket,))
        buckets = (self.bucket, self.backup_bucket)

        def start() -> StoreServer:
            folder, on_line = self._state.path / kind, _without_accesses(self._lines_of(kind))
            folder.mkdir(parents=True, exist_ok=True)
            return stores.LAUNCHERS[kind](folder, buckets, webhook=webhook, on_line=on_line)

        self._store = await self._part(kind, start)
        self.storage_kind, self.storage_url = kind, self._store.url

    def _look_into_store(self) -> None:
        store = objectstore.connect(self.storage_url)
        for bucket in (self.bucket, self.backup_bucket):
            next(iter(store.list(bucket)), None)

    async def _start_function(self, name: str) -> None:
        function = self.manifest.functions[name]
        surroundings = Surroundings(self.options.root, self._state.path / "run" / name, self._settings(name))
        server = FunctionServer(function, surroundings, self._lines_of(name))
        self._servers[name] = server
        await self._part(name, server.start)
        limit = processes(function) * function.concurrency
        self._upstreams[name] = Upstream(name, server.port, limit=limit, timeout_s=function.timeout_s)
        self._stack.callback(self._upstreams[name].close)

    async def _part(self, name: str, start: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(start)
        except RowdockError as error:
            raise PartFailed(name, f"{error}{postgres.why_not_reached(error)}") from error
        except (ChildFailed, RuntimeError, OSError) as error:
            raise PartFailed(name, str(error)) from error
        except Exception as error:
            raise PartFailed(name, f"{type(error).__name__}: {error}") from error

    def _settings(self, name: str) -> dict[str, str]:
        """Return, by their names in shared.settings, what the platform would give to function ``name``."""
        found = self._database.url_by_login.get(name) if self._database else None
        return {
            "ROWDOCK_ENVIRONMENT": "emulator",
            "DATABASE_URL": found or "",
            "STORAGE_URL": self.storage_url,
            "UPLOAD_BUCKET": self.bucket,
            "BACKUP_BUCKET": self.backup_bucket,
            "EVENTS_URL": f"{self.url}/_events",
            "IDENTITY_TOKEN_URL": f"{self.url}{self._access.token_path(f'{name}@rowdock.emulator')}",
            "CALLER_AUTH": "oidc",
            "CALLER_ISSUER": self._issuer.url,
            "CALLER_JWKS_URL": f"{self.url}/_identity/keys",
            "CALLER_AUDIENCE": self._audience(name),
            "CALLER_IDENTITIES": f"{TRIGGER},{OPERATOR}" if name in ASKED_BY_OPERATORS else TRIGGER,
            "API_AUTH": "required" if self.options.api_keys else "off",
        }

    def _audience(self, function: str) -> str:
        return f"{self.url}/functions/{function}"

    def _sign(self, function: str) -> str:
        return self._issuer.token(TRIGGER, self._audience(function))

    def _listing_interval_s(self) -> float:
        return self.options.listing_s or LISTING_INTERVAL_S[self.storage_kind]

    def _running(self) -> Running:
        return Running(os.getpid(), self.url, self._access.command_key, self.storage_kind, self._exec_environment())

    def _exec_environment(self) -> dict[str, str]:
        """Return what makes psql, any S3 client, curl and ``rowdock`` work at once."""
        if self._database is None:
            return {}
        own = Path(sys.executable).parent  # where ``rowdock`` and this Python are, activated or not
        folders = [*filter(None, [self._database.binaries()]), own, os.environ.get("PATH", os.defpath)]
        return {
            **self._database.libpq_variables(),
            **self._aws_variables(),
            "PATH": os.pathsep.join(map(str, folders)),
            "ROWDOCK_ENVIRONMENT": "emulator",
            "ROWDOCK_URL": self.url,
            "DATABASE_URL": self._database.owner_url,
            "STORAGE_URL": self.storage_url,
            "UPLOAD_BUCKET": self.bucket,
            "BACKUP_BUCKET": self.backup_bucket,
            "EVENTS_URL": f"{self.url}/_events",
            "IDENTITY_TOKEN_URL": f"{self.url}{self._access.token_path(OPERATOR)}",
        }

    def _aws_variables(self) -> dict[str, str]:
        if self._store is None:
            return {}
        return {
            "AWS_ENDPOINT_URL": self._store.endpoint,
            "AWS_ACCESS_KEY_ID": self._store.key,
            "AWS_SECRET_ACCESS_KEY": self._store.secret,
            "AWS_DEFAULT_REGION": stores.REGION,
            "AWS_REGION": stores.REGION,
            "AWS_BUCKET": self.bucket,
        }

    # Run

    async def run(self) -> None:
        """Deliver, watch, keep time and keep the functions alive, until cancelled.

        Raises:
            PartFailed: the database or the store ended.
        """
        if self._deliveries is None or self._watch is None:
            raise RuntimeError("start() comes before run()")
        jobs = [
            self._deliveries.run(),
            clock.run(self.manifest.schedules, self._deliveries, self.say),
            self._watch.run(),
            self._supervise(),
        ]
        tasks = [asyncio.create_task(job) for job in jobs]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _supervise(self) -> None:
        while True:
            await asyncio.sleep(SUPERVISION_S)
            if self._store is not None and not self._store.child.alive:
                raise PartFailed(self.storage_kind, f"ended:\n{self._store.child.tail()}")
            if self._database and self._database.server and not self._database.server.alive:
                raise PartFailed("database", f"ended:\n{self._database.server.tail()}")
            for name, server in self._servers.items():
                if not server.alive:
                    self.say(name, "ended; it is started again")
                    await self._part(name, server.start)

    async def stop(self) -> None:
        """End every part: the functions first, so that what they are doing can end well."""
        await self._stack.aclose()

    async def _stop_parts(self) -> None:
        await asyncio.gather(*(asyncio.to_thread(server.stop) for server in self._servers.values()))
        server = self._database.server if self._database else None
        below = [part for part in (self._store, server) if part is not None]
        await asyncio.gather(*(asyncio.to_thread(part.stop) for part in below))

    # Status

    def _status(self) -> dict[str, Any]:
        now = datetime.datetime.now(datetime.UTC)
        return {
            "url": self.url,
            "pid": os.getpid(),
            "up_s": round(time.monotonic() - self._started, 1),
            "state": str(self._state.path),
            "database": {"embedded": self._database is not None and self._database.server is not None},
            "store": {"kind": self.storage_kind, "endpoint": self._store.endpoint if self._store else None},
            "functions": [self._function_status(name) for name in self._servers],
            "deliveries": self._deliveries.queue.counts() if self._deliveries else {},
            "schedules": [
                {
                    "name": schedule.name,
                    "function": schedule.function,
                    "cron": schedule.cron,
                    "next": next(schedule.runs_after(now)).isoformat(),
                    "last": self._last_run(schedule.name),
                }
                for schedule in self.manifest.schedules
            ],
        }

    def _function_status(self, name: str) -> dict[str, object]:
        server, upstream = self._servers[name], self._upstreams.get(name)
        return {
            "name": name,
            "pid": server.child.pid if server.child else None,
            "alive": server.alive,
            "url": f"http://127.0.0.1:{server.port}",
            "at_most": upstream.limit if upstream else 0,
            "in_flight": upstream.in_flight if upstream else 0,
            "answered": upstream.answered if upstream else 0,
        }

    def _last_run(self, name: str) -> str | None:
        last = self._deliveries.queue.last_run_at(name) if self._deliveries else None
        return None if last is None else datetime.datetime.fromtimestamp(last, datetime.UTC).isoformat()


def _without_accesses(say: Callable[[str], None]) -> Callable[[str], None]:
    """Leave out moto's line for each request that went well: the bucket is listed every few seconds."""
    return lambda line: None if re.search(r'HTTP/1\.\d" [23]\d\d ', line) else say(line)
