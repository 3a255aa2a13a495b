# SPDX-License-Identifier: GPL-2.0-only
"""Bursts on real KVM and Bochs: what C says is what Python sees, and faults planted on the way."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from nvmxfuzz.campaign.last_input import LastInput, read_last_input
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.codec import decode, encode
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import Outcome
from nvmxfuzz.machine.profile import Profile, load_profile
from nvmxfuzz.targets.at_hand import Alone, AtHand
from nvmxfuzz.targets.bochs import wheel
from nvmxfuzz.targets.bochs.target import Bochs
from nvmxfuzz.targets.kvm_native import burst as bursts_of
from nvmxfuzz.targets.kvm_native.build.objects import BuiltObject
from nvmxfuzz.targets.kvm_native.burst import Bursts, Neighbour, Written
from nvmxfuzz.targets.kvm_native.library import Library
from nvmxfuzz.targets.kvm_native.target import KvmTarget

pytestmark = pytest.mark.skipif(bool(wheel.usable()), reason=wheel.usable())

KINDS = ("", "entered", "fail-invalid", "fail-valid", "exit", "fault")
ENTERED = (KINDS.index("entered"), 0, 0)
Enter = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)


@dataclass
class Planted:
    """Bochs whose processor alone is another one: `plant` changes its function."""

    plant: Callable[[AtHand], AtHand]
    name: str = "planted"

    def alone(self, host: Profile, offered: Profile) -> Alone | None:
        """Return Bochs, changed."""
        found = Bochs().alone(host, offered)
        assert found is not None
        return Changed(found, self.plant)


@dataclass
class Changed:
    """A processor alone whose function `plant` changes."""

    of: Alone
    plant: Callable[[AtHand], AtHand]

    def at_hand(self, attempt: Attempt) -> AtHand | None:
        """Return the function, changed."""
        found = self.of.at_hand(attempt)
        return found and self.plant(found)

    def image(self, attempt: Attempt) -> bytes:
        """Return the image of the attempt's VMCS."""
        return self.of.image(attempt)


class Around:
    """Bursts around the plain attempt of one kernel, in this process."""

    def __init__(self, built: BuiltObject, planted: Planted | None = None) -> None:
        self.kernel = built.kernel
        self.kvm = KvmTarget(self.kernel, Bochs(), load=lambda: Library.of(built))
        self.profile = load_profile(f"kvm-{self.kernel}-skylake-x")
        self.case = EntryCase(base("guest-64", self.profile), "guest-64")
        self.profiles = (self.profile.name,)
        self.head = encode(self.case, self.profiles)
        self.bursts = Bursts(planted or Bochs(), lambda: self.kvm)
        self.bursts.prepare(self.profile)
        self.memory = (ctypes.c_char * 4096)()
        self.size = ctypes.c_uint32()

    def run(self, seed: int, count: int = 64) -> tuple[Neighbour, ...]:
        """Run a burst."""
        ctypes.memmove(self.memory, self.head, len(self.head))
        places = ctypes.addressof(self.memory), ctypes.addressof(self.size)
        return self.bursts.around(
            self.case.attempt, Written(*places, len(self.head)), (seed, count)
        )

    def attempt_of(self, neighbour: Neighbour) -> Attempt:
        """Return what a neighbour is."""
        return decode(self.head + neighbour.records, "vm_entry", self.profiles).attempt

    def last(self) -> bytes:
        """Return the input that was executed last."""
        return bytes(memoryview(self.memory)[: self.size.value])


def number(outcome: Outcome | None) -> tuple[int, int, int]:
    return (
        (KINDS.index(outcome.kind), outcome.number, outcome.qualification) if outcome else (0, 0, 0)
    )


def test_what_is_told_is_what_single_attempts_come_to(built: BuiltObject) -> None:
    around = Around(built)
    told = [each for seed in range(12) for each in around.run(seed)]
    assert around.bursts.totals[0] == 12 * 64
    again = KvmTarget(around.kernel, Bochs())
    for each in told[::2]:
        assert each.kvm == number(again.on_hardware(around.attempt_of(each)).outcome), each
    assert {KINDS[each.kvm[0]] for each in told} == {"entered", "fail-valid", "exit"}


def test_a_neighbour_has_at_most_three_fields_edited(built: BuiltObject) -> None:
    around = Around(built)
    plain = around.case.attempt
    edited = []
    for each in around.run(1):
        attempt = around.attempt_of(each)
        edited.append(len(attempt.vmcs.items().items() - plain.vmcs.items().items()))
        assert replace(attempt, vmcs=plain.vmcs) == plain
    # Of two edits of one field the second may be the first undone.
    assert edited.count(0) < len(edited) // 8
    assert {1, 2, 3} <= set(edited) <= {0, 1, 2, 3}


def test_a_seed_means_the_same_neighbours(built: BuiltObject) -> None:
    one, other = Around(built), Around(built)
    assert one.run(7) == other.run(7)
    assert one.last() == other.last()
    assert one.run(8, 1) != Around(built).run(9, 1)


def test_what_was_told_is_not_told_again_but_for_the_sample(built: BuiltObject) -> None:
    around = Around(built)
    first, second = around.run(3), around.run(3)
    assert all(each.reasons & bursts_of.IS_NEW for each in first)
    assert not any(each.reasons & bursts_of.IS_NEW for each in second)


def test_a_disagreement_is_told_also_where_it_is_not_new(built: BuiltObject) -> None:
    """A processor that lets every VM entry pass."""
    lets_pass = Planted(
        lambda found: replace(found, ends=replace(found.ends, entered=found.ends.exited))
    )
    around = Around(built, lets_pass)
    honest = Around(built)
    told = [each for seed in range(4) for each in around.run(seed)]
    wrong = [each for each in told if each.alone == ENTERED and each.kvm[0] == 4]
    assert wrong
    assert all(each.reasons & bursts_of.IS_DIFFERENT for each in wrong)
    for seed in range(4):
        honest.run(seed)
    assert around.bursts.totals[2] > 4 * honest.bursts.totals[2]


def test_what_kvm_does_not_get_over_is_told_and_ends_the_burst(built: BuiltObject) -> None:
    around = Around(built)
    library = around.kvm.seat(around.profile)
    assert library is not None
    library.library.step_limit = 200
    told = around.run(5)
    assert around.bursts.totals[0] == 1
    assert [bool(each.reasons & bursts_of.IS_HARM) for each in told] == [True]
    assert around.last() == around.head + told[0].records
    library.library.step_limit = 1_000_000
    # The state is that of the snapshot: it goes on.
    around.run(6)
    assert around.bursts.totals[0] == 1 + 64


def test_a_neighbour_that_kills_the_process_is_its_last_input(
    built: BuiltObject, tmp_path: Path
) -> None:
    fifth = Around(built)
    fifth.run(11, 5)
    calls: list[int] = []

    def kill(*_: int | None) -> None:
        calls.append(1)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    fatal = Enter(kill)
    address = ctypes.cast(fatal, ctypes.c_void_p).value or 0
    deadly = Around(built, Planted(lambda found: replace(found, enter=address)))
    path = tmp_path / "last"
    child = os.fork()
    if child == 0:
        last = LastInput(path)
        last.write(1, deadly.head)
        written = Written(*last.open_end(deadly.head), len(deadly.head))
        deadly.bursts.around(deadly.case.attempt, written, (11, 64))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert read_last_input(path) == fifth.last() != fifth.head
