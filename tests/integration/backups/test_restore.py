"""Restore as the restoring role, from backups that the backing-up role took: what comes back, what is refused."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared.backups import checksum
from shared.backups.asked import Request
from shared.backups.manifest import Manifest, manifest_name
from shared.backups.restore import restore
from shared.backups.tables import choose, describe
from shared.errors import (
    BackupDamaged,
    DatabaseBusy,
    NoSuchBackup,
    NoSuchTable,
    ObjectNotFound,
    RestoreRefused,
    RowdockError,
)
from shared.postgres import Database
from tests.integration.backups.conftest import Vault

pytestmark = pytest.mark.slow  # each test takes backups of its own

EMPLOYEES = "hired_employees.hired_employees"
DAMAGE = f"""
delete from {EMPLOYEES} where id % 100 = 3;
update {EMPLOYEES} set employee_name = 'Nobody' where id % 100 = 7;
insert into {EMPLOYEES} values (5001, 'Somebody', '2022-01-01T00:00:00Z', 1, 1)
"""  # fixed text


@pytest.fixture
def restorer(vault: Vault) -> Any:
    """The vault's database as the restore function's role sees it."""
    pool = Database(vault.database.url_for("restore"), application_name="restore-test", pool_size=6)
    yield replace(vault.services, database=pool)
    pool.close()


def content(vault: Vault, table: str) -> tuple[int, str]:
    """Rows and checksum of a live table."""
    conn = vault.database.connect("superuser")
    try:
        (name,) = choose(vault.services.dictionary, [table])
        return checksum.of(conn, name.relation, describe(conn, name).fields)
    finally:
        conn.close()


def done(restorer: Any, table: str = "employees", **given: Any) -> dict[str, Any]:
    """What a restore answers, which is not a dry run."""
    return restore(restorer, Request(table, **{"dry_run": False, **given}), deadline_s=60).as_json()


def rollup_is_right(vault: Vault) -> bool:
    counted = vault.query(
        "select extract(year from hired_date at time zone 'UTC')::int, extract(quarter from hired_date at time zone"
        " 'UTC')::int, department_id, job_id, count(*) from hired_employees.hired_employees group by 1, 2, 3, 4"
    )
    kept = vault.query(
        "select year, quarter, department_id, job_id, hired from metrics.hires_by_quarter where hired <> 0"
    )
    return set(counted) == set(kept)


def counts(answer: dict[str, Any], table: str = "hired_employees") -> tuple[int, int, int]:
    (found,) = (each for each in answer["tables"] if each["table"] == table)
    return found["inserted"], found["updated"], found["deleted"]


def test_a_damaged_table_is_as_it_was_and_its_metrics_too(vault: Vault, restorer: Any, people: int) -> None:
    """Deleted rows come, changed ones change back, new ones go; a second restore finds nothing to do."""
    manifest = vault.take()
    before = content(vault, "employees")
    vault.query(DAMAGE)
    answer = done(restorer)
    assert counts(answer) == (10, 10, 1)
    assert answer["backup_id"] == manifest.backup_id
    assert answer["tables"][0]["rows_before"] == people - 10 + 1
    assert content(vault, "employees") == before
    assert rollup_is_right(vault)
    again = done(restorer)
    assert (counts(again), again["undo_backup_id"]) == ((0, 0, 0), None)


def test_the_copy_before_undoes_a_restore(vault: Vault, restorer: Any, people: int) -> None:
    """By its id, and never as the latest."""
    manifest = vault.take()
    vault.query(DAMAGE)
    damaged = content(vault, "employees")
    undo = done(restorer)["undo_backup_id"]
    assert content(vault, "employees") != damaged
    assert vault.catalogue.choose().backup_id == manifest.backup_id
    assert counts(done(restorer, backup=undo)) == (1, 10, 10)
    assert content(vault, "employees") == damaged


def test_a_dry_run_says_what_would_be_done_and_changes_nothing(vault: Vault, restorer: Any, people: int) -> None:
    """The same counts; not a row, nor history, nor a copy before."""
    vault.take()
    vault.query(DAMAGE)
    before, objects = content(vault, "employees"), vault.objects()
    written = vault.query("select sum(n_tup_ins + n_tup_upd + n_tup_del) from pg_stat_user_tables")
    answer = done(restorer, dry_run=True)
    assert (counts(answer), answer["dry_run"], answer["undo_backup_id"]) == ((10, 10, 1), True, None)
    assert content(vault, "employees") == before
    assert vault.objects() == objects
    assert vault.query("select count(*) from backup_status.restores") == [(0,)]
    assert vault.query("select sum(n_tup_ins + n_tup_upd + n_tup_del) from pg_stat_user_tables") == written


def test_an_empty_table_gets_its_rows_at_once(vault: Vault, restorer: Any, people: int) -> None:
    """Without a copy before, for there is nothing to copy; keys and roll-ups by the triggers."""
    vault.take()
    before = content(vault, "employees")
    vault.query(f"delete from {EMPLOYEES}")
    answer = done(restorer)
    assert (counts(answer), answer["undo_backup_id"]) == ((people, 0, 0), None)
    assert content(vault, "employees") == before
    assert rollup_is_right(vault)


def test_an_empty_table_may_be_filled_by_several_statements(
    vault: Vault, restorer: Any, people: int, monkeypatch: Any
) -> None:
    """The same rows; a damaged byte is told as such, and not as the key that it breaks."""
    monkeypatch.setattr("shared.backups.restore.STATEMENT_BYTES", 5_000)
    manifest = vault.take()
    before = content(vault, "employees")
    vault.query(f"delete from {EMPLOYEES}")
    name = part_of(manifest)
    whole = vault.read(name)
    for place in random.Random(7).sample(range(len(whole) * 8), 20):
        body = bytearray(whole)
        body[place // 8] ^= 1 << place % 8
        rewrite(vault, tampered(vault, manifest, name, bytes(body)))
        with pytest.raises(BackupDamaged):
            done(restorer)
    assert content(vault, "employees") == (0, "0")
    vault.services.store.put(vault.services.bucket, name, whole)
    rewrite(vault, tampered(vault, manifest, name, whole))
    assert counts(done(restorer)) == (people, 0, 0)
    assert content(vault, "employees") == before
    assert rollup_is_right(vault)


def test_merge_takes_nothing_away(vault: Vault, restorer: Any, people: int) -> None:
    """What was changed changes back, what is gone comes, what came stays."""
    vault.take()
    vault.query(DAMAGE)
    assert counts(done(restorer, mode="merge")) == (10, 10, 0)
    assert content(vault, "employees")[0] == people + 1


def test_a_new_table_leaves_the_old_one_alone(vault: Vault, restorer: Any, people: int) -> None:
    """All rows under another name; the same name twice is refused."""
    vault.take()
    vault.query(DAMAGE)
    before = content(vault, "employees")
    answer = done(restorer, mode="new_table", target="employees_of_yesterday")
    assert answer["tables"][0]["target"] == "restored.employees_of_yesterday"
    assert vault.query("select count(*) from restored.employees_of_yesterday") == [(people,)]
    assert content(vault, "employees") == before
    with pytest.raises(RestoreRefused, match="is there already"):
        done(restorer, mode="new_table", target="employees_of_yesterday")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"mode": "new_table"}, "its new name as target"),
        ({"target": "x"}, "target is for mode new_table"),
        ({"table": "*", "mode": "new_table", "target": "x"}, "takes one table"),
    ],
)
def test_a_target_that_makes_no_sense_is_refused(vault: Vault, restorer: Any, given: Any, said: str) -> None:
    """Before anything is read."""
    with pytest.raises(RestoreRefused, match=said):
        done(restorer, **given)


def test_the_backup_is_chosen_by_the_instant_of_its_snapshot(vault: Vault, restorer: Any, people: int) -> None:
    """Between two: the first; exactly at one: that one; before the first: none."""
    first = vault.take()
    vault.query(f"delete from {EMPLOYEES} where id = 1")
    second = vault.take()
    moment = timedelta(microseconds=1)
    between = restore(restorer, Request("employees", as_of=second.snapshot_at - moment), deadline_s=60)
    assert between.manifest.backup_id == first.backup_id
    exactly = restore(restorer, Request("employees", as_of=second.snapshot_at), deadline_s=60)
    assert exactly.manifest.backup_id == second.backup_id
    with pytest.raises(NoSuchBackup):
        restore(restorer, Request("employees", as_of=first.snapshot_at - moment), deadline_s=60)
    with pytest.raises(NoSuchTable, match="there is no table 'nothing'"):
        restore(restorer, Request("nothing"), deadline_s=60)


def test_what_would_lose_its_parent_is_refused_by_number(vault: Vault, restorer: Any, people: int) -> None:
    """A parent in use that the backup lacks; a parent that is gone since. All tables at once go back all the same."""
    vault.take()
    vault.query(
        "insert into hired_employees.jobs values (3, 'Later'); update hired_employees.hired_employees set job_id = 3"
        " where id <= 4"
    )
    with pytest.raises(RestoreRefused, match=r"4 rows of hired_employees\.hired_employees would point to no row"):
        done(restorer, "jobs")
    vault.query("update hired_employees.hired_employees set job_id = 3; delete from hired_employees.jobs where id = 1")
    with pytest.raises(RestoreRefused, match=r"500 rows .* restore hired_employees.jobs as well"):
        done(restorer)
    answer = done(restorer, "*")
    assert (counts(answer, "jobs"), counts(answer)) == ((1, 0, 1), (0, people, 0))
    assert rollup_is_right(vault)


def test_a_schema_that_changed_is_followed_by_rule_or_refused(vault: Vault, restorer: Any, people: int) -> None:
    """A wider column and a new one with a default are said; a narrower one is refused, and a new table offered."""
    vault.take()
    vault.query(
        "alter table hired_employees.jobs add column note text default 'none',"
        " alter column job type varchar(5) using left(job, 5)"
    )
    with pytest.raises(RestoreRefused, match=r"job: was text and is character varying\(5\).*new_table"):
        done(restorer, "jobs")
    vault.query(
        "alter table hired_employees.jobs alter column job type text; update hired_employees.jobs set job = 'x'"
    )
    answer = done(restorer, "jobs")
    assert counts(answer, "jobs") == (0, 2, 0)
    assert answer["tables"][0]["notes"] == [
        "note: the backup has no such column; rows that come get its default, others keep theirs"
    ]


def test_a_backup_of_another_major_version_is_compared_by_its_datums(vault: Vault, restorer: Any, people: int) -> None:
    """Whose hash functions may give other numbers; what differs is refused there too."""
    manifest = vault.take()
    before = content(vault, "employees")
    vault.query(DAMAGE)

    def told(change: Callable[[Any], Any]) -> None:
        tables = tuple(replace(t, checksum=replace(t.checksum, server_major=17, value="1")) for t in manifest.tables)
        rewrite(vault, replace(manifest, tables=tuple(map(change, tables))))

    told(lambda table: replace(table, parts=tuple(replace(p, datums_sha256="0" * 64) for p in table.parts)))
    with pytest.raises(BackupDamaged):
        done(restorer)
    told(lambda table: table)
    assert counts(done(restorer)) == (10, 10, 1)
    assert content(vault, "employees") == before


def test_sequences_only_rise(vault: Vault, restorer: Any, people: int) -> None:
    """A row that comes by itself after the restore meets none of those that were restored."""
    insert = f"insert into {EMPLOYEES} (employee_name, hired_date, department_id, job_id)"
    insert += " values ('New', '2021-01-01T00:00:00Z', 1, 1) returning id"
    (first,) = vault.query(insert)
    vault.take()
    (second,) = vault.query(insert)
    done(restorer)
    (third,) = vault.query(insert)
    assert third[0] > second[0] > first[0]


def test_readers_go_on_and_a_writer_that_stays_is_told(
    vault: Vault, restorer: Any, people: int, monkeypatch: Any
) -> None:
    """The table is locked against writers alone; one that does not end makes the restore say that it is busy."""
    monkeypatch.setattr("shared.backups.restore.LOCK_WAIT_S", 0.2)
    vault.take()
    vault.query(DAMAGE)
    writer = vault.database.connect()
    with writer.cursor() as cursor:
        cursor.execute("update hired_employees.hired_employees set employee_name = 'Mine' where id = 1")
        with pytest.raises(DatabaseBusy):
            done(restorer)
    writer.rollback()
    reader = vault.database.connect()
    with reader.cursor() as cursor:
        cursor.execute("begin isolation level repeatable read; select count(*) from hired_employees.hired_employees")
        assert counts(done(restorer)) == (10, 10, 1)
    reader.close()
    writer.close()


def test_files_loaded_after_the_snapshot_are_listed(vault: Vault, restorer: Any, people: int) -> None:
    """Of the restored table alone."""
    load = (
        "insert into ingest_status.ingest_status (kind, state, bucket, object_name, generation, table_name, started_at,"
        " finished_at) values ('file', 'loaded', 'b', %s, '1', %s, now(), %s)"
    )
    vault.query(load, "before.csv", "hired_employees", datetime.now(UTC) - timedelta(hours=1))
    vault.take()
    vault.query(load, "after.csv", "hired_employees", datetime.now(UTC))
    vault.query(load, "jobs.csv", "jobs", datetime.now(UTC))
    answer = done(restorer)
    assert [file["object"] for file in answer["files_loaded_later"]] == ["after.csv"]
    assert answer["files_loaded_later_count"] == 1


def test_history_says_what_was_restored_and_what_was_not(vault: Vault, restorer: Any, people: int) -> None:
    """Numbers and the copy before; of a failure its code."""
    manifest = vault.take()
    vault.query(DAMAGE)
    undo = done(restorer)["undo_backup_id"]
    vault.services.store.delete(vault.services.bucket, manifest.tables[2].parts[0].object)
    with pytest.raises(ObjectNotFound):
        done(restorer)
    vault.query(
        "insert into hired_employees.jobs values (3, 'x'); update hired_employees.hired_employees set job_id = 3"
    )
    with pytest.raises(RestoreRefused):
        done(restorer, "jobs")
    assert vault.query(
        "select backup_id, table_name, target, mode, state, rows_inserted, rows_updated, rows_deleted, undo_backup_id,"
        " error_code from backup_status.restores order by id"
    ) == [
        (manifest.backup_id, "hired_employees", EMPLOYEES, "replace", "done", 10, 10, 1, undo, None),
        (manifest.backup_id, "jobs", "hired_employees.jobs", "replace", "failed", 0, 0, 0, None, "restore.refused"),
    ]


# --- What is damaged


def rewrite(vault: Vault, manifest: Manifest) -> None:
    vault.services.store.put(vault.services.bucket, manifest_name(manifest.backup_id), manifest.to_bytes())


def tampered(vault: Vault, manifest: Manifest, name: str, body: bytes) -> Manifest:
    """A manifest that names the part as it lies there now, and has its sums from before: as if the bytes had rotted."""
    info = vault.services.store.put(vault.services.bucket, name, body)
    tables = tuple(
        replace(
            table,
            parts=tuple(
                replace(part, generation=info.generation, bytes=info.size, crc32c=info.crc32c or part.crc32c)
                if part.object == name
                else part
                for part in table.parts
            ),
        )
        for table in manifest.tables
    )
    return replace(manifest, tables=tables)


def part_of(manifest: Manifest, table: str = EMPLOYEES) -> str:
    held = manifest.table(table)
    assert held is not None
    return held.parts[0].object


def test_three_hundred_flipped_bits_are_three_hundred_refusals(vault: Vault, restorer: Any, people: int) -> None:
    """Even where the store's own checksum is that of the flipped bytes; the live table stays as it is."""
    manifest = vault.take()
    vault.query(DAMAGE)
    before = content(vault, "employees")
    name = part_of(manifest)
    whole = vault.read(name)
    chance = random.Random(300)  # a seed, so that a failure comes again
    for place in chance.sample(range(len(whole) * 8), 300):
        body = bytearray(whole)
        body[place // 8] ^= 1 << place % 8
        rewrite(vault, tampered(vault, manifest, name, bytes(body)))
        with pytest.raises(BackupDamaged):
            done(restorer)
    assert content(vault, "employees") == before


def cut_at_a_block(vault: Vault, manifest: Manifest) -> Manifest:
    """A valid AVRO file of fewer rows: readers of AVRO take it."""
    name = part_of(manifest)
    whole = vault.read(name)
    sync = whole[-16:]
    cut = whole.index(sync, whole.index(sync) + 16) + 16
    assert cut < len(whole)
    return tampered(vault, manifest, name, whole[:cut])


def rows_appended(vault: Vault, manifest: Manifest) -> Manifest:
    name = part_of(manifest)
    whole = vault.read(name)
    sync = whole[-16:]
    first = whole.index(sync) + 16
    return tampered(vault, manifest, name, whole + whole[first : whole.index(sync, first) + 16])


def half_written(vault: Vault, manifest: Manifest) -> Manifest:
    name = part_of(manifest)
    return tampered(vault, manifest, name, vault.read(name)[:-7])


def of_another_table(vault: Vault, manifest: Manifest) -> Manifest:
    return tampered(vault, manifest, part_of(manifest), vault.read(part_of(manifest, "hired_employees.jobs")))


def of_another_backup(vault: Vault, manifest: Manifest) -> Manifest:
    other = vault.take()
    return tampered(vault, manifest, part_of(manifest), vault.read(part_of(other)))


def of_foreign_make(vault: Vault, manifest: Manifest) -> Manifest:
    return tampered(vault, manifest, part_of(manifest), b"id,employee_name\n1,Ann\n")


def with_other_counts(vault: Vault, manifest: Manifest) -> Manifest:
    tables = tuple(
        replace(
            table,
            rows=table.rows + 1,
            parts=tuple(replace(part, rows=part.rows + 1) for part in table.parts),
        )
        if table.full_name == EMPLOYEES
        else table
        for table in manifest.tables
    )
    return replace(manifest, tables=tables)


def with_another_checksum(vault: Vault, manifest: Manifest) -> Manifest:
    tables = tuple(replace(table, checksum=replace(table.checksum, value="12345")) for table in manifest.tables)
    return replace(manifest, tables=tables)


DAMAGED = [
    cut_at_a_block,
    rows_appended,
    half_written,
    of_another_table,
    of_another_backup,
    of_foreign_make,
    with_other_counts,
    with_another_checksum,
]


@pytest.mark.parametrize("empty", [False, True], ids=["into rows", "into an empty table"])
@pytest.mark.parametrize("damage", DAMAGED, ids=lambda damage: damage.__name__)
def test_a_damaged_backup_is_refused_and_the_table_stays(
    vault: Vault, restorer: Any, database: Any, damage: Callable[[Vault, Manifest], Manifest], empty: bool
) -> None:
    """Whatever the store says of the part; also where rows go straight into the empty live table."""
    vault.query(
        "insert into hired_employees.departments values (1, 'Sales');"
        " insert into hired_employees.jobs values (1, 'Seller');"
        " insert into hired_employees.hired_employees select i, 'Name ' || i, '2021-01-01T00:00:00Z', 1, 1"
        " from generate_series(1, 3000) i"
    )
    manifest = vault.take()
    vault.query(f"delete from {EMPLOYEES}" + ("" if empty else " where id > 2000"))
    before = content(vault, "employees")
    rewrite(vault, damage(vault, manifest))
    with pytest.raises(BackupDamaged):
        done(restorer, backup=manifest.backup_id)
    assert content(vault, "employees") == before


def test_a_part_that_is_gone_and_a_manifest_that_was_edited_are_refused(
    vault: Vault, restorer: Any, people: int
) -> None:
    """The first is not found, the second damaged, and no older backup is taken in their place."""
    vault.take()
    manifest = vault.take()
    name = manifest_name(manifest.backup_id)
    body = vault.read(name).replace(b'"rows": 1000', b'"rows": 1001', 1)
    vault.services.store.put(vault.services.bucket, name, body)
    with pytest.raises(BackupDamaged):
        done(restorer)
    rewrite(vault, manifest)
    vault.services.store.delete(vault.services.bucket, part_of(manifest))
    with pytest.raises(ObjectNotFound):
        done(restorer)


# --- Crashes

STEPS = ["loaded.load", "find", "take", "apply", "require_same"]
WORKER = """
import os, signal, sys
from unittest import mock
from shared.backups import restore as module
from shared.backups.asked import Request
from shared.backups.services import production
step, when = sys.argv[1:3]
owner, name = (module.loaded, "load") if step == "loaded.load" else (module, step)
real = getattr(owner, name)
def killed(*given, **named):
    if when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    real(*given, **named)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(owner, name, killed)
module.restore(production(), Request("employees", dry_run=False), deadline_s=60)
"""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_a_restore_killed_at_any_step_leaves_the_old_rows_and_its_rerun_the_new(
    vault: Vault, restorer: Any, people: int, step: str, when: str
) -> None:
    """Never something between; nothing temporary is left; the next call does it all."""
    vault.take()
    before = content(vault, "employees")
    vault.query(DAMAGE)
    damaged = content(vault, "employees")
    environment = {
        "DATABASE_URL": vault.database.url_for("restore"),
        "STORAGE_URL": vault.store_server.url,
        "BACKUP_BUCKET": vault.services.bucket,
        "ROWDOCK_ENVIRONMENT": "emulator",
        "POOL_SIZE": "6",
    }
    worker = subprocess.run(
        [sys.executable, "-c", WORKER, step, when], env=environment, capture_output=True, timeout=60
    )
    assert worker.returncode == -9, worker.stderr.decode()
    assert content(vault, "employees") == damaged
    assert counts(done(restorer)) == (10, 10, 1)
    assert content(vault, "employees") == before
    assert rollup_is_right(vault)
    assert vault.query("select count(*) from pg_class where relname ~ '^(loaded|difference)_'") == [(0,)]


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_connection_that_is_cut_leaves_the_old_rows(vault: Vault, restorer: Any, people: int, nth: int) -> None:
    """While rows come: pg_terminate_backend, then the same call again."""
    vault.take()
    before = content(vault, "employees")
    vault.query(DAMAGE)
    damaged = content(vault, "employees")

    def cut(_table: str, _rows: int) -> None:
        vault.database.query(
            "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'restore' and datname = %s",
            vault.database.name,
            role="superuser",
        )

    with pytest.raises(RowdockError):
        restore(restorer, Request("employees", dry_run=False), deadline_s=60, on_progress=cut)
    assert content(vault, "employees") == damaged
    done(restorer)
    assert content(vault, "employees") == before


# --- Everything


def test_an_empty_database_gets_every_table_back(
    vault: Vault, people: int, make_vault: Callable[..., Vault], request: pytest.FixtureRequest
) -> None:
    """Rows, history, rejects and keys are those of the backup; a second run changes nothing."""
    vault.query(
        "insert into api_access.keys (id, name, secret_sha256, scopes)"
        " values ('abcdefgh', 'k', decode(repeat('00', 32), 'hex'), '{read}');"
        " insert into ingest_status.ingest_status (kind, state, bucket, object_name, generation, started_at)"
        " values ('file', 'loaded', 'b', 'o.csv', '1', now());"
        " insert into ingest_status.rejects values (1, 1, 1, 0, 1, '{id.missing}', 'raw');"
        " insert into ingest_status.dead_letters (event_id, event_source, event_type, data)"
        " values ('1', 's', 't', '{\"a\": 1}')"
    )
    manifest = vault.take()
    compared = [t.full_name for t in manifest.tables if not t.full_name.startswith("backup_status")]
    compared.remove("ingest_status.wakeups")
    expected = {name: content(vault, name) for name in compared}
    vault.query(
        "truncate hired_employees.hired_employees, hired_employees.departments, hired_employees.jobs,"
        " ingest_status.ingest_status, ingest_status.parts, ingest_status.attempts, ingest_status.rejects,"
        " ingest_status.pending, ingest_status.wakeups, ingest_status.dead_letters, api_access.keys,"
        " api_access.idempotency, backup_status.backup_status, backup_status.restores restart identity"
    )
    pool = Database(vault.database.url_for("restore"), application_name="restore-test", pool_size=6)
    request.addfinalizer(pool.close)
    restorer = replace(vault.services, database=pool)
    answer = done(restorer, "*")
    assert counts(answer) == (people, 0, 0)
    assert {name: content(vault, name) for name in compared} == expected
    assert rollup_is_right(vault)
    again = done(restorer, "*")
    changed = [each["table"] for each in again["tables"] if each["inserted"] or each["updated"] or each["deleted"]]
    assert changed == []


def test_a_key_that_was_revoked_since_stays_revoked(vault: Vault, restorer: Any, people: int) -> None:
    """Keys are only added: a restore of everything brings no access back that was taken away."""
    vault.query(
        "insert into api_access.keys (id, name, secret_sha256, scopes) select id, 'k', decode(repeat('00', 32), 'hex'),"
        " '{read}' from unnest(array['abcdefgh', 'bcdefghi']) id"
    )
    vault.take()
    vault.query(
        "update api_access.keys set revoked_at = now() where id = 'abcdefgh';"
        " delete from api_access.keys where id = 'bcdefghi'"
    )
    done(restorer, "*")
    assert vault.query("select id, revoked_at is not null from api_access.keys order by id") == [
        ("abcdefgh", True),
        ("bcdefghi", False),
    ]


def test_history_that_changed_since_keeps_its_parts(vault: Vault, restorer: Any, people: int) -> None:
    """The load's row has a unique name beside its key, and children that PostgreSQL would remove with it."""
    load = vault.query(
        "insert into ingest_status.ingest_status (kind, state, bucket, object_name, generation, started_at)"
        " values ('file', 'loaded', 'b', 'o.csv', '1', now()) returning id"
    )[0][0]
    vault.query("insert into ingest_status.parts values (%s, 0, 0, 10, 1)", load)
    vault.take()
    vault.query("update ingest_status.ingest_status set forgotten_at = now() where id = %s", load)
    done(restorer, "*")
    assert vault.query(
        "select forgotten_at, load_id from ingest_status.ingest_status join ingest_status.parts on true"
    ) == [(None, load)]


def test_the_copy_before_holds_what_changes_and_no_more(vault: Vault, restorer: Any, people: int) -> None:
    """A restore of everything that finds one table changed copies that one."""
    vault.take()
    vault.query("update hired_employees.jobs set job = 'x' where id = 1")
    undo = vault.catalogue.read(done(restorer, "*")["undo_backup_id"])
    assert [table.full_name for table in undo.tables] == ["hired_employees.jobs"]


def test_everything_is_taken_from_a_whole_backup_alone_unless_one_is_named(
    vault: Vault, restorer: Any, people: int
) -> None:
    """A backup of one table that is the newest is not taken for one of all."""
    whole, partial = vault.take(), vault.take(tables=["jobs"])
    assert done(restorer, "*")["backup_id"] == whole.backup_id
    assert [t["table"] for t in done(restorer, "*", backup=partial.backup_id)["tables"]] == ["jobs"]
