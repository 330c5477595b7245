"""The commands in README and docs/how-to work as they are printed, one page after the other, and show what is shown."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from local_emulator import demo, lifecycle
from local_emulator.state import StateFolder

ROOT = Path(__file__).resolve().parents[2]
HOW_TO = ROOT / "docs" / "how-to"


def number(page: Path) -> int:
    return int(page.name.partition("-")[0])


PAGES = sorted(HOW_TO.glob("[0-9]*-*.md"), key=number)
READ = [*PAGES, ROOT / "README.md"]
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
USUAL_ADDRESS = "http://localhost:8887"
# What only looks may look again, until what was asked for has been done.
LOOKS = re.compile(
    rf"python -m local_emulator (loads|rejects ls|dead-letters ls|exec -- psql)\b|curl -s '?{USUAL_ADDRESS}[^ ]*$"
)
PATIENCE_S = 30
pytestmark = pytest.mark.slow


@dataclass
class Command:
    """One command of a page, and the lines printed below it."""

    text: str
    shown: list[str] = field(default_factory=list)


def commands_of(page: str) -> list[Command]:
    found: list[Command] = []
    for block in BLOCK.findall(page):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Command(line[2:]))
            elif line.startswith("> "):
                found[-1].text += f"\n{line[2:]}"
            else:
                found[-1].shown.append(line)
    return found


def shows(output: str, shown: list[str]) -> bool:
    """Whether ``output`` has the lines ``shown``, in order; blanks are all alike, and … stands for anything."""
    lines = [" ".join(line.split()) for line in output.splitlines() if line.strip()]
    wanted = [" ".join(line.split()) for line in shown if line.strip()]
    pattern = "\n".join(".*" if line == "…" else ".*".join(map(re.escape, line.split("…"))) for line in wanted)
    flags = re.DOTALL if "…" in wanted else re.NOFLAG
    return re.fullmatch(pattern, "\n".join(lines), flags) is not None


def as_here(text: str, folder: Path) -> str:
    """A command with this test's address in place of the usual one, and any free port for what it starts."""
    running = StateFolder(folder / ".emulator").running()
    here = text.replace(USUAL_ADDRESS, running.url) if running else text
    return here.replace("local_emulator up ", f"local_emulator up --port 0 --deploy {ROOT / 'deploy.yaml'} ")


def run(command: Command, folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    while True:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", as_here(command.text, folder)],
            cwd=folder,
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
        )
        if done.returncode == 0 and (not command.shown or shows(done.stdout, command.shown)):
            return
        if not LOOKS.match(command.text) or time.monotonic() > deadline:
            shown = "\n".join(command.shown)
            pytest.fail(f"$ {command.text}\nshould show\n{shown}\nand showed\n{done.stdout}{done.stderr}")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder with a fresh emulator behind ``python -m local_emulator``."""
    with tempfile.TemporaryDirectory(prefix="rowdock-docs-", ignore_cleanup_errors=True) as name:
        state = Path(name) / ".emulator"
        with demo.emulator(state, print, "--deploy", str(ROOT / "deploy.yaml")):
            try:
                yield Path(name)
            finally:
                lifecycle.stop(state)  # a page may have ended that one, and started another


def test_pages_with_commands_are_numbered_in_the_order_in_which_they_are_run() -> None:
    """From 1 without a gap; a page without a number would be run by nobody."""
    assert [number(page) for page in PAGES] == list(range(1, len(PAGES) + 1))
    assert set(PAGES) == {page for page in HOW_TO.glob("*.md") if commands_of(page.read_text())}


def test_the_readme_leads_to_every_page_and_has_commands_of_its_own() -> None:
    readme = (ROOT / "README.md").read_text()
    assert set(re.findall(r"\]\(docs/how-to/([^)#]+)", readme)) == {page.name for page in HOW_TO.glob("*.md")}
    assert commands_of(readme)


@pytest.mark.parametrize(
    ("output", "shown", "same"),
    [
        ("a  b\n\nc", ["a b", "c"], True),
        ("a b\nc", ["a b"], False),
        ("id 17 x\n", ["id … x"], True),
        ("head\nmore\nid 1\n", ["…", "id …"], True),
        ("id 1\nid 2", ["id …"], False),
        ("a.b", ["a+b"], False),
    ],
)
def test_what_is_shown_is_compared_line_by_line(output: str, shown: list[str], same: bool) -> None:
    assert shows(output, shown) is same


def test_the_pages_do_what_they_say(folder: Path) -> None:
    """One emulator for all pages in order, README last: each goes on from where the one before it ended."""
    for page in READ:
        for command in commands_of(page.read_text()):
            run(command, folder)
