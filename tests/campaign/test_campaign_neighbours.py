# SPDX-License-Identifier: GPL-2.0-only
"""What a session does with the neighbours of an input, and which inputs get some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from nvmxfuzz.campaign.engines.atheris import _Lineage
from nvmxfuzz.campaign.events import Found, Kept, Progress, WorkerEvent
from nvmxfuzz.campaign.harness import Harness, Verdicts
from nvmxfuzz.campaign.last_input import LastInput, read_last_input
from nvmxfuzz.campaign.neighbours import SIZE, Neighbours
from nvmxfuzz.campaign.plan import harness_file, load_harness
from nvmxfuzz.campaign.session import Session
from nvmxfuzz.campaign.settings import Settings
from nvmxfuzz.cpu.vm_entry import vm_entry
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.codec import decode
from nvmxfuzz.inputs.layout import layout
from nvmxfuzz.inputs.open_end import record
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.oracles.oracle import Oracle
from nvmxfuzz.targets.kvm_native.burst import Bursts, Neighbour, Written

TABLE = layout("vm_entry")
PLAIN = bytes((1, 1, 0, 0))
NAMES = ("skylake-x",)


def edited(**fields: int) -> bytes:
    """Return the plain input with records behind it."""
    return PLAIN + records(**fields)


def records(**fields: int) -> bytes:
    slots = [(TABLE.index[name], TABLE.by_name[name].size, fields[name]) for name in fields]
    return b"".join(record(*each) for each in slots)


BAD = edited(guest_rflags=0)


@dataclass
class Given:
    """Neighbours that are given beforehand."""

    found: tuple[bytes, ...]
    entries: int = 0
    asked: list[bytes] = field(default_factory=list)

    def around(
        self, _case: EntryCase, _verdicts: Verdicts, data: bytes, last: LastInput, _seed: int
    ) -> tuple[bytes, ...]:
        """Return them, as if as many entries had been run."""
        self.asked.append(data)
        self.entries += SIZE
        last.open_end(b"\xff" * 8)
        return self.found


def session(
    folder: Path, given: Given, sent: list[WorkerEvent], runs: int | None = None
) -> Session:
    rules = load_harness(harness_file("vm_entry"))

    def find(case: EntryCase, _run: object) -> Finding | None:
        bad = case.attempt.vmcs.guest_rflags == 0
        return Finding("some.oracle", (), ("a", "b"), "here", "it is bad") if bad else None

    always = (Oracle("some.oracle", "nowhere", find),)
    harness: Harness = replace(rules, always=always, oracles=(), neighbours=given)
    settings = Settings(0, "random", 1, runs, None, str(folder), "", -1, 0)
    return Session(harness, settings, sent.append, LastInput(folder / "last"))


def test_a_neighbour_that_is_told_of_is_an_input_as_any_other(tmp_path: Path) -> None:
    given, sent = Given((BAD, BAD)), list[WorkerEvent]()
    work = session(tmp_path, given, sent)
    work.feedback = cast("Any", Forbidden())
    work.execute(PLAIN)
    assert [each.data for each in sent if isinstance(each, Found)] == [BAD]
    assert BAD in [each.data for each in sent if isinstance(each, Kept)]
    assert list(work.offered) == [BAD]
    assert given.asked == [PLAIN, BAD], "a neighbour that shows nothing new has no neighbours"
    assert read_last_input(tmp_path / "last") == PLAIN
    work.end()
    (*_, last) = (each for each in sent if isinstance(each, Progress))
    assert (last.executions, last.entries) == (5, 2 * SIZE + 5)


class Forbidden:
    """Feedback that may be asked so often, which is about the attempts themselves alone."""

    allowed = 1

    def note(self, _verdicts: Verdicts) -> None:
        """Count."""
        self.allowed -= 1
        assert self.allowed >= 0


def test_neighbours_end_with_the_campaign(tmp_path: Path) -> None:
    work = session(tmp_path, Given((BAD,) * 9), [], runs=4)
    work.execute(PLAIN)
    assert work.finished
    assert work._executions == 4


def test_the_engine_is_offered_what_was_kept(tmp_path: Path) -> None:
    work = session(tmp_path, Given((BAD,)), [])
    work.execute(PLAIN)
    mutate = _Lineage(work).offering(lambda data, _size, _seed: data + b"!")
    assert mutate(PLAIN, len(BAD), 1) == BAD
    assert mutate(PLAIN, len(BAD), 1) == PLAIN + b"!"
    work.offered.append(BAD)
    assert mutate(PLAIN, len(BAD) - 1, 1) == PLAIN + b"!", "what is too long is passed over"


@dataclass
class Recorded:
    """What stands for the bursts: tells of one neighbour, and keeps what it was asked."""

    orders: list[tuple[int, int]] = field(default_factory=list)
    prepared: list[str] = field(default_factory=list)
    totals: Sequence[int] = (7, 0, 0)

    def is_ready(self, profile: Any) -> bool:  # noqa: ANN401 # any profile
        """Tell whether a profile was prepared."""
        return profile.name in self.prepared

    def prepare(self, profile: Any) -> None:  # noqa: ANN401 # likewise
        """Keep its name."""
        self.prepared.append(profile.name)

    def around(
        self, _attempt: object, written: Written, order: tuple[int, int]
    ) -> tuple[Neighbour, ...]:
        """Tell of one."""
        assert written.head == len(PLAIN) or written.head > len(PLAIN)
        self.orders.append(order)
        return (Neighbour(records(guest_rip=5), 1, (1, 0, 0), (1, 0, 0)),)


def test_what_fails_by_the_controls_gets_no_burst(tmp_path: Path) -> None:
    recorded = Recorded()
    neighbours = Neighbours(cast("Bursts", recorded), NAMES)
    last = LastInput(tmp_path / "last")

    def around(data: bytes, seed: int = 1) -> tuple[bytes, ...]:
        case = decode(data, "vm_entry", NAMES)
        return neighbours.around(case, vm_entry(case.attempt), data, last, seed)

    assert around(PLAIN) == (edited(guest_rip=5),)
    assert around(BAD) == (BAD + records(guest_rip=5),)
    assert around(edited(pin_based_vm_exec_control=0)) == ()
    assert around(edited(host_cr0=0)) == ()
    assert around(edited(cr0=0)) == (), "no L1 that KVM meets"
    assert [count for _, count in recorded.orders] == [SIZE, SIZE]
    assert recorded.prepared == ["skylake-x"]
    around(PLAIN, 2)
    around(PLAIN, 2)
    first, _, second, third = (seed for seed, _ in recorded.orders)
    assert first != second == third
    assert neighbours.entries == 7
