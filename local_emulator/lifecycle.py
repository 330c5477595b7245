"""Starting, ending, and running something inside: ``up``, ``stop`` and ``exec``."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from local_emulator.state import Running, StateFolder, StateHeld

if TYPE_CHECKING:
    from local_emulator.emulator import Emulator

FAILED, BAD_MANIFEST, PART_FAILED, TAKEN = 1, 3, 4, 5
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 60.0
POLL_S = 0.05
LOG_TAIL_BYTES = 4000


class CommandFailed(Exception):
    """A command cannot do what it was asked to; ``status`` is the exit status."""

    def __init__(self, message: str, status: int = FAILED) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Passed:
    """What ``up`` was told, as it is passed on to a process of its own."""

    state: Path
    deploy: Path = Path("deploy.yaml")
    port: int = 8887
    storage: str = "auto"
    db: str = "auto"
    fresh: bool = False
    time_scale: float = 0.1
    listing_s: float | None = None
    api_keys: bool = False

    def arguments(self) -> list[str]:
        """Return the same as command line."""
        listing = ["--listing", str(self.listing_s)] if self.listing_s else []
        return [
            *("up", "--state", str(self.state), "--deploy", str(self.deploy), "--port", str(self.port)),
            *("--storage", self.storage, "--db", self.db, "--time-scale", str(self.time_scale)),
            *(["--fresh"] if self.fresh else []),
            *(["--api-keys"] if self.api_keys else []),
            *listing,
        ]


def up(passed: Passed) -> int:
    """Run the emulator in this process until a signal ends it; returns the exit status."""
    from local_emulator import manifest
    from local_emulator.emulator import Emulator, Options, PartFailed, PortTaken
    from local_emulator.terminal import Terminal

    try:
        described = manifest.load(passed.deploy)
    except manifest.ManifestError as error:
        raise CommandFailed(f"{passed.deploy} cannot be used:\n{error}", BAD_MANIFEST) from error
    options = Options(
        state=passed.state,
        root=passed.deploy.resolve().parent,
        port=passed.port,
        storage=passed.storage,
        db=passed.db,
        fresh=passed.fresh,
        time_scale=passed.time_scale,
        listing_s=passed.listing_s,
        api_keys=passed.api_keys,
    )
    try:
        return asyncio.run(_until_signalled(Emulator(options, described, Terminal())))
    except (StateHeld, PortTaken) as error:
        raise CommandFailed(str(error), TAKEN) from error
    except PartFailed as error:
        raise CommandFailed(str(error), PART_FAILED) from error


async def _until_signalled(emulator: Emulator) -> int:
    """Start, run and stop ``emulator``; returns 128 + the signal that ended it."""
    loop, ended_by = asyncio.get_running_loop(), 0
    task = asyncio.current_task()

    def end(number: int) -> None:
        nonlocal ended_by
        if not ended_by and task is not None:
            ended_by = number
            emulator.say("emulator", "stopping")
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, end, number)
    try:
        await emulator.start()
        await emulator.run()
    except asyncio.CancelledError:
        if not ended_by:
            raise
    finally:
        await emulator.stop()
    emulator.say("emulator", "stopped")
    return 128 + ended_by


def up_detached(passed: Passed) -> int:
    """Start the emulator as a process of its own and return when it is ready; returns the exit status."""
    folder = StateFolder(passed.state)
    if (holder := folder.holder()) is not None:
        raise CommandFailed(str(StateHeld(folder.path, holder)), TAKEN)
    _, running = _spawn(passed)
    print(f"ready: {running.url}  (pid {running.pid}, log {folder.log}; end it with: stop)")
    return 0


def _spawn(passed: Passed) -> tuple[subprocess.Popen[bytes], Running]:
    folder = StateFolder(passed.state)
    folder.make()
    with open(folder.log, "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "local_emulator", *passed.arguments()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_TIMEOUT_S
    while (running := folder.running()) is None or running.pid != process.pid:
        if process.poll() is not None:
            raise CommandFailed(f"it did not start:\n{_tail(folder.log)}", process.returncode)
        if time.monotonic() > deadline:
            process.terminate()
            process.wait()
            raise CommandFailed(f"it was not ready after {START_TIMEOUT_S:g} s:\n{_tail(folder.log)}", PART_FAILED)
        time.sleep(POLL_S)
    return process, running


def _tail(log: Path) -> str:
    return log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")


def stop(state: Path) -> int:
    """End the emulator that uses ``state``, and wait until it is gone; returns the exit status."""
    folder = StateFolder(state)
    pid = folder.holder()
    if pid is None:
        print("no emulator runs here")
        return 0
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while folder.holder() == pid:
        if time.monotonic() > deadline:
            raise CommandFailed(f"pid {pid} has not ended after {STOP_TIMEOUT_S:g} s; see {folder.log}")
        time.sleep(POLL_S)
    print("stopped")
    return 0


def require(state: Path) -> Running:
    """Return the emulator that runs with ``state``.

    Raises:
        CommandFailed: there is none that is ready.
    """
    running = StateFolder(state).running()
    if running is None:
        raise CommandFailed(f"no emulator is ready at {state}; start one with: python -m local_emulator up")
    return running


def execute(state: Path, argv: Sequence[str]) -> int:
    """Run ``argv`` with everything it needs in its environment; returns its own exit status.

    The emulator that runs is used; if none does, a fresh one runs on free ports for as long as ``argv``.
    """
    if not argv:
        raise CommandFailed("exec needs a command: exec -- CMD", 2)
    running = StateFolder(state).running()
    if running is not None:
        return _run(argv, running)
    with _passing() as running:
        return _run(argv, running)


@contextmanager
def _passing() -> Iterator[Running]:
    """Run a fresh emulator in a folder that is thrown away."""
    with tempfile.TemporaryDirectory(prefix="rowdock-", ignore_cleanup_errors=True) as folder:
        process, running = _spawn(Passed(state=Path(folder), port=0))
        try:
            yield running
        finally:
            process.terminate()
            process.wait(STOP_TIMEOUT_S)


def _run(argv: Sequence[str], running: Running) -> int:
    """Run ``argv``, leave Ctrl-C to it, and return its status as a shell would."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        path = running.environment.get("PATH")
        process = subprocess.Popen(
            argv, env=os.environ | dict(running.environment), preexec_fn=lambda: signal.signal(signal.SIGINT, previous)
        )
        status = process.wait()
    except OSError as error:
        raise CommandFailed(f"{argv[0]} cannot be run ({error.strerror}); PATH is {path}", 127) from error
    finally:
        signal.signal(signal.SIGINT, previous)
    return status if status >= 0 else 128 - status
