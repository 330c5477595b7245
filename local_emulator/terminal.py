"""Lines of many parts on one terminal: each behind the name of its part, in colour where there are colours."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import TextIO

COLOURS = ("36", "33", "32", "35", "34", "96", "93", "92", "95")
WIDTH = len("seaweedfs")


class Terminal:
    """Writes whole lines to ``stream`` (standard output when None); safe to call from any thread."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._colours: dict[str, str] | None = {} if self._stream.isatty() and "NO_COLOR" not in os.environ else None
        self._lock = threading.Lock()

    def say(self, part: str, line: str) -> None:
        """Write ``line`` behind the name of ``part``."""
        with self._lock:
            self._stream.write(f"{self._prefix(part)} {line}\n")
            self._stream.flush()

    def lines_of(self, part: str) -> Callable[[str], None]:
        """Return what writes a line of ``part``."""
        return lambda line: self.say(part, line)

    def _prefix(self, part: str) -> str:
        name = f"{part:<{WIDTH}} |"
        if self._colours is None:
            return name
        colour = self._colours.setdefault(part, COLOURS[len(self._colours) % len(COLOURS)])
        return f"\x1b[{colour}m{name}\x1b[0m"
