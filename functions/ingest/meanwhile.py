"""What another writer did between a look-up and the writing that relies on it: tried again, the work passes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from shared.errors import ConstraintViolation, DatabaseBusy

# unique_violation and foreign_key_violation: a key was added, or a parent removed, after it was looked up.
WRITTEN_MEANWHILE = ("23505", "23503")


@contextmanager
def busy_if_written() -> Iterator[None]:
    """Around a transaction that looks keys up and then writes.

    Raises:
        DatabaseBusy: instead of a ConstraintViolation that only another writer can bring about.
    """
    try:
        yield
    except ConstraintViolation as violation:
        if violation.sqlstate not in WRITTEN_MEANWHILE:
            raise
        raise DatabaseBusy(f"another writer changed what this work relies on: {violation}") from violation
