"""Cold start: how long a fresh Python takes to import each function, beside one that does nothing.

``python -m bench.cold_start``. What a function imports at its first call is left out: that is the first call's time.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections import defaultdict
from functools import cache
from pathlib import Path

from bench.report import Line, Times, as_text

ROOT = Path(__file__).resolve().parents[1]
FUNCTIONS = ("ingest", "api", "backup", "restore")
RUNS = 5
LIMIT_S = 0.5


def seconds(program: str) -> float:
    """Wall time of a fresh Python that runs ``program``, from fork to exit.

    Raises:
        CalledProcessError: it failed, and measured nothing.
    """
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
    return time.perf_counter() - started


@cache  # the table and its JSON show the same run
def measure() -> dict[str, Times]:
    """Times by function, and of nothing under ``pass``; all in turn, so that they share what the machine does beside.

    One round before them fills the page cache and writes the byte code, as the building of an image does.
    """
    programs = {"pass": "pass", **{name: f"import functions.{name}.main" for name in FUNCTIONS}}
    found: dict[str, Times] = defaultdict(Times)
    for number in range(RUNS + 1):
        for name, program in programs.items():
            took_s = seconds(program)
            if number:
                found[name].seconds.append(took_s)
    return found


def lines() -> list[Line]:
    """The rows of the table."""
    found = measure()
    beside, goal = f"{found['pass']}  python -c pass", f"under {LIMIT_S:g} s"
    return [
        Line(f"cold start, import of {name}", str(found[name]), beside, None, goal, found[name].median < LIMIT_S)
        for name in FUNCTIONS
    ]


if __name__ == "__main__":
    print(as_text(lines()))
