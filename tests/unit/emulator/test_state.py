"""The emulator's folder: emptied only of what an emulator put there."""

from __future__ import annotations

import errno
import socket

import pytest

from local_emulator.__main__ import main
from local_emulator.state import FolderRefused, StateFolder


def test_a_fresh_start_leaves_alone_a_folder_with_somebodys_files(tmp_path):
    """``--fresh --state .`` in the wrong place, or an unset variable, costs nobody a file."""
    (tmp_path / "thesis").mkdir()
    (tmp_path / "queue.db").touch()
    with pytest.raises(FolderRefused, match=r"'thesis'.*a folder of its own"):
        StateFolder(tmp_path).hold(fresh=True)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["queue.db", "thesis"]


def test_a_fresh_start_forgets_what_an_emulator_left(tmp_path):
    """Data, queue and key go; the log of the start itself stays."""
    for name in ("postgres", "seaweedfs", "run"):
        (tmp_path / name / "deeper").mkdir(parents=True)
    for name in ("queue.db", "queue.db-wal", "issuer-key.pem", "running.json", "emulator.log"):
        (tmp_path / name).touch()
    folder = StateFolder(tmp_path)
    folder.hold(fresh=True)
    folder.release()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["emulator.log", "lock"]


def test_a_place_where_no_folder_can_be_is_refused_with_the_reason(tmp_path, capsys):
    """Exit status 5 and a sentence, detached or not; /proc takes no folder, whoever asks."""
    (tmp_path / "file").touch()
    for place in ("/proc/rowdock", str(tmp_path / "file"), str(tmp_path / "file" / "below")):
        for words in (["up"], ["up", "--detach"], *([["status"], ["stop"]] if place.startswith(str(tmp_path)) else [])):
            assert main([*words, "--state", place]) == 5
            said = capsys.readouterr().err
            assert f"{place} cannot keep the state (" in said
            assert said.count("\n") == 1


def test_a_port_that_the_system_does_not_give_is_not_said_to_be_taken(tmp_path, monkeypatch, capsys):
    """Ports below 1024 are not everybody's: nobody holds them, and ending a process would not help."""

    def refuse(_socket, _address):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)  # the system's part: root is given every port
    assert main(["up", "--port", "80", "--state", str(tmp_path)]) == 5
    assert "port 80 cannot be had (Permission denied); give --port" in capsys.readouterr().err
