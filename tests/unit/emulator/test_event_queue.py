"""The queue: what it took is on disk, is delivered at least once, later and later, and can be replayed."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from local_emulator.event_queue import EventQueue
from shared import events

ROUTE = [("ingest-on-upload", "ingest")]


class Clock:
    def __init__(self):
        self.now = 1_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def queue(tmp_path, clock):
    with closing(EventQueue(tmp_path / "queue.db", now=clock)) as opened:
        yield opened


def an_event(number=1):
    return events.Event(
        f"e-{number}", "//rowdock", events.SWEEP, "s", "2026-11-24T00:00:00Z", {"n": number}, {"x": "y"}
    )


def test_an_event_comes_out_as_it_went_in(queue):
    """Every attribute, and the number of the attempt."""
    assert queue.put(an_event(), ROUTE)
    assert queue.take("ingest", 5) == [(1, "ingest-on-upload", 1, an_event())]
    assert queue.take("ingest", 5) == []


def test_an_event_survives_the_death_of_its_process(tmp_path):
    """put returned, so kill -9 at once changes nothing."""
    program = (
        "import os, sys; from pathlib import Path; from local_emulator.event_queue import EventQueue;"
        "from shared import events; q = EventQueue(Path(sys.argv[1]));"
        "q.put(events.Event('e-1', 's', 't'), [('t', 'f')], seen=('b', 'n', 'v1')); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", program, tmp_path / "q.db"], check=False).returncode == -9
    with closing(EventQueue(tmp_path / "q.db")) as queue:
        assert [event.id for _, _, _, event in queue.take("f", 1)] == ["e-1"]
        assert queue.seen("b") == {"n": "v1"}


def test_the_same_event_again_is_no_second_delivery(queue):
    """Source and id together are what it is; the same id from elsewhere is another event."""
    assert queue.put(an_event(), ROUTE)
    assert not queue.put(an_event(), ROUTE)
    assert queue.put(events.Event("e-1", "//elsewhere", events.SWEEP), ROUTE)
    assert len(queue.take("ingest", 5)) == 2


def test_an_event_without_a_route_is_kept_and_goes_nowhere(queue):
    """It can be looked at; it is not due."""
    queue.put(an_event(), [])
    assert queue.take("ingest", 5) == []
    assert [(row["event_id"], row["state"]) for row in queue.listing()] == [("e-1", None)]


def test_a_retry_is_due_after_its_pause_and_not_before(queue, clock):
    """The pause is the caller's; the count of attempts goes on."""
    queue.put(an_event(), ROUTE)
    ((delivery, _, _, _),) = queue.take("ingest", 1)
    queue.retry(delivery, 503, "busy", pause_s=10.0)
    assert queue.next_due_at("ingest") == 1_010.0
    clock.now = 1_009.9
    assert queue.take("ingest", 1) == []
    clock.now = 1_010.0
    assert [attempt for _, _, attempt, _ in queue.take("ingest", 1)] == [2]


def test_what_is_given_up_is_dead_until_it_is_replayed(queue, clock):
    """Every attempt stays on record; a replay counts its attempts anew."""
    queue.put(an_event(), ROUTE)
    ((delivery, _, _, _),) = queue.take("ingest", 1)
    clock.now += 2.5
    queue.give_up(delivery, None, "gone")
    assert queue.counts() == {"dead": 1}
    assert queue.next_due_at("ingest") is None
    assert queue.replay() == 1
    assert [attempt for _, _, attempt, _ in queue.take("ingest", 1)] == [1]
    queue.done(delivery, 204)
    tries = queue.show(delivery)["tries"]
    assert [(t["duration_s"], t["status"], t["error"]) for t in tries] == [(2.5, None, "gone"), (0.0, 204, None)]


def test_what_is_under_way_is_not_replayed(queue):
    """Two of the same at once is what the replay must not make."""
    queue.put(an_event(), ROUTE)
    queue.take("ingest", 1)
    assert queue.replay(1) == 0


def test_what_was_under_way_at_the_end_is_due_again(queue):
    """At least once: a delivery whose end nobody saw is made again."""
    queue.put(an_event(), ROUTE)
    queue.take("ingest", 1)
    assert queue.recover() == 1
    assert [attempt for _, _, attempt, _ in queue.take("ingest", 1)] == [2]


def test_deliveries_to_one_function_do_not_wait_for_another(queue):
    """Each function takes its own, the longest due first, as many as it can."""
    for number in range(4):
        queue.put(an_event(number), [("a", "ingest"), ("b", "backup")])
    assert [event.id for *_, event in queue.take("ingest", 3)] == ["e-0", "e-1", "e-2"]
    assert len(queue.take("backup", 9)) == 4
    assert queue.unfinished("a")
    assert not queue.unfinished("c")


def test_old_ends_are_forgotten_and_dead_letters_are_not(queue):
    """A sweep a minute must not fill the disk; what was given up waits for somebody."""
    for number in range(10):
        queue.put(an_event(number), ROUTE)
        ((delivery, _, _, _),) = queue.take("ingest", 1)
        queue.give_up(delivery, 500, "no") if number == 0 else queue.done(delivery, 204)
    queue.forget_old(keep=3)
    assert [row["event_id"] for row in queue.listing()] == ["e-9", "e-8", "e-7", "e-0"]


def test_the_ledger_forgets_what_is_gone(queue):
    """An object that is deleted and written again is seen again."""
    for name in ("a", "b"):
        queue.put(an_event(name), ROUTE, seen=("bucket", name, "v1"))
    queue.forget_objects("bucket", ["a"])
    assert queue.seen("bucket") == {"b": "v1"}


def test_a_second_process_may_look_and_replay_meanwhile(queue, tmp_path):
    """The listing commands open the same file while the emulator writes to it."""
    queue.put(an_event(), ROUTE)
    ((delivery, _, _, _),) = queue.take("ingest", 1)
    queue.give_up(delivery, 500, "no")
    with closing(EventQueue(tmp_path / "queue.db", now=queue._now)) as other:
        assert other.replay() == 1
    assert len(queue.take("ingest", 1)) == 1
    with closing(sqlite3.connect(tmp_path / "queue.db")) as plain:
        assert plain.execute("pragma journal_mode").fetchone() == ("wal",)
