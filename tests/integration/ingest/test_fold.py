"""A large load folds what it left in the roll-up's deltas, after its commit and whatever comes of that."""

from __future__ import annotations

from contextlib import closing

import pytest

from functions.ingest import load
from tests.integration.ingest.conftest import Dock

ROWS = b"".join(b"%d,Name,2021-11-07T02:48:42Z,%d,1\n" % (n, n % 3 + 1) for n in range(1, 21))


@pytest.fixture
def folding(loaded_parents: Dock, monkeypatch: pytest.MonkeyPatch) -> Dock:
    """Twenty rows are many."""
    monkeypatch.setattr(load, "FOLD_ABOVE_ROWS", 19)
    return loaded_parents


def deltas(dock: Dock) -> int:
    ((count,),) = dock.query("select count(*) from metrics.hires_deltas")
    return int(count)


def test_a_large_load_leaves_no_delta_behind(folding: Dock) -> None:
    """The metrics are as quick after it as before; its line says how many deltas were folded."""
    assert folding.drop("employees.csv", ROWS)["deltas_folded"] == 3
    assert deltas(folding) == 0
    assert folding.rollup_is_right()


def test_a_small_load_leaves_its_deltas_to_the_sweep(folding: Dock) -> None:
    """Each load's fold would cost more than the few deltas do."""
    assert "deltas_folded" not in folding.drop("employees.csv", ROWS[: ROWS.rindex(b"20,")])
    assert deltas(folding) == 3


def test_what_changes_many_rows_folds_too(folding: Dock) -> None:
    """A corrected file leaves deltas as a first one does."""
    folding.drop("employees.csv", ROWS)
    corrected = ROWS.replace(b",1,1\n", b",2,1\n").replace(b"Name", b"Other")
    assert folding.drop("employees-2.csv", corrected)["deltas_folded"] == 2
    assert deltas(folding) == 0
    assert folding.rollup_is_right()


def test_a_load_is_acknowledged_although_it_cannot_be_folded(folding: Dock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The roll-up is locked: the load waits no longer than it is told, its rows are in, and its line says so."""
    monkeypatch.setattr(load, "FOLD_LOCK_WAIT_S", 0.1)
    with closing(folding.connect("owner")) as holder, holder.cursor() as cursor:
        cursor.execute("lock table metrics.hires in exclusive mode")
        fields = folding.drop("employees.csv", ROWS)
    assert (fields["state"], fields["rows_inserted"], fields["not_folded"]) == ("loaded", 20, "database.busy")
    assert deltas(folding) == 3
    assert folding.rollup_is_right()


def test_a_load_does_not_wait_for_another_fold(folding: Dock) -> None:
    """That one, or the sweep, takes its deltas."""
    with closing(folding.connect("owner")) as holder, holder.cursor() as cursor:
        cursor.execute("select pg_advisory_xact_lock(hashtextextended('metrics.fold', 0))")
        assert folding.drop("employees.csv", ROWS)["deltas_folded"] == 0
    assert deltas(folding) == 3
