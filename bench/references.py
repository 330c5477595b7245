"""What ingest is compared with, on the same server: PostgreSQL's own ``\\copy``, the limit of one COPY, pgloader."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections import defaultdict
from pathlib import Path

from bench.processes import children, ended_children_cpu_s
from bench.rig import Rig

DATABASE = "reference"
END_TIMEOUT_S = 5.0
CATALOGUES = ("departments", "jobs")
COLUMNS = "id, employee_name, hired_date, department_id, job_id"
# The same tables as anyone would set them up: primary keys, and foreign keys that the server enforces row by row.
TABLES = """
create table departments (id integer primary key, departments text not null);
create table jobs (id integer primary key, job text not null);
create table employees_native (
  id integer primary key, employee_name text not null, hired_date timestamptz not null,
  department_id integer not null references departments, job_id integer not null references jobs);
create table employees_limit (
  id integer primary key, employee_name text not null, hired_date timestamptz not null,
  department_id integer not null, job_id integer not null);
"""
PGLOADER = """
LOAD CSV FROM '{path}' HAVING FIELDS ({columns})
INTO {url} TARGET TABLE public.employees_native TARGET COLUMNS ({columns})
WITH fields terminated by ',' SET timezone TO 'UTC';
"""


class References:
    """A database of its own on the rig's server, holding the parents and empty tables of employees."""

    def __init__(self, rig: Rig, samples: Path, work: Path) -> None:
        self._rig = rig
        self._work = work
        self.server_cpu_s: dict[str, list[float]] = defaultdict(list)  # by table: PostgreSQL's part in each copy
        rig.query(f"create database {DATABASE} owner rowdock")
        rig.psql(TABLES, DATABASE)
        for name in CATALOGUES:
            rig.psql(f"\\copy {name} from '{samples / name}.csv' with (format csv)\n", DATABASE)

    def native(self, path: Path, rows: int) -> float:
        """Seconds of ``\\copy`` into the tables with native foreign keys."""
        return self._copy("employees_native", path, "format csv", rows)

    def limit(self, path: Path, rows: int) -> float:
        """Seconds of ``\\copy`` as text (no quotes to look for) into a table with nothing but a primary key."""
        return self._copy("employees_limit", path, "format text, delimiter ','", rows)

    def pgloader(self, path: Path, rows: int) -> float | None:
        """Seconds of pgloader into the tables with native foreign keys, or None where it is not installed."""
        binary = shutil.which("pgloader")
        if binary is None:
            return None
        self._empty()
        commands = self._work / "employees.load"
        commands.touch(mode=0o600)  # it names the password
        commands.write_text(PGLOADER.format(path=path, columns=COLUMNS, url=self._rig.server.url(DATABASE, "rowdock")))
        started = time.perf_counter()
        done = subprocess.run(
            [binary, "--root-dir", self._work / "pgloader", "--quiet", commands], capture_output=True, check=False
        )
        took_s = time.perf_counter() - started
        commands.unlink()
        if done.returncode:
            raise RuntimeError(f"pgloader ended with status {done.returncode}")
        self._check("employees_native", rows)
        return took_s

    def _copy(self, table: str, path: Path, options: str, rows: int) -> float:
        self._empty()
        postmaster = self._rig.server.pid
        before, there = ended_children_cpu_s(postmaster), children(postmaster)
        took_s = self._rig.psql(f"\\copy {table} ({COLUMNS}) from '{path}' with ({options})\n", DATABASE)
        self._wait_for_end(postmaster, there)
        self.server_cpu_s[table].append(ended_children_cpu_s(postmaster) - before)
        self._check(table, rows)
        return took_s

    def _wait_for_end(self, postmaster: int, there: set[int]) -> None:
        """Wait until psql's backend, which ends a moment after psql, has ended (or an autovacuum takes too long)."""
        deadline = time.monotonic() + END_TIMEOUT_S
        while not children(postmaster) <= there and time.monotonic() < deadline:
            time.sleep(0.01)

    def _empty(self) -> None:
        self._rig.query("truncate employees_native, employees_limit", name=DATABASE)
        self._rig.checkpoint()

    def _check(self, table: str, rows: int) -> None:
        found = self._rig.query(f"select count(*) from {table}", name=DATABASE)[0][0]
        assert found == rows, f"{table} holds {found} rows, not {rows}: this reference did not do the work"
        self._rig.query("truncate employees_native, employees_limit", name=DATABASE)
