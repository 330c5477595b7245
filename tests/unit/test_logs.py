"""One line of JSON for each unit of work, whatever happens in it."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from threading import Barrier, Thread

import numpy as np
import pytest

from shared import errors, logs
from shared.errors import (
    CallerRefused,
    ConstraintViolation,
    DatabaseUnavailable,
    DictionaryError,
    EventRefused,
    FileRefused,
    PermanentError,
    ServerTooOld,
    SettingsError,
    StoreRefused,
    TransientError,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def printed(capsys):
    """The lines that were printed since the last look."""

    def look():
        return [json.loads(line, parse_constant=pytest.fail) for line in capsys.readouterr().out.splitlines()]

    return look


def test_work_that_ends_well_is_one_info_line_with_its_fields(printed):
    with logs.canonical_line("ingest.finished", event_id="e-1") as line:
        line.update({"rows_read": 3}, state="loaded")
        line.update(rows_read=4)
    (document,) = printed()
    assert document.pop("duration_s") >= 0
    assert document == {
        "severity": "INFO",
        "message": "ingest.finished",
        "event_id": "e-1",
        "rows_read": 4,
        "state": "loaded",
        "outcome": "ok",
    }


@pytest.mark.parametrize(
    ("error", "severity", "code"),
    [
        (FileRefused("file.header", "secret"), "WARNING", "file.header"),
        (EventRefused("secret"), "WARNING", "event"),
        (PermanentError("secret"), "WARNING", "permanent"),
        (TransientError("secret"), "ERROR", "transient"),
    ],
)
def test_a_failure_whose_message_may_quote_a_row_is_told_by_class_and_code_alone(printed, error, severity, code):
    with logs.canonical_line("ingest.finished") as line:
        line.failed(error)
    (document,) = printed()
    assert (document["severity"], document["outcome"]) == (severity, "failed")
    assert (document["error"], document["error_code"]) == (type(error).__name__, code)
    assert "secret" not in json.dumps(document)


@pytest.mark.parametrize(
    ("error", "severity"),
    [
        (SettingsError("POOL_SIZE takes a number"), "ERROR"),
        (ServerTooOld("the server is PostgreSQL 17"), "ERROR"),
        (DictionaryError("jobs: unknown key 'colum'"), "ERROR"),
        (StoreRefused("s3://files: the store answered 404 NoSuchBucket"), "ERROR"),
        (DatabaseUnavailable("the database cannot be reached"), "ERROR"),
        (CallerRefused("the call carries no identity token"), "WARNING"),
        (ConstraintViolation("SQLSTATE 23505, constraint jobs_pkey", sqlstate="23505"), "WARNING"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_message_that_holds_no_value_by_construction_reaches_the_operator(printed, error, severity):
    """What is the operator's to mend is an error, what a stranger did wrong a warning."""
    with logs.canonical_line("ingest.finished") as line:
        line.failed(error)
    (document,) = printed()
    assert (document["error_message"], document["severity"]) == (str(error), severity)


# Of each it was judged where it is raised, and with which values.
SAFE = {
    "AmbiguousTable", "BackupDamaged", "BackupDiffers", "BackupFailed", "BackupRunning", "CallerRefused",
    "ConstraintViolation", "DatabaseBusy", "DatabaseMisuse", "DatabaseUnavailable", "DeadlineExceeded",
    "DictionaryError", "NotReady", "NotRepresentable", "ObjectExists", "ObjectNotFound", "RestoreFailed",
    "ServerTooOld", "ServiceUnavailable", "SettingsError", "StoreRefused", "StoreUnavailable", "UnknownTable",
}  # fmt: skip


def test_no_other_error_lets_its_message_into_the_log():
    """One added without thought keeps its message to itself."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert {kind.__name__ for kind in kinds if getattr(kind, "message_is_safe", False)} == SAFE


def test_an_unexpected_exception_passes_through_and_is_told_with_its_calls(printed):
    def innermost():
        raise LookupError("secret")

    with pytest.raises(LookupError), logs.canonical_line("ingest.finished"):
        innermost()
    (document,) = printed()
    assert (document["severity"], document["error"], document["error_code"]) == ("ERROR", "LookupError", "defect")
    assert document["calls"][-1].startswith(f"{__name__}:innermost:")
    assert "secret" not in json.dumps(document)
    assert str(ROOT) not in json.dumps(document)


@pytest.mark.parametrize("fields", [{"outcome": "refused"}, {"state": "refused"}, {"state": "rolled_back"}])
def test_work_that_refused_its_input_is_a_warning(printed, fields):
    with logs.canonical_line("ingest.finished") as line:
        line.update(fields)
    (document,) = printed()
    assert document["severity"] == "WARNING"


class Untellable:
    def __str__(self):
        raise ArithmeticError


endless: list[object] = []
endless.append(endless)
STRANGE = {
    "moment": (datetime(2021, 7, 27, 16, 2, 8, tzinfo=UTC), "2021-07-27T16:02:08+00:00"),
    "day": (date(2021, 7, 27), "2021-07-27"),
    "decimal": (Decimal("1.50"), "1.50"),
    "nan": (float("nan"), "nan"),
    "infinity": ([float("-inf")], ["-inf"]),
    "numpy_integer": (np.int64(7), 7),
    "numpy_float": (np.float64(0.5), 0.5),
    "bool": (True, True),
    "none": (None, None),
    "tuple_key": ({(1, 2): 3}, {"(1, 2)": 3}),
    "set": ({1}, [1]),
    "bytes": (b"a\xff", "b'a\\xff'"),
    "surrogate": ("\ud800", "\ud800"),
    "newline": ("a\nb", "a\nb"),
    "exception": (ValueError("secret"), "ValueError"),
    "untellable": (Untellable(), "<Untellable>"),
    "long": ("x" * 10_000, "x" * 4096 + "…"),
}


@pytest.mark.parametrize(("value", "told"), STRANGE.values(), ids=STRANGE)
def test_a_field_of_any_type_is_printed_as_json(printed, value, told):
    with logs.canonical_line("x") as line:
        line.update(value=value)
    (document,) = printed()
    assert document["value"] == told


def test_a_field_that_holds_itself_ends(printed):
    with logs.canonical_line("x", endless=endless):
        pass
    assert len(printed()) == 1


def test_fields_called_severity_or_message_do_not_hide_the_lines_own(printed):
    with logs.canonical_line("x", severity="none", message="other", name="n") as line:
        line.update(mapping="m")
    (document,) = printed()
    assert (document["severity"], document["message"]) == ("INFO", "x")
    assert (document["name"], document["mapping"]) == ("n", "m")


class Gone(io.StringIO):
    def flush(self):
        raise BrokenPipeError


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stream", [Gone(), closed()], ids=["broken pipe", "closed"])
def test_a_reader_that_went_away_does_not_undo_the_work(monkeypatch, stream):
    done = []
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        with logs.canonical_line("x"):
            done.append("work")
    assert done == ["work"]


def test_lines_of_many_threads_do_not_mix(printed):
    together = Barrier(8)

    def work(number):
        together.wait()
        for turn in range(50):
            with logs.canonical_line("x", number=number, turn=turn):
                pass

    threads = [Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {(d["number"], d["turn"]) for d in printed()} == {(n, t) for n in range(8) for t in range(50)}


def python(code):
    """The lines that a fresh process prints; the root logger is process-wide."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_libraries_log_in_the_same_form_once_and_not_below_warning():
    lines = python(
        "import logging; from shared import logs; logs.configure(); logs.configure()\n"
        "logging.getLogger('lib').warning('%s is slow', 'it'); logging.getLogger('lib').info('chatter')"
    )
    assert lines == [{"severity": "WARNING", "message": "it is slow", "logger": "lib"}]


def test_an_exception_that_a_library_logs_is_told_by_class_and_calls():
    (line,) = python(
        "import logging; from shared import logs; logs.configure()\n"
        "try:\n    int('secret')\nexcept ValueError:\n    logging.getLogger('lib').exception('failed')"
    )
    assert (line["severity"], line["error"], line["calls"]) == ("ERROR", "ValueError", ["__main__:<module>:3"])
    assert "secret" not in json.dumps(line)


def test_importing_logs_configures_nothing():
    """The functions framework and pytest own the root logger until a function says otherwise."""
    assert not any(isinstance(handler.formatter, logs._JsonLines) for handler in logging.getLogger().handlers)
