"""Ingest, from an object in the bucket to committed rows with roll-ups kept, beside PostgreSQL's own COPY and pgloader.

``python -m bench.ingest [--rows N] [--rounds N] [--no-sizes] [--json FILE]``. Ours is the function itself under
functions-framework, called as the platform calls it, working as the production role ``ingest``. Runs alternate, figures
are medians, every table is emptied and a checkpoint made before each run, and each run's result is checked: a wrong
load is no fast load.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import median

from bench import cold_start, rig
from bench.references import References
from bench.report import Line, Times, as_json, as_text, faster, under
from bench.rig import BUCKET, Rig, Run, middle, peaks
from local_emulator import samples
from local_emulator.samples import REJECTED_KINDS, Expected, Plan, spread
from shared import events

SMALL_ROWS, SMALL_FILES = 2000, 11
BYTES_A_ROW = 700  # of disk: three files, their copies in the store, tables, indexes and WAL
KINDS = {"clean": 0.0, "1 % bad": 0.01, "100 % bad": 1.0}
# The sizes that tests scale down, for --rows 5,000,000 (250 MB); each is loaded once: 2 GB, and 1 GB whose last record
# opens a quote that never closes.
GIANT_TIMES, OPEN_QUOTE_TIMES = 8, 4
OPEN_QUOTE = b'\n2147483647,"Never closed,2021-01-01T00:00:00Z,1,1\n'

EMPTY = """
truncate hired_employees.hired_employees,
  ingest_status.parts, ingest_status.attempts, ingest_status.rejects, ingest_status.pending, ingest_status.wakeups,
  ingest_status.ingest_status
"""
DIFFERENT_CELLS = """
with live as (
  select extract(year from hired_date at time zone 'UTC')::integer,
         extract(quarter from hired_date at time zone 'UTC')::integer, department_id, job_id, count(*)
  from hired_employees.hired_employees group by 1, 2, 3, 4
), kept as (select year, quarter, department_id, job_id, hired from metrics.hires_by_quarter)
select count(*) from ((table live except table kept) union all (table kept except table live)) different
"""
PARENTS_COME = """
insert into hired_employees.departments
select distinct waits_for::integer, 'Late' from ingest_status.pending where waits_on = 'department_id'
"""
LAST_LOAD = """
select state, rows_read, rows_inserted, rows_rejected, rows_pending, rejects_by_reason
from ingest_status.ingest_status order by id desc limit 1
"""


class Bench:
    """The pieces of work, on one rig."""

    def __init__(self, on: Rig, folder: Path, rows: int) -> None:
        self.rig = on
        self.folder = folder
        self.rows = rows
        self.expected: dict[str, Expected] = {}
        self.runs: dict[str, list[Run]] = defaultdict(list)
        self.times: dict[str, Times] = defaultdict(Times)
        samples.write(folder, Plan(0))
        for name in ("departments.csv", "jobs.csv"):
            on.put(name, folder / name)
            on.deliver(name)  # these warm the function up, too
        self.references = References(on, folder, folder)

    def prepare(self, kind: str, plan: Plan, last: bytes = b"") -> Path:
        """Generate a file of employees and put it into the bucket; ``last``: one more record, with an open quote."""
        path = self.folder / f"employees {kind}.csv"
        self.rig.say(f"generating {path.name}: {plan.employees:,} rows")
        expected = samples.write_employees(path, plan)
        if last:
            with path.open("ab") as file:
                file.write(last)
            rejected = {**expected.rejected, "record.quote": expected.rejected.get("record.quote", 0) + 1}
            expected = replace(expected, rows=expected.rows + 1, rejected=rejected, size=path.stat().st_size)
        self.expected[kind] = expected
        self.rig.put(path.name, path)
        return path

    def ours(self, kind: str, *, counts: bool = True) -> None:
        """Load the file of ``kind`` by an event into empty tables, check the result; keep its time if it counts."""
        self.rig.query(EMPTY)
        run = self.rig.measured("ingest", lambda: self.rig.deliver(f"employees {kind}.csv"))
        self.check(self.expected[kind])
        if counts:
            self.runs[kind].append(run)
            self.note(f"ours, {kind}", run.seconds)

    def check(self, expected: Expected) -> None:
        """The load did what the generator says, and the roll-up is a recount.

        Raises:
            AssertionError: a figure is another.
        """
        state, read, inserted, rejected, pending, reasons = self.rig.query(LAST_LOAD)[0]
        assert (state, read, inserted) == ("loaded", expected.rows, expected.loaded), (state, read, inserted)
        assert (rejected, pending, reasons) == (expected.rejects, expected.pending, dict(expected.rejected)), reasons
        for table, rows in (("hired_employees.hired_employees", inserted), ("ingest_status.rejects", rejected)):
            found = self.rig.query(f"select count(*) from {table}")[0][0]
            assert found == rows, f"{table} holds {found} rows, not {rows}"
        different = self.rig.query(DIFFERENT_CELLS)[0][0]
        assert different == 0, f"{different} cells of the roll-up differ from a recount"

    def note(self, what: str, seconds: float | None) -> None:
        """Keep one time and show it."""
        if seconds is not None:
            self.times[what].seconds.append(seconds)
            self.rig.say(f"{what}: {seconds:.2f} s")

    def small_files(self) -> None:
        """Files of 2,000 new rows into the table as it stands: from the start of the PUT until the function answers."""
        body = self.folder / "small.csv"
        for number in range(SMALL_FILES + 1):
            expected = samples.write_employees(
                body, Plan(SMALL_ROWS, seed=number, first_id=1_000_000_000 + number * SMALL_ROWS)
            )
            content, name = body.read_bytes(), f"employees small {number}.csv"
            started = time.perf_counter()
            self.rig.store.put(BUCKET, name, content)
            self.rig.deliver(name)
            seconds = time.perf_counter() - started
            assert self.rig.query(LAST_LOAD)[0][:3] == ("loaded", expected.rows, expected.loaded)
            if number:  # the first one warms up
                self.times["small file"].seconds.append(seconds)
        self.rig.say(f"small files: {self.times['small file']}")

    def alternate(self, rounds: int) -> None:
        """Ours and the references in turn, every other round in reverse order."""
        clean = self.folder / "employees clean.csv"
        steps = [
            lambda: self.note("native", self.references.native(clean, self.rows)),
            *(lambda kind=kind: self.ours(kind) for kind in KINDS),
            lambda: self.note("limit", self.references.limit(clean, self.rows)),
        ]
        for number in range(rounds):
            for step in steps if number % 2 == 0 else reversed(steps):
                step()

    def full_sizes(self) -> None:
        """Every row waiting for its parent; eight times the rows; four times, with an open quote last: once each."""
        plans = {
            "all waiting": (Plan(self.rows, bad={"unknown_parent": 1.0}), b""),
            "8 times the rows": (Plan(self.rows * GIANT_TIMES), b""),
            "4 times, open quote last": (Plan(self.rows * OPEN_QUOTE_TIMES), OPEN_QUOTE),
        }
        for kind, (plan, last) in plans.items():
            path = self.prepare(kind, plan, last)
            path.unlink()  # the store has it, and the disk is not endless
            self.ours(kind)
            self.rig.store.delete(BUCKET, path.name, self.rig.store.stat(BUCKET, path.name).generation)
            if kind == "all waiting":
                self.drain()

    def drain(self) -> None:
        """Bring the parents that all rows wait for, and then the rows; check that all of them are in."""
        ((rows,),) = self.rig.query("select count(*) from ingest_status.pending")
        self.rig.query(PARENTS_COME)
        self.rig.checkpoint()
        started = time.perf_counter()
        self.rig.call(events.make(events.PENDING_DRAIN, {}))
        self.note(f"drain of {rows:,} rows", time.perf_counter() - started)
        assert self.rig.query("select count(*) from ingest_status.pending") == [(0,)], "rows still wait"
        assert self.rig.query("select count(*) from hired_employees.hired_employees") == [(rows,)], "rows are missing"
        assert self.rig.query(DIFFERENT_CELLS) == [(0,)], "the roll-up differs from a recount"

    def against_pgloader(self, rounds: int) -> None:
        """A fifth of the rows (1 M of 5 M) by us and by pgloader in turn."""
        rows = max(self.rows // 5, 1)
        path = self.prepare("fifth", Plan(rows))
        for _ in range(rounds):
            self.note("pgloader", self.references.pgloader(path, rows))
            self.ours("fifth")


def lines(bench: Bench) -> list[Line]:
    """The rows of the table."""
    times, native = bench.times, bench.times["native"]
    rows, fifth = f"{bench.rows:,}", f"{max(bench.rows // 5, 1):,}"
    every_run = [run for runs in bench.runs.values() for run in runs]
    function_mb = max(run.function.peak_mb for run in every_run)
    found = [
        faster(f"{rows} rows, clean", times["ours, clean"], "\\copy, native keys", native, 6),
        faster(f"{rows} rows, clean", times["ours, clean"], "COPY text, primary key alone", times["limit"], 1),
        faster(f"{rows} rows, 1 % bad, all logged", times["ours, 1 % bad"], "\\copy, native keys, clean", native, 5),
        faster(
            f"{rows} rows, 100 % bad, all logged", times["ours, 100 % bad"], "\\copy, native keys, clean", native, 5
        ),
        faster(f"{fifth} rows, clean", times["ours, fifth"], "pgloader, native keys", times["pgloader"], 8),
        under("2,000-row file, PUT to committed, warm", times["small file"].median, 0.3, "s", str(times["small file"])),
        under("function's peak RSS over all runs", function_mb, 300, "MB"),
    ]
    known = {"fifth", *KINDS}
    for kind, expected in ((kind, bench.expected[kind]) for kind in bench.runs if kind not in known):
        work = f"{expected.rows:,} rows ({expected.size / 1e9:.2g} GB), {kind}"
        found.append(Line(work, str(times[f"ours, {kind}"])))
    for what, taken in times.items():
        if what.startswith("drain of "):
            drained = int(what.split()[2].replace(",", ""))
            found.append(Line(f"{what}, their parents come", f"{taken}, {drained / taken.median:,.0f} rows/s"))
    return found + [_peak(kind, runs) for kind, runs in bench.runs.items()] + cold_start.lines()


def _peak(kind: str, runs: list[Run]) -> Line:
    function, backend = peaks(runs)
    return Line(f"peak RSS, {kind}", f"function {function:.0f} MB", f"database backend {backend:.0f} MB")


def shares(bench: Bench) -> list[str]:
    """Whose time it is: processor seconds of each side in the middle run of each kind, against the wall clock."""
    found = [f"{kind}: {middle(runs)}" for kind, runs in bench.runs.items()]
    for name, kind in (("limit", "employees_limit"), ("native", "employees_native")):
        cpu_s = median(bench.references.server_cpu_s[kind])
        found.append(f"{name}: {bench.times[name].median:.2f} s on the clock; processor time PostgreSQL {cpu_s:.2f} s")
    if bench.times["limit"].seconds:
        ours, limit = median(bench.times["ours, clean"].seconds), median(bench.times["limit"].seconds)
        found.append(f"clean: {ours / limit:.2f} of the limit's time (COPY of text, primary key alone)")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run it all; 0 when every result was right, whatever the speed."""
    parser = argparse.ArgumentParser(prog="python -m bench.ingest", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=5_000_000, help="rows of each large file (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind (default: %(default)s)")
    parser.add_argument("--no-sizes", action="store_true", help="leave the files of 1 and 2 GB out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as JSON too")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the gigabytes in the folder go, too
    with tempfile.TemporaryDirectory(prefix="rowdock-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        rows = options.rows * (1 if options.no_sizes else GIANT_TIMES / 2)  # one file at a time, and no copy of it
        needed = rows * BYTES_A_ROW + (6 << 30)  # 4 GB of WAL, and room
        if shutil.disk_usage(folder).free < needed:
            parser.error(f"{folder.parent} lacks {needed / 1e9:.0f} GB of room; set TMPDIR or ask for fewer --rows")
        functions = {"ingest": {"DEADLINE_S": "850"}}
        with rig.running(folder, lambda text: print(f"  {text}", file=sys.stderr, flush=True), functions) as on:
            bench = Bench(on, folder, options.rows)
            for kind, share in KINDS.items():
                bench.prepare(kind, Plan(options.rows, bad=spread(share, REJECTED_KINDS)))
            bench.alternate(options.rounds)
            bench.against_pgloader(options.rounds)
            if not options.no_sizes:
                bench.full_sizes()
            bench.ours("clean", counts=False)  # so that the small files meet a full table
            bench.small_files()
            settings, store = on.settings(), on.store_server.kind
    where = f"{os.cpu_count()} cores, {store}, " + ", ".join(f"{name} {value}" for name, value in settings.items())
    print(f"Ingest, {options.rows:,} rows, medians of {options.rounds} alternating runs; the same server for all.")
    print(f"{where}\n\n{as_text(lines(bench))}\n\n" + "\n".join(shares(bench)))
    if options.json:
        figures = {what: times.seconds for what, times in bench.times.items()}
        report = as_json(lines(bench), rows=options.rows, settings=settings, store=store, seconds=figures)
        options.json.write_text(json.dumps({**report, "shares": shares(bench)}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
