"""The pages in a real browser, which has no network but this machine."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from functions.api import app, problems
from local_emulator.functions import FunctionServer
from tests.integration.api.conftest import Api

pytestmark = [pytest.mark.browser, pytest.mark.slow]
NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
)  # fmt: skip  # one row of switches reads better than nine lines
ALONE = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"
DEADLINE_S = 60
PATIENCE_MS = 10_000  # of the browser's own clock, which stands while a request is under way


@dataclass(frozen=True)
class Shown:
    """What the browser made of a page: its elements, and what it has to say to a developer."""

    dom: str
    console: list[str]


@pytest.fixture
def show(tmp_path: Path) -> Callable[[str], Shown]:
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no Chromium is on PATH: apt install chromium")

    def visit(url: str) -> Shown:
        own = (f"--user-data-dir={tmp_path / 'profile'}", f"--virtual-time-budget={PATIENCE_MS}")
        command = [found, *QUIET, ALONE, *own, "--enable-logging=stderr", "--dump-dom", url]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=True)
        return Shown(ended.stdout, re.findall(r"CONSOLE.*", ended.stderr))

    return visit


@pytest.fixture
def server(start: Callable[..., FunctionServer], database: Any) -> FunctionServer:
    return start(database.url_for("api"))


def test_what_a_policy_forbids_would_be_seen_here(show: Callable[[str], Shown], tmp_path: Path) -> None:
    """The console tells of an inline script and of an image from elsewhere: the tests below would fail for one."""
    policy = "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'\">"
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html>{policy}<script>1</script><img src='http://127.0.0.2/x.png'>")
    seen = show(page.as_uri())
    assert len(seen.console) == 2
    assert all("Content Security Policy" in line for line in seen.console)


@pytest.mark.parametrize("opened", ["", "#/employees/batch.add.employees", "#/Metrics/metrics.quarters"])
def test_the_page_shows_every_operation_and_nothing_is_wrong_with_it(
    show: Callable[[str], Shown], server: FunctionServer, api: Api, opened: str
) -> None:
    """One block for each; no script, style or request that the policy forbids or that is not there."""
    seen = show(f"http://127.0.0.1:{server.port}/docs{opened}")
    assert seen.console == []
    assert len(re.findall(r'class="opblock opblock-\w+(?: is-open)?"', seen.dom)) == len(
        app.route_table(api.services).routes
    )
    assert seen.dom.count("is-open") >= (2 if opened else 1)
    assert "Example Value" in seen.dom or not opened


def test_the_page_of_problems_shows_every_code(show: Callable[[str], Shown], server: FunctionServer) -> None:
    """And needs no script."""
    seen = show(f"http://127.0.0.1:{server.port}/docs/problems#batch.size")
    assert seen.console == []
    assert seen.dom.count("<section") == len(problems.TITLES)
