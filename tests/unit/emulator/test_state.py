"""The emulator's folder: emptied only of what an emulator put there."""

from __future__ import annotations

import pytest

from local_emulator.state import NotOurs, StateFolder


def test_a_fresh_start_leaves_alone_a_folder_with_somebodys_files(tmp_path):
    """``--fresh --state .`` in the wrong place, or an unset variable, costs nobody a file."""
    (tmp_path / "thesis").mkdir()
    (tmp_path / "queue.db").touch()
    with pytest.raises(NotOurs, match=r"'thesis'.*a folder of its own"):
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
