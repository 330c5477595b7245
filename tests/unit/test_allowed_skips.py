"""CI's plugin: what was skipped is printed with its reason, and only a known reason lets the run pass."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # each starts a pytest of its own
ROOT = Path(__file__).resolve().parents[2]
CONFIGURATION = "[pytest]\nmarkers =\n    store\n    browser\n"
PASSES = "def test_passes(): pass\n"
REAL_FILES = "the real files are not at ../shared/data/challenge"
IN_A_FIXTURE = f"""
@pytest.fixture
def challenge_data():
    pytest.skip({REAL_FILES!r})

def test_real_files(challenge_data): pass
"""
BY_MARK = "@pytest.mark.skipif(True, reason={0!r})\n{1}\ndef test_left_out(): pass\n"
RUNS = {
    "nothing skipped": ("", 0, ""),
    "an allowed reason": (IN_A_FIXTURE, 0, f"test_it.py::test_real_files: {REAL_FILES}"),
    "an allowed mark": (
        BY_MARK.format("only root has to become somebody else", ""),
        0,
        "test_it.py::test_left_out: only root has to become somebody else",
    ),
    "another reason": (BY_MARK.format("no time today", ""), 1, "test_it.py::test_left_out: no time today"),
    "a bare skip": (
        "@pytest.mark.skip\ndef test_left_out(): pass\n",
        1,
        "test_it.py::test_left_out: unconditional skip",
    ),
    "a store's test": (
        BY_MARK.format(REAL_FILES, "@pytest.mark.store"),
        1,
        f"test_it.py::test_left_out: {REAL_FILES}",
    ),
    "a browser's test": (
        BY_MARK.format(REAL_FILES, "@pytest.mark.browser"),
        1,
        f"test_it.py::test_left_out: {REAL_FILES}",
    ),
    "a whole module": (
        "pytest.importorskip('no_such_module', reason='no such module')\n",
        1,
        "test_it.py: no such module",
    ),
    "expected to fail": ("@pytest.mark.xfail\ndef test_wrong(): assert False\n", 0, ""),
}


def run(folder: Path, source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "pytest.ini").write_text(CONFIGURATION)
    (folder / "test_it.py").write_text(f"import pytest\n{source}{PASSES}")
    plugin = [sys.executable, "-m", "pytest", "-p", "allowed_skips", "-p", "no:cacheprovider", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / ".ci"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(plugin, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("source", "status", "line"), RUNS.values(), ids=RUNS)
def test_a_skip_passes_for_a_known_reason_alone(tmp_path: Path, source: str, status: int, line: str) -> None:
    """Marked store or browser it never does."""
    done = run(tmp_path, source, "-q")
    assert done.returncode == status, done.stdout + done.stderr
    assert line in done.stdout.splitlines() or not line
    assert ("CI must not skip them" in done.stdout) == bool(status)


def test_what_workers_skip_counts_too(tmp_path: Path) -> None:
    """Under xdist, which CI uses."""
    done = run(tmp_path, RUNS["another reason"][0] + IN_A_FIXTURE, "-p", "xdist", "-n", "1")
    assert done.returncode == 1
    printed = done.stdout.splitlines()
    must_not, may = (next(i for i, line in enumerate(printed) if text in line) for text in ("must not", "CI allows"))
    assert printed[must_not + 1] == "test_it.py::test_left_out: no time today"
    assert printed[may + 1] == f"test_it.py::test_real_files: {REAL_FILES}"


def test_ci_runs_every_test_with_the_plugin() -> None:
    script = (ROOT / ".ci/run").read_text()
    assert re.search(r'PYTHONPATH=\.ci.* make test ARGS="[^"]*-p allowed_skips', script)
