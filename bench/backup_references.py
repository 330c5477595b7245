"""What backup and restore are compared with: pg_dump, pg_restore into native keys, a plain writer with fastavro."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bench import processes
from bench.processes import Ran
from bench.rig import BACKUP_BUCKET, ROOT, Rig
from local_emulator import database
from shared import migrate

TWIN = "native"
TABLE = "hired_employees.hired_employees"


class References:
    """pg_dump of the live table, and a database migrated as the live one, whose keys PostgreSQL enforces itself."""

    def __init__(self, rig: Rig, folder: Path, catalogues: Path) -> None:
        self._rig = rig
        self._written = 0
        self.dump = folder / "employees.dump"
        self._url = rig.server.url(TWIN, database.OWNER)
        rig.query(f"create database {TWIN} owner {database.OWNER}")
        migrate.migrate(self._url)
        rig.query("select rowdock.native_keys(%s::regclass)", TABLE, name=TWIN)
        for name in ("departments", "jobs"):
            rig.psql(f"\\copy hired_employees.{name} from '{catalogues / name}.csv' with (format csv)\n", TWIN)

    def pg_dump(self) -> Ran:
        """``pg_dump -Fc`` of the table into a local file: it need not cross to the store, as ours must."""
        return processes.run(
            [
                self._program("pg_dump"),
                "-Fc",
                "-t",
                TABLE,
                "-f",
                self.dump,
                "-d",
                self._rig.server.url(database.DATABASE),
            ]
        )

    def pg_restore(self) -> Ran:
        """``pg_restore --data-only`` of that file into the empty twin."""
        self._rig.query(f"truncate {TABLE}", name=TWIN)
        self._rig.checkpoint()
        return processes.run([self._program("pg_restore"), "--data-only", "-d", self._url, self.dump])

    def fastavro(self, rows: int) -> tuple[float, Ran]:
        """Seconds that ``bench.twins.fastavro_out`` took for ``rows`` rows, and what the program used."""
        self._written += 1
        environment = {
            "PATH": os.environ["PATH"],
            "DATABASE_URL": self._rig.server.url(database.DATABASE),
            "STORAGE_URL": self._rig.store_server.url,
            "BACKUP_BUCKET": BACKUP_BUCKET,
        }
        name = f"fastavro/{self._written}.avro"
        ran = processes.run(
            [sys.executable, "-m", "bench.twins.fastavro_out", name, str(rows)], environment, cwd=ROOT
        )  # fmt: skip
        return float(ran.output), ran

    def _program(self, name: str) -> Path:
        return self._rig.server.bin_dir / name
