"""Backup and restore of employees by the functions themselves, beside pg_dump, pg_restore and plain fastavro.

``python -m bench.backup [--rows N] [--rounds N] [--only backup|restore] [--json FILE]``. The functions run under
functions-framework, are called as the platform calls them and work as the production roles ``backup`` and ``restore``;
what they read and write lies in the bucket. Runs alternate, a checkpoint is made before each, and each result is
checked: a wrong backup or restore is no fast one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median

import psycopg2
from psycopg2 import sql

from bench import cold_start, rig
from bench.backup_references import TABLE, TWIN, References
from bench.ingest import DIFFERENT_CELLS
from bench.processes import Ran
from bench.report import Line, Times, as_json, as_text, faster, under
from bench.rig import BACKUP_BUCKET, Rig, Run, middle, peaks
from local_emulator import database, samples
from local_emulator.samples import Plan
from shared.avro.schema import Field
from shared.backups import checksum
from shared.backups.catalogue import Catalogue
from shared.backups.manifest import TableBackup

BYTES_A_ROW = 600  # of disk: CSV, dump, backups, two tables, indexes and WAL
MOST_FASTAVRO_ROWS = 500_000  # a plain writer needs half a minute for ten times as many
DEADLINE_S = "850"
FIELDS = [
    Field("id", "id", "integer", False),
    Field("employee_name", "employee_name", "text", False),
    Field("hired_date", "hired_date", "timestamp with time zone", False),
    Field("department_id", "department_id", "integer", False),
    Field("job_id", "job_id", "integer", False),
]
# One row in a hundred: half of them gone, half of them changed.
DAMAGE = f"""
delete from {TABLE} where id % 200 = 0;
update {TABLE} set employee_name = 'Damaged', job_id = 1 where id % 200 = 1;
"""
WORK = {  # what → function, which is also its role's name, and path
    "backup": ("backup", "/"),
    "verify": ("backup", "/verify"),
    "restore, empty": ("restore", "/"),
    "restore, 1 % damaged": ("restore", "/"),
}


class Bench:
    """The pieces of work, on one rig; the live table is filled."""

    def __init__(self, on: Rig, folder: Path, rows: int) -> None:
        self.rig, self.rows = on, rows
        self.fastavro_rows = min(rows, MOST_FASTAVRO_ROWS)
        self.times: dict[str, Times] = defaultdict(Times)
        self.runs: dict[str, list[Run]] = defaultdict(list)
        self.programs: dict[str, list[Ran]] = defaultdict(list)
        self.backup: TableBackup | None = None
        self._backup_id = ""
        on.say(f"generating and loading {rows:,} rows")
        samples.write(folder, Plan(rows))
        for name in ("departments", "jobs", "hired_employees"):
            on.psql(f"\\copy hired_employees.{name} from '{folder / name}.csv' with (format csv)\n", database.DATABASE)
        self.references = References(on, folder, folder)
        (folder / "hired_employees.csv").unlink()
        on.query(f"vacuum analyze {TABLE}")  # so that who reads first does not set the hint bits for all
        self.content = self._content(database.DATABASE)
        assert self.content[0] == rows, self.content

    # --- Ours

    def take(self, *, counts: bool = True) -> None:
        """One backup, whose manifest says what SQL counts and what the store has; then each value looked at."""
        self._timed("backup", {"tables": [TABLE]}, counts)
        manifest = Catalogue(self.rig.store, BACKUP_BUCKET).choose("latest")
        assert manifest.backup_id != self._backup_id, "no new backup is there"
        found = manifest.table(TABLE)
        assert found is not None, "the newest backup lacks the table"
        assert (found.rows, found.checksum.value) == self.content, (found.rows, found.checksum)
        for part in found.parts:
            info = self.rig.store.stat(BACKUP_BUCKET, part.object)
            assert (info.size, info.generation) == (part.bytes, part.generation), info
        self.backup, self._backup_id = found, manifest.backup_id
        self._timed("verify", {"backup": self._backup_id, "depth": "decode"}, counts)
        if counts:
            self._note("backup, verified", sum(self.times[what].seconds[-1] for what in ("backup", "verify")))

    def restore_empty(self) -> None:
        """A restore into the live table, which was emptied."""
        self.rig.query(f"truncate {TABLE}")
        self._restore("restore, empty")

    def restore_damaged(self) -> None:
        """A restore into the live table, of which one row in a hundred was removed or changed."""
        self.rig.query(DAMAGE)
        assert self._content(database.DATABASE) != self.content, "nothing was damaged"
        self._restore("restore, 1 % damaged")
        self.rig.query(f"vacuum {TABLE}")

    def _restore(self, what: str) -> None:
        self._timed(what, {"table": TABLE, "backup": self._backup_id, "mode": "replace", "confirm": TABLE}, counts=True)
        self._check(database.DATABASE, what)

    def _timed(self, what: str, body: object, counts: bool) -> None:
        function, path = WORK[what]
        text, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
        run = self.rig.measured(function, lambda: self.rig.post(function, path, headers, text, 200))
        if counts:
            self.runs[what].append(run)
            self._note(what, run.seconds)

    # --- Beside it

    def pg_dump(self) -> None:
        """The reference of the backup."""
        self.rig.checkpoint()
        self._program("pg_dump", self.references.pg_dump())

    def pg_restore(self) -> None:
        """The reference of both restores."""
        self._program("pg_restore", self.references.pg_restore())
        self._check(TWIN, "pg_restore")
        self.rig.query(f"truncate {TABLE}", name=TWIN)

    def fastavro(self) -> None:
        """A plain writer, of fewer rows."""
        self.rig.checkpoint()
        seconds, ran = self.references.fastavro(self.fastavro_rows)
        self.programs["fastavro"].append(ran)
        self._note("fastavro", seconds * self.rows / self.fastavro_rows)

    def _program(self, what: str, ran: Ran) -> None:
        self.programs[what].append(ran)
        self._note(what, ran.seconds)

    def alternate(self, rounds: int, only: str | None) -> None:
        """Everything in turn, every other round in reverse order; a first backup warms the function up."""
        self.take(counts=False)
        self.references.pg_dump()
        steps: dict[str, list[Callable[[], None]]] = {
            "backup": [self.take, self.pg_dump, self.fastavro],
            "restore": [self.restore_empty, self.pg_restore, self.restore_damaged],
        }
        wanted = [step for part, some in steps.items() if only in (None, part) for step in some]
        for number in range(rounds):
            for step in wanted if number % 2 == 0 else reversed(wanted):
                step()

    def _note(self, what: str, seconds: float) -> None:
        self.times[what].seconds.append(seconds)
        self.rig.say(f"{what}: {seconds:.2f} s")

    def _check(self, name: str, what: str) -> None:
        """The table is what it was, and the roll-up a recount."""
        found = self._content(name)
        assert found == self.content, f"{what}: {found} is there, not {self.content}"
        assert self.rig.query(DIFFERENT_CELLS, name=name) == [(0,)], f"{what}: the roll-up differs from a recount"

    def _content(self, name: str) -> tuple[int, str]:
        with closing(psycopg2.connect(self.rig.server.url(name))) as conn:
            return checksum.of(conn, sql.Identifier(*TABLE.split(".")), FIELDS)


def lines(bench: Bench) -> list[Line]:
    """The rows of the table."""
    times, rows = bench.times, f"{bench.rows:,} rows"
    scaled = f"plain fastavro ({bench.fastavro_rows:,} rows, scaled)"
    dump = "pg_dump -Fc, to a file"
    native = "pg_restore --data-only, native keys"
    assert bench.backup is not None
    stored = sum(part.bytes for part in bench.backup.parts)
    found = [
        faster(f"backup of {rows}, to the bucket", times["backup"], dump, times["pg_dump"], 2),
        faster("the same, and verify: each value", times["backup, verified"], dump, times["pg_dump"], 2),
        faster(f"backup of {rows}, to the bucket", times["backup"], scaled, times["fastavro"], 1),
        faster(f"restore of {rows}, empty table", times["restore, empty"], native, times["pg_restore"], 4),
        faster(f"restore of {rows}, 1 % damaged", times["restore, 1 % damaged"], native, times["pg_restore"], 4),
    ]
    for what in bench.runs:
        took_s = times[what].median
        found.append(
            Line(f"rate, {what}", f"{bench.rows / took_s:,.0f} rows/s, {stored / took_s / 1e6:.1f} MB/s stored")
        )
    size = f"{stored / 1e6:.1f} MB in {len(bench.backup.parts)} parts"
    found.append(Line("size", size, f"{bench.references.dump.stat().st_size / 1e6:.1f} MB  pg_dump -Fc"))
    for what, runs in bench.runs.items():
        function, backend = peaks(runs)
        shown = f"function {function:.0f} MB, database backend {backend:.0f} MB"
        found.append(under(f"peak RSS, {what}", function, 300, "MB", shown))
    for what, programs in bench.programs.items():
        found.append(Line(f"peak RSS, {what}", f"{max(ran.peak_mb for ran in programs):.0f} MB"))
    return found + [line for line in cold_start.lines() if line.work.endswith(("backup", "restore"))]


def shares(bench: Bench) -> list[str]:
    """Whose time it is: processor seconds of each side in the middle run of each kind, against the wall clock."""
    found = [f"{what}: {middle(runs)}" for what, runs in bench.runs.items()]
    for what, programs in bench.programs.items():
        cpu_s = median(ran.cpu_s for ran in programs)
        found.append(
            f"{what}: {median(ran.seconds for ran in programs):.2f} s on the clock; its own processor {cpu_s:.2f} s"
        )
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run it all; 0 when every result was right, whatever the speed."""
    parser = argparse.ArgumentParser(prog="python -m bench.backup", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=5_000_000, help="rows of the table (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind (default: %(default)s)")
    parser.add_argument("--only", choices=("backup", "restore"), help="measure the one alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as JSON too")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the gigabytes in the folder go, too
    busy = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="rowdock-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        needed = options.rows * BYTES_A_ROW + (6 << 30)
        if shutil.disk_usage(folder).free < needed:
            parser.error(f"{folder.parent} lacks {needed / 1e9:.0f} GB of room; set TMPDIR or ask for fewer --rows")
        functions = {name: {"DEADLINE_S": DEADLINE_S} for name in ("backup", "restore")}
        with rig.running(folder, lambda text: print(f"  {text}", file=sys.stderr, flush=True), functions) as on:
            bench = Bench(on, folder, options.rows)
            bench.alternate(options.rounds, options.only)
            settings, store = on.settings(), on.store_server.kind
            table = lines(bench)
    where = f"{os.cpu_count()} cores, {store}, load average {busy:.2f} before, "
    where += ", ".join(f"{name} {value}" for name, value in settings.items())
    print(f"Backup, {options.rows:,} rows, medians of {options.rounds} alternating runs; the same server for all.")
    print(f"{where}\n\n{as_text(table)}\n\n" + "\n".join(shares(bench)))
    if options.json:
        figures = {what: times.seconds for what, times in bench.times.items()}
        report = as_json(table, rows=options.rows, settings=settings, store=store, seconds=figures)
        options.json.write_text(json.dumps({**report, "shares": shares(bench)}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
