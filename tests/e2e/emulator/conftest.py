"""Fixtures: an emulator of its own for a test, or one for all tests of a module."""

from __future__ import annotations

import pytest

from tests.e2e.emulator.project import temporary_project


@pytest.fixture
def project():
    with temporary_project() as made:
        yield made


@pytest.fixture(scope="module")
def emulator():
    """One emulator for the tests of a module that leave it as they found it."""
    with temporary_project() as made:
        made.up()
        yield made


@pytest.fixture(autouse=True)
def _behave(request):
    if "emulator" in request.fixturenames:
        request.getfixturevalue("emulator").behave()
