# SPDX-License-Identifier: GPL-2.0-only
"""The processor of an attempt on Bochs: every mode it can have, and those it cannot."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, TypeAlias

import pytest

from nvmxfuzz.arch.registers import Cr0, Cr4, Rflags
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import ENTERED, FAIL_INVALID, Outcome, fail_valid, fault
from nvmxfuzz.machine.processor import NO_POINTER
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.targets.bochs.target import Bochs, BochsComplete

Changes: TypeAlias = dict[str, int | bool]

RICH = load_profile("skylake-x")
LEGACY: Final[Changes] = {"efer": 0, "cs_l": False}
PROTECTED = int(Cr0.PE | Cr0.NE | Cr0.ET)


def attempt(changes: Changes, profile: str = "skylake-x") -> Attempt:
    """Return the profile's first base, on a processor with `changes`."""
    loaded = load_profile(profile)
    plain = base("guest-64" if "long-mode" in loaded.features else "guest-32", loaded)
    return replace(plain, processor=replace(plain.processor, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({}, ENTERED),
        ({"cr3": 0x1234_5000, "rflags": 0xFD7}, ENTERED),
        ({"cr0": 0xE005_003B}, ENTERED),
        ({"cr4": RICH.caps.cr4_fixed1}, ENTERED),
        ({"efer": 0xD00}, ENTERED),
        ({"cpl": 1}, fault(13)),
        ({"cpl": 2}, fault(13)),
        ({"cpl": 3, "cr4": 0x2020 | Cr4.SMEP}, fault(13)),
        ({"cs_l": False}, fault(6)),
        ({"cs_l": False, "cpl": 3}, fault(6)),
        ({"vmxon_pointer": NO_POINTER}, fault(6)),
        ({"vmxon_pointer": NO_POINTER, "cpl": 3}, fault(6)),
        ({"current_vmcs": NO_POINTER}, FAIL_INVALID),
        ({"current_vmcs": NO_POINTER, "blocking_by_mov_ss": True}, FAIL_INVALID),
        ({"blocking_by_mov_ss": True}, fail_valid(26)),
        ({"blocking_by_mov_ss": True, "cpl": 3}, fault(13)),
        ({"vmxon_pointer": 0xFF_FFFF_F000, "current_vmcs": 0xFEE0_0000}, ENTERED),
        # A 32-bit hypervisor cannot enter a 64-bit guest, nor return to 64 bits.
        (LEGACY, fail_valid(8)),
        (LEGACY | {"cr4": 0x2000}, fail_valid(8)),
        (LEGACY | {"cr4": 0x2000, "cpl": 3}, fault(13)),
        (LEGACY | {"cr4": 0x2000, "cpl": 3, "blocking_by_mov_ss": True}, fault(13)),
        (LEGACY | {"cr4": 0x2000, "blocking_by_mov_ss": True}, fail_valid(26)),
        (LEGACY | {"cr0": PROTECTED}, fail_valid(8)),
        (LEGACY | {"cr0": PROTECTED & ~Cr0.PE}, fault(6)),
        (LEGACY | {"rflags": Rflags.VM | 2, "cpl": 3}, fault(6)),
        (LEGACY | {"rflags": Rflags.VM | 2, "cr4": 0x2000, "blocking_by_mov_ss": True}, fault(6)),
    ],
)
def test_modes(
    bochs: Bochs,
    bochs_complete: BochsComplete,
    changes: Changes,
    outcome: Outcome,
) -> None:
    state = attempt(changes)
    assert bochs.run(state).outcome == outcome
    assert bochs_complete.run(state) == bochs.run(state)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"in_smm": True}, "no dual-monitor treatment"),
        ({"rtit_ctl": 1}, "no Intel PT"),
        ({"cr0": 0x1_8005_0033}, "bits beyond 31"),
        ({"cr0": 0xA005_0033}, "CR0.NW is 1"),
        ({"cr0": 0x8005_0032}, "CR0.PG is 1 without CR0.PE"),
        ({"cr4": 0x2020 | Cr4.CET}, "CR4 has bits 0x800000"),
        ({"cr4": 0x2020 | 1 << 63}, "CR4 has bits"),
        ({"cr4": 0x2000}, "LMA is 1 without CR4.PAE"),
        ({"efer": 0x1D01}, "IA32_EFER has bits 0x1000"),
        ({"efer": 0x901}, "is not what IA32_EFER.LME and CR0.PG make it"),
        ({"cr0": PROTECTED}, "is not what IA32_EFER.LME and CR0.PG make it"),
        ({"rflags": Rflags.VM | 2}, "RFLAGS.VM is 1 in IA-32e mode"),
        (LEGACY | {"cr4": 0x2000 | Cr4.PCIDE}, "CR4.PCIDE is 1 outside IA-32e mode"),
        ({"vmxon_pointer": 0x1001}, "VMXON refuses"),
        ({"vmxon_pointer": 1 << 40}, "VMXON refuses"),
        ({"current_vmcs": 0x2800}, "VMPTRLD refuses"),
        ({"current_vmcs": 0x1000}, "the current VMCS is the VMXON region"),
    ],
)
def test_what_no_processor_can_be(
    bochs: Bochs, bochs_complete: BochsComplete, changes: Changes, reason: str
) -> None:
    seen = bochs.run(attempt(changes))
    assert seen.status == "not-representable"
    assert reason in seen.reason
    assert bochs_complete.run(attempt(changes)) == seen


def test_a_shadow_vmcs_needs_vmcs_shadowing(bochs: Bochs) -> None:
    assert (
        "without VMCS shadowing"
        in bochs.run(attempt({"current_vmcs_is_shadow": True}, "sandy-bridge")).reason
    )
    assert bochs.run(attempt({"current_vmcs_is_shadow": True})).status == "outcome"


def test_lass_and_compatibility_mode(bochs: Bochs, bochs_complete: BochsComplete) -> None:
    lass = int(0x2020 | Cr4.LASS)
    for changes, status in (
        ({"cr4": lass}, "outcome"),
        ({"cr4": lass, "cpl": 3}, "outcome"),
        ({"cr4": lass, "cs_l": False}, "not-representable"),
    ):
        state = attempt(changes, "arrow-lake")
        assert bochs.run(state).status == status
        assert bochs_complete.run(state) == bochs.run(state)


def test_no_intel_64(bochs: Bochs) -> None:
    assert bochs.run(attempt({}, "yonah")).outcome == ENTERED
    assert "IA32_EFER has bits" in bochs.run(attempt({"efer": 0xD01}, "yonah")).reason
    plain = attempt({}, "yonah")
    wide = replace(plain, vmcs=plain.vmcs.replace({"guest_rip": 1 << 32}))
    assert "guest_rip has more than 32 bits" in bochs.run(wide).reason


def test_many_processors(bochs: Bochs) -> None:
    states = [attempt({"current_vmcs": 0x10_0000 + number * 0x1000}) for number in range(200)]
    for state in (*states, *states[::-1]):
        assert bochs.run(state).outcome == ENTERED
