"""The command line: the operator's commands are passed on, our own folder taken out, theirs left in."""

from __future__ import annotations

from pathlib import Path

import pytest

from local_emulator import lifecycle
from local_emulator.__main__ import main
from local_emulator.state import DEFAULT_FOLDER


@pytest.fixture
def passed_on(monkeypatch):
    seen = []
    monkeypatch.setattr(lifecycle, "execute", lambda folder, argv: seen.append((folder, argv[3:])) or 0)
    return seen


@pytest.mark.parametrize(
    ("words", "folder", "command"),
    [
        (["loads", "--state", "/x", "--state", "loaded"], Path("/x"), ["loads", "--state", "loaded"]),
        (["loads", "--state", "loaded", "--state", "/x"], Path("/x"), ["loads", "--state", "loaded"]),
        (["--state", "/x", "check"], Path("/x"), ["check"]),
        (["loads", "--state", "refused"], DEFAULT_FOLDER, ["loads", "--state", "refused"]),
        (["rejects"], DEFAULT_FOLDER, ["rejects", "ls"]),
        (["rejects", "--json"], DEFAULT_FOLDER, ["rejects", "ls", "--json"]),
        (["backups", "ls", "--state", "/x"], Path("/x"), ["backups", "ls"]),
        (["verify", "--all"], DEFAULT_FOLDER, ["verify", "--all"]),
        (
            ["restore", "jobs", "--as-of", "2026-11-25T03:15Z"],
            DEFAULT_FOLDER,
            ["restore", "jobs", "--as-of", "2026-11-25T03:15Z"],
        ),
        (["rejects", "dismiss", "1-2"], DEFAULT_FOLDER, ["rejects", "dismiss", "1-2"]),
    ],
)
def test_an_operators_command_is_passed_on_without_our_folder(passed_on, words, folder, command):
    """``--state`` names a folder, unless it names a state of rows, which is rowdock's."""
    assert main(words) == 0
    assert passed_on == [(folder, command)]


def test_an_unknown_command_is_wrong_usage(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["lods"])
    assert ended.value.code == 2
    assert "invalid choice: 'lods'" in capsys.readouterr().err


def test_without_an_emulator_a_command_says_how_to_start_one(tmp_path, capsys):
    assert main(["status", "--state", str(tmp_path)]) == 1
    assert "python -m local_emulator up" in capsys.readouterr().err
