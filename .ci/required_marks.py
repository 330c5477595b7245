"""A pytest plugin for CI: the run fails if a test that CI must not leave out was skipped.

A laptop without MinIO may skip the tests marked ``store``; CI installs it, so there a skip means nothing was tested.
"""

from __future__ import annotations

import pytest

REQUIRED = ("store", "browser")


def _is_required(report: pytest.TestReport | pytest.CollectReport) -> bool:
    """Whether CI needs what was skipped; a module skipped as a whole shows no marks, so it counts too."""
    return isinstance(report, pytest.CollectReport) or any(mark in report.keywords for mark in REQUIRED)


class RequiredMarks:
    """Remembers the skipped tests that CI needs; under xdist the controller sees every worker's reports."""

    def __init__(self) -> None:
        self.skipped: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """See a test's outcome."""
        if report.skipped and not hasattr(report, "wasxfail") and _is_required(report):
            self.skipped.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """See a module's outcome."""
        if report.skipped and _is_required(report):
            self.skipped.append(report.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail the run."""
        if self.skipped and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Name them above pytest's own closing line."""
        if self.skipped:
            terminalreporter.section("skipped, and CI must not skip them", red=True)
            for nodeid in sorted(set(self.skipped)):
                terminalreporter.line(nodeid)


def pytest_configure(config: pytest.Config) -> None:
    """Watch where reports arrive: the controller, or the only process."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(RequiredMarks(), "required-marks")
