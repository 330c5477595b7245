"""Whole files as people send them: compressed, cut, large, real; and the ledger over all of them."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import io
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import zstandard

from functions.ingest import work
from functions.ingest.thresholds import Limits
from shared import dictionary, events, rejects
from shared.errors import DatabaseBusy, DictionaryError, EventRefused
from shared.events import Event
from tests.integration.ingest.conftest import JOBS, Dock
from tests.integration.ingest.test_delivery import Overwriting, deliver_until_done, lines, with_store

ROOT = Path(__file__).resolve().parents[3]
PLAIN = lines(1, 500)


def as_seen(dock: Dock) -> tuple[Any, ...]:
    return dock.employees(), dock.rejects(), dock.pending()


def test_compressed_files_load_like_plain_ones(loaded_parents: Dock) -> None:
    """gzip, gzip of two members, zstd: the same rows, rejects and line numbers."""
    dock = loaded_parents
    half = len(PLAIN) // 2
    dock.drop("employees.csv", PLAIN)
    expected = as_seen(dock)
    for name, content in {
        "employees.csv.gz": gzip.compress(PLAIN),
        "employees-two.csv.gz": gzip.compress(PLAIN[:half]) + gzip.compress(PLAIN[half:]),
        "employees.csv.zst": zstandard.compress(PLAIN),
    }.items():
        dock.query("truncate hired_employees.hired_employees, ingest_status.rejects, ingest_status.pending")
        assert dock.drop(name, content)["state"] == "loaded"
        assert as_seen(dock) == expected
    assert dock.rollup_is_right()


@pytest.mark.parametrize("cut", [10, 200, -1])
def test_a_cut_compressed_file_is_refused_and_brings_nothing(loaded_parents: Dock, cut: int) -> None:
    """What came before the cut is not loaded as if it were the file."""
    fields = loaded_parents.drop("employees.csv.gz", gzip.compress(PLAIN)[:cut])
    assert (fields["state"], fields["reason_code"]) == ("refused", "file.compression")
    assert loaded_parents.employees() == []


def test_utf_16_is_refused_and_says_so(loaded_parents: Dock) -> None:
    """The dictionary may name another encoding; nothing is guessed."""
    fields = loaded_parents.drop("employees.csv", PLAIN.decode().encode("utf-16"))
    assert (fields["state"], fields["reason_code"]) == ("refused", "file.encoding")


def test_a_file_with_a_header_only_is_loaded_with_no_row(loaded_parents: Dock) -> None:
    """Nothing to load is no error."""
    fields = loaded_parents.drop("employees.csv", b"id,name,datetime,department_id,job_id\r\n")
    assert (fields["state"], fields["rows_read"]) == ("loaded", 0)


def test_a_stray_quote_at_the_start_of_a_long_file_costs_its_own_row(loaded_parents: Dock) -> None:
    """A quote that never closes does not swallow the rows behind it, over many blocks."""
    dock = loaded_parents
    rows = [b"%d,Name,2021-11-07T02:48:42Z,1,1\n" % n for n in range(1, 60_001)]
    rows[0] = b'1,"Name,2021-11-07T02:48:42Z,1,1\n'
    fields = dock.drop("employees.csv", b"".join(rows))
    assert (fields["rows_read"], fields["rows_inserted"], fields["rows_rejected"]) == (60_000, 59_999, 1)
    assert dock.rejects() == [(1, ["record.quote"], rows[0].decode().strip())]


def test_lines_keep_their_numbers_after_a_quoted_newline(loaded_parents: Dock) -> None:
    """A value of two lines is one record; what follows is found at its own line."""
    dock = loaded_parents
    dock.drop("employees.csv", b'1,"Two\nLines",2021-11-07T02:48:42Z,1,1\n\n3,,2021-11-07T02:48:42Z,1,1\n')
    assert [row[1] for row in dock.employees()] == ["Two\nLines"]
    assert [(line, reasons) for line, reasons, _ in dock.rejects()] == [(4, ["employee_name.missing"])]


def test_a_parent_that_was_rejected_keeps_its_children_waiting(dock: Dock) -> None:
    """Its file came, but not the row: only children of rows that went in follow."""
    dock.drop("jobs.csv", JOBS)
    dock.drop("departments.csv", b"1,Engineering\n2,\n")
    dock.drop("employees.csv", b"1,A,2021-11-07T02:48:42Z,1,1\n2,B,2021-11-07T02:48:42Z,2,1\n")
    dock.run_sent()
    assert [row[0] for row in dock.employees()] == [1]
    assert [row[1:] for row in dock.pending()] == [("2", "department_id", "2")]


def test_a_parent_removed_in_the_middle_of_a_load_makes_it_come_again(loaded_parents: Dock) -> None:
    """The key was there when it was looked up and is gone when COPY ends: no orphan, and the next try parks the row."""
    dock = loaded_parents

    class Removing(Overwriting):
        def open_read(self, *where: Any) -> Any:
            reader = self._store.open_read(*where)
            original, left = reader.readinto, [True]

            def readinto(buffer: memoryview) -> int:
                got = int(original(buffer))
                if got == 0 and left.pop():
                    left.append(False)
                    dock.query("delete from hired_employees.departments where id = 3")
                return got

            reader.readinto = readinto
            return reader

    content = b"".join(b"%d,Name,2021-11-07T02:48:42Z,%d,1\n" % (n, n % 3 + 1) for n in range(1, 90_001))
    with pytest.raises(DatabaseBusy):
        with_store(dock, Removing(dock.services.store, b"")).drop("employees.csv", content)
    assert dock.employees() == []
    fields = deliver_until_done(dock, dock.finalized("employees.csv"))
    assert (fields["rows_inserted"], fields["rows_pending"]) == (60_000, 30_000)
    assert dock.rollup_is_right()


def test_an_event_that_announces_no_content_is_refused(dock: Dock) -> None:
    """A change of metadata is not a file."""
    changed = dataclasses.replace(dock.finalized("jobs.csv"), type="google.cloud.storage.object.v1.metadataUpdated")
    with pytest.raises(EventRefused, match="metadataUpdated"):
        work.handle(dock.services, changed)


def test_tables_that_reference_one_another_are_refused_by_the_dictionary() -> None:
    """A circle of required keys could never be filled."""
    column = {"id": {"type": "integer"}}
    entry = {"schema": "s", "file_pattern": "x"}
    circle = {
        "a": entry | {"api_name": "a", "columns": column | {"b": {"type": "integer", "references": "b"}}},
        "b": entry | {"api_name": "b", "columns": column | {"a": {"type": "integer", "references": "a"}}},
    }
    with pytest.raises(DictionaryError, match="circle"):
        dictionary.parse({"tables": circle})


@pytest.mark.parametrize(
    ("limits", "content", "code"),
    [
        ({"max_errors": 2}, PLAIN, "threshold.max_errors"),
        ({"max_error_ratio": 0.01}, PLAIN, "threshold.max_error_ratio"),
        ({"max_leading_errors": 3}, b"a,b\nc,d\ne,f\n" + PLAIN, "threshold.max_leading_errors"),
    ],
)
def test_a_load_past_a_threshold_keeps_only_its_rejects(
    make_dock: Any, limits: dict[str, Any], content: bytes, code: str
) -> None:
    """Rolled back as a whole, with the reason; its rejects can still be read; it can be forced."""
    tables = dictionary.load()
    changed = dataclasses.replace(tables.tables["hired_employees"], **limits)
    dock: Dock = make_dock(dictionary.Dictionary({**tables.tables, "hired_employees": changed}))
    dock.parents()
    fields = dock.drop("employees.csv", content)
    assert (fields["state"], fields["reason_code"]) == ("rolled_back", code)
    assert dock.employees() == []
    assert dock.pending() == []
    assert fields["rows_rejected"] == len(dock.rejects()) > 0
    assert fields["rows_rolled_back"] == fields["rows_read"] - fields["rows_rejected"] > 0
    assert dock.deliver("employees.csv")["state"] == "duplicate"
    assert dock.force("employees.csv")["state"] == "loaded"
    assert len(dock.employees()) > 400


def test_thresholds_are_off_unless_the_dictionary_sets_them() -> None:
    """The employees' table has none; departments and jobs guard against a file under the wrong name."""
    limits = {key: Limits.of(table, forced=False) for key, table in dictionary.load().tables.items()}
    assert limits["hired_employees"] == Limits()
    assert limits["departments"] == limits["jobs"] == Limits(max_update_ratio=0.5)


def test_an_id_that_the_identity_gave_out_is_no_reason_to_stage_a_file(loaded_parents: Dock) -> None:
    """Rows posted without an id lie far above: a file between is new by id and goes straight in."""
    dock = loaded_parents
    dock.query(
        "insert into hired_employees.hired_employees (employee_name, hired_date, department_id, job_id)"
        " values ('Posted', now(), 1, 1)"
    )
    dock.drop("employees-1.csv", b"1,A,2021-11-07T02:48:42Z,1,1\n900,B,2021-11-07T02:48:42Z,1,1\n")
    fields = dock.drop("employees-2.csv", b"500,C,2021-11-07T02:48:42Z,1,1\n900,B,2021-11-07T02:48:42Z,1,1\n")
    assert (fields["rows_inserted"], fields["rows_unchanged"]) == (1, 1)
    assert [row[0] for row in dock.employees()] == [1, 500, 900, 1_000_000_000]


def test_mending_every_reject_gives_the_table_of_a_clean_file(loaded_parents: Dock) -> None:
    """The ledger converges: rejects mended by program and dropped again make the table that a clean file makes."""
    dock = loaded_parents
    clean = [f"{n},Name {n},2021-{n % 12 + 1:02}-03T04:05:06Z,{n % 3 + 1},{n % 2 + 1}" for n in range(1, 401)]
    broken = [
        line.replace(f"Name {n}", "") if n % 7 == 0 else line.replace("T04", "T99") if n % 11 == 0 else line
        for n, line in enumerate(clean, 1)
    ]
    load_id = dock.drop("employees.csv", "\n".join(broken).encode())["load_id"]
    out = io.StringIO()
    conn = dock.connect("owner")
    written = rejects.export(conn, dock.services.dictionary, load_id, out)
    conn.close()
    mended = io.StringIO()
    rows = list(csv.DictReader(io.StringIO(out.getvalue())))
    writer = csv.DictWriter(mended, rows[0])
    writer.writeheader()
    for row in rows:
        row["employee_name"] = row["employee_name"] or f"Name {row['id']}"
        row["hired_date"] = row["hired_date"].replace("T99", "T04")
        writer.writerow(row)
    fields = dock.drop("employees-mended.csv", mended.getvalue().encode())
    assert fields["rows_inserted"] == written > 80
    assert [",".join(map(str, row)) for row in dock.employees()] == clean
    assert dock.rejects() == []
    assert dock.rollup_is_right()


def test_every_kind_of_bad_row_of_the_samples_ends_as_it_says(dock: Dock, tmp_path: Path) -> None:
    """The generator's expected result is what loading gives."""
    command = [sys.executable, "-m", "local_emulator.samples", str(tmp_path), "--employees", "3000", "--json"]
    expected = json.loads(
        subprocess.run([*command, "--bad-share", "0.2"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    )
    by_file = {entry["file"]: entry for entry in (expected["files"] if isinstance(expected, dict) else expected)}
    for name in ("departments.csv", "jobs.csv", "hired_employees.csv"):
        fields = dock.drop(name, (tmp_path / name).read_bytes())
        want = by_file[name]
        assert fields["rows_read"] == want["rows"]
        assert fields["rows_inserted"] + fields["rows_updated"] == want["loaded"]
        assert fields["rows_pending"] == want["pending"]
        assert dock.history()[-1]["rejects_by_reason"] == want["rejected"]


def test_the_real_files_end_as_the_data_sheet_says(dock: Dock, challenge_data: Path) -> None:
    """12 departments, 183 jobs, 1999 employees: 1929 go in, 70 are rejected by four reasons; child file first."""
    for name in ("hired_employees.csv", "departments.csv", "jobs.csv"):
        dock.drop(name, (challenge_data / name).read_bytes())
        dock.run_sent()
    counts = {h["object_name"]: h for h in dock.history() if h["kind"] == "file"}
    assert [counts[n]["rows_read"] for n in ("departments.csv", "jobs.csv", "hired_employees.csv")] == [12, 183, 1999]
    assert counts["hired_employees.csv"]["rejects_by_reason"] == {
        "employee_name.missing": 19,
        "hired_date.missing": 14,
        "department_id.missing": 21,
        "job_id.missing": 16,
    }
    assert len(dock.employees()) == 1929
    assert len(dock.rejects()) == 70
    assert dock.query(
        "select quarter, sum(hired)::int from metrics.hires_by_quarter where year = 2021 group by 1 order by 1"
    ) == [
        (1, 249),
        (2, 454),
        (3, 453),
        (4, 487),
    ]


@dataclass(frozen=True)
class Cost:
    """What one delivery took in a process of its own: its peak memory, its processor time, the rows PostgreSQL touched.

    ``tuples`` are those read and written in the whole database, by table, index and bitmap alike: the plan that meets
    every row for every other one shows in it, however fast the machine is.
    """

    peak_kib: int
    cpu_s: float
    tuples: int


def tuples_touched(dock: Dock) -> int:
    """So far, of everybody who has disconnected or is idle."""
    ((touched,),) = dock.query(
        "select tup_returned + tup_fetched + tup_inserted + tup_updated + tup_deleted from pg_stat_database"
        " where datname = current_database()"
    )
    return int(touched)


def cost_of(dock: Dock, database: Any, any_store: Any, event: Event) -> Cost:
    """Deliver an event in a process of its own."""
    before = tuples_touched(dock)
    orders = {
        "event": dataclasses.asdict(event),
        "storage_url": any_store.url,
        "database_url": database.url_for("ingest"),
        "die_at": "",
    }
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("worker.py"))],
        input=json.dumps(orders),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        check=True,
    )
    wait_until_gone(dock, "worker")  # a session counts what it touched when it ends, at the latest
    _, peak_kib, cpu_s = done.stdout.splitlines()[-1].split()
    return Cost(int(peak_kib), float(cpu_s), tuples_touched(dock) - before)


def wait_until_gone(dock: Dock, application: str) -> None:
    deadline_s = time.monotonic() + 30
    while dock.query("select from pg_stat_activity where application_name = %s", application):
        assert time.monotonic() < deadline_s, f"a session of {application} does not end"


def assert_linear(start: Cost, small: Cost, large: Cost, times: int) -> None:
    """``times`` the rows: so many times the rows touched and the processor time, in the same memory.

    Args:
        start: what a delivery of next to nothing takes; it is taken off the processor time.

    Where ``times`` is four, growth by the power of 1.3 is past both limits (6.1), and by the power of 1.5 far past (8).
    """
    assert large.tuples < times * 1.25 * small.tuples
    assert large.cpu_s - start.cpu_s < times * 1.5 * (small.cpu_s - start.cpu_s)
    assert large.peak_kib < small.peak_kib * 1.5
    assert large.peak_kib < 300 * 1024


def keep_plans(dock: Dock) -> None:
    """No ANALYZE between two loads that are compared: another plan of the one would count as growth."""
    for table in ("hired_employees.hired_employees", "hired_employees.departments", "ingest_status.pending"):
        dock.query(f"alter table {table} set (autovacuum_enabled = off)")


def cost_of_load(dock: Dock, database: Any, any_store: Any, name: str, content: bytes) -> Cost:
    """Drop a file whose event is delivered in a process of its own."""
    dock.put(name, content)
    return cost_of(dock, database, any_store, dock.finalized(name))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows_of_a_mended_file(
    loaded_parents: Dock, database: Any, any_store: Any
) -> None:
    """The ids of the rejects that it closes are not collected: six times the rows, the same peak."""
    dock, peaks = loaded_parents, []
    for rows in (100_000, 600_000):
        header = b"id,employee_name,hired_date,department_id,job_id,_reject_id\n"
        content = header + b"".join(b"%d,N,2021-11-07T02:48:42Z,1,1,9-%d\n" % (n, n) for n in range(1, rows + 1))
        dock.query("truncate hired_employees.hired_employees")
        peaks.append(cost_of_load(dock, database, any_store, f"employees-{rows}.csv", content).peak_kib)
    assert dock.history()[-1]["rows_inserted"] == 600_000
    assert peaks[1] < peaks[0] + 30 * 1024


@pytest.mark.slow
def test_a_file_of_nothing_but_bad_rows_takes_linear_work_and_bounded_memory(
    loaded_parents: Dock, database: Any, any_store: Any
) -> None:
    """A million rows, all rejected, all logged: four times the rows take four times the work, in like memory."""
    dock, costs = loaded_parents, []
    kinds = b"%d,,2021-11-07T02:48:42Z,1,1\n", b"%d,Name,2021-11-07,1,1\n", b"%d,Name,2021-11-07T02:48:42Z,x,1\n"
    for rows in (1_000, 250_000, 1_000_000):
        content = b"".join(kinds[n % 3] % n for n in range(1, rows + 1))
        costs.append(cost_of_load(dock, database, any_store, f"employees-{rows}.csv", content))
    assert dock.query("select count(*) from ingest_status.rejects") == [(1_251_000,)]
    assert_linear(*costs, times=4)


@pytest.mark.slow
@pytest.mark.parametrize("most_parents", [8_000, 3])
def test_a_file_whose_parents_are_all_missing_waits_and_goes_in_in_linear_work_and_bounded_memory(
    dock: Dock, database: Any, any_store: Any, most_parents: int
) -> None:
    """200,000 rows wait for many departments, or for few; all go in when these come; a quarter takes a quarter."""
    keep_plans(dock)
    dock.drop("jobs.csv", JOBS)
    loads, drains = [], []
    for rows, first in ((1_000, 1), (50_000, 1_000_001), (200_000, 2_000_001)):
        ids, parents = range(first, first + rows), min(rows // 25, most_parents)
        content = b"".join(b"%d,Name,2021-11-07T02:48:42Z,%d,1\n" % (n, first + n % parents) for n in ids)
        loads.append(cost_of_load(dock, database, any_store, f"employees-{rows}.csv", content))
        assert dock.history()[-1]["rows_pending"] == rows
        assert dock.query("select count(*) from ingest_status.pending") == [(rows,)]
        dock.drop(f"departments-{rows}.csv", b"".join(b"%d,Late\n" % n for n in range(first, first + parents)))
        drains.append(cost_of(dock, database, any_store, events.make(events.PENDING_DRAIN, {})))
        assert dock.query("select count(*) from ingest_status.pending") == [(0,)]
    assert dock.query("select count(*) from hired_employees.hired_employees") == [(251_000,)]
    assert dock.rejects() == []
    assert dock.rollup_is_right()
    assert_linear(*loads, times=4)
    assert_linear(*drains, times=4)
