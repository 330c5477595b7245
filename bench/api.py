"""The API over HTTP, as functions-framework serves it, beside the least and the most that others do.

``python -m bench.api [--seconds S] [--rounds N] [--rows N] [--only NAME] [--json FILE]``. Ours and its references run
in turn, every other round in reverse order, on one PostgreSQL and under as many processes; figures are medians, and a
ratio is the middle one of the rounds'. A status other than the right one ends the run, and what a batch answered is
compared with what the table holds.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import asdict
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from typing import Any

import psycopg2

from bench import load, servers
from bench.load import Load, Shot
from bench.report import Line, Rates, as_json, as_text, rate
from bench.servers import HERE, SMALL, Site
from local_emulator import database, samples
from shared import api_keys

CLIENTS = 8
JOBS = 78  # with twelve departments 936 pairs, as the real files have 933
READ_ROWS = 10_000  # that single rows and lists are read from
SMALL_ROWS = 2000
YEAR = 2021
BATCH_ROWS, SMALL_BATCH_ROWS = 1000, 10
SEED_ROWS = 10  # the rate does not depend on it, and a batch of 1000 takes it many seconds
FIRST_BATCH, LAST_BATCH = 100_000, 2_100_000  # fronts of ids, which end at 2,147,483,647
SAMPLE_S = 0.005
EMPTY = """
truncate hired_employees.hired_employees, twin.employees, ingest_status.parts, ingest_status.attempts,
  ingest_status.rejects, ingest_status.pending, ingest_status.wakeups, ingest_status.ingest_status
"""
# Two rows for most pairs: every pair of the large table, none twice as often as another.
SMALL_TABLE = f"""
insert into hired_employees.hired_employees
select n + 1, 'Ada Ashdown', timestamptz '{YEAR}-01-15Z' + (n % 12) * interval '1 month',
       1 + n % 12, 1 + n / 12 % {JOBS}
from generate_series(0, {SMALL_ROWS - 1}) n
"""
WAITING = """
select wait_event from pg_stat_activity where usename = 'api' and wait_event_type = 'Lock'
"""
ROW = Shot(f"/api/employees/{load.NUMBER}", first=1, last=READ_ROWS)
Server = Callable[[], AbstractContextManager[int]]


class Bench:
    """The pieces of work, on one site."""

    def __init__(self, site: Site, seconds: float, rounds: int, rows: int) -> None:
        self.site = site
        self.seconds = seconds
        self.rounds = rounds
        self.rows = rows
        self.rates: dict[str, Rates] = defaultdict(Rates)
        self.notes: list[str] = []

    def say(self, text: str) -> None:
        """Show how far it is."""
        print(f"  {text}", file=sys.stderr, flush=True)

    def measure(self, what: str, port: int, shot: Shot, clients: int = CLIENTS, rows: int = 1) -> Load:
        """Make one run and keep it; a batch counts as many as it has ``rows``."""
        before = self.site.cpu_s()
        found = load.fire(port, shot, clients, self.seconds)
        cpu_us = (self.site.cpu_s() - before) / found.answers * 1e6
        self.rates[what].unit = " rows/s" if rows > 1 else "/s"
        self.rates[what].add(found.rate * rows, found.p50_ms, found.p99_ms, cpu_us)
        self.say(f"{what}: {found.rate * rows:,.0f}/s, p50 {found.p50_ms:.2f} ms, p99 {found.p99_ms:.2f} ms")
        return found

    def alternate(self, runs: list[tuple[str, Server, Shot]], clients: int = CLIENTS) -> None:
        """Start them all, and ask each in turn once it is warm: a round is short, and one that is not asked idles."""
        with ExitStack() as stack:
            ready = [(what, stack.enter_context(server()), shot) for what, server, shot in runs]
            for _, port, shot in ready:
                load.fire(port, shot, clients, 1)
            for number in range(self.rounds):
                for what, port, shot in ready if number % 2 == 0 else reversed(ready):
                    self.measure(what, port, shot, clients)

    def fill(self) -> None:
        """Rows to read, in ours and in the twin's table."""
        self.site.query(EMPTY)
        path = self.site.folder / "read.csv"
        samples.write_employees(path, samples.Plan(READ_ROWS, jobs=JOBS))
        for table in ("hired_employees.hired_employees", "twin.employees"):
            self.site.copy(table, path)
        self.site.query("vacuum analyze hired_employees.hired_employees, twin.employees")

    # --- Reads

    def row(self) -> None:
        """One row by its id, beside a hello world, the query alone, FastAPI and the seed."""
        self.fill()
        runs: list[tuple[str, Server, Shot]] = [
            ("row", self.site.api, ROW), ("hello", self.site.hello, ROW), ("query alone", self.site.query_alone, ROW)
        ]  # fmt: skip
        if servers.has_twin():
            runs.append(("row, FastAPI", self.site.twin, ROW))
        self.alternate([*runs, ("row, seed", self.site.seed, ROW)])

    def others(self) -> None:
        """A list of 100 rows, and a row that is not there, beside one that is."""
        self.fill()
        missing = Shot("/api/employees/2000000000", expected=404)
        self.alternate(
            [
                ("row again", self.site.api, ROW),
                ("list", self.site.api, Shot("/api/employees?page_size=100")),
                ("missing", self.site.api, missing),
            ]
        )

    def key(self) -> None:
        """One row for a caller who has to show a key, beside one who has not."""
        self.fill()
        with closing(psycopg2.connect(self.site.server.url(database.DATABASE))) as conn, conn:
            text = api_keys.make(conn, "bench", ["read"], 1)
        shown = Shot(ROW.path, headers={"X-API-Key": text}, first=1, last=READ_ROWS)
        self.alternate([("no key", self.site.api, ROW), ("key", lambda: self.site.api(API_AUTH="required"), shown)])

    # --- Writes

    def batch(self) -> None:
        """Batches of 1000 new employees by 8 clients."""
        self._write("batch", self.site.api, BATCH_ROWS)
        runs: list[tuple[str, Server, int]] = [
            ("batch", self.site.api, BATCH_ROWS), ("batch, seed", self.site.seed, SEED_ROWS)
        ]  # fmt: skip
        if servers.has_twin():
            runs.append(("batch, FastAPI", self.site.twin, BATCH_ROWS))
        self.rates.pop("batch")  # the first one warmed the server's files up
        for number in range(self.rounds):
            for what, server, rows in runs if number % 2 == 0 else reversed(runs):
                self._write(what, server, rows)

    def small(self) -> None:
        """Batches of 10 by 8 clients, and whether one of them ever waited for another's lock."""
        for _ in range(self.rounds):
            with self._watched() as waited:
                self._write("small", self.site.api, SMALL_BATCH_ROWS)
            self.notes.append(
                f"small batches: {waited.pop('looks', 0):,} looks at pg_stat_activity,"
                f" writers found waiting for a lock: {dict(waited) or 'none'}"
            )

    def _write(self, what: str, server: Server, rows: int) -> None:
        """Send batches of ``rows`` into empty tables; what was answered is in the table."""
        self.site.query(EMPTY)
        self.site.query("checkpoint")
        shot = Shot(
            "/api/employees", "POST", {"Content-Type": "application/json"}, load.batch(rows), 201,
            FIRST_BATCH, LAST_BATCH,
        )  # fmt: skip
        with server() as port:
            _warm(port, shot)
            found = self.measure(what, port, shot, CLIENTS, rows)
        table = "hired_employees.hired_employees" if server == self.site.api else "twin.employees"
        ((there,),) = self.site.query(f"select count(*) from {table}")
        least, most = found.answers * rows, (found.answers + 1 + CLIENTS) * rows
        assert least <= there <= most, f"{what}: {there} rows are there, of {least} that were answered"

    @contextmanager
    def _watched(self) -> Iterator[Counter[str]]:
        """Look at what the API's sessions wait for while the body runs."""
        found, done = Counter[str](), threading.Event()

        def look() -> None:
            with closing(psycopg2.connect(self.site.server.url(database.DATABASE))) as conn:
                conn.autocommit = True
                with conn.cursor() as cursor:
                    while not done.wait(SAMPLE_S):
                        cursor.execute(WAITING)
                        found.update(event for (event,) in cursor.fetchall())
                        found["looks"] += 1

        watcher = threading.Thread(target=look)
        watcher.start()
        try:
            yield found
        finally:
            done.set()
            watcher.join()

    # --- Metrics

    def metrics(self) -> None:
        """A year's quarters over many rows and over 2,000 of the same pairs, one client; unfolded first."""
        self.site.query(EMPTY)
        self.site.query("truncate hired_employees.hired_employees", name=SMALL)
        path = self.site.folder / "metrics.csv"
        self.say(f"generating and loading {self.rows:,} rows")
        samples.write_employees(path, samples.Plan(self.rows, jobs=JOBS))
        self.site.copy("hired_employees.hired_employees", path)
        path.unlink()
        self.site.query(SMALL_TABLE, name=SMALL)
        with self.site.api() as large, self.site.api(SMALL) as small:
            self._same_pairs(large, small)
            self._fold(SMALL)
            self._beside("metrics, unfolded", large, small)
            self._fold(database.DATABASE)
            self._beside("metrics", large, small)

    def _fold(self, name: str) -> None:
        """As the sweep does every minute."""
        self.site.query("select metrics.fold(null)", name=name)
        self.site.query("vacuum analyze metrics.hires, metrics.hires_deltas", name=name)

    def _beside(self, what: str, large: int, small: int) -> None:
        shot = Shot(f"/api/{YEAR}/quarters")
        runs = [(what, large), (f"{what}, small", small)]
        for _, port in runs:
            load.fire(port, shot, 1, 1)
        for number in range(self.rounds):
            for name, port in runs if number % 2 == 0 else reversed(runs):
                self.measure(name, port, shot, 1)

    def _same_pairs(self, large: int, small: int) -> None:
        """Both answer with the same departments and jobs, and count all that there is."""
        answers = [_get(port, f"/api/{YEAR}/quarters")["data"] for port in (large, small)]
        pairs = [[(row["departments"], row["job"]) for row in rows] for rows in answers]
        assert pairs[0] == pairs[1], f"{len(pairs[0])} pairs and {len(pairs[1])} are not the same"
        hired = [sum(row[f"Q{quarter}"] for row in rows for quarter in (1, 2, 3, 4)) for rows in answers]
        assert hired[1] == SMALL_ROWS, hired
        counted = self.site.query(
            "select count(*) from hired_employees.hired_employees"
            " where extract(year from hired_date at time zone 'UTC') = %s", YEAR,
        )  # fmt: skip
        assert counted == [(hired[0],)], (counted, hired)
        self.notes.append(f"metrics: {len(pairs[0])} pairs of department and job in both")


PARTS: dict[str, Callable[[Bench], None]] = {
    "row": Bench.row, "others": Bench.others, "key": Bench.key, "batch": Bench.batch, "small": Bench.small,
    "metrics": Bench.metrics,
}  # fmt: skip


def _get(port: int, path: str) -> Any:
    with closing(HTTPConnection(HERE, port, timeout=60)) as connection:
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())


def _warm(port: int, shot: Shot) -> None:
    """One batch whose ids no other has: connections, statements and files are there before the clock starts."""
    assert shot.body is not None
    with closing(HTTPConnection(HERE, port, timeout=60)) as connection:
        connection.request(shot.method, shot.path, shot.body.replace(load.NUMBER, "99999"), dict(shot.headers))
        answer = connection.getresponse()
        assert answer.status == shot.expected, (answer.status, answer.read()[:300])


def lines(bench: Bench) -> list[Line]:
    """The rows of the table, of what was measured."""
    of, ran = bench.rates, bench.rates.keys()
    found = []
    if "row" in ran:
        found += [
            rate("one row by id", of["row"], "hello world, functions-framework", of["hello"], 0.7),
            rate(
                "the query alone (limit of a function)",
                of["query alone"],
                "hello world, functions-framework",
                of["hello"],
            ),
            rate("one row by id", of["row"], "the query alone", of["query alone"]),
            rate("one row by id", of["row"], "FastAPI + SQLModel", of["row, FastAPI"]),
            rate("one row by id", of["row"], "a connection each (seed)", of["row, seed"]),
        ]
    if "list" in ran:
        found += [
            rate("list of 100 rows", of["list"], "one row by id", of["row again"]),
            rate("404", of["missing"], "one row by id", of["row again"]),
        ]
    if "key" in ran:
        found.append(rate("one row, key asked for", of["key"], "no key asked for", of["no key"]))
    if "batch" in ran:
        rows_s = of["batch"].median
        found += [
            Line("batches of 1000, 8 clients", str(of["batch"]), "", None, "over 40,000 rows/s", rows_s > 40_000),
            rate(f"batches of 1000, seed's of {SEED_ROWS}", of["batch"], "row at a time (seed)", of["batch, seed"], 50),
            rate("batches of 1000", of["batch"], "FastAPI + SQLModel", of["batch, FastAPI"]),
        ]
    if "small" in ran:
        found.append(Line("batches of 10, 8 clients", str(of["small"])))
    if "metrics" in ran:
        found += [_times(bench, "metrics", "at most 1.2x the time"), _times(bench, "metrics, unfolded", "")]
    return found


def _times(bench: Bench, what: str, goal: str) -> Line:
    """How many times as long the middle answer takes as over 2,000 rows."""
    ours, small = (bench.rates[name].p50_ms for name in (what, f"{what}, small"))
    ratio = median(a / b for a, b in zip(ours, small, strict=True))
    work = f"{what}, {bench.rows:,} rows, one client"
    beside = f"{bench.rates[f'{what}, small']}  {SMALL_ROWS:,} rows, folded"
    return Line(work, str(bench.rates[what]), beside, ratio, goal, ratio <= 1.2 if goal else None)


def main(arguments: list[str] | None = None) -> int:
    """Run it; 0 when every answer was right, whatever the speed."""
    parser = argparse.ArgumentParser(prog="python -m bench.api", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3, help="of each run (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=5_000_000, help="for the metrics (default: %(default)s)")
    parser.add_argument("--only", choices=PARTS, action="append", help="this part alone; may be given again")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as JSON too")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers end and the folder goes, too
    workers = os.cpu_count() or 1
    with (
        tempfile.TemporaryDirectory(prefix="rowdock-bench-", ignore_cleanup_errors=True) as name,
        servers.running(Path(name), workers, JOBS) as site,
    ):
        bench = Bench(site, options.seconds, options.rounds, options.rows)
        busy = f"{os.getloadavg()[0]:.1f} at the start"
        started = time.monotonic()
        for part in options.only or PARTS:
            PARTS[part](bench)
        busy += f", {os.getloadavg()[0]:.1f} at the end"
    print(
        f"API, {CLIENTS} clients ({load.generator()}), medians of {options.rounds} alternating runs of"
        f" {options.seconds:g} s; {workers} processes each on {workers} cores, which clients and PostgreSQL share."
    )
    print(f"{servers.versions()}; load average {busy}; {time.monotonic() - started:.0f} s in all")
    print(f"\n{as_text(lines(bench))}\n\n" + "\n".join(bench.notes))
    if options.json:
        rates = {what: asdict(found) for what, found in bench.rates.items()}
        options.json.write_text(json.dumps(as_json(lines(bench), rates=rates, notes=bench.notes), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
