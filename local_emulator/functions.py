"""The functions as production runs them: functions-framework, in processes of their own, told all by environment."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from local_emulator.children import Child, free_port
from local_emulator.manifest import Function

READY_TIMEOUT_S = 60.0
KEPT = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "SSL_CERT_FILE", "COVERAGE_PROCESS_START")
OWN_PREFIX = "ROWDOCK_"  # what somebody sets on purpose to look into a function


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the emulator puts in place of the platform, for one function.

    Attributes:
        settings: names of shared.settings and their values here; they win over deploy.yaml's.
    """

    root: Path
    folder: Path  # for what the server leaves lying about, such as gunicorn's control socket
    settings: Mapping[str, str] = field(repr=False)


def processes(function: Function) -> int:
    """Return how many processes serve ``function`` here: one for each instance, up to the machine's cores."""
    return min(function.most_instances, os.cpu_count() or 1)


def environment(function: Function, surroundings: Surroundings, port: int) -> dict[str, str]:
    """Return the whole environment of ``function``'s server."""
    kept = {name: value for name, value in os.environ.items() if name in KEPT or name.startswith(OWN_PREFIX)}
    server = {
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "THREADS": str(function.concurrency),
        "WORKERS": str(processes(function)),
        "PYTHONUNBUFFERED": "1",
        "XDG_RUNTIME_DIR": str(surroundings.folder),
    }
    return kept | dict(function.environment) | server | dict(surroundings.settings)


@dataclass(slots=True)
class FunctionServer:
    """One function's server, started again at the same port when it ends by itself."""

    function: Function
    surroundings: Surroundings
    on_line: Callable[[str], None]
    port: int = field(default_factory=lambda: free_port()[0])
    child: Child | None = None

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            ChildFailed: it ended, or gave no answer in time; the message shows the end of what it printed.
        """
        self.surroundings.folder.mkdir(parents=True, exist_ok=True)
        self.child = Child(
            self.function.name,
            [sys.executable, "-m", "functions_framework"],
            env=environment(self.function, self.surroundings, self.port),
            cwd=self.surroundings.root,
            on_line=self.on_line,
            death_signal=signal.SIGQUIT,  # gunicorn's quick end, workers and all
        )
        self.child.wait_ready(self._answers, READY_TIMEOUT_S)

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self.child is not None and self.child.alive

    def stop(self) -> None:
        """End it: requests under way get as long as Cloud Run gives, 10 s."""
        if self.child is not None:
            self.child.stop(signal.SIGTERM)

    def _answers(self) -> bool:
        """Ask for what functions-framework answers itself, so that no function is called."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", "/robots.txt")
            return connection.getresponse().status < 500
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()
