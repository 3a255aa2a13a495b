# SPDX-License-Identifier: GPL-2.0-only
"""Every event that VM entry could be asked to inject, against the list of those it may inject."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from nvmxfuzz.cpu.chapter import Chapter
from nvmxfuzz.cpu.entry import Entry
from nvmxfuzz.cpu.entry_controls import SECTION
from nvmxfuzz.inputs.bases import base, default_base
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.profile import load_profile

CHAPTER = Chapter((SECTION,), {})
VALID = 1 << 31
FRED = 1 << 32

_ANY_VECTOR = {(kind, vector, False) for kind in (0, 4, 5, 6) for vector in range(256)}
_NMI = {(2, 2, False)}
_MTF = {(7, 0, False)}
_WITH_CODE = {8, 10, 11, 12, 13, 14, 17}
_STRICT = {(3, vector, vector in _WITH_CODE) for vector in range(32)}
_LOOSE = {(3, vector, code) for vector in range(32) for code in (False, True)}
_REAL_MODE = {(3, vector, False) for vector in range(32)}
_FRED_EVENTS = {(7, 1, False), (7, 2, False)}


def start(name: str, base_name: str | None = None) -> Attempt:
    profile = load_profile(name)
    return base(base_name or default_base(profile), profile)


def broken(attempt: Attempt, **fields: int) -> tuple[str, ...]:
    edited = replace(attempt, vmcs=attempt.vmcs.replace(fields))
    return CHAPTER.judge(Entry(edited)).broken_names


def injectable(attempt: Attempt) -> Iterable[tuple[int, int, bool]]:
    """Yield (type, vector, error code delivered) of each event that breaks no rule."""
    for kind in range(8):
        for vector in range(256):
            for code in (False, True):
                info = VALID | code << 11 | kind << 8 | vector
                if not broken(attempt, vm_entry_intr_info_field=info):
                    yield kind, vector, code


@pytest.mark.parametrize(
    ("attempt", "legal"),
    [
        (start("skylake-x"), _ANY_VECTOR | _NMI | _MTF | _STRICT),
        (start("yonah"), _ANY_VECTOR | _NMI | _STRICT),
        (start("everything"), _ANY_VECTOR | _NMI | _MTF | _LOOSE),
        (start("everything", "guest-real"), _ANY_VECTOR | _NMI | _MTF | _REAL_MODE),
    ],
    ids=["skylake-x", "yonah", "everything", "real-mode"],
)
def test_exactly_these_events_can_be_injected(
    attempt: Attempt, legal: set[tuple[int, int, bool]]
) -> None:
    assert set(injectable(attempt)) == legal


def test_fred_adds_syscall_and_sysenter() -> None:
    attempt = start("everything")
    vmcs = attempt.vmcs
    with_fred = replace(attempt, vmcs=vmcs.replace({"guest_cr4": vmcs.guest_cr4 | FRED}))
    assert set(injectable(with_fred)) - set(injectable(attempt)) == _FRED_EVENTS


@pytest.mark.parametrize("name", ["skylake-x", "core2-x6800", "everything"])
def test_each_bit_of_the_entry_controls_keeps_to_the_capability_msr(name: str) -> None:
    attempt = start(name)
    caps = attempt.profile.caps
    for position in range(32):
        mask = 1 << position
        found = broken(attempt, vm_entry_controls=attempt.vmcs.vm_entry_controls ^ mask)
        assert ("entry.controls.must-be-1" in found) == (caps.entry_must & mask != 0)
        assert ("entry.controls.may-be-1" in found) == (caps.entry_may & mask == 0)


@pytest.mark.parametrize("position", range(12, 31))
def test_each_reserved_bit_of_the_interruption_information(position: int) -> None:
    info = VALID | 3 << 8 | 6 | 1 << position
    for name in ("skylake-x", "everything"):
        expected = () if name == "everything" else ("entry.event.nested-supported",)
        if position != 13:
            expected = ("entry.event.reserved",)
        assert broken(start(name), vm_entry_intr_info_field=info) == expected
