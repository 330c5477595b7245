"""Servers as children that never outlive their parent, not even one that dies by ``kill -9``.

``PR_SET_PDEATHSIG`` (prctl(2)) is tied to the thread that forked and is cleared by a change of user, so a small
wrapper sets it for itself, after changing the user, looks whether its parent is still there, and becomes the server.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

PR_SET_PDEATHSIG = 1
POLL_S = 0.02
TAIL_LINES = 30


class ChildFailed(Exception):
    """A child ended, or did not become ready in time; the message names it and shows the end of what it printed."""


class Child:
    """One server process in a session of its own.

    Args:
        name: what messages and log lines call it.
        argv: program and arguments.
        env: the whole environment of the child.
        user: account to run as, or None for our own.
        on_line: called with each line of output, from a thread, until it raises; None keeps only the tail.
        death_signal: what the kernel sends it when its parent dies. A server with children of its own that it must
            end itself (the PostgreSQL postmaster does on SIGQUIT) may need another signal than SIGKILL.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        user: str | None = None,
        on_line: Callable[[str], None] | None = None,
        death_signal: signal.Signals = signal.SIGKILL,
    ) -> None:
        self.name = name
        self._tail: list[str] = []
        self._on_line = on_line
        wrapper = [sys.executable, "-S", str(Path(__file__).resolve()), str(os.getpid()), str(int(death_signal))]
        self.process = _STARTER.start(
            [*wrapper, user or "-", *map(str, argv)],
            env=dict(os.environ if env is None else env),
            cwd=cwd,
        )
        self._reader = threading.Thread(target=self._read, name=f"{name}-output", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its process group."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    def tail(self) -> str:
        """The last lines that it printed."""
        return "\n".join(self._tail[-TAIL_LINES:])

    def wait_ready(self, is_ready: Callable[[], bool], timeout_s: float) -> None:
        """Wait until ``is_ready()``.

        Raises:
            ChildFailed: it ended first, or ``timeout_s`` passed.
        """
        deadline = time.monotonic() + timeout_s
        while not is_ready():
            if not self.alive:
                self._reader.join(1)
                raise ChildFailed(f"{self.name} ended with status {self.process.returncode}:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise ChildFailed(f"{self.name} was not ready after {timeout_s:g} s:\n{self.tail()}")
            time.sleep(POLL_S)

    def wait_done(self, timeout_s: float) -> None:
        """Wait until it has ended well, for a child that does one thing and ends.

        Raises:
            ChildFailed: its status is not 0, or ``timeout_s`` passed; it is killed then.
        """
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.stop(signal.SIGKILL)
            raise ChildFailed(f"{self.name} had not ended after {timeout_s:g} s:\n{self.tail()}") from None
        self._reader.join(1)
        if status:
            raise ChildFailed(f"{self.name} ended with status {status}:\n{self.tail()}")

    def stop(self, stop_signal: signal.Signals = signal.SIGTERM, timeout_s: float = 10.0) -> int:
        """End it politely, then by SIGKILL to its whole group; returns its exit status."""
        if self.alive:
            self.process.send_signal(stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        status = self.process.wait()
        self._reader.join(1)
        return status

    def _read(self) -> None:
        stream: IO[str] | None = self.process.stdout
        if stream is None:
            return
        with stream:
            for line in stream:
                self._tail.append(line.rstrip("\n"))
                del self._tail[: -TAIL_LINES * 2]
                self._hand_on(line.rstrip("\n"))

    def _hand_on(self, line: str) -> None:
        if self._on_line is None:
            return
        try:
            self._on_line(line)
        except Exception:  # noqa: BLE001  # nobody listens any more; the pipe must be read on, or the server stands still
            self._on_line = None


class _Starter:
    """Forks every child from one thread that lives as long as the process: the death signal follows that thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted: list[tuple[list[str], Mapping[str, str], Path | None]] = []
        self._started: list[subprocess.Popen[str] | Exception] = []
        self._go = threading.Semaphore(0)
        self._done = threading.Semaphore(0)
        self._pid = 0

    def start(self, argv: list[str], *, env: Mapping[str, str], cwd: Path | None) -> subprocess.Popen[str]:
        with self._lock:
            if self._pid != os.getpid():
                self._pid = os.getpid()
                threading.Thread(target=self._serve, name="child-starter", daemon=True).start()
            self._wanted.append((argv, env, cwd))
            self._go.release()
            self._done.acquire()
            result = self._started.pop()
        if isinstance(result, Exception):
            raise result
        return result

    def _serve(self) -> None:
        while True:
            self._go.acquire()
            argv, env, cwd = self._wanted.pop()
            try:
                self._started.append(
                    subprocess.Popen(
                        argv,
                        env=dict(env),
                        cwd=cwd,
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT,
                        text=True,
                        errors="replace",
                        start_new_session=True,
                    )
                )
            except Exception as error:  # noqa: BLE001  # raised in the thread that waits for it
                self._started.append(error)
            self._done.release()


_STARTER = _Starter()


def free_port(count: int = 1) -> list[int]:
    """Ports on 127.0.0.1 that nothing listens on now."""
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(count):
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            found.append(int(listener.getsockname()[1]))
        return found


def accepts(port: int) -> bool:
    """Whether something on 127.0.0.1 takes connections at ``port``."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.5):
        return True
    return False


def _become(parent_pid: int, death_signal: int, user: str, argv: list[str]) -> None:
    """Drop to ``user``, ask the kernel for ``death_signal`` at the parent's death, and become ``argv``."""
    if user != "-":
        account = pwd.getpwnam(user)
        os.initgroups(user, account.pw_gid)
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
        os.environ["HOME"] = account.pw_dir
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, death_signal) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:
        sys.exit("the parent ended before its child had started")
    try:
        os.execvp(argv[0], argv)  # noqa: S606  # to become the server, not to start one
    except OSError as error:
        sys.exit(f"{argv[0]} cannot be run: {error.strerror}")


if __name__ == "__main__":
    _become(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
