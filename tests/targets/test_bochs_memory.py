# SPDX-License-Identifier: GPL-2.0-only
"""The physical memory of an attempt as Bochs reads it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nvmxfuzz.arch.controls import Primary
from nvmxfuzz.inputs import places
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.memory import Memory
from nvmxfuzz.machine.outcome import ENTERED, Outcome, exit_on_entry, fail_valid
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.targets.bochs.guest_code import FIRST, SIZE
from nvmxfuzz.targets.bochs.target import Bochs, BochsComplete

RICH = load_profile("skylake-x")
SYSENTER_CS = (0x174).to_bytes(8, "little") + (0x10).to_bytes(8, "little")
REVISION = RICH.caps.revision.to_bytes(4, "little")


def attempt(name: str, memory: dict[int, bytes], **fields: int) -> Attempt:
    plain = base(name, RICH)
    return replace(plain, vmcs=plain.vmcs.replace(fields), memory=Memory.of(memory))


def msr_list(address: int, memory: dict[int, bytes], count: int) -> Attempt:
    return attempt(
        "guest-64", memory, vm_entry_msr_load_addr=address, vm_entry_msr_load_count=count
    )


CASES: dict[str, tuple[Attempt, Outcome]] = {
    "pdptes missing": (attempt("guest-pae", {}), exit_on_entry(33, 2)),
    "pdptes not present": (attempt("guest-pae", {places.PDPTES: bytes(32)}), ENTERED),
    "last pdpte missing": (attempt("guest-pae", {places.PDPTES: bytes(24)}), exit_on_entry(33, 2)),
    "link pointer to nothing": (
        attempt("guest-64", {}, vmcs_link_pointer=0x5_0000),
        exit_on_entry(33, 4),
    ),
    "link pointer": (
        attempt("guest-64", {0x5_0000: REVISION}, vmcs_link_pointer=0x5_0000),
        ENTERED,
    ),
    "link pointer at the top": (
        attempt("guest-64", {(1 << 40) - 0x1000: REVISION}, vmcs_link_pointer=(1 << 40) - 0x1000),
        ENTERED,
    ),
    "link pointer to the APIC": (
        attempt("guest-64", {0xFEE0_0000: REVISION}, vmcs_link_pointer=0xFEE0_0000),
        ENTERED,
    ),
    "link pointer to the VMXON region": (
        attempt("guest-64", {0x1000: REVISION}, vmcs_link_pointer=0x1000),
        ENTERED,
    ),
    "list in one page": (msr_list(0x5_0000, {0x5_0000: SYSENTER_CS * 3}, 3), ENTERED),
    "list across pages": (msr_list(0x5_0FF0, {0x5_0FF0: SYSENTER_CS * 3}, 3), ENTERED),
    "list into nothing": (
        msr_list(0x5_0FE0, {0x5_0FE0: SYSENTER_CS * 2}, 3),
        exit_on_entry(34, 3),
    ),
    "list in the current VMCS": (msr_list(0x2000, {0x2000: SYSENTER_CS * 2}, 2), ENTERED),
    "long list": (msr_list(0x10_0000, {0x10_0000: SYSENTER_CS * 512}, 512), ENTERED),
    "endless list over nothing": (msr_list(0x5_0000, {}, 0xFFFF), exit_on_entry(34, 1)),
    "memory that no address reaches": (attempt("guest-64", {1 << 51: b"\0" * 5000}), ENTERED),
}


def tpr_shadow(memory: dict[int, bytes], threshold: int) -> Attempt:
    primary = RICH.caps.primary_must | Primary.USE_TPR_SHADOW
    return attempt("guest-64", memory, cpu_based_vm_exec_control=primary, tpr_threshold=threshold)


CASES["vtpr missing"] = tpr_shadow({}, 15), ENTERED
CASES["vtpr below the threshold"] = tpr_shadow({places.VTPR: bytes(4)}, 1), fail_valid(7)


@pytest.mark.parametrize("name", CASES)
def test_what_is_read(bochs: Bochs, bochs_complete: BochsComplete, name: str) -> None:
    state, outcome = CASES[name]
    for _ in range(2):
        assert bochs.run(state).outcome == outcome
        assert bochs_complete.run(state) == bochs.run(state)


def test_the_msr_that_failed_is_named(bochs: Bochs) -> None:
    efer = (0xC000_0080).to_bytes(8, "little") + (0xFF).to_bytes(8, "little")
    seen = bochs.run(msr_list(0x5_0000, {0x5_0000: SYSENTER_CS + efer}, 2))
    assert seen.outcome == exit_on_entry(34, 2)
    assert seen.msr == 0xC000_0080
    assert seen.to_json()["msr"] == "0xc0000080"
    assert "MSR c0000080" in seen.messages[-1].text


def test_memory_of_megabytes(bochs: Bochs) -> None:
    state = attempt("guest-pae", {0x10_0000: bytes(3 << 20)}, guest_cr3=0x3F_FFE0)
    assert bochs.run(state).outcome == ENTERED
    assert bochs.run(replace(state, memory=Memory())).outcome == exit_on_entry(33, 2)


@pytest.mark.parametrize("address", [FIRST, FIRST + SIZE - 0x1000])
def test_the_complete_path_keeps_its_own_pages(
    bochs: Bochs, bochs_complete: BochsComplete, address: int
) -> None:
    state = attempt("guest-64", {address: REVISION}, vmcs_link_pointer=address)
    assert bochs.run(state).outcome == ENTERED
    seen = bochs_complete.run(state)
    assert seen.status == "not-representable"
    assert "the harness's own" in seen.reason
