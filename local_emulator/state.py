"""What the emulator keeps in its folder, who holds it, and how another command finds the running one."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

DEFAULT_FOLDER = Path(".emulator")
OURS = frozenset({
    "lock", "running.json", "running.draft", "emulator.log", "issuer-key.pem",
    "queue.db", "queue.db-wal", "queue.db-shm", "run", "postgres", "minio", "seaweedfs", "moto", "fake-gcs",
})  # fmt: skip  # one set of names reads better than 14 lines


@dataclass(frozen=True, slots=True)
class Running:
    """A ready emulator, as it describes itself to the commands.

    Attributes:
        key: what a command must show to have the emulator do something.
        environment: what ``exec`` adds to its command's environment; holds passwords.
    """

    pid: int
    url: str
    key: str
    storage: str
    environment: Mapping[str, str] = field(repr=False)


class StateHeld(Exception):
    """Another emulator uses the folder; ``pid`` is its process."""

    def __init__(self, folder: Path, pid: int | None) -> None:
        super().__init__(
            f"an emulator (pid {pid or 'unknown'}) already uses {folder}; stop it, or give another --state"
        )
        self.pid = pid


class FolderRefused(Exception):
    """A folder cannot keep the state: it cannot be written, or is to be emptied of what no emulator put there."""


class StateFolder:
    """The emulator's folder: database, objects, queue, key, and ``running.json`` while it runs."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self._lock_file: int | None = None

    @property
    def queue(self) -> Path:
        """The event queue's file."""
        return self.path / "queue.db"

    @property
    def log(self) -> Path:
        """The log of an emulator that was started with ``--detach``."""
        return self.path / "emulator.log"

    @property
    def _running(self) -> Path:
        return self.path / "running.json"

    def make(self) -> None:
        """Make the folder unless it is there.

        Raises:
            FolderRefused: it cannot be made, or not be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._refused(error.strerror) from error
        if not os.access(self.path, os.R_OK | os.W_OK | os.X_OK):
            raise self._refused(os.strerror(errno.EACCES))

    def _refused(self, why: str | None) -> FolderRefused:
        return FolderRefused(f"{self.path} cannot keep the state ({why}); give another --state")

    def hold(self, *, fresh: bool) -> None:
        """Take the folder for this process, emptied if ``fresh``.

        Raises:
            StateHeld: another process has it.
            FolderRefused: it cannot be written; or it is to be emptied, and somebody else's files are in it.
        """
        self.make()
        if fresh and (foreign := sorted(entry.name for entry in self.path.iterdir() if entry.name not in OURS)):
            raise FolderRefused(
                f"{self.path} holds {foreign[0]!r}, which no emulator put there, so that --fresh does not empty it:"
                " give --state a folder of its own"
            )
        self._lock_file = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        if not _locked(self._lock_file):
            holder = os.read(self._lock_file, 20).decode().strip()
            raise StateHeld(self.path, int(holder) if holder.isdigit() else None) from None
        os.truncate(self._lock_file, 0)
        os.write(self._lock_file, str(os.getpid()).encode())
        self._running.unlink(missing_ok=True)
        if fresh:
            self._forget()

    def _forget(self) -> None:
        for entry in self.path.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name not in ("lock", self.log.name):
                entry.unlink()

    def announce(self, running: Running) -> None:
        """Let the commands find ``running``; only the owner may read it."""
        draft = self._running.with_suffix(".draft")
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(asdict(running), file)
        draft.replace(self._running)

    def release(self) -> None:
        """Say that no emulator runs here any more."""
        self._running.unlink(missing_ok=True)
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    def holder(self) -> int | None:
        """Return the process id of the emulator that holds the folder, ready or not, or None.

        Raises:
            FolderRefused: it is no folder, or somebody else's.
        """
        try:
            file = os.open(self.path / "lock", os.O_RDWR)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._refused(error.strerror) from error
        try:
            text = "" if _locked(file, patience_s=0.0) else os.read(file, 20).decode().strip()
            return int(text) if text.isdigit() else None
        finally:
            os.close(file)

    def running(self) -> Running | None:
        """Return the emulator that runs here and is ready, or None."""
        if self.holder() is None:
            return None
        with suppress(FileNotFoundError, ValueError):
            return Running(**json.loads(self._running.read_text()))
        return None


def _locked(file: int, *, patience_s: float = 0.5) -> bool:
    """Lock ``file`` for this process; another command may hold it for the moment that it takes to look."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        else:
            return True


def port_holder(port: int) -> str:
    """Describe who listens on ``port``: ``pid 12 (command line)``, or that it cannot be seen."""
    inodes = _listening_inodes(port)
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if any(os.readlink(file) in inodes for file in (folder / "fd").iterdir()):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                return f"pid {folder.name} ({command[:120]})"
    return "a process that this account cannot see"


def _listening_inodes(port: int) -> set[str]:
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                columns: list[Any] = line.split()
                if columns[3] == "0A" and int(columns[1].rpartition(":")[2], 16) == port:  # 0A: LISTEN
                    found.add(f"socket:[{columns[9]}]")
    return found


def listen(port: int) -> socket.socket:
    """Return a socket that listens on 127.0.0.1, at ``port`` or at any free one if it is 0.

    Raises:
        OSError: the port is taken.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(512)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener
