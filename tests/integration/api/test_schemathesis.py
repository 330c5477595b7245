"""What the API promises in its own description, tried by somebody who reads nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from local_emulator.functions import FunctionServer
from shared import api_keys

HERE = Path(__file__).parent
PHASES = "examples,coverage,fuzzing,stateful"
MOST_S = 90  # the first two phases take 15 s here; the others go on until then
SEED = "1"


@pytest.mark.slow
@pytest.mark.timeout(MOST_S + 90)
def test_schemathesis_finds_nothing(
    start: Callable[..., FunctionServer], database: Any, http_server: Any, tmp_path: Path
) -> None:
    """All phases and checks but for the exceptions in schemathesis_hooks.py: no 5xx, no word that does not hold."""
    http_server.answer("/events", 202)
    server = start(database.url_for("api"), API_AUTH="required", EVENTS_URL=http_server.url("/events"))
    document = f"http://127.0.0.1:{server.port}/openapi.json"
    run = [
        str(Path(sys.executable).with_name("st")), "--config-file", str(HERE / "schemathesis.toml"), "run", document,
        "--phases", PHASES, "--max-time", str(MOST_S), "--seed", SEED, "--header", f"X-API-Key: {key(database)}",
    ]  # fmt: skip  # name and value side by side
    found = {"PYTHONPATH": str(HERE.parents[2]), "SCHEMATHESIS_HOOKS": "tests.integration.api.schemathesis_hooks"}
    ended = subprocess.run(run, cwd=tmp_path, env=os.environ | found, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-20_000:] + ended.stderr[-2_000:]
    (tested,) = re.findall(r"Tested: (\d+)", ended.stdout)
    (selected,) = re.findall(r"Selected: (\d+)/\1\b", ended.stdout)
    assert tested == selected
    assert int(re.findall(r"(\d+) generated", ended.stdout)[0]) > 1000


def key(database: Any) -> str:
    conn = database.connect()
    try:
        with conn:
            return api_keys.make(conn, "schemathesis", ("admin",), None)
    finally:
        conn.close()
