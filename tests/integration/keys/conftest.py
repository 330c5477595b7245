"""Databases that the trials of a module share, made anew for each module."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest

from tests.conftest import OWNER, TestDatabase
from tests.integration.keys import twins

_numbers = itertools.count()


@pytest.fixture(scope="module")
def module_database(postgres_server: Any, template_database: str) -> Iterator[TestDatabase]:
    """A migrated database of the module's own; its deadlocks are found at once."""
    name = f"keys_{os.getpid()}_{next(_numbers)}"
    with closing(psycopg2.connect(postgres_server.url())) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(f"create database {name} owner {OWNER} template {template_database}")
        cursor.execute(f"alter database {name} set deadlock_timeout = '20ms'")
        yield TestDatabase(postgres_server, name)
        cursor.execute(f"drop database {name} with (force)")


@pytest.fixture(scope="module")
def module_twins(module_database: TestDatabase) -> TestDatabase:
    """The same tables twice; a trial calls ``twins.reset`` first."""
    twins.make(module_database)
    return module_database
