"""Commands that ask a running emulator."""

from __future__ import annotations

import pytest

from local_emulator.children import free_port
from local_emulator.lifecycle import CommandFailed
from local_emulator.looking import ask
from local_emulator.state import Running


def test_an_emulator_that_does_not_answer_is_named_in_a_sentence():
    """It may be ending just now: the command fails with its process id, not with a traceback."""
    running = Running(4711, f"http://127.0.0.1:{free_port()[0]}", "key", "moto", {})
    with pytest.raises(CommandFailed, match=r"pid 4711\) does not answer"):
        ask(running, "GET", "/_emulator/status")
