"""What processes have used, read from Linux's /proc: processor time and the most memory they ever held."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a set of processes has used so far.

    Attributes:
        cpu_s: seconds of processor time, user and system, of all of them.
        peak_mb: the largest peak of resident memory (VmHWM) that one of them had, in 10^6 bytes.
    """

    cpu_s: float = 0.0
    peak_mb: float = 0.0


@dataclass(frozen=True, slots=True)
class Ran:
    """A program that ran to its end: wall time, processor time, the most memory it held in 10^6 bytes, its output."""

    seconds: float
    cpu_s: float
    peak_mb: float
    output: str


def run(command: Sequence[str | Path], environment: Mapping[str, str] | None = None, cwd: Path | None = None) -> Ran:
    """Run a program.

    Raises:
        RuntimeError: it failed; the message has the program's name and what it printed.
    """
    with tempfile.TemporaryFile("w+") as output:
        started = time.perf_counter()
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=cwd)
        _, status, used = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)  # or Popen would wait for it again
        output.seek(0)
        printed = output.read()
    if child.returncode:
        raise RuntimeError(f"{Path(command[0]).name} ended with status {child.returncode}: {printed.strip()}")
    return Ran(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6, printed)


def usage(pids: Iterable[int]) -> Usage:
    """Add up what ``pids`` have used; one that has ended counts nothing."""
    cpu_s, peak_mb = 0.0, 0.0
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            fields = (PROC / str(pid) / "stat").read_text().rpartition(") ")[2].split()
            cpu_s += (int(fields[11]) + int(fields[12])) / TICKS_PER_S
            peak_mb = max(peak_mb, _peak_mb(pid))
    return Usage(cpu_s, peak_mb)


def ended_children_cpu_s(pid: int) -> float:
    """Seconds of processor time of those children of ``pid`` that have ended and been waited for."""
    fields = (PROC / str(pid) / "stat").read_text().rpartition(") ")[2].split()
    return (int(fields[13]) + int(fields[14])) / TICKS_PER_S


def children(parent: int) -> set[int]:
    """The children of ``parent`` that it has not waited for yet, ended or not."""
    found = set()
    for entry in PROC.iterdir():
        with suppress(OSError, ValueError):
            number = int(entry.name)
            if int((entry / "stat").read_text().rpartition(") ")[2].split()[1]) == parent:
                found.add(number)
    return found


def forget_peaks(pids: Iterable[int]) -> None:
    """Let the peaks of ``pids`` start again at what they hold now, where we may (proc(5), clear_refs)."""
    for pid in pids:
        with suppress(OSError):
            (PROC / str(pid) / "clear_refs").write_text("5")


def group(leader: int) -> list[int]:
    """The processes of the group that ``leader`` leads, itself included."""
    found = []
    for entry in PROC.iterdir():
        with suppress(OSError, ValueError):
            if os.getpgid(int(entry.name)) == leader:
                found.append(int(entry.name))
    return found


def _peak_mb(pid: int) -> float:
    for line in (PROC / str(pid) / "status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0
