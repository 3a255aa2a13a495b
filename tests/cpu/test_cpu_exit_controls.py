# SPDX-License-Identifier: GPL-2.0-only
"""Every bit of the VM-exit controls, and the arithmetic of MSR areas."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nvmxfuzz.arch.controls import VmExit
from nvmxfuzz.cpu import entry_controls, exit_controls
from nvmxfuzz.cpu.chapter import Chapter
from nvmxfuzz.cpu.entry import Entry
from nvmxfuzz.inputs.bases import base, default_base
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.profile import load_profile

CHAPTER = Chapter((exit_controls.SECTION, entry_controls.SECTION), {})
AREAS = {
    "exit.msr-store": "vm_exit_msr_store",
    "exit.msr-load": "vm_exit_msr_load",
    "entry.msr-load": "vm_entry_msr_load",
}


def start(name: str) -> Attempt:
    profile = load_profile(name)
    return base(default_base(profile), profile)


def broken(attempt: Attempt, **fields: int) -> tuple[str, ...]:
    edited = replace(attempt, vmcs=attempt.vmcs.replace(fields))
    return CHAPTER.judge(Entry(edited)).broken_names


@pytest.mark.parametrize("name", ["skylake-x", "core2-x6800", "everything"])
def test_each_bit_of_the_exit_controls_keeps_to_the_capability_msr(name: str) -> None:
    attempt = start(name)
    caps = attempt.profile.caps
    for position in range(32):
        mask = 1 << position
        found = broken(attempt, vm_exit_controls=attempt.vmcs.vm_exit_controls ^ mask)
        assert ("exit.primary.must-be-1" in found) == (caps.exit_must & mask != 0)
        assert ("exit.primary.may-be-1" in found) == (caps.exit_may & mask == 0)


def test_each_bit_of_the_secondary_exit_controls_keeps_to_its_msr() -> None:
    attempt = start("everything")
    controls = attempt.vmcs.vm_exit_controls | VmExit.ACTIVATE_SECONDARY_CONTROLS
    for position in range(64):
        found = broken(attempt, vm_exit_controls=controls, secondary_vm_exit_controls=1 << position)
        supported = attempt.profile.caps.exit2_may >> position & 1
        assert found == (() if supported else ("exit.secondary.may-be-1",))


@pytest.mark.parametrize("area", AREAS)
@pytest.mark.parametrize(
    ("address", "count", "aspects"),
    [
        (0x3_A000, 0xFFFF_FFFF, set()),
        ((1 << 40) - 16 * 0xFFFF_FFFF, 0xFFFF_FFFF, set()),
        ((1 << 40) - 16 * 0xFFFF_FFFF + 16, 0xFFFF_FFFF, {"end"}),
        ((1 << 40) - 8, 1, {"aligned", "end"}),
        ((1 << 64) - 16, 2, {"width", "end"}),
        ((1 << 64) - 1, 0, set()),
    ],
)
def test_an_msr_area_lies_within_the_physical_addresses(
    area: str, address: int, count: int, aspects: set[str]
) -> None:
    field = AREAS[area]
    found = broken(start("skylake-x"), **{f"{field}_addr": address, f"{field}_count": count})
    assert set(found) == {f"{area}.{aspect}" for aspect in aspects}


def test_a_processor_without_intel_64_has_addresses_of_32_bits() -> None:
    attempt = start("yonah")
    assert attempt.profile.maxphyaddr > 32
    assert broken(attempt, vm_exit_msr_load_addr=0xFFFF_FFF0, vm_exit_msr_load_count=1) == ()
    assert broken(attempt, vm_exit_msr_load_addr=1 << 32, vm_exit_msr_load_count=1) == (
        "exit.msr-load.width",
        "exit.msr-load.end",
    )
