"""Fixtures: an emulator of its own for a test, or one for all that leave it as they found it."""

from __future__ import annotations

import pytest

from tests.e2e.emulator.project import temporary_project


@pytest.fixture
def project():
    with temporary_project() as made:
        yield made


@pytest.fixture(scope="session")
def emulator():
    """Its store announces nothing, so that every upload is found by listing."""
    with temporary_project("moto") as made:
        made.up()
        yield made


@pytest.fixture(autouse=True)
def _behave(request):
    if "emulator" in request.fixturenames:
        request.getfixturevalue("emulator").behave()
