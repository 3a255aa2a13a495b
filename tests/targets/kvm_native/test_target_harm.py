# SPDX-License-Identifier: GPL-2.0-only
"""KVM as a target: damage that an attempt leaves behind, and processors that come and go."""

from __future__ import annotations

import ctypes
import re
import struct
from contextlib import suppress
from dataclasses import replace

import pytest

from nvmxfuzz.arch.registers import Cr4
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.memory import Memory
from nvmxfuzz.machine.outcome import ENTERED
from nvmxfuzz.machine.profile import Profile, load_profile
from nvmxfuzz.reports.observation_text import end_text
from nvmxfuzz.targets.base import Message, Observation, died, observed
from nvmxfuzz.targets.kvm_native import target as target_module
from nvmxfuzz.targets.kvm_native.build.objects import BuiltObject
from nvmxfuzz.targets.kvm_native.errors import IoctlError
from nvmxfuzz.targets.kvm_native.library import Library
from nvmxfuzz.targets.kvm_native.seat import Seat
from nvmxfuzz.targets.kvm_native.target import KvmTarget
from nvmxfuzz.targets.python_model import PythonModel

HOST = load_profile("skylake-x")
_LIVE = 0x11FEB10C
_FIRST_PAGE = 0x10_0000
"""Of what the kernel finds: there the heap begins."""
_HEADER = 64
_CANARY = 8
_LEAST = 128


class Vandal(PythonModel):
    """A processor that writes one byte behind the first object of the heap that has room there."""

    def __init__(self, library: Library) -> None:
        self._heap = library.functions.nvmx_physical(_FIRST_PAGE, 8)

    def run(self, attempt: Attempt) -> Observation:
        """Do that, and judge."""
        at = self._heap
        while True:
            state, size = struct.unpack("<II", ctypes.string_at(at, 8))
            whole = _LEAST
            while whole < size + _HEADER + _CANARY:
                whole <<= 1
            if state == _LIVE and whole > size + _HEADER:
                ctypes.memset(at + _HEADER + size, 0, 1)
                return super().run(attempt)
            at += whole


def test_heap_damage_that_nobody_trips_over_is_found(library: Library, built: BuiltObject) -> None:
    attempt = base("guest-64", HOST)
    with KvmTarget(built.kernel, hardware=Vandal(library), load=lambda: library) as target:
        for _ in range(2):
            seen = target.on_hardware(attempt)
            assert seen.status == "died"
            assert seen.reason.startswith("heap damage: ")
            assert target.follow(attempt).observation == seen
            assert target.run(attempt).outcome == ENTERED


def test_only_the_oldest_processor_makes_room(
    library: Library, built: BuiltObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target_module, "_MOST_SEATS", 2)
    left: list[str] = []
    leave = Seat.leave

    def leaving(seat: Seat) -> None:
        left.append(seat.host.name)
        leave(seat)

    monkeypatch.setattr(Seat, "leave", leaving)
    with KvmTarget(built.kernel, load=lambda: library) as target:
        for name in ("skylake-x", "haswell", "skylake-x", "broadwell", "haswell"):
            profile = load_profile(name)
            assert target.run(base("guest-64", profile)).outcome == ENTERED
        assert left == ["skylake-x"]


def test_what_failed_is_told(
    library: Library, built: BuiltObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    with KvmTarget(built.kernel, load=lambda: library) as target:
        seen = target.run(replace(base("guest-64", HOST), profile=load_profile("yonah")))
        assert seen.reason == "KVM does not load on yonah: insmod: EIO"
        plain = HOST.to_mapping()
        msrs = plain["msrs"]
        assert isinstance(msrs, dict)
        odd = {**plain, "name": "odd", "msrs": {**msrs, "0x48b": "0x0"}}
        seen = target.run(replace(base("guest-64", HOST), profile=Profile.from_mapping(odd)))
        assert re.fullmatch(r'KVM does not load on odd: insmod: EIO \(".+"\)', seen.reason)

    def no_memory(*_: object, **__: object) -> None:
        raise IoctlError(12, "KVM_CREATE_VM")

    monkeypatch.setattr(target_module, "Seat", no_memory)
    target = KvmTarget(built.kernel, load=lambda: library)
    seen = target.run(base("guest-64", HOST))
    assert seen.reason == "KVM makes no vCPU on skylake-x: KVM_CREATE_VM: ENOMEM"


def test_what_is_said_on_the_way_to_the_end_is_printed_once() -> None:
    check, warning = Message("a in b", "a in b"), Message("WARN c.c:1", "WARN c.c:1")
    seen = observed(ENTERED, (check,))
    assert end_text(seen, observed(ENTERED, (check, warning))) == (
        f"    in the end: {ENTERED}\n        WARN c.c:1"
    )
    assert "a in b" in end_text(observed(ENTERED), died("BUG at x.c:1", (check,)))


def test_without_room_for_a_snapshot_memory_is_still_that_of_the_attempt(
    library: Library, built: BuiltObject
) -> None:
    plain = base("guest-64", HOST)
    first, other = (
        replace(plain, memory=Memory(((0x5000, bytes([value]) * 16),))) for value in (1, 2)
    )
    with KvmTarget(built.kernel, load=lambda: library) as target:
        target.run(first)
        taken: list[int] = []
        with suppress(InputError):
            while True:
                taken.append(library.snapshot())
        with pytest.raises(InputError, match="there are 64 snapshots"):
            target.run(first)
        for number in taken:
            library.discard(number)
        # What KVM reads is seen nowhere else.
        seat = target._seat(HOST)
        assert isinstance(seat, Seat)
        for attempt, value in ((first, 1), (other, 2), (first, 1), (first, 1)):
            target.run(attempt)
            assert seat._memory.read(0x5000, 16) == bytes([value]) * 16


def test_a_warning_of_an_l1_that_cannot_be_is_none_of_its_entry(
    library: Library, built: BuiltObject
) -> None:
    """IA-32e mode without PAE: KVM warns of it while L1 is put into that state."""
    attempt = base("guest-64", HOST)
    without_pae = replace(attempt.processor, cr4=attempt.processor.cr4 & ~Cr4.PAE)
    target = KvmTarget(built.kernel, load=lambda: library)
    for run in (target.run, target.on_hardware):
        said = run(replace(attempt, processor=without_pae)).messages
        assert [each.text for each in said if "WARN" in each.text] == []
