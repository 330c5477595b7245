"""``make demo``: files become rows, rejects and history; a damaged table comes back; every number is the expected one.

Everything is fresh, on free ports, in a folder that is thrown away; nothing it started outlives it. Exit status 0 only
if each count is what the generator of the files says.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2

from local_emulator import samples
from local_emulator.children import Child, ChildFailed
from local_emulator.samples import Expected, Plan, spread
from local_emulator.state import Running, StateFolder
from shared import outbound

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 180.0
DRAIN_TIMEOUT_S = 600.0
POLL_S = 0.05
FIRST_MENDED_ID = 900_000_000  # where no sample reaches: a row whose id was taken gets one from here on
NUMBERS = ("read", "loaded", "unchanged", "rejected", "pending")
FINGERPRINT = "select sum(hashtextextended(e::text || e.xmin, 0)) from hired_employees.hired_employees e"
CONTENT = "select count(*) || ' rows, ' || sum(hashtextextended(e::text, 0)) from hired_employees.hired_employees e"
OPEN = "select count(*) from ingest_status.rejects r where load_id = %s and closed_as is null"


BATCH: dict[str, list[dict[str, Any]]] = {
    "departments": [{"id": 9001, "departments": "Observatory"}],
    "jobs": [{"id": 9001, "job": "Chief Stargazer"}],
    "employees": [
        {
            "id": 910_000_001,
            "employee_name": "Astrid Winterbourne",
            "hired_date": "2021-07-01T08:00:00Z",
            "department_id": 9001,
            "job_id": 9001,
        },
        {"id": 910_000_002, "employee_name": "", "hired_date": "2021-07-02", "department_id": 9001, "job_id": 9001},
    ],
}
BATCH_COUNTS = {"received": 4, "inserted": 3, "rejected": 1}
BATCH_ERRORS = [
    ("/employees/1/employee_name", "employee_name.missing"),
    ("/employees/1/hired_date", "hired_date.no_time"),
]
# What somebody does to the table by mistake, and how many rows it is.
DAMAGE = """
    delete from hired_employees.hired_employees where id % 10 = 3;
    update hired_employees.hired_employees
    set employee_name = 'Overwritten', hired_date = hired_date + interval '100 days' where id % 10 = 7
"""
DAMAGED = """
    select array[count(*) filter (where id % 10 = 3), count(*) filter (where id % 10 = 7)]
    from hired_employees.hired_employees
"""
ADDED = {"id": 910_000_003, "employee_name": "Nobody Knows", "hired_date": "2021-08-01T08:00:00Z"}
# What the API reads from roll-ups, counted from the rows.
BUSIEST_YEAR = """
    select extract(year from hired_date at time zone 'UTC')::int from hired_employees.hired_employees
    group by 1 order by count(*) desc, 1 limit 1
"""
HIRED_BY_QUARTER = """
    select array_agg(hired order by quarter) from (
      select q.quarter, count(e.id)::int as hired
      from generate_series(1, 4) q (quarter)
      left join hired_employees.hired_employees e
        on extract(quarter from e.hired_date at time zone 'UTC') = q.quarter
        and extract(year from e.hired_date at time zone 'UTC') = %s
      group by 1) counted
"""
ABOVE_THE_MEAN = """
    with counted as (
      select d.id, count(e.id)::int as hired from hired_employees.departments d
      left join hired_employees.hired_employees e
        on e.department_id = d.id and extract(year from e.hired_date at time zone 'UTC') = %s
      group by 1)
    select coalesce(json_agg(json_build_array(id, hired) order by hired desc, id), '[]') from counted
    where hired > (select avg(hired) from counted)
"""


class Unexpected(Exception):
    """A command failed, or something did not happen in time."""


@dataclass(frozen=True, slots=True)
class Drop:
    """One file that was dropped, and what came of it: ``outcome`` is what ``upload --wait --json`` says."""

    title: str
    outcome: Mapping[str, Any]
    load_id: int


class Demo:
    """One run on a running emulator.

    Args:
        state: the emulator's folder.
        files: holds departments.csv, jobs.csv and hired_employees.csv.
        expected: what these three must give, in this order.
        say: takes each line of the story.
    """

    def __init__(
        self,
        state: Path,
        files: Path,
        expected: tuple[Expected, Expected, Expected],
        say: Callable[[str], None],
    ) -> None:
        self._state = state
        self._files = files
        self._departments, self._jobs, self._employees = expected
        self._running = _ready(state)
        self._say = say
        self._drops: list[Drop] = []
        self.wrong: list[str] = []

    def run(self) -> None:
        """Tell the whole story, then the table; what was not as expected is in ``wrong``.

        Raises:
            Unexpected: a step could not be made.
        """
        with closing(psycopg2.connect(self._running.environment["DATABASE_URL"])) as self._conn:
            self._conn.autocommit = True
            self._children_first()
            self._parents()
            self._mend()
            self._same_again()
            self._over_http()
            self._restore(self._back_up())
            self._look_over()
        self._say("\n" + table(self._drops))

    # The story

    def _children_first(self) -> None:
        self._say("\n1. The employees come first: their departments and jobs are not there yet")
        good = self._employees.loaded + self._employees.unchanged + self._employees.pending
        first = self._drop("employees, first", self._employees.file)
        self._expect_counts(first, loaded=0, unchanged=0, pending=good)
        self._expect("rows in the table", self._rows("hired_employees"), 0)
        self._say(f"   {good:,} good rows wait for their parents; {self._employees.rejects:,} bad ones are logged")

    def _parents(self) -> None:
        self._say("\n2. The parents arrive, and what waited goes in by itself")
        for expected in (self._departments, self._jobs):
            drop = self._drop(expected.table, expected.file)
            self._expect_counts(drop, loaded=expected.rows, expected=expected)
        self._watch_pending()
        self._expect("employees in the table", self._rows("hired_employees"), self._employees.loaded)

    def _watch_pending(self) -> None:
        """Show how the number of waiting rows falls to what no parent comes for."""
        deadline, shown = time.monotonic() + DRAIN_TIMEOUT_S, -1
        while (waiting := self._value("select count(*) from ingest_status.pending")) > self._employees.pending:
            if waiting != shown:
                self._say(f"   {waiting:>9,} rows wait")
                shown = waiting
            if time.monotonic() > deadline:
                raise Unexpected(f"{waiting} rows still wait after {DRAIN_TIMEOUT_S:g} s")
            time.sleep(POLL_S)
        self._say(f"   {waiting:>9,} rows wait: {self._rows('hired_employees'):,} employees are in the table")

    def _mend(self) -> None:
        self._say("\n3. The rejects are exported, mended and dropped again")
        first = self._drops[0]
        exported, mended = self._files / "rejects.csv", self._files / "mended_employees.csv"
        self._command("rejects", "export", str(first.load_id), "--out", str(exported))
        rows = mend(exported, mended)
        self._expect("exported rejects", rows, self._employees.rejects)
        if rows == 0:
            return
        drop = self._drop("employees, mended", mended.name)
        self._expect_counts(drop, read=rows, loaded=rows, rejected=0)
        total = self._employees.loaded + rows
        self._expect("employees in the table", self._rows("hired_employees"), total)
        self._expect("rejects still open", self._value(OPEN, first.load_id), 0)
        self._say(f"   {total:,} employees; every reject of the first file is closed")

    def _same_again(self) -> None:
        self._say("\n4. The first file again changes nothing, nor what was mended since")
        before = self._fingerprint()
        again = self._drop("employees, again", self._employees.file)
        same = self._employees.loaded + self._employees.unchanged
        self._expect_counts(again, loaded=0, unchanged=same, pending=self._employees.pending)
        self._expect("fingerprint of the table", self._fingerprint(), before)
        self._command("rejects", "dismiss", "--load", str(again.load_id))

    def _over_http(self) -> None:
        self._say("\n5. The same tables over HTTP: a batch, a row, the metrics")
        status, answer = self._ask("POST", "/api/batch", BATCH)
        counts = {name: answer["counts"][name] for name in ("received", "inserted", "rejected")}
        self._expect("the batch: status and counts", (status, counts), (207, BATCH_COUNTS))
        told = [(error["pointer"], error["code"]) for error in answer["errors"]]
        self._expect("the batch: what is told of its bad row", told, BATCH_ERRORS)
        for pointer, code in told:
            self._say(f"   207: 3 of 4 rows are in; {pointer} {code}")
        row = BATCH["employees"][0]
        self._expect("the row", self._ask("GET", f"/api/employees/{row['id']}"), (200, {"data": row}))
        year = self._value(BUSIEST_YEAR)
        _, quarters = self._ask("GET", f"/api/{year}/quarters")
        _, departments = self._ask("GET", f"/api/{year}/departments")
        hired = [sum(row[quarter] for row in quarters["data"]) for quarter in ("Q1", "Q2", "Q3", "Q4")]
        self._expect(f"hires of {year} by quarter", hired, self._value(HIRED_BY_QUARTER, year))
        above = [[row["department_id"], row["hired"]] for row in departments["data"]]
        self._expect(f"departments above the mean of {year}", above, self._value(ABOVE_THE_MEAN, year))
        shown = " / ".join(f"{number:,}" for number in hired)
        self._say(f"   hired in {year}, by quarter: {shown}; {len(above)} departments above the mean")

    def _back_up(self) -> str:
        self._say("\n6. A backup, called as its schedule calls it, and verified down to each row")
        ran = json.loads(self._command("run", "backup", "--json"))["answer"]["data"]
        rows = {table["table"]: table["rows"] for table in ran["tables"]}
        self._expect("employees in the backup", rows["hired_employees"], self._rows("hired_employees"))
        looked_at = json.loads(self._command("run", "verify", "--json"))["answer"]["data"]
        found = [(look["backup_id"], look["ok"]) for look in looked_at]
        self._expect("the verification", found, [(ran["backup_id"], True)])
        self._say(f"   {ran['backup_id']}: {ran['rows']:,} rows of {len(rows)} tables in {ran['bytes']:,} bytes")
        return str(ran["backup_id"])

    def _restore(self, backup_id: str) -> None:
        self._say("\n7. The table is damaged: rows are deleted and changed, in psql and over HTTP")
        year, content = self._value(BUSIEST_YEAR), self._value(CONTENT)
        deleted, changed = self._value(DAMAGED)
        _, metrics = self._ask("GET", f"/api/{year}/quarters")
        self._command("exec", "--", "psql", "-q", "-c", DAMAGE)
        row = {**BATCH["employees"][0], **ADDED}
        self._expect("the row that nobody knows", self._ask("POST", "/api/employees", {"data": [row]})[0], 201)
        damaged = self._value(CONTENT)
        self._expect("damage to the table", damaged != content, True)

        self._say("   What a restore would do, and then that restore:")
        wanted = {"inserted": deleted, "updated": changed, "deleted": 1}
        for option in ("--dry-run", "--yes"):
            answer = self._command("restore", "hired_employees", "--backup", backup_id, option, "--json")
            (table,) = json.loads(answer)["tables"]
            self._expect(f"restore {option}", {name: table[name] for name in wanted}, wanted)
            left = damaged if option == "--dry-run" else content
            self._expect(f"the table after restore {option}", self._value(CONTENT), left)
        self._say(f"   {deleted:,} rows are back, {changed:,} as they were, 1 is gone: {self._value(CONTENT)}")
        self._expect("metrics after the restore", self._ask("GET", f"/api/{year}/quarters")[1], metrics)
        hired = [sum(row[quarter] for row in metrics["data"]) for quarter in ("Q1", "Q2", "Q3", "Q4")]
        self._expect(f"hires of {year} by quarter, counted", self._value(HIRED_BY_QUARTER, year), hired)
        self._command("verify", backup_id)

    def _ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Call the API as any client would; returns the status and the answer's JSON."""
        self._say(f"   $ curl {'' if method == 'GET' else f'-X {method} '}localhost{path}")
        content = None if body is None else json.dumps(body).encode()
        headers = {} if content is None else {"Content-Type": "application/json"}
        status, answer = outbound.exchange(method, self._running.url + path, headers=headers, body=content)
        return status, json.loads(answer)

    def _look_over(self) -> None:
        self._say("\n8. Keys and roll-ups are counted again")
        self._command("check")
        self._command("rollup", "verify")

    # Steps

    def _drop(self, title: str, name: str) -> Drop:
        answer = self._command("upload", str(self._files / name), "--wait", "--json")
        outcome = json.loads(answer)[0]
        load_id = self._value("select max(id) from ingest_status.ingest_status where object_name = %s", name)
        self._drops.append(Drop(title, outcome, load_id))
        return self._drops[-1]

    def _command(self, *arguments: str) -> str:
        """Run one of the emulator's commands, as its user would, and return what it prints."""
        shown = [" ".join(argument.removeprefix(f"{self._files}/").split()) for argument in arguments]
        self._say(f"   $ python -m local_emulator {shlex.join(shown)}")
        done = subprocess.run(
            [sys.executable, "-m", "local_emulator", arguments[0], "--state", self._state, *arguments[1:]],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            raise Unexpected(f"{' '.join(shown)} ended with status {done.returncode}: {done.stdout.strip()}")
        return done.stdout

    def _expect_counts(self, drop: Drop, *, expected: Expected | None = None, **counts: int) -> None:
        """Compare a file's end with what it must be; what ``counts`` leaves out is 0, or the employees' own."""
        employees = self._employees if expected is None else expected
        wanted = {"read": employees.rows, "rejected": employees.rejects, "unchanged": 0, "pending": 0} | counts
        for name, value in wanted.items():
            self._expect(f"{drop.title}: {name}", drop.outcome.get(name), value)
        reasons = {} if wanted["rejected"] == 0 else dict(employees.rejected)
        self._expect(f"{drop.title}: reasons", drop.outcome.get("rejects_by_reason"), reasons)

    def _expect(self, what: str, found: object, wanted: object) -> None:
        if found != wanted:
            self.wrong.append(f"{what}: expected {wanted}, found {found}")

    def _rows(self, name: str) -> int:
        return int(self._value(f"select count(*) from hired_employees.{name}"))  # noqa: S608  # our own table names

    def _fingerprint(self) -> str:
        """A sum over every row, its last writer included: an update that writes the same values shows, too."""
        return str(self._value(FINGERPRINT))

    def _value(self, statement: str, *values: object) -> Any:
        with self._conn.cursor() as cursor:
            cursor.execute(statement, values or None)
            row = cursor.fetchone()
            return row[0] if row else None


# Mending by code what a person would mend in a spreadsheet


def mend(exported: Path, mended: Path) -> int:
    """Write every exported reject, made right, to ``mended``; returns how many there are.

    Raises:
        Unexpected: a reject has a reason that the samples do not have.
    """
    with exported.open(newline="", encoding="utf-8") as source, mended.open("w", newline="", encoding="utf-8") as out:
        reader = csv.DictReader(source)
        fields = list(reader.fieldnames or [])
        writer = csv.DictWriter(out, fields, lineterminator="\n")
        writer.writeheader()
        count = 0
        for count, row in enumerate(reader, start=1):  # noqa: B007  # the last value is the result
            for reason in row["_reasons"].split():
                MENDING.get(reason, _unknown_reason)(row, fields[:5])
            writer.writerow(row)
        return count


def _unknown_reason(row: dict[str, str], columns: list[str]) -> None:
    raise Unexpected(f"the demo does not know how to mend {row['_reasons']!r} of reject {row['_reject_id']}")


def _set(column: str, value: str) -> Callable[[dict[str, str], list[str]], None]:
    def put(row: dict[str, str], columns: list[str]) -> None:
        row[column] = value

    return put


def _again_from_raw(row: dict[str, str], columns: list[str]) -> None:
    """Take the fields from the line as it came: a stray quote goes, a missing job is 1, what is too much is cut."""
    values = row["_raw"].replace('"', "").split(",")
    row.update(zip(columns, [*values, "1"], strict=False))


def _add_zone(row: dict[str, str], columns: list[str]) -> None:
    row["hired_date"] += "Z"


def _whole_number(row: dict[str, str], columns: list[str]) -> None:
    row["department_id"] = row["department_id"].partition(".")[0]


def _other_id(row: dict[str, str], columns: list[str]) -> None:
    row["id"] = str(FIRST_MENDED_ID + int(row["_line"]))


MENDING: Mapping[str, Callable[[dict[str, str], list[str]], None]] = {
    "employee_name.missing": _set("employee_name", "Name Found Later"),
    "hired_date.missing": _set("hired_date", "2021-06-01T08:00:00Z"),
    "hired_date.not_timestamp": _set("hired_date", "2021-02-28T08:00:00Z"),
    "hired_date.no_zone": _add_zone,
    "department_id.missing": _set("department_id", "1"),
    "department_id.not_integer": _whole_number,
    "job_id.missing": _set("job_id", "1"),
    "id.duplicate": _other_id,
    "record.column_count": _again_from_raw,
    "record.quote": _again_from_raw,
}


# The table


def table(drops: list[Drop]) -> str:
    """What came of every file."""
    head = f"{'file':<20}{'rows':>9}{'loaded':>9}{'unchanged':>11}{'rejected':>10}{'pending':>9}{'seconds':>9}"
    lines = [head, "-" * len(head)]
    for drop in drops:
        numbers = [drop.outcome.get(name) for name in NUMBERS]
        cells = "".join(f"{value or 0:>{width},}" for value, width in zip(numbers, (9, 9, 11, 10, 9), strict=True))
        lines.append(f"{drop.title:<20}{cells}{drop.outcome['seconds']:>9.2f}")
        reasons = drop.outcome.get("rejects_by_reason") or {}
        lines += [f"{'':<49}{count:>10,}  {reason}" for reason, count in sorted(reasons.items())]
    return "\n".join(lines)


# Around it


@contextmanager
def emulator(state: Path, say: Callable[[str], None], *extra: str) -> Iterator[None]:
    """Run a fresh emulator on free ports; it ends with the block, or with this process, however that ends.

    Raises:
        ChildFailed: it did not become ready; the message shows the end of its log.
    """
    say("Starting PostgreSQL, an object store and the functions (no port of yours is used)")
    started = time.monotonic()
    command = [sys.executable, "-m", "local_emulator", "up", "--fresh", "--state", state, "--port", "0", *extra]
    child = Child("emulator", command, cwd=ROOT, death_signal=signal.SIGTERM)
    try:
        child.wait_ready(lambda: StateFolder(state).running() is not None, START_TIMEOUT_S)
        say(f"Ready after {time.monotonic() - started:.1f} s: {_ready(state).storage}, {_ready(state).url}")
        yield
    finally:
        child.stop(signal.SIGTERM, timeout_s=60)


def _ready(state: Path) -> Running:
    running = StateFolder(state).running()
    if running is None:
        raise Unexpected(f"no emulator runs with {state}")
    return running


def run(files: Path, expected: tuple[Expected, Expected, Expected], say: Callable[[str], None], *extra: str) -> int:
    """The demo on ``files``; returns the exit status."""
    with tempfile.TemporaryDirectory(prefix="rowdock-demo-", ignore_cleanup_errors=True) as folder:
        state = Path(folder)
        try:
            with emulator(state, say, *extra):
                demo = Demo(state, files, expected, say)
                demo.run()
        except (ChildFailed, Unexpected) as error:
            say(f"\nThe demo could not go on: {error}")
            return 1
    for line in demo.wrong:
        say(f"NOT AS EXPECTED  {line}")
    if not demo.wrong:
        say("\nEvery number is the expected one. Now your own files: make run, then see README.md")
    return 1 if demo.wrong else 0


def main(arguments: list[str] | None = None) -> int:
    """Generate files, drop them, compare."""
    parser = argparse.ArgumentParser(prog="python -m local_emulator.demo", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--employees", type=int, default=50_000, metavar="N", help="rows (default: %(default)s)")
    parser.add_argument("--bad-share", type=float, default=0.02, metavar="SHARE", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--storage", default="auto", metavar="auto|minio|seaweedfs|moto", help="default: %(default)s")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exit that leaves the blocks below, which clean up

    def say(line: str) -> None:
        print(line, flush=True)

    with tempfile.TemporaryDirectory(prefix="rowdock-files-") as name:
        plan = Plan(options.employees, seed=options.seed, bad=spread(options.bad_share))
        expected = samples.write(Path(name), plan)
        say(f"Generated {options.employees:,} employees, 12 departments, 183 jobs. Loading them must give:")
        say(samples.table(expected))
        return run(Path(name), expected, say, "--storage", options.storage)


if __name__ == "__main__":
    sys.exit(main())
