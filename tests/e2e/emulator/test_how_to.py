"""docs/how-to/local-emulator.md: each command there does what it says."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from local_emulator.state import StateFolder

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/how-to/local-emulator.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S) for line in block.splitlines()]


@pytest.mark.slow
def test_every_command_of_the_page_works():
    """In the page's order, in one folder, on a free port: each exits 0, dead letters and all."""
    with tempfile.TemporaryDirectory(prefix="rowdock-how-to-", ignore_cleanup_errors=True) as folder:
        state = StateFolder(Path(folder) / "state")
        (Path(folder) / "jobs.csv").write_text("id,job\n1,Archivist\n2,\n")
        commands = [in_this_folder(line, folder) for line in COMMANDS if line != "python -m local_emulator up"]
        stop = next(command for command in commands if command[3] == "stop")
        commands.remove(stop)
        try:
            for command in [*commands, stop]:
                done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
                assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        finally:
            if (pid := state.holder()) is not None:
                import os

                os.kill(pid, signal.SIGTERM)
    assert len(commands) == len(COMMANDS) - 2


def in_this_folder(line, folder):
    """Return the page's command with this test's state, port and file."""
    python, *words = shlex.split(line)
    assert (python, words[:2]) == ("python", ["-m", "local_emulator"])
    words = [f"{folder}/jobs.csv" if word == "jobs.csv" else word for word in words]
    port = ["--port", "0"] if words[2] == "up" else []
    end = words.index("--") if "--" in words else len(words)
    return [sys.executable, *words[:end], *port, "--state", f"{folder}/state", *words[end:]]
