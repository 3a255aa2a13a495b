# SPDX-License-Identifier: GPL-2.0-only
"""A processor below KVM that C calls without Python: what comes of it is what Python would say."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from nvmxfuzz.arch.controls import Primary
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.text import load_text
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.memory import Memory
from nvmxfuzz.machine.outcome import ENTERED, FAIL_INVALID, Outcome, exit_on_entry, fail_valid
from nvmxfuzz.machine.profile import Profile, load_profile
from nvmxfuzz.targets.at_hand import AtHand, Ends, Place
from nvmxfuzz.targets.base import Observation, Target, observed
from nvmxfuzz.targets.bochs.target import Bochs
from nvmxfuzz.targets.kvm_native.build.objects import BuiltObject
from nvmxfuzz.targets.kvm_native.errors import IoctlError
from nvmxfuzz.targets.kvm_native.looking import Looker
from nvmxfuzz.targets.kvm_native.loop import KvmLoop
from nvmxfuzz.targets.kvm_native.seat import Seat

RandomStates: TypeAlias = Callable[[int, int], list[Attempt]]

VECTORS = Path(__file__).parents[3] / "corpus/vectors"
PLAIN = base("guest-64", load_profile("skylake-x"))
PAE = base("guest-pae", load_profile("skylake-x"))
VTPR = PLAIN.vmcs.replace(
    {
        "cpu_based_vm_exec_control": PLAIN.vmcs.cpu_based_vm_exec_control | Primary.USE_TPR_SHADOW,
        "tpr_threshold": 5,
        "virtual_apic_page_addr": 0x25000,
    }
)
PANIC = 2


class Hidden(Target):
    """Bochs, and no more of it than its verdicts, which are counted."""

    def __init__(self, bochs: Bochs) -> None:
        self.bochs = bochs
        self.asked = 0

    @property
    def name(self) -> str:
        """The name of the target."""
        return self.bochs.name

    def open(self, profile: Profile) -> None:
        """Get Bochs ready."""
        self.bochs.open(profile)

    def run(self, attempt: Attempt) -> Observation:
        """Count, and ask Bochs."""
        self.asked += 1
        return self.bochs.run(attempt)

    def close(self) -> None:
        """Leave Bochs to the other tests."""


class Shown(Hidden):
    """Bochs, which C may call."""

    def at_hand(self, attempt: Attempt) -> AtHand | None:
        """Return what Bochs does."""
        return self.bochs.at_hand(attempt)


@dataclass
class Both:
    """KVM on the same Bochs, by both ways."""

    slow: KvmLoop
    fast: KvmLoop
    hardware: Shown

    def agree(self, attempts: Sequence[Attempt]) -> None:
        """See that nothing that L1 or L0 can see tells the ways apart."""
        # One way behind the other: what Bochs is shown stays the same for one of them.
        slow = [ends(self.slow, attempt) for attempt in attempts]
        for attempt, expected in zip(attempts, slow, strict=True):
            assert ends(self.fast, attempt) == expected, attempt
        for attempt, (seen, *views) in zip(attempts, slow, strict=True):
            passage = self.slow.follow(attempt)
            assert passage.observation == seen
            assert passage.l1_after is None or passage.l1_after == views[0]


def ends(loop: KvmLoop, attempt: Attempt) -> tuple[Any, ...]:
    seen = loop.run(attempt)
    seat = loop._plain._seat(attempt.profile)
    if seen.status != "outcome" or not isinstance(seat, Seat):
        return (seen,)
    look = Looker(seat._vcpu, seat._layout, attempt)
    try:
        return seen, look.l1(), look.l0()
    except IoctlError as given_up:
        return seen, str(given_up)


@pytest.fixture
def both(built: BuiltObject, bochs: Bochs) -> Iterator[Both]:
    kernel, hardware = built.manifest.kernel, Shown(bochs)
    with (
        KvmLoop(kernel, Hidden(bochs), "bochs") as slow,
        KvmLoop(kernel, hardware, "bochs") as fast,
    ):
        yield Both(slow, fast, hardware)


def entering(count: int) -> list[Attempt]:
    return [
        replace(PLAIN, vmcs=PLAIN.vmcs.replace({"guest_rip": 0x1000 + rip})) for rip in range(count)
    ]


def test_python_is_not_asked_while_the_vmcs_alone_differs(both: Both) -> None:
    both.fast.run(PLAIN)
    both.hardware.asked = 0
    for attempt in entering(20):
        assert both.fast.run(attempt).outcome == ENTERED
    assert both.hardware.asked == 0
    both.agree(entering(20))


def test_the_corpus_comes_out_the_same(both: Both) -> None:
    cases = (
        load_text(path.read_bytes(), path.name).case for path in sorted(VECTORS.rglob("*.toml"))
    )
    both.agree([case.attempt for case in cases if isinstance(case, EntryCase)])


def test_random_states_come_out_the_same(both: Both, random_states: RandomStates) -> None:
    attempts = sorted(random_states(6, 600), key=lambda attempt: attempt.profile.name)
    both.agree(attempts)


@pytest.mark.parametrize(
    ("attempt", "address", "values"),
    [
        (replace(PLAIN, vmcs=VTPR), 0x25080, {b"\x50\0\0\0": ENTERED, b"\x40\0\0\0": None}),
        (PAE, PAE.vmcs.guest_cr3, {b"\x01\0\0\0": ENTERED, b"\xff\xff\xff\xff": None}),
    ],
)
def test_memory_that_changes_is_seen(
    both: Both, attempt: Attempt, address: int, values: dict[bytes, Outcome | None]
) -> None:
    attempts = []
    for data in (*values, *values):
        regions = {start: bytearray(old) for start, old in attempt.memory.regions}
        start = max(start for start in regions if start <= address)
        regions[start][address - start : address - start + 4] = data
        memory = Memory.of({start: bytes(new) for start, new in regions.items()})
        attempts += [replace(attempt, memory=memory)] * 3
    both.agree(attempts)
    outcomes = {both.fast.run(each).outcome for each in attempts}
    assert ENTERED in outcomes
    assert len(outcomes) == 2


def test_what_others_show_to_bochs_is_noticed(both: Both) -> None:
    for _ in range(3):
        assert both.fast.run(PLAIN).outcome == ENTERED
    both.hardware.asked = 0
    both.hardware.bochs.run(replace(PLAIN, memory=Memory(((0x9000, b"\1"),))))
    assert both.fast.run(PLAIN).outcome == ENTERED
    assert both.hardware.asked == 1


class _Line(ctypes.Structure):
    _fields_ = (("level", ctypes.c_uint64), ("rest", ctypes.c_uint64 * 5))


class _End(ctypes.Structure):
    """struct nvmx_end."""

    _fields_ = (
        ("reserved", ctypes.c_uint64),
        ("kind", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
        ("argument", ctypes.c_uint64 * 3),
        *((name, ctypes.c_uint64) for name in ("lines", "decided", "missing")),
        ("line", _Line * 40),
    )


RETURNED, ENTERS, EXITS, OTHER = range(4)
Enter = ctypes.PYFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
RIP = Place(0x681E, 8, 8)
RIGHTS = Place(0x4816, 16, 4, rotated=8)
"""Of CS, which are 0xa09b."""


@dataclass
class Planted(Target):
    """A target that says that the guest is entered, and a function that says what it is told."""

    end: _End = field(default_factory=_End)
    error: ctypes.c_uint32 = field(default_factory=ctypes.c_uint32)
    stamp: ctypes.c_uint64 = field(default_factory=ctypes.c_uint64)
    asked: int = 0
    forgot: int = 0
    images: list[bytes] = field(default_factory=list)
    name: str = "planted"

    def __post_init__(self) -> None:
        self.enter = Enter(lambda _state, image, _at: self.images.append(self._image(image)))
        self.function = AtHand(
            enter=ctypes.cast(self.enter, ctypes.c_void_p).value or 0,
            state=0,
            instructions=(0, 0),
            places=(RIP, RIGHTS),
            size=32,
            launch_state=24,
            ends=Ends(ctypes.addressof(self.end), RETURNED, ENTERS, EXITS, harmless=1, faulted=4),
            error=ctypes.addressof(self.error),
            stamp=self.stamp,
            forget=self._forget,
            owner=self,
        )

    @staticmethod
    def _image(address: int) -> bytes:
        return ctypes.string_at(address, 32)

    def _forget(self) -> None:
        self.forgot += 1

    def open(self, profile: Profile) -> None:
        """Need nothing."""

    def close(self) -> None:
        """Have nothing."""

    def run(self, attempt: Attempt) -> Observation:  # noqa: ARG002 # it is always the same
        """Say that the guest is entered."""
        self.asked += 1
        return observed(ENTERED)

    def at_hand(self, attempt: Attempt) -> AtHand | None:  # noqa: ARG002 # likewise
        """Return the function."""
        return self.function


@pytest.fixture
def planted(built: BuiltObject) -> Iterator[tuple[Planted, KvmLoop]]:
    hardware = Planted()
    with KvmLoop(built.manifest.kernel, hardware, "planted") as loop:
        assert loop.run(PLAIN).outcome == ENTERED
        hardware.asked = 0
        yield hardware, loop


@pytest.mark.parametrize(
    ("kind", "error", "argument", "expected"),
    [
        (RETURNED, 8, (), fail_valid(7)),  # KVM tells L1 of no other number
        (ENTERS, 0, (), ENTERED),
        (EXITS, 0, (0, 0x8000_0022, 3), exit_on_entry(34, 3)),
    ],
)
def test_the_answer_of_the_function_counts(
    planted: tuple[Planted, KvmLoop],
    kind: int,
    error: int,
    argument: tuple[int, ...],
    expected: Outcome,
) -> None:
    hardware, loop = planted
    hardware.end.kind, hardware.error.value = kind, error
    hardware.end.argument[: len(argument)] = argument
    hardware.end.lines = 1
    hardware.end.line[0].level = 1
    assert loop.run(PLAIN).outcome == expected
    assert (hardware.asked, len(hardware.images)) == (0, 1)


def test_the_function_gets_an_image(planted: tuple[Planted, KvmLoop]) -> None:
    hardware, loop = planted
    hardware.end.kind = ENTERS
    loop.run(replace(PLAIN, vmcs=PLAIN.vmcs.replace({"guest_rip": 0x1234})))
    rip, rights, launched, rest = (
        int.from_bytes(hardware.images[0][at : at + size], "little")
        for at, size in ((8, 8), (16, 4), (24, 4), (28, 4))
    )
    assert (rip, rights, launched, rest) == (0x1234, 0xA09B00, 0, 0)


@pytest.mark.parametrize("doubt", ["kind", "line", "missing", "stamp"])
def test_in_doubt_the_target_is_asked(planted: tuple[Planted, KvmLoop], doubt: str) -> None:
    hardware, loop = planted
    hardware.end.kind = RETURNED
    hardware.error.value = 8
    if doubt == "kind":
        hardware.end.kind = OTHER
    elif doubt == "line":
        hardware.end.lines = 2
        hardware.end.line[0].level = 1
        hardware.end.line[1].level = PANIC
    elif doubt == "missing":
        hardware.end.missing = 1
    else:
        hardware.stamp.value += 1
    assert loop.run(PLAIN).outcome == ENTERED
    assert (hardware.asked, hardware.forgot) == (1, 1)
    assert len(hardware.images) == (doubt != "stamp")


def test_vmfail_without_a_number(planted: tuple[Planted, KvmLoop]) -> None:
    hardware, loop = planted
    hardware.end.kind = RETURNED
    assert hardware.error.value == 0
    told = loop.run(PLAIN)
    with KvmLoop(loop.kernel.removeprefix("kvm-"), Failing(), "failing") as by_python:
        assert told == by_python.run(PLAIN)
    assert hardware.asked == 0


class Failing(Planted):
    """A target that fails without a number, and has no function."""

    def run(self, attempt: Attempt) -> Observation:  # noqa: ARG002 # it is always the same
        """Fail."""
        return observed(FAIL_INVALID)

    def at_hand(self, attempt: Attempt) -> AtHand | None:  # noqa: ARG002 # likewise
        """Return nothing."""
        return None
