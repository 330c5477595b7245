"""Logs: one JSON line for each unit of work, in the field names that Cloud Logging knows."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from numbers import Integral
from typing import Any

from shared.errors import DeploymentError, RowdockError, TransientError

LONGEST_TEXT = 4096  # characters; Cloud Logging takes 256 KiB for a whole line
DEEPEST = 6  # levels of lists and mappings, so that one that holds itself ends
FRAMES = 8  # innermost calls of a defect
UNCHANGED = frozenset({type(None), bool, int})
# Outcomes that somebody should look at although the work itself was done.
NOT_LOADED = frozenset({"refused", "rolled_back"})


class CanonicalLine:
    """The fields of one line, collected while the work goes on."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.fields: dict[str, Any] = {"outcome": "ok", **fields}
        self._severity = "INFO"

    def update(self, mapping: Mapping[str, Any] | None = None, /, **fields: Any) -> None:
        """Add or replace fields; values must not come from rows."""
        self.fields.update(mapping or {}, **fields)

    def failed(self, error: BaseException) -> None:
        """Say that the work failed. What fails for somebody's input is a warning, what is ours to mend an error.

        The message of an error is for the caller and may hold a value of theirs: it is logged only where the error's
        class says that it never does. A defect is logged with the calls that led to it, by module, function and line.
        """
        ours = isinstance(error, RowdockError)
        to_mend = not ours or isinstance(error, TransientError | DeploymentError)
        self._severity = "ERROR" if to_mend else "WARNING"
        self.update(error.fields if isinstance(error, RowdockError) else {}, outcome="failed", **described(error))

    @property
    def severity(self) -> str:
        """INFO, or WARNING and ERROR for what did not end well; ERROR too with a field ``to_mend`` for the operator."""
        if "to_mend" in self.fields:
            return "ERROR"
        refused = self._severity == "INFO" and not NOT_LOADED.isdisjoint(
            str(self.fields.get(name)) for name in ("outcome", "state")
        )
        return "WARNING" if refused else self._severity


@contextmanager
def canonical_line(name: str, /, **fields: Any) -> Iterator[CanonicalLine]:
    """Print one line at the end of the work: its name, fields, duration_s and outcome; exceptions pass through."""
    line = CanonicalLine(fields)
    started_s = time.monotonic()
    try:
        yield line
    except BaseException as error:
        line.failed(error)
        raise
    finally:
        line.update(duration_s=round(time.monotonic() - started_s, 4))
        _print(json_line(line.severity, name, line.fields))


def tell(name: str, /, *, severity: str = "INFO", **fields: Any) -> None:
    """Print one line now: what is worth knowing before the work has ended."""
    _print(json_line(severity, name, fields))


def json_line(severity: str, message: str, fields: Mapping[str, Any]) -> str:
    """One line of JSON, whatever the fields' values are; ``severity`` and ``message`` win over fields of that name."""
    return json.dumps(_plain(dict(fields), DEEPEST) | {"severity": severity, "message": message})


def described(error: BaseException) -> dict[str, Any]:
    """What a line may say of ``error``: class, code and a safe message; of a defect the calls that led to it."""
    if not isinstance(error, RowdockError):
        return {"error": type(error).__name__, "error_code": "defect", "calls": calls(error)}
    told = {"error_message": str(error)} if error.message_is_safe else {}
    return {"error": type(error).__name__, "error_code": error.code, **told}


def calls(error: BaseException) -> list[str]:
    """The innermost calls of ``error`` as ``module:function:line``: no path of the machine, no value."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)][-FRAMES:]
    lines = [line for _, line in traceback.walk_tb(error.__traceback__)][-FRAMES:]
    return [
        f"{frame.f_globals.get('__name__', '?')}:{frame.f_code.co_name}:{line}"
        for frame, line in zip(frames, lines, strict=True)
    ]


def configure() -> None:
    """Give the root logger our form, once; libraries below WARNING stay silent."""
    root = logging.getLogger()
    if not any(isinstance(handler.formatter, _JsonLines) for handler in root.handlers):
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(_JsonLines())
        root.addHandler(handler)
        root.setLevel(logging.WARNING)


class _JsonLines(logging.Formatter):
    """Lines of libraries in the same form."""

    def format(self, record: logging.LogRecord) -> str:
        """``record`` as one JSON line; of an exception its class and its calls, not its message."""
        fields: dict[str, Any] = {"logger": record.name}
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            fields |= {"error": type(error).__name__, "calls": calls(error)}
        return json_line(record.levelname, record.getMessage(), fields)


def _print(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # nobody reads any more: no reason to undo the work that was done
        sys.stdout.write(line + "\n")  # one write: lines of threads do not mix
        sys.stdout.flush()


def _plain(value: Any, depth: int) -> Any:
    """``value`` in types that JSON has; of an exception its class, of what cannot be told its type."""
    if type(value) in UNCHANGED or (type(value) is str and len(value) <= LONGEST_TEXT):  # nearly every field
        return value
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Integral):  # numpy's
        return int(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, BaseException):
        return type(value).__name__
    if depth and isinstance(value, Mapping):
        return {_text(key): _plain(item, depth - 1) for key, item in value.items()}
    if depth and isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, depth - 1) for item in value]
    return _text(value)


def _text(value: object) -> str:
    try:
        text = str(value)
    except Exception:  # noqa: BLE001  # a field's own __str__ may raise anything; the line matters more
        return f"<{type(value).__name__}>"
    return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + "…"
