"""Logs: one JSON line for each unit of work, in the field names that Cloud Logging knows."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from shared.errors import RowdockError, TransientError


class CanonicalLine:
    """The fields of one line, collected while the work goes on."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields
        self.severity = "INFO"

    def update(self, more: Mapping[str, Any] | None = None, **fields: Any) -> None:
        """Add or replace fields; values must not come from rows."""
        self.fields.update(more or {}, **fields)

    def failed(self, error: BaseException) -> None:
        """Say that the work failed. A permanent failure is somebody's input, not our fault: a warning.

        The message of one of our errors is for the caller and may hold a value of theirs: it is not logged.
        """
        permanent = isinstance(error, RowdockError) and not isinstance(error, TransientError)
        self.severity = "WARNING" if permanent else "ERROR"
        code = error.code if isinstance(error, RowdockError) else "defect"
        self.update(outcome="failed", error=type(error).__name__, error_code=code)


@contextmanager
def canonical_line(name: str, **fields: Any) -> Iterator[CanonicalLine]:
    """Print one line at the end of the work: its name, fields, duration_s and outcome; exceptions pass through."""
    line = CanonicalLine({"outcome": "ok", **fields})
    started_s = time.monotonic()
    try:
        yield line
    except BaseException as error:
        line.failed(error)
        raise
    finally:
        line.fields["duration_s"] = round(time.monotonic() - started_s, 4)
        write(line.severity, name, line.fields)


def write(severity: str, message: str, fields: Mapping[str, Any]) -> None:
    """Print one JSON line; a value that JSON does not know is printed as text."""
    document = {"severity": severity, "message": message, **fields}
    print(json.dumps(document, default=str), file=sys.stdout, flush=True)


class _JsonHandler(logging.Handler):
    """Lines of libraries in the same form."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print ``record``."""
        write(record.levelname, record.getMessage(), {"logger": record.name})


def configure() -> None:
    """Give the root logger our handler, once; libraries below WARNING stay silent."""
    root = logging.getLogger()
    if not any(isinstance(handler, _JsonHandler) for handler in root.handlers):
        root.addHandler(_JsonHandler())
        root.setLevel(logging.WARNING)
