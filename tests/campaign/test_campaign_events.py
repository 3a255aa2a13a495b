# SPDX-License-Identifier: GPL-2.0-only
"""Events over the pipe, and the totals that are made of them."""

import pytest

from nvmxfuzz.campaign.events import (
    Died,
    Ended,
    Finished,
    Found,
    Kept,
    Notice,
    Progress,
    Seen,
    Started,
    WorkerEvent,
    from_line,
    to_line,
)
from nvmxfuzz.campaign.tally import Tally
from nvmxfuzz.oracles.finding import Finding

FINDING = Finding("some.oracle", ("a", "b"), ("cpu", "cpu"), "site", 'says "no"\n')


@pytest.mark.parametrize(
    "event",
    [
        Started(1),
        Progress(2, 10, Seen(1, 2, 1 << 400, 0), (("one", 3), ("two", 4))),
        Progress(2, 10, Seen(), (), (("a", 1),), ("b in c",), 3, 4, rerun=5, same=4, resident=6),
        Kept(1, b"\x00", "ab" * 32, Seen(1, 0, 1 << 99)),
        Found(3, FINDING, b"\x00\xff"),
        Notice(4, "one sentence"),
        Ended(5),
    ],
)
def test_an_event_comes_out_of_the_pipe_as_it_went_in(event: WorkerEvent) -> None:
    line = to_line(event)
    assert line.endswith(b"\n")
    assert b"\n" not in line[:-1]
    assert from_line(line) == event


def test_an_unknown_event_is_refused() -> None:
    with pytest.raises(ValueError, match="no event is called 'Nap'"):
        from_line(b'{"event": "Nap", "worker": 0}')


def test_progress_replaces_earlier_progress_of_the_same_worker() -> None:
    tally = Tally()
    tally.take(Progress(0, 10, Seen(held=1), (("one", 1),)))
    tally.take(Progress(0, 25, Seen(held=2), (("one", 3),)))
    assert tally.executions == 25
    assert tally.sightings() == {"one": 3}
    assert tally.seen() == Seen(held=3)


def test_workers_add_up() -> None:
    tally = Tally()
    tally.take(Progress(0, 10, Seen(held=1), (("one", 1),)))
    tally.take(Progress(1, 5, Seen(broken=1), (("one", 1), ("two", 1))))
    assert tally.executions == 15
    assert tally.sightings() == {"one": 2, "two": 1}
    assert tally.seen() == Seen(held=1, broken=1)


def test_what_a_dead_worker_did_is_kept_and_the_next_one_added() -> None:
    tally = Tally()
    tally.take(Progress(0, 10, Seen(), (("one", 2),)))
    tally.take(Died(0, 13, "SIGKILL", "", b""))
    tally.take(Progress(0, 4, Seen(), (("one", 1),)))
    assert tally.executions == 17
    assert tally.sightings() == {"one": 3}
    assert tally.deaths == 1


def test_a_worker_that_dies_before_its_first_report_counts() -> None:
    tally = Tally()
    tally.take(Died(0, 3, "SIGKILL", "", b""))
    assert tally.executions == 3


def test_the_end_has_the_last_word() -> None:
    tally = Tally()
    tally.take(Progress(0, 10, Seen(), ()))
    tally.take(Ended(0))
    tally.take(Finished("runs", 11, 2.5))
    assert (tally.executions, tally.seconds) == (11, 2.5)
