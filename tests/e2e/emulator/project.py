"""A real emulator in a process of its own, in front of a function that does as the test says and tells what it got."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from local_emulator.event_queue import EventQueue
from local_emulator.looking import ask
from local_emulator.state import Running, StateFolder
from shared import objectstore

ROOT = Path(__file__).parents[3]
DEADLINE_S = 30.0
FUNCTION = """
import json, os, time
from pathlib import Path
import flask, functions_framework
from shared import identity, settings
from shared.errors import CallerRefused
HERE = Path(__file__).parent

@functions_framework.http
def ingest(request):
    try:
        caller = identity.require_caller(dict(request.headers), settings.load())
    except CallerRefused as error:
        return str(error), 403
    behaviour = json.loads((HERE / "behaviour.json").read_text())
    headers = {name.lower(): value for name, value in request.headers.items()}
    call = {"headers": headers, "body": request.get_data(as_text=True), "caller": caller, "pid": os.getpid()}
    with open(HERE / "calls.jsonl", "a") as calls:
        calls.write(json.dumps(call) + "\\n")
    while (HERE / "hold").exists():
        time.sleep(0.01)
    return "as the test says", behaviour["status"]
"""
API = """
import flask, functions_framework

@functions_framework.http
def api(request):
    body = request.get_data()
    answer = flask.jsonify(method=request.method, path=request.path, query=request.query_string.decode(),
                           size=len(body), headers={k.lower(): v for k, v in request.headers.items()})
    if request.path == "/stream":
        return flask.Response((b"x" * 10_000 for _ in range(100)))
    return answer
"""


def wait_for(condition, what, deadline_s=DEADLINE_S):
    """Return what ``condition`` returns as soon as that is true."""
    deadline = time.monotonic() + deadline_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not come within {deadline_s:g} s"
        time.sleep(0.01)
    return found


@dataclass
class Project:
    """A folder with a deploy.yaml, two functions, and the state of an emulator."""

    folder: Path
    storage: str = "auto"
    python: str = sys.executable
    started: list[subprocess.Popen] = field(default_factory=list)

    @property
    def state(self):
        return StateFolder(self.folder / "state")

    @property
    def running(self) -> Running:
        found = self.state.running()
        assert found is not None, "no emulator is ready"
        return found

    def command(self, *arguments):
        state = ["--state", str(self.state.path)]
        split = arguments.index("--") if "--" in arguments else len(arguments)
        return [self.python, "-m", "local_emulator", *arguments[:split], *state, *arguments[split:]]

    def call(self, *arguments, **options):
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
            **options,
        )

    def up(self, *arguments, port=0, storage=None, listing="0.5", time_scale="0.005"):
        told = ["--storage", storage or self.storage, "--port", str(port), "--listing", listing]
        with open(self.folder / "up.log", "ab") as log:
            process = subprocess.Popen(
                self.command("up", *told, "--time-scale", time_scale, *arguments),
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.started.append(process)
        wait_for(lambda: process.poll() is not None or self._is_ready(process), f"the emulator ({self.log})", 60)
        assert process.poll() is None, self.log
        return process

    def _is_ready(self, process):
        running = self.state.running()
        return running is not None and running.pid == process.pid

    @property
    def log(self):
        return (self.folder / "up.log").read_text(errors="replace")

    def down(self, process, number=signal.SIGTERM):
        process.send_signal(number)
        return process.wait(60)

    def behave(self, status=204):
        draft = self.folder / "behaviour.draft"
        draft.write_text(json.dumps({"status": status}))
        draft.replace(self.folder / "functions/behaviour.json")

    @property
    def calls(self):
        with suppress(FileNotFoundError):
            return [json.loads(line) for line in (self.folder / "functions/calls.jsonl").read_text().splitlines()]
        return []

    def calls_about(self, name):
        return [call for call in self.calls if json.loads(call["body"]).get("name") == name]

    def put(self, name, body=b"1,a\n"):
        environment = self.running.environment
        return objectstore.connect(environment["STORAGE_URL"]).put(
            environment["UPLOAD_BUCKET"], name, body, content_type="text/csv"
        )

    def deliveries(self, **which):
        queue = EventQueue(self.state.queue)
        try:
            return queue.listing(**which)
        finally:
            queue.close()

    def status(self):
        return json.loads(ask(self.running, "GET", "/_emulator/status"))

    def clean_up(self):
        for process in self.started:
            if process.poll() is None:
                process.terminate()
                process.wait(60)


def make_project(folder, storage="auto"):
    """Write the deploy.yaml of production with this folder's functions in it."""
    functions = folder / "functions"
    functions.mkdir(parents=True)
    (functions / "ingest.py").write_text(FUNCTION)
    (functions / "api.py").write_text(API)
    keep, kept_services = [], ("ingest", "api")
    for document in (ROOT / "deploy.yaml").read_text().split("---\n"):
        service = re.search(r"kind: Service\nmetadata:\n  name: (\w+)", document)
        called = re.findall(r"kind: Service, name: (\w+)}", document)
        if {*called, *([service[1]] if service else [])} <= {*kept_services}:
            keep.append(re.sub(r"functions/(\w+)/main\.py", r"functions/\1.py", document))
    schedule = re.compile(r'schedule: "\* \* \* \* \*"')
    (folder / "deploy.yaml").write_text(schedule.sub('schedule: "0 0 1 1 *"', "---\n".join(keep)))
    project = Project(folder, storage)
    project.behave()
    return project


@contextmanager
def temporary_project(storage="auto"):
    """Outside of pytest's own folder, which pytest closes to other accounts, PostgreSQL's under root among them."""
    with tempfile.TemporaryDirectory(prefix="rowdock-emulator-", ignore_cleanup_errors=True) as folder:
        made = make_project(Path(folder) / "project", storage)
        try:
            yield made
        finally:
            made.clean_up()


def processes_of(state: Path):
    """Return the command lines of all processes that the emulator of ``state`` and its children are."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            environment = (folder / "environ").read_bytes()
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(state).encode() in environment + command.encode() and int(folder.name) != os.getpid():
                found[int(folder.name)] = command
    return found
