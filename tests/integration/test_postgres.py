"""The pool, its deadlines and its errors, against a real server."""

# ruff: noqa: PT012, SIM117  # what a block raises at its end depends on all of its statements, and on its own block

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg2
import pytest
from psycopg2 import errors

from local_emulator.children import free_port
from local_emulator.postgresql import TEST_SETTINGS, PostgresServer
from shared import postgres
from shared.errors import (
    ConstraintViolation,
    DatabaseBusy,
    DatabaseMisuse,
    DatabaseUnavailable,
    DeadlineExceeded,
    ServerTooOld,
    TransientError,
)
from shared.postgres import Database, require_server, translate

PATIENCE_S = 20.0


@pytest.fixture
def make_pool(postgres_server):
    """Pools on the server's own database; closed after the test."""
    made = []

    def make(**arguments):
        arguments = {"application_name": "pool-test", "wait_s": 10.0} | arguments
        made.append(Database(arguments.pop("url", postgres_server.url()), **arguments))
        return made[-1]

    yield make
    for pool in made:
        pool.close()


@pytest.fixture
def pool(make_pool):
    return make_pool()


@pytest.fixture
def outside(postgres_server):
    """Run one statement as somebody else; returns its first row."""
    conn = psycopg2.connect(postgres_server.url())
    conn.autocommit = True

    def run(statement, *values):
        with conn.cursor() as cursor:
            cursor.execute(statement, values or None)
            return cursor.fetchone() if cursor.description else None

    yield run
    conn.close()


@pytest.fixture
def numbers(outside):
    """A table with a primary key and a check, both named."""
    outside(
        "create table if not exists numbers (n integer constraint numbers_key primary key"
        " constraint numbers_positive check (n > 0), word text not null default 'secret')"
    )
    outside("truncate numbers")
    yield "numbers"
    outside("drop table numbers")


def ask(conn, statement, *values):
    with conn.cursor() as cursor:
        cursor.execute(statement, values or None)
        return cursor.fetchone() if cursor.description else None


def backend(conn):
    return ask(conn, "select pg_backend_pid()")[0]


def eventually(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


def terminate(outside, pid):
    outside("select pg_terminate_backend(%s)", pid)
    eventually(lambda: outside("select count(*) from pg_stat_activity where pid = %s", pid) == (0,))


def count(outside):
    return outside("select count(*) from numbers")[0]


# --- what a context gives


def test_a_pool_connects_to_nothing_until_it_is_used(make_pool, outside):
    """Functions are imported before the fork: a pool that is made there must hold no socket."""
    held = "select count(*) from pg_stat_activity where application_name = 'unused-pool'"
    pool = make_pool(application_name="unused-pool")
    assert outside(held) == (0,)
    with pool.connection():
        assert outside(held) == (1,)


def test_one_process_has_one_pool_as_the_settings_describe_it(monkeypatch, postgres_server):
    """``database()`` reads the settings once."""
    monkeypatch.setenv("DATABASE_URL", postgres_server.url())
    postgres.database.cache_clear()
    try:
        assert postgres.database() is postgres.database()
        with postgres.database().connection() as conn:
            assert ask(conn, "select current_setting('application_name')") == ("rowdock",)
    finally:
        postgres.database().close()
        postgres.database.cache_clear()


def test_sessions_speak_utc_and_iso_under_their_own_name(pool):
    """Whatever the server's or the role's defaults are."""
    with pool.connection() as conn:
        for name, value in {"timezone": "UTC", "datestyle": "ISO, MDY", "application_name": "pool-test"}.items():
            assert ask(conn, "select current_setting(%s)", name) == (value,)


def test_statements_of_a_connection_commit_each_for_itself(pool, numbers, outside):
    with pytest.raises(ZeroDivisionError), pool.connection() as conn:
        ask(conn, "insert into numbers values (1)")
        raise ZeroDivisionError
    assert count(outside) == 1


def test_a_transaction_commits_at_its_end(pool, numbers, outside):
    with pool.transaction(deadline_s=10) as conn:
        ask(conn, "insert into numbers values (1)")
        assert count(outside) == 0
    assert count(outside) == 1


def test_any_exception_rolls_a_transaction_back(pool, numbers, outside):
    with pytest.raises(KeyboardInterrupt), pool.transaction(deadline_s=10) as conn:
        ask(conn, "insert into numbers values (1)")
        raise KeyboardInterrupt
    assert count(outside) == 0


def test_a_body_may_commit_and_roll_back_by_itself(pool, numbers, outside):
    """Keeping what was done so far, or taking it back, is part of the body's business."""
    with pool.transaction(deadline_s=10) as conn:
        ask(conn, "insert into numbers values (1)")
        conn.commit()
        ask(conn, "insert into numbers values (2)")
        conn.rollback()
        ask(conn, "insert into numbers values (3)")
    assert outside("select array_agg(n order by n) from numbers") == ([1, 3],)


def test_a_failed_statement_whose_error_was_swallowed_is_not_taken_for_a_commit(pool, numbers, outside):
    """PostgreSQL answers COMMIT with a silent ROLLBACK then."""
    with pytest.raises(DatabaseMisuse), pool.transaction(deadline_s=10) as conn:
        ask(conn, "insert into numbers values (1)")
        with pytest.raises(psycopg2.Error):
            ask(conn, "select 1/0")
    assert count(outside) == 0


def test_an_error_that_was_rolled_back_to_a_savepoint_is_no_failure(pool, numbers, outside):
    with pool.transaction(deadline_s=10) as conn:
        ask(conn, "savepoint before")
        with pytest.raises(psycopg2.Error):
            ask(conn, "insert into numbers values (-1)")
        ask(conn, "rollback to before")
        ask(conn, "insert into numbers values (1)")
    assert count(outside) == 1


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
def test_a_transaction_has_the_isolation_that_was_asked_for(pool, isolation):
    with pool.transaction(deadline_s=10, isolation=isolation) as conn:
        assert ask(conn, "show transaction_isolation") == (isolation,)
    with pool.connection() as conn:
        assert ask(conn, "show transaction_isolation") == ("read committed",)


# --- deadlines


def test_the_limits_stand_in_the_server_and_end_with_the_transaction(make_pool):
    pool = make_pool(pool_size=1)
    wanted = {
        "transaction_timeout": "91s",
        "statement_timeout": "91s",
        "idle_in_transaction_session_timeout": "91s",
        "lock_timeout": "1500ms",
    }
    with pool.transaction(deadline_s=91, lock_wait_s=1.5) as conn:
        assert {name: ask(conn, f"show {name}")[0] for name in wanted} == wanted
    with pool.connection() as conn:
        assert {ask(conn, f"show {name}")[0] for name in wanted} == {"0"}


def test_the_server_ends_a_statement_at_the_deadline(pool):
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded), pool.transaction(deadline_s=0.3) as conn:
        ask(conn, "select pg_sleep(30)")
    assert time.monotonic() - started < 10
    with pool.connection() as conn:
        assert ask(conn, "select 1") == (1,)


def test_the_server_ends_a_transaction_whose_owner_does_nothing(make_pool, numbers, outside):
    """A process that hangs holds no lock beyond its deadline, and learns that nothing was committed."""
    pool = make_pool(pool_size=1)
    with pytest.raises(DeadlineExceeded), pool.transaction(deadline_s=0.3) as conn:
        pid = backend(conn)
        ask(conn, "insert into numbers values (1)")
        eventually(lambda: outside("select count(*) from pg_stat_activity where pid = %s", pid) == (0,))
        ask(conn, "insert into numbers values (2)")
    assert count(outside) == 0
    with pool.connection() as conn:
        assert ask(conn, "select 1") == (1,)


def test_a_commit_after_the_deadline_is_reported_as_not_done(pool, numbers, outside):
    with pytest.raises(DeadlineExceeded), pool.transaction(deadline_s=0.3) as conn:
        pid = backend(conn)
        ask(conn, "insert into numbers values (1)")
        eventually(lambda: outside("select count(*) from pg_stat_activity where pid = %s", pid) == (0,))
    assert count(outside) == 0


@pytest.mark.parametrize("deadline_s", [0, -3.5, 0.0001])
def test_a_deadline_that_is_over_begins_nothing(pool, deadline_s):
    """0 means no limit to PostgreSQL: what is left of an invocation's time must never turn into that."""
    with pytest.raises(DeadlineExceeded), pool.transaction(deadline_s=deadline_s):
        pytest.fail("the body ran")


def test_a_deadline_beyond_what_postgresql_can_count_is_its_longest(pool):
    with pool.transaction(deadline_s=1e9) as conn:
        assert ask(conn, "select setting from pg_settings where name = 'transaction_timeout'") == (str(2**31 - 1),)


def test_a_lock_is_waited_for_no_longer_than_asked(pool, numbers):
    with pool.transaction(deadline_s=30) as holder:
        ask(holder, "lock table numbers")
        with pytest.raises(DatabaseBusy), pool.transaction(deadline_s=30, lock_wait_s=0.05) as waiter:
            ask(waiter, "select * from numbers")


# --- the pool's bounds


def test_connections_are_used_again_the_last_one_first(pool):
    with pool.connection() as first, pool.connection() as second:
        pids = backend(first), backend(second)
        assert pids[0] != pids[1]
    for _ in range(3):
        with pool.connection() as conn:
            assert backend(conn) == pids[0]


def test_who_finds_no_free_connection_waits_for_one(make_pool):
    pool = make_pool(pool_size=1, wait_s=PATIENCE_S)
    waiting = threading.Event()

    def wait():
        waiting.set()
        with pool.connection() as conn:
            return backend(conn)

    with ThreadPoolExecutor(1) as threads:
        with pool.connection() as conn:
            pid, other = backend(conn), threads.submit(wait)
            assert waiting.wait(PATIENCE_S)
            assert not other.done()
        assert other.result(PATIENCE_S) == pid


def test_who_waits_too_long_is_told_to_come_back(make_pool):
    pool = make_pool(pool_size=1, wait_s=0.05)
    with pool.connection():
        with pytest.raises(DatabaseUnavailable, match=r"none of this process's 1 .* 0\.05 s"), pool.connection():
            pytest.fail("two owners of one connection")
    with pool.connection() as conn:
        assert ask(conn, "select 1") == (1,)


def test_fifty_threads_share_four_connections_and_never_one_at_the_same_time(make_pool, outside):
    """A key in a temporary table of the session shows whether two owners ever met."""
    pool = make_pool(pool_size=4, wait_s=60, application_name="fifty")
    lock, owners, met, pids = threading.Lock(), set(), [], set()

    def work(number):
        for turn in range(10):
            context = pool.connection() if (number + turn) % 2 else pool.transaction(deadline_s=60)
            with context as conn:
                with lock:
                    met.extend(owners & {id(conn)})
                    owners.add(id(conn))
                assert ask(conn, "select %s::int", number) == (number,)
                pids.add(backend(conn))
                with lock:
                    owners.discard(id(conn))
        return number

    with ThreadPoolExecutor(50) as threads:
        assert sorted(threads.map(work, range(50))) == list(range(50))
    assert not met
    assert 1 <= len(pids) <= 4
    assert outside("select count(*) from pg_stat_activity where application_name = 'fifty'") == (len(pids),)


def test_a_failure_to_connect_does_not_use_a_place_up(make_pool):
    pool = make_pool(url=f"postgresql://127.0.0.1:{free_port()[0]}/postgres", pool_size=1, wait_s=0.5)
    for _ in range(3):
        with pytest.raises(DatabaseUnavailable, match="cannot be reached"), pool.connection():
            pytest.fail("connected to nothing")


def test_close_ends_idle_connections_now_and_lent_ones_when_they_come_back(pool, outside):
    with pool.connection() as idle:
        idle_pid = None
        with pool.connection() as other:
            idle_pid = backend(other)
        lent_pid = backend(idle)
        pool.close()
        eventually(lambda: outside("select count(*) from pg_stat_activity where pid = %s", idle_pid) == (0,))
        assert ask(idle, "select 1") == (1,)
    eventually(lambda: outside("select count(*) from pg_stat_activity where pid = %s", lent_pid) == (0,))
    with pool.connection() as conn:
        assert backend(conn) not in (idle_pid, lent_pid)


# --- connections that broke


def test_an_idle_connection_that_was_ended_is_replaced_without_a_word(pool, outside):
    with pool.connection() as conn:
        pid = backend(conn)
    terminate(outside, pid)
    with pool.connection() as conn:
        assert backend(conn) != pid


def test_a_connection_that_is_ended_in_use_fails_once(pool, outside):
    with pytest.raises(DatabaseUnavailable), pool.connection() as conn:
        pid = backend(conn)
        terminate(outside, pid)
        ask(conn, "select 1")
    with pool.connection() as conn:
        assert backend(conn) != pid


def test_a_connection_past_its_lifetime_is_replaced(pool, monkeypatch):
    with pool.connection() as conn:
        pid = backend(conn)
    monkeypatch.setattr(postgres, "LIFETIME_S", 0.0)
    with pool.connection() as conn:
        assert backend(conn) != pid


def test_a_connection_that_idled_long_is_asked_before_it_is_used(make_pool, silent_relay, monkeypatch):
    """A firewall may have forgotten it: the socket looks healthy, and only a question tells."""
    pool = make_pool(url=silent_relay.url)
    with pool.connection() as conn:
        pid = backend(conn)
    monkeypatch.setattr(postgres, "TRUSTED_IDLE_S", -1.0)
    silent_relay.break_at_next_byte()
    with pool.connection() as conn:
        assert backend(conn) != pid


@pytest.mark.parametrize("statement", ["begin", "begin; select 1/0"])
def test_a_transaction_begun_by_hand_never_reaches_the_next_owner(make_pool, statement, numbers, outside):
    pool = make_pool(pool_size=1)
    with pool.connection() as conn:
        with contextlib.suppress(psycopg2.Error):
            ask(conn, statement)
            ask(conn, "insert into numbers values (1)")
    with pool.connection() as conn:
        ask(conn, "insert into numbers values (2)")
    assert outside("select array_agg(n) from numbers") == ([2],)


def test_a_copy_that_its_reader_breaks_leaves_a_working_pool(make_pool, numbers, outside):
    class Broken:
        def read(self, size):
            raise ArithmeticError("the object's end is missing")

    pool = make_pool(pool_size=1)
    with pytest.raises(TransientError), pool.transaction(deadline_s=10) as conn, conn.cursor() as cursor:
        cursor.execute("insert into numbers values (1)")
        cursor.copy_expert("copy numbers (n) from stdin", Broken())
    with pool.transaction(deadline_s=10) as conn:
        ask(conn, "insert into numbers values (2)")
    assert outside("select array_agg(n) from numbers") == ([2],)


def test_another_thread_may_copy_while_the_owner_waits(pool, numbers, outside):
    """The load's sender writes to a pipe of its own; a cancelled COPY is the owner's error to raise."""
    ready, source = threading.Event(), os.pipe()

    def copy(conn):
        with os.fdopen(source[0], "rb") as reader, conn.cursor() as cursor:
            ready.set()
            cursor.copy_expert("copy numbers (n) from stdin", reader)

    with ThreadPoolExecutor(1) as threads, pool.transaction(deadline_s=20) as conn:
        done = threads.submit(copy, conn)
        assert ready.wait(PATIENCE_S)
        with os.fdopen(source[1], "wb") as writer:
            writer.write(b"".join(b"%d\n" % n for n in range(1, 1001)))
        done.result(PATIENCE_S)
    assert count(outside) == 1000


def test_a_copy_that_is_cancelled_in_another_thread_leaves_a_working_pool(make_pool, numbers, outside):
    pool, enough = make_pool(pool_size=1), threading.Event()

    class Reader:
        def read(self, size):
            return b"" if enough.is_set() else b"1\n"

    def copy(conn):
        with conn.cursor() as cursor:
            cursor.copy_expert("copy numbers (n) from stdin", Reader())

    with ThreadPoolExecutor(1) as threads:
        with pytest.raises(ArithmeticError), pool.transaction(deadline_s=20) as conn:
            pid = backend(conn)
            done = threads.submit(copy, conn)
            eventually(lambda: outside("select query from pg_stat_activity where pid = %s", pid)[0].startswith("copy"))
            conn.cancel()
            enough.set()
            assert isinstance(done.exception(PATIENCE_S), psycopg2.Error)
            raise ArithmeticError
    with pool.transaction(deadline_s=10) as conn:
        ask(conn, "insert into numbers values (2)")
    assert outside("select array_agg(n) from numbers") == ([2],)


# --- fork


def in_child(work):
    """What ``work()`` returns, as text, in a forked child that ends without any cleanup of ours."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, str(work()).encode())
        except BaseException as error:  # noqa: BLE001  # told to the parent, whose assertion shows it
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answers:
        answer = answers.read().decode()
    os.waitpid(pid, 0)
    return answer


def one_backend(pool):
    with pool.connection() as conn:
        return backend(conn)


def test_a_forked_child_gets_connections_of_its_own_and_leaves_its_parents_alone(pool):
    mine = one_backend(pool)
    theirs = [int(in_child(lambda: one_backend(pool))) for _ in range(2)]
    assert len({mine, *theirs}) == 3
    assert one_backend(pool) == mine


def test_a_child_that_closes_its_pool_closes_none_of_its_parents_connections(pool):
    def work():
        one_backend(pool)
        pool.close()
        return "closed"

    mine = one_backend(pool)
    assert in_child(work) == "closed"
    assert one_backend(pool) == mine


def test_a_fork_in_the_middle_of_a_transaction_leaves_it_to_the_parent(make_pool, numbers, outside):
    """The child leaves the block by an exception: it must not send a ROLLBACK on its parent's socket."""
    pool = make_pool(pool_size=1)
    reader, writer = os.pipe()
    child = None
    try:
        with pool.transaction(deadline_s=20) as conn:
            ask(conn, "insert into numbers values (1)")
            child = os.fork()
            if child == 0:
                raise InterruptedError  # noqa: TRY301  # to leave the block as an interrupted child would
            os.waitpid(child, 0)
            ask(conn, "insert into numbers values (2)")
    except InterruptedError:
        os.write(writer, b"left")
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answers:
        assert answers.read() == b"left"
    assert count(outside) == 2


def test_a_child_forked_while_every_connection_is_lent_can_still_connect(make_pool):
    """The places that the parent's threads hold are not held in the child."""
    pool = make_pool(pool_size=1, wait_s=0.5)
    with pool.connection() as conn:
        assert int(in_child(lambda: one_backend(pool))) != backend(conn)


# --- servers


@pytest.fixture
def own_server(server_dir):
    """A server that a test may stop and start again: same data, same port."""
    running = []

    def start():
        port = running[-1].port if running else None
        running.append(PostgresServer(server_dir, port=port, settings=dict(TEST_SETTINGS)))
        return running[-1]

    yield start
    for server in running:
        server.kill()


def test_a_pool_outlives_a_restart_of_its_server(own_server):
    server = own_server()
    pool = Database(server.url(), application_name="pool-test", pool_size=4)
    try:
        with pool.connection() as one, pool.connection() as two:
            before = {backend(one), backend(two)}
        with pytest.raises(DatabaseUnavailable), pool.transaction(deadline_s=30) as conn:
            ask(conn, "select 1")
            server.stop()
            ask(conn, "select 1")
        with pytest.raises(DatabaseUnavailable), pool.connection():
            pytest.fail("the server is down")
        server = own_server()
        for _ in range(4):
            with pool.connection() as one, pool.connection() as two:
                assert len({backend(one), backend(two)} | before) >= 3
    finally:
        pool.close()


def test_a_server_that_is_too_old_is_refused_with_the_remedy():
    """No old server is at hand: what the driver says of one is enough to decide."""

    class Seventeen:
        server_version = 170006
        closed_by_us = False

        def close(self):
            self.closed_by_us = True

    conn = Seventeen()
    with pytest.raises(ServerTooOld, match=r"PostgreSQL 17;.* 18 or later.*upgrade"):
        require_server(conn)
    assert conn.closed_by_us


class SilentRelay:
    """A TCP relay to the server that can drop its open connections at the next byte, as a stateful firewall does."""

    def __init__(self, server_port, url):
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = url.replace(f":{server_port}/", f":{self._listener.getsockname()[1]}/")
        self._broken = set()
        self._sockets = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._server_port))
            self._sockets += [client, server]
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._relay, args=(source, target), daemon=True).start()

    def _relay(self, source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if source in self._broken:
                    break
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def break_at_next_byte(self):
        self._broken.update(self._sockets)

    def close(self):
        for end in (self._listener, *self._sockets):
            end.close()


@pytest.fixture
def silent_relay(postgres_server):
    relay = SilentRelay(postgres_server.port, postgres_server.url())
    yield relay
    relay.close()


# --- errors


def raised(sqlstate):
    """The driver's error for a SQLSTATE, as the server really raises it."""
    return f"do $$ begin raise exception 'secret-text' using errcode = '{sqlstate}', detail = 'secret-detail'; end $$"


SQLSTATES = {
    "08006": DatabaseUnavailable,
    "08P01": DatabaseUnavailable,
    "53100": DatabaseUnavailable,
    "53200": DatabaseUnavailable,
    "53300": DatabaseUnavailable,
    "57P01": DatabaseUnavailable,
    "57P02": DatabaseUnavailable,
    "57P03": DatabaseUnavailable,
    "57P05": DatabaseUnavailable,
    "40001": DatabaseBusy,
    "40P01": DatabaseBusy,
    "55P03": DatabaseBusy,
    "55006": DatabaseBusy,
    "57014": DeadlineExceeded,
    "25P03": DeadlineExceeded,
    "25P04": DeadlineExceeded,
    "23502": ConstraintViolation,
    "23503": ConstraintViolation,
    "23505": ConstraintViolation,
    "23514": ConstraintViolation,
    "22001": DatabaseMisuse,
    "22P02": DatabaseMisuse,
    "42501": DatabaseMisuse,
    "42P01": DatabaseMisuse,
    "42703": DatabaseMisuse,
    "0A000": DatabaseMisuse,
    "25P02": DatabaseMisuse,
    "55000": DatabaseMisuse,
    "P0001": DatabaseMisuse,
    "XX000": DatabaseMisuse,
}


@pytest.mark.parametrize(("sqlstate", "kind"), SQLSTATES.items(), ids=SQLSTATES)
def test_each_sqlstate_becomes_its_error_and_says_nothing_but_the_code(pool, sqlstate, kind):
    with pytest.raises(kind) as caught, pool.connection() as conn:
        ask(conn, raised(sqlstate))
    assert type(caught.value) is kind
    assert sqlstate in str(caught.value)
    assert "secret" not in str(caught.value)
    assert isinstance(caught.value.__cause__, psycopg2.Error)


@pytest.mark.parametrize(
    ("statement", "sqlstate", "constraint"),
    [
        ("insert into numbers values (1), (1)", "23505", "numbers_key"),
        ("insert into numbers values (-1)", "23514", "numbers_positive"),
        ("insert into numbers values (1, null)", "23502", None),
    ],
)
def test_a_violation_names_its_constraint_and_no_value(pool, numbers, statement, sqlstate, constraint):
    with pytest.raises(ConstraintViolation) as caught, pool.transaction(deadline_s=10) as conn:
        ask(conn, statement)
    assert (caught.value.sqlstate, caught.value.constraint) == (sqlstate, constraint)
    assert str(caught.value) == (
        f"PostgreSQL refused a row: SQLSTATE {sqlstate}, constraint {constraint or 'without name'}"
    )


def test_a_violation_that_is_found_at_commit_is_translated_too(pool, outside):
    outside("create table later (n int constraint later_key unique deferrable initially deferred)")
    try:
        with pytest.raises(ConstraintViolation) as caught, pool.transaction(deadline_s=10) as conn:
            ask(conn, "insert into later values (1), (1)")
        assert caught.value.constraint == "later_key"
    finally:
        outside("drop table later")


def test_a_deadlock_is_busy_for_one_of_the_two(make_pool, numbers):
    pool = make_pool(pool_size=2)
    ready = threading.Barrier(2, timeout=PATIENCE_S)

    def lock(first, second):
        with pool.transaction(deadline_s=30, lock_wait_s=20) as conn:
            ask(conn, "select pg_advisory_xact_lock(%s)", first)
            ready.wait()
            ask(conn, "select pg_advisory_xact_lock(%s)", second)

    with ThreadPoolExecutor(2) as threads:
        ends = [done.exception(PATIENCE_S) for done in (threads.submit(lock, 1, 2), threads.submit(lock, 2, 1))]
    assert sorted(type(end).__name__ for end in ends) == ["DatabaseBusy", "NoneType"]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (psycopg2.OperationalError("could not connect to 10.0.0.1, password=hunter2"), DatabaseUnavailable),
        (psycopg2.InterfaceError("connection already closed"), DatabaseUnavailable),
        (psycopg2.DatabaseError("SSL SYSCALL error: EOF detected"), DatabaseUnavailable),
        (psycopg2.ProgrammingError("invalid dsn: hunter2"), DatabaseMisuse),
        (psycopg2.NotSupportedError("hunter2"), DatabaseMisuse),
        (errors.UniqueViolation("hunter2"), DatabaseMisuse),
    ],
)
def test_without_a_sqlstate_only_lost_connections_are_worth_another_try(error, kind):
    translated = translate(error)
    assert type(translated) is kind
    for secret in ("hunter2", "10.0.0.1"):
        assert secret not in str(translated)


@pytest.mark.parametrize("url", ["postgresql://u:hunter2@127.0.0.1:1/nope", "host=127.0.0.1 password='hunter2"])
def test_no_error_repeats_the_connection_string(url):
    with pytest.raises((DatabaseUnavailable, DatabaseMisuse)) as caught:
        with Database(url, application_name="pool-test").connection():
            pytest.fail("connected")
    for part in ("hunter2", "nope", "127.0.0.1"):
        assert part not in str(caught.value)


def test_without_a_url_the_message_names_the_setting():
    with pytest.raises(DatabaseUnavailable, match="DATABASE_URL"), Database("", application_name="x").connection():
        pytest.fail("connected")
