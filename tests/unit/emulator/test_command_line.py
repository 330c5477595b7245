"""The command line: the operator's commands are passed on, our own folder taken out, theirs left in."""

from __future__ import annotations

from pathlib import Path

import pytest

from local_emulator import lifecycle, looking
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
        (["loads", "--state=/x", "--state=loaded"], Path("/x"), ["loads", "--state=loaded"]),
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


@pytest.mark.parametrize("words", [["status", "--state=/x"], ["--state", "/x", "status"], ["status", "--state", "/x"]])
def test_our_own_commands_take_the_folder_in_every_form(monkeypatch, words):
    """``up --fresh --state=DIR`` does not empty another folder than DIR."""
    seen = []
    monkeypatch.setattr(looking, "status", lambda given: seen.append(given.state) or 0)
    assert main(words) == 0
    assert seen == [Path("/x")]


@pytest.mark.parametrize("words", [["status", "--state="], ["status", "--state", ""], ["status", "--state"]])
def test_a_folder_without_a_name_is_wrong_usage(capsys, words):
    """An unset variable is not the current folder."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "--state" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--port", "99999"], "0 to 65535"),
        (["--port", "80x"], "0 to 65535"),
        (["--time-scale", "-1"], "above 0"),
        (["--listing", "0"], "above 0"),
        (["--storage", "minoi"], "auto, minio, seaweedfs, moto or a store's URL"),
        (["--db", "employee_data_db"], "auto or a URL such as postgresql://"),
    ],
)
def test_what_up_cannot_use_is_wrong_usage_before_anything_starts(monkeypatch, capsys, words, said):
    """Exit status 2, and what the option takes."""
    monkeypatch.setattr(lifecycle, "up", lambda _passed: pytest.fail("it was started"))
    with pytest.raises(SystemExit) as ended:
        main(["up", *words])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_an_unknown_command_is_wrong_usage(capsys):
    """The commands that are passed on are named among those that could have been meant."""
    with pytest.raises(SystemExit) as ended:
        main(["lods"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "invalid choice: 'lods'" in said
    assert "'upload'" in said
    assert "loads" in said


def test_without_an_emulator_a_command_says_how_to_start_one(tmp_path, capsys):
    assert main(["status", "--state", str(tmp_path)]) == 1
    assert "python -m local_emulator up" in capsys.readouterr().err
