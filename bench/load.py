"""Clients that ask one thing again and again: wrk where it is installed, else threads of our own.

On loopback alone, for a number of seconds that is given; the process of wrk ends by itself or is killed by its id.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from http.client import HTTPConnection
from itertools import count

TIMEOUT_S = 30
GRACE_S = 60  # that wrk gets beyond its time before it is killed
MOST_REQUESTS = 1_000_000  # of our own threads, in all
NUMBER = "@N@"  # in a path or a body: another number in each request
# Statuses are counted by wrk itself (above 399 or not) where there is no body: a callback for each answer costs more
# than a small answer does. For batches, which are few, each status is counted.
SCRIPT = """
local path, body, method, first, last = %(path)s, %(body)s, %(method)s, %(first)d, %(last)d
local number, statuses = first, {}
local headers = %(headers)s
function request()
  local n = tostring(number)
  number = number + 1
  if number > last then number = first end
  return wrk.format(method, (path:gsub("@N@", n)), headers, body and (body:gsub("@N@", n)) or nil)
end
if body then
  function response(status) statuses[status] = (statuses[status] or 0) + 1; told = told .. status .. " " end
end
told = ""
local threads = {}
function setup(thread) table.insert(threads, thread) end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("@@%%d %%d %%d %%d %%d %%d %%d|%%s\\n", summary.requests, summary.duration, e.status,
    e.connect + e.read + e.write + e.timeout, latency:percentile(50), latency:percentile(99), latency.max,
    threads[1]:get("told")))
end
"""


class LoadFailed(Exception):
    """The run is worth nothing: an answer with another status than expected, or none; the message counts them."""


@dataclass(frozen=True, slots=True)
class Shot:
    """What is asked.

    Attributes:
        path, body: ``@N@`` in them is a number from ``first`` to ``last``, in turn.
        expected: the one status that is right.
    """

    path: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str | None = None
    expected: int = 200
    first: int = 1
    last: int = 2_000_000


@dataclass(frozen=True, slots=True)
class Load:
    """What one run gave: answers, seconds, and milliseconds of the middle one and of the slowest hundredth."""

    answers: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answers / self.seconds


def generator() -> str:
    """What makes the load here."""
    return "wrk" if shutil.which("wrk") else "threads of Python"


def fire(port: int, shot: Shot, clients: int, seconds: float) -> Load:
    """Let ``clients`` ask for ``seconds``, each on a connection that it keeps.

    Raises:
        LoadFailed: an answer was missing, or had another status than the shot expects.
    """
    binary = shutil.which("wrk")
    return _wrk(binary, port, shot, clients, seconds) if binary else _threads(port, shot, clients, seconds)


def _lua(text: str | None) -> str:
    return "nil" if text is None else json.dumps(text).replace("\\/", "/")


def _wrk(binary: str, port: int, shot: Shot, clients: int, seconds: float) -> Load:
    headers = ", ".join(f"[{_lua(name)}] = {_lua(value)}" for name, value in shot.headers.items())
    parts = {"path": _lua(shot.path), "body": _lua(shot.body), "method": _lua(shot.method), "headers": f"{{{headers}}}"}
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(SCRIPT % {**parts, "first": shot.first, "last": shot.last})
        script.flush()
        done = subprocess.run(
            [binary, "-t1", f"-c{clients}", f"-d{max(1, round(seconds))}s", f"--timeout={TIMEOUT_S}s",
             "-s", script.name, f"http://127.0.0.1:{port}"],
            capture_output=True, text=True, timeout=seconds + GRACE_S, check=False,
        )  # fmt: skip
    if done.returncode or "@@" not in done.stdout:
        raise LoadFailed(f"wrk ended with status {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    figures, _, told = done.stdout.partition("@@")[2].partition("|")
    answers, took_us, refused, lost, p50_us, p99_us, _ = map(int, figures.split())
    statuses = Counter(map(int, told.split())) or Counter({shot.expected: refused if shot.expected > 399 else answers})
    wrong = {status: number for status, number in statuses.items() if status != shot.expected}
    unexpected = 0 if shot.body else (answers - refused if shot.expected > 399 else refused)
    if lost or wrong or unexpected or not answers:
        raise LoadFailed(f"{shot.method} {shot.path}: {lost} lost, {unexpected} or {wrong} not {shot.expected}")
    return Load(answers, took_us / 1e6, p50_us / 1e3, p99_us / 1e3)


def _threads(port: int, shot: Shot, clients: int, seconds: float) -> Load:
    numbers, took_ms, statuses = count(shot.first), list[float](), Counter[int]()
    end = time.monotonic() + seconds

    def ask() -> None:
        with closing(HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)) as connection:
            while time.monotonic() < end and len(took_ms) < MOST_REQUESTS:
                number = str(shot.first + (next(numbers) - shot.first) % (shot.last - shot.first + 1))
                body = shot.body.replace(NUMBER, number) if shot.body else None
                started = time.perf_counter()
                connection.request(shot.method, shot.path.replace(NUMBER, number), body, dict(shot.headers))
                answer = connection.getresponse()
                answer.read()
                took_ms.append((time.perf_counter() - started) * 1000)
                statuses[answer.status] += 1

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if set(statuses) != {shot.expected}:
        raise LoadFailed(f"{shot.method} {shot.path}: {dict(statuses)}, not {shot.expected} alone")
    ordered = sorted(took_ms)
    return Load(
        len(ordered), time.perf_counter() - started, ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]
    )


def batch(rows: int) -> str:
    """The body of a batch of new employees: ``@N@`` is the front of every id, three digits of its own the rest."""
    listed = ",".join(
        f'{{"id":{NUMBER}{row:03d},"employee_name":"Ada Ashdown {row}",'
        f'"hired_date":"2021-{1 + row % 12:02d}-07T16:02:08Z","department_id":{1 + row % 12},"job_id":{1 + row % 78}}}'
        for row in range(rows)
    )
    return f'{{"data":[{listed}]}}'
