"""A backup is whole, of one instant and published once, or it is none."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2
import pytest

from shared import dictionary
from shared.backups import checksum, history, tables, take, verify
from shared.backups import manifest as manifests
from shared.backups.manifest import Manifest, Sequence, manifest_name, part_name
from shared.errors import (
    BackupDiffers,
    BackupRunning,
    DatabaseBusy,
    DatabaseMisuse,
    DeadlineExceeded,
    NoSuchTable,
    NotRepresentable,
    RowdockError,
    TransientError,
)
from tests.backups import AT
from tests.integration.backups.conftest import Vault

pytestmark = pytest.mark.slow  # each test takes backups of its own

EMPLOYEES = "hired_employees.hired_employees"
WAIT_S = 30.0


def until(condition: Callable[[], Any]) -> None:
    """Wait for ``condition``, with a deadline."""
    ends_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < ends_s, "it did not come to pass"
        threading.Event().wait(0.01)


def manifests_in(vault: Vault) -> list[str]:
    return [name for name in vault.objects() if name.endswith("manifest.json")]


def test_a_backup_holds_every_row_of_every_table(vault: Vault, people: int) -> None:
    """Parents and children, history and keys: what another program reads is what the tables hold."""
    manifest = vault.take()
    assert [table.full_name for table in manifest.tables] == [t.full_name for t in tables.every(dictionary.load())]
    employees = manifest.table("hired_employees")
    assert employees is not None
    assert (employees.rows, employees.key_max, manifest.whole) == (people, people, True)
    rows = sorted(vault.rows(manifest, "hired_employees"), key=lambda row: row["id"])
    assert [tuple(row.values()) for row in rows] == vault.query(f"select * from {EMPLOYEES} order by id")
    assert vault.rows(manifest, "jobs") == [{"id": 1, "job": "Engineer"}, {"id": 2, "job": "Seller"}]
    assert vault.rows(manifest, "ingest_status.rejects") == []
    assert vault.catalogue.read(manifest.backup_id) == manifest


def test_the_manifest_says_of_each_part_what_the_store_has(vault: Vault, people: int) -> None:
    """Name, generation and size as stored; nothing else lies in the folder."""
    manifest = vault.take(part_bytes=1)
    bucket, store = vault.services.bucket, vault.services.store
    for part in manifest.parts:
        info = store.stat(bucket, part.object, part.generation)
        assert info.size == part.bytes
    assert set(vault.objects()) == {part.object for part in manifest.parts} | {manifest_name(manifest.backup_id)}


def test_the_manifest_says_what_the_database_said(vault: Vault, people: int) -> None:
    """The instant of the snapshot, the server, where the sequences stood."""
    before = vault.query("select clock_timestamp()")[0][0]
    vault.query(f"insert into {EMPLOYEES} (employee_name, hired_date, department_id, job_id) values ('a', now(), 1, 1)")
    manifest = vault.take()
    assert before < manifest.snapshot_at < manifest.finished_at < vault.query("select clock_timestamp()")[0][0]
    assert (manifest.kind, manifest.scheduled_at, manifest.encoding) == ("now", None, "UTF8")
    assert manifest.server_version == vault.query("select current_setting('server_version_num')::int")[0][0]
    employees = manifest.table("hired_employees")
    assert employees is not None
    assert employees.sequences == (Sequence("id", 1_000_000_000, is_called=True),)


def test_infinity_is_kept_and_named(vault: Vault) -> None:
    """As COPY's own sentinel, which the manifest tells of."""
    vault.query("insert into ingest_status.wakeups (parent_table, created_at) values ('jobs', 'infinity')")
    (wakeups,) = vault.take(tables=["ingest_status.wakeups"]).tables
    assert wakeups.has_infinity == ("created_at",)


def test_chosen_tables_alone_are_in_it(vault: Vault, people: int) -> None:
    """A backup of one table has the folder of one table."""
    manifest = vault.take(tables=["employees"])
    assert ([table.full_name for table in manifest.tables], manifest.whole) == ([EMPLOYEES], False)
    with pytest.raises(NoSuchTable, match="there are departments"):
        vault.take(tables=["salaries"])


def test_an_empty_table_is_a_file_with_its_schema(vault: Vault) -> None:
    """No rows, and yet a table that can be made again."""
    manifest = vault.take(tables=["jobs"])
    (jobs,) = manifest.tables
    assert (jobs.rows, len(jobs.parts), jobs.key_max) == (0, 1, None)
    assert vault.rows(manifest, "jobs") == []


# --- Once


def test_the_same_instant_again_is_the_same_backup(vault: Vault, people: int) -> None:
    """However often it is asked for, and in whatever zone it is said."""
    first = vault.take("scheduled", scheduled_at=AT)
    vault.query(f"delete from {EMPLOYEES}")
    assert vault.take("scheduled", scheduled_at=AT) == first
    assert vault.take("scheduled", scheduled_at=AT, tables=["jobs"]) == first
    assert len(manifests_in(vault)) == 1
    assert len(vault.history()) == len(first.tables)


def test_an_instant_that_has_a_backup_of_other_tables_is_told(vault: Vault) -> None:
    """Who asks for all tables is not answered with a backup of one."""
    vault.take("scheduled", scheduled_at=AT, tables=["jobs"])
    with pytest.raises(BackupDiffers, match=r"without hired_employees\.departments"):
        vault.take("scheduled", scheduled_at=AT)


def test_now_is_a_backup_of_its_own_each_time(vault: Vault) -> None:
    ids = {vault.take(tables=["jobs"]).backup_id for _ in range(3)}
    assert len(ids) == len(manifests_in(vault)) == 3


def test_two_at_once_are_one_backup_and_one_that_is_told_to_come_back(
    vault: Vault, people: int, monkeypatch: Any
) -> None:
    """The one that comes back finds what the first one made."""
    started, go_on = threading.Event(), threading.Event()

    def held(_table: str, _rows: int) -> None:
        started.set()
        assert go_on.wait(WAIT_S)

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(vault.take, "scheduled", scheduled_at=AT, on_progress=held)
        assert started.wait(WAIT_S)
        for kind, at in (("scheduled", AT), ("scheduled", AT + timedelta(days=1)), ("now", None)):
            with pytest.raises(BackupRunning):
                vault.take(kind, scheduled_at=at)  # type: ignore[arg-type]
        undo = vault.take("undo", tables=["jobs"])  # a restore waits for no backup
        go_on.set()
        manifest = first.result()
    assert vault.take("scheduled", scheduled_at=AT) == manifest
    assert sorted(manifests_in(vault)) == sorted(map(manifest_name, (manifest.backup_id, undo.backup_id)))


def test_a_zombie_finds_the_backup_of_who_was_quicker(vault: Vault, people: int) -> None:
    """A run that was taken for dead publishes nothing: it answers with the manifest that is there."""
    twin: list[Manifest] = []

    def overtaken(_table: str, _rows: int) -> None:
        if not twin:  # what another run of this instant would have published meanwhile
            calm = vault.take("undo")
            folder, other = manifests.folder(calm.backup_id), manifests.folder("20261125T031500Z")
            moved = tuple(
                replace(t, parts=tuple(replace(p, object=p.object.replace(folder, other)) for p in t.parts))
                for t in calm.tables
            )
            made = replace(calm, backup_id="20261125T031500Z", kind="scheduled", scheduled_at=AT, tables=moved)
            twin.append(made)
            vault.services.store.put(vault.services.bucket, manifest_name(made.backup_id), made.to_bytes())

    assert vault.take("scheduled", scheduled_at=AT, on_progress=overtaken) == twin[0]
    assert vault.catalogue.read("20261125T031500Z") == twin[0]


def test_what_a_run_that_died_left_is_in_nobodys_way(vault: Vault, people: int) -> None:
    """Each run has a folder of its own for its parts."""
    left = part_name("20261125T031500Z", "deadbeef", "hired_employees", "hired_employees", 0)
    vault.services.store.put(vault.services.bucket, left, b"the beginning of a part")
    manifest = vault.take("scheduled", scheduled_at=AT)
    assert left not in {part.object for part in manifest.parts}
    assert len(vault.rows(manifest, "hired_employees")) == people


def test_ids_and_order_survive_a_clock_that_jumps_back(vault: Vault, monkeypatch: Any) -> None:
    """The order is that of the snapshots, by the database's clock; an id never comes twice."""
    first = vault.take(tables=["jobs"])

    class Behind(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) - timedelta(days=400)

    monkeypatch.setattr(take, "datetime", Behind)
    second = vault.take(tables=["jobs"])
    assert second.backup_id < first.backup_id
    assert vault.catalogue.list().manifests == (second, first)


# --- One instant


@contextmanager
def writer(vault: Vault, statements: Iterator[str]) -> Iterator[None]:
    """Transactions of ``statements``, one after the other, while the body runs."""
    stop, written = threading.Event(), threading.Event()

    def write() -> int:
        count = 0
        with closing(vault.database.connect()) as conn, conn.cursor() as cursor:
            while not stop.is_set():
                cursor.execute(next(statements))
                conn.commit()
                written.set()
                count += 1
        return count

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        assert written.wait(WAIT_S)
        try:
            yield
        finally:
            stop.set()
            assert writing.result() > 1


def test_rows_that_move_between_two_tables_are_in_one_of_them(vault: Vault) -> None:
    """One snapshot over all tables: the sum of what they hold is constant, whoever writes meanwhile."""
    vault.query(
        "insert into hired_employees.departments select i, 'd' from generate_series(1, 500) i;"
        " insert into hired_employees.jobs select i, 'j' from generate_series(501, 1000) i"
    )

    def moves() -> Iterator[str]:
        while True:
            for here, there, column in (("departments", "jobs", "job"), ("jobs", "departments", "departments")):
                yield (
                    f"with moved as (delete from hired_employees.{here} where id in"
                    f" (select id from hired_employees.{here} order by random() limit 50) returning id)"
                    f" insert into hired_employees.{there} (id, {column}) select id, 'x' from moved"
                )

    with writer(vault, moves()):
        for _ in range(5):
            manifest = vault.take(tables=["departments", "jobs"])
            ids = [row["id"] for name in ("departments", "jobs") for row in vault.rows(manifest, name)]
            assert sorted(ids) == list(range(1, 1001))


def test_a_table_that_is_being_emptied_is_never_backed_up_empty(vault: Vault, people: int) -> None:
    """TRUNCATE does not keep to snapshots: the backup waits for it to end, or says that it cannot wait."""
    with closing(vault.database.connect()) as conn, conn.cursor() as cursor:
        cursor.execute(f"truncate {EMPLOYEES}")
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(vault.take, tables=["employees"])
            until(lambda: vault.query("select 1 from pg_locks where not granted and locktype = 'relation'"))
            assert not waiting.done()
            conn.rollback()
            assert waiting.result().tables[0].rows == people


def test_a_table_that_stays_locked_is_told(vault: Vault, people: int, monkeypatch: Any) -> None:
    """Transient, and nothing is published."""
    monkeypatch.setattr(take, "LOCK_WAIT_S", 0.2)
    with closing(vault.database.connect()) as conn, conn.cursor() as cursor:
        cursor.execute(f"truncate {EMPLOYEES}")
        with pytest.raises(DatabaseBusy):
            vault.take()
    assert vault.objects() == []


def test_nobody_empties_or_changes_a_table_under_a_backup(vault: Vault, people: int) -> None:
    """What would need the table for itself waits until the backup has ended."""
    refused: list[str] = []

    def disturb(_table: str, _rows: int) -> None:
        for statement in (f"truncate {EMPLOYEES}", f"alter table {EMPLOYEES} drop column employee_name"):
            with pytest.raises(psycopg2.errors.LockNotAvailable):
                vault.query(f"set lock_timeout = 50; {statement}")
            refused.append(statement)

    assert vault.take(tables=["jobs", "employees"], on_progress=disturb).tables[1].rows == people
    assert refused


# --- Or none


def nothing_is_published(vault: Vault, code: str) -> None:
    """No manifest, and history says that it failed and why; the next run works."""
    assert manifests_in(vault) == []
    assert {(row["state"], row["error_code"]) for row in vault.history()} == {("failed", code)}
    vault.take("scheduled", scheduled_at=AT, tables=["employees"])
    assert {row["state"] for row in vault.history() if row["table_name"] == "hired_employees"} == {"done"}


def test_a_connection_that_drops_in_the_copy_leaves_nothing_published(vault: Vault, people: int) -> None:
    """Killed as an operator would: the reading session, in the middle of a table."""

    def kill(_table: str, _rows: int) -> None:
        vault.database.query(
            "select pg_terminate_backend(pid) from pg_stat_activity where query ilike 'copy%' and state = 'active'"
            " and datname = current_database()",
            role="superuser",
        )

    vault.query(f"insert into {EMPLOYEES} select i, repeat('x', 200), now(), 1, 1 from generate_series(5000, 90000) i")
    with pytest.raises(TransientError):
        vault.take("scheduled", scheduled_at=AT, tables=["employees"], on_progress=kill)
    nothing_is_published(vault, "database.unavailable")


def test_an_exporter_that_is_gone_before_the_end_publishes_nothing(vault: Vault, people: int, monkeypatch: Any) -> None:
    """Its snapshot is gone with it, and its locks: the last moment counts."""
    written = take._Run._manifest

    def kill_then(run: Any, *given: Any) -> Manifest:
        pid = run._conn.info.backend_pid
        vault.database.query("select pg_terminate_backend(%s, 5000)", pid, role="superuser")
        return written(run, *given)

    with monkeypatch.context() as patch:
        patch.setattr(take._Run, "_manifest", kill_then)
        with pytest.raises(TransientError):
            vault.take("scheduled", scheduled_at=AT, tables=["employees"])
    nothing_is_published(vault, "database.unavailable")


def test_a_counting_session_that_is_killed_ends_the_backup(vault: Vault, people: int, monkeypatch: Any) -> None:
    """Without count and checksum there is no manifest."""
    counted = checksum.summary

    def killed(conn: Any, *given: Any) -> Any:
        vault.database.query("select pg_terminate_backend(%s, 5000)", conn.info.backend_pid, role="superuser")
        return counted(conn, *given)

    with monkeypatch.context() as patch:
        patch.setattr(checksum, "summary", killed)
        with pytest.raises(TransientError):
            vault.take("scheduled", scheduled_at=AT, tables=["employees"])
    nothing_is_published(vault, "database.unavailable")


def test_a_backup_that_fails_waits_for_no_count(vault: Vault, people: int, monkeypatch: Any) -> None:
    """What sums up a large table on the other connection is told to stop."""
    counting = threading.Event()

    def slow(conn: Any, *_: Any) -> Any:
        with conn.cursor() as cursor:
            counting.set()
            cursor.execute("select pg_sleep(100)")

    def fail(_table: str, _rows: int) -> None:
        assert counting.wait(WAIT_S)
        raise ZeroDivisionError

    monkeypatch.setattr(checksum, "summary", slow)
    began_s = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        vault.take(tables=["employees"], on_progress=fail)
    assert time.monotonic() - began_s < WAIT_S


def test_an_error_in_the_middle_of_a_part_leaves_no_manifest(vault: Vault, people: int) -> None:
    """Whatever it is: a defect too."""

    def fail(_table: str, rows: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        vault.take("scheduled", scheduled_at=AT, tables=["employees"], on_progress=fail)
    assert vault.objects() == []
    nothing_is_published(vault, "defect")


def test_a_value_that_avro_cannot_hold_is_told_with_its_column(vault: Vault) -> None:
    """An instant beyond the reach of microseconds since 1970: refused, not wrapped."""
    late = "294276-12-31 23:59:59Z"
    vault.query("insert into ingest_status.wakeups (parent_table, created_at) values ('jobs', %s)", late)
    with pytest.raises(NotRepresentable, match="created_at"):
        vault.take()
    assert manifests_in(vault) == []


def test_a_deadline_that_passes_ends_the_backup_before_its_manifest(vault: Vault, people: int) -> None:
    """The zombie that goes on nevertheless publishes nothing."""

    def late(_table: str, _rows: int) -> None:
        threading.Event().wait(0.6)

    with pytest.raises(DeadlineExceeded):
        vault.take("scheduled", scheduled_at=AT, tables=["employees"], deadline_s=0.5, on_progress=late)
    assert manifests_in(vault) == []
    assert {row["state"] for row in vault.history()} == {"failed"}


def test_a_frozen_process_that_wakes_up_after_its_deadline_publishes_nothing(
    vault: Vault, people: int, monkeypatch: Any
) -> None:
    """The last check is right before the manifest."""
    made = take._Run._manifest

    def freeze(run: Any, *given: Any) -> Manifest:
        run._deadline = take._Deadline(-1)
        return made(run, *given)

    monkeypatch.setattr(take._Run, "_manifest", freeze)
    with pytest.raises(DeadlineExceeded):
        vault.take(tables=["jobs"])
    assert manifests_in(vault) == []


def test_rows_that_copy_did_not_give_are_missed(vault: Vault, people: int, monkeypatch: Any) -> None:
    """The number that COPY gave is compared with the count in SQL."""
    described = tables.Definition.rows_query

    def without_one(definition: Any) -> Any:
        return described.fget(definition) + take.sql.SQL(" where id <> 5")  # type: ignore[attr-defined]

    monkeypatch.setattr(tables.Definition, "rows_query", property(without_one))
    with pytest.raises(RowdockError, match=r"COPY gave 999 rows, the same snapshot has 1000"):
        vault.take(tables=["employees"])
    assert manifests_in(vault) == []


def test_a_right_that_is_missing_is_ours_to_mend(vault: Vault, people: int) -> None:
    vault.query("revoke select on hired_employees.jobs from rowdock_backup")
    with pytest.raises(DatabaseMisuse):
        vault.take()
    assert manifests_in(vault) == []


# --- History


def test_history_has_one_row_for_each_table_and_backup(vault: Vault, people: int) -> None:
    """The seed's columns as the seed had them, and what people ask for besides."""
    manifest = vault.take("scheduled", scheduled_at=AT, tables=["departments", "employees"])
    departments, employees = vault.history()
    assert (employees["table_name"], employees["number_rows"], employees["last_id"]) == (
        "hired_employees",
        people,
        1000,
    )
    assert (departments["table_name"], departments["number_rows"], departments["last_id"]) == ("departments", 2, 2)
    assert (employees["backup_id"], employees["kind"], employees["state"]) == (manifest.backup_id, "scheduled", "done")
    assert datetime.fromisoformat(employees["scheduled_at"]) == AT
    assert datetime.fromisoformat(employees["snapshot_at"]) == manifest.snapshot_at
    assert employees["bytes"] == sum(part.bytes for part in manifest.tables[1].parts) > 0
    assert (employees["parts"], employees["error_code"]) == (1, None)
    assert employees["finished_at"] > employees["started_at"]


def test_progress_is_seen_while_a_backup_runs(vault: Vault, people: int, capsys: Any, monkeypatch: Any) -> None:
    """In history and in the log; of other tables that they wait for their turn."""
    monkeypatch.setattr(history, "PROGRESS_EVERY_S", 0)
    seen: list[Any] = []

    def look(table: str, rows: int) -> None:
        if table == EMPLOYEES and rows:
            seen.extend(vault.history())

    vault.take(tables=["employees", "ingest_status.rejects"], on_progress=look)
    assert [(row["table_name"], row["state"], row["number_rows"]) for row in seen] == [
        ("hired_employees", "running", people),
        ("ingest_status.rejects", "running", 0),
    ]
    assert '"message": "backup.progress"' in capsys.readouterr().out


def test_what_died_is_closed_by_the_next_run(vault: Vault, people: int) -> None:
    """Nobody watches a bar that stands still for ever; a copy before a restore that runs now is left alone."""
    vault.query(
        "insert into backup_status.backup_status (table_name, backup_id, run, kind, state) values"
        " ('jobs', 'a', '00', 'scheduled', 'running'), ('jobs', 'b', '00', 'undo', 'running')"
    )
    vault.take(tables=["jobs"])
    assert [(row["backup_id"][0], row["state"], row["error_code"]) for row in vault.history()] == [
        ("a", "failed", "backup.lost"),
        ("b", "running", None),
        ("2", "done", None),
    ]


def test_a_history_that_cannot_be_written_stops_no_backup(vault: Vault, people: int, capsys: Any) -> None:
    """It decides nothing; the log says that it is not there."""
    vault.query("revoke insert on backup_status.backup_status from rowdock_backup")
    assert vault.take(tables=["employees"]).tables[0].rows == people
    assert "backup.history_not_written" in capsys.readouterr().out
    assert vault.history() == []


def test_the_environments_zone_changes_nothing(vault: Vault, people: int, monkeypatch: Any) -> None:
    """A container that is not in UTC backs up the same instants."""
    monkeypatch.setenv("TZ", "America/Bogota")
    time.tzset()
    try:
        manifest = vault.take(tables=["employees"])
        rows = sorted(vault.rows(manifest, "hired_employees"), key=lambda row: row["id"])
    finally:
        monkeypatch.undo()
        time.tzset()
    assert rows[0]["hired_date"] == datetime(2021, 1, 1, 7, 0, 0, 1, tzinfo=UTC)
    assert os.environ.get("TZ") != "America/Bogota"


# --- Types


def test_what_rowdock_keeps_about_its_own_work_is_backed_up_as_it_is(vault: Vault) -> None:
    """Lists, JSON as it was written, bytes, identities: types that AVRO has not go as their text."""
    vault.query(
        "insert into ingest_status.rejects"
        " (load_id, record_number, line_number, byte_offset, byte_length, reasons, raw)"
        " values (1, 2, 3, 4, 5, '{id.missing,\"a,b\"}', E'1,\\t\"x\"\\n');"
        " insert into ingest_status.dead_letters (event_id, event_source, event_type, data, attributes)"
        " values ('e', 's', 't', '{\"b\": 1,  \"a\": \"\\u00e9\"}', '{}');"
        " insert into api_access.keys (id, name, secret_sha256, scopes)"
        " values ('0123456789', 'n', decode(repeat('00ff', 16), 'hex'), '{read,admin}')"
    )
    manifest = vault.take()
    (reject,) = vault.rows(manifest, "ingest_status.rejects")
    assert (reject["reasons"], reject["raw"]) == ('{id.missing,"a,b"}', '1,\t"x"\n')
    (letter,) = vault.rows(manifest, "ingest_status.dead_letters")
    assert (letter["id"], letter["data"]) == (1, '{"b": 1,  "a": "\\u00e9"}')
    (key,) = vault.rows(manifest, "api_access.keys")
    assert (key["secret_sha256"], key["scopes"]) == (b"\0\xff" * 16, "{read,admin}")
    assert verify.verify(vault.services, manifest.backup_id, "decode", deadline_s=60).ok


def test_the_restore_role_can_take_the_copy_before_a_restore(make_vault: Callable[..., Vault], people: int) -> None:
    """And its history, although another role takes all other backups."""
    vault = make_vault(role="restore")
    assert vault.take("undo", tables=["employees"]).tables[0].rows == people
    assert [(row["kind"], row["state"]) for row in vault.history()] == [("undo", "done")]
