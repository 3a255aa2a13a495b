# SPDX-License-Identifier: GPL-2.0-only
"""Which MSRs an MSR list may load on KVM: what kvm_set_msr() takes and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import pytest

from nvmxfuzz.arch.controls import VmExit
from nvmxfuzz.kvm.entry_run import NestedEntry
from nvmxfuzz.kvm.vcpu import EntryRequest, Kvm
from nvmxfuzz.machine.outcome import ENTERED, exit_on_entry

Launch: TypeAlias = Callable[..., NestedEntry]

AREA = 0x2_3000
ALL_ONES = 0xFFFF_FFFF_FFFF_FFFF

TAKEN = [
    (0x174, 1 << 63),
    (0x175, 1 << 63),
    (0x277, 0x0606_0606_0606_0606),
    (0xC000_0080, 0xD01),
    (0xC000_0081, ALL_ONES),
    (0xC000_0082, 0xFFFF_8000_0000_0000),
    (0xC000_0084, ALL_ONES),
    (0xC000_0102, 0x7FFF_FFFF_F000),
    (0xC000_0103, 5),
    (0x1D9, 3),
    (0x10, 12345),
    (0x1B, 0xFEE0_0900),
    (0x1A0, 0x1801),
    (0x38F, 1),
    (0x200, 0x0006),
    (0x201, 0x0F00_0800),
    (0x2FF, 0xC06),
    (0x250, 0x0606_0606_0606_0606),
    (0x400, ALL_ONES),
    (0x401, 0),
    (0x140, 1),
    (0xC1, 7),
    (0x186, 0),
    (0x11, 0),
    (0x4B56_4D04, 0),
    (0xC001_0015, 1 << 18),
    (0xC001_001F, ALL_ONES),
    (0xC001_0117, 1),
    (0x48, 1),
    (0x38D, 0x3B),
    (0x390, 3 << 62),
    (0x309, 1),
    (0x4C1, (1 << 48) - 1),
    (0x188, 0xFF),
    (0x187, 1),
    (0xD90, 0x1003),
    (0x4B56_4D02, 0),
    (0x4B56_4D03, 1),
    (0xDA0, 0),
]

REFUSED = [
    (0, 0),
    (0x277, 0x0206_0606_0606_0606),
    (0xC000_0080, 0xC01),
    (0xC000_0080, 0xF01),
    (0xC000_0082, 1 << 62),
    (0xC000_0102, 1 << 63),
    (0xC000_0103, 1 << 32),
    (0x1D9, 1 << 8),
    (0x1B, 0xFEE0_0400),
    (0x1B, 1),
    (0x1A0, 0x801),
    (0x38F, 1 << 63),
    (0x200, 0x0002),
    (0x201, 1),
    (0x2FF, 1 << 4),
    (0x250, 0x02),
    (0x400, 5),
    (0x401, 1),
    (0x140, 2),
    (0xD90, 4),
    (0x480, 0),
    (0x4B56_4D04, 2),
    (0x4B56_4D04, 0x80_0001),
    (0xC001_0015, 1 << 3 | 1),
    (0xC001_0058, 1),
    (0x4000_0000, 0),
    (0x48, 1 << 20),
    (0x38D, 0x4),
    (0x309 + 4, 1),
    (0x4C1, 1 << 48),
    (0x186, 1 << 21),
    (0xD90, 1 << 63),
    (0x4B56_4D02, 0x10),
    (0x4B56_4D02, 1),
    (0x4B56_4D03, 2),
    (0xDA0, 1),
]


def load(launch: Launch, index: int, value: int, version: str = "6.12") -> NestedEntry:
    memory = {AREA: index.to_bytes(8, "little") + value.to_bytes(8, "little")}
    return launch({"vm_entry_msr_load_count": 1}, memory=memory, version=version)


@pytest.mark.parametrize(("index", "value"), TAKEN)
def test_taken(launch: Launch, index: int, value: int) -> None:
    assert load(launch, index, value).outcome == ENTERED


@pytest.mark.parametrize(("index", "value"), REFUSED)
def test_refused(launch: Launch, index: int, value: int) -> None:
    entry = load(launch, index, value)
    assert (entry.check, entry.outcome) == ("msr-load.msr.writable", exit_on_entry(34, 1))


def test_what_is_loaded_is_in_vmcs02(launch: Launch) -> None:
    for index, name in ((0x174, "guest_sysenter_cs"), (0x277, "guest_ia32_pat")):
        entry = load(launch, index, 0x0606)
        assert entry.vmcs02 is not None
        assert entry.vmcs02.__dict__[name] == 0x0606
    assert dict(load(launch, 0x174, 8).vmcs12_writes) == {"guest_sysenter_cs": 8}


@pytest.mark.parametrize(
    ("index", "value", "field", "control"),
    [
        (0x277, 6, "guest_ia32_pat", VmExit.SAVE_IA32_PAT),
        (0x1D9, 0, "guest_ia32_debugctl", VmExit.SAVE_DEBUG_CONTROLS),
        (0xD90, 3, "guest_bndcfgs", 0),
    ],
)
def test_what_vm_exit_saves_is_in_vmcs12_at_once(
    launch: Launch, index: int, value: int, field: str, control: int
) -> None:
    memory = {AREA: index.to_bytes(8, "little") + value.to_bytes(8, "little")}
    edits = {"vm_entry_msr_load_count": 1}
    entry = launch(edits, {"vm_exit_controls": int(control)}, memory=memory)
    assert dict(entry.vmcs12_writes) == {field: value}


def test_a_sysenter_address_is_made_canonical(launch: Launch) -> None:
    entry = load(launch, 0x175, 1 << 56)
    assert entry.vmcs02 is not None
    assert entry.vmcs02.guest_sysenter_esp == 0xFF00_0000_0000_0000
    older = load(launch, 0x175, 1 << 47, version="6.1")
    assert older.vmcs02 is not None
    assert older.vmcs02.guest_sysenter_esp == 0xFFFF_8000_0000_0000


def test_amds_hwcr_takes_two_bits_at_once_only_in_newer_kernels(launch: Launch) -> None:
    both = 1 << 18 | 1 << 24
    assert load(launch, 0xC001_0015, both).outcome == ENTERED
    assert load(launch, 0xC001_0015, both, version="6.1").outcome == exit_on_entry(34, 1)


def test_commands_work_as_far_as_the_processor_below_has_them(launch: Launch) -> None:
    def with_commands(kvm: Kvm) -> Kvm:
        return replace(kvm, virtual=replace(kvm.virtual, pred_cmd=1, flush_cmd=None))

    for index, value, taken in ((0x49, 1, True), (0x49, 2, False), (0x10B, 0, False)):
        memory = {AREA: index.to_bytes(8, "little") + value.to_bytes(8, "little")}
        edits = {"vm_entry_msr_load_count": 1}
        entry = launch(edits, memory=memory, kvm=with_commands)
        assert (entry.outcome == ENTERED) is taken


def test_tsc_aux_needs_an_instruction_that_reads_it(launch: Launch) -> None:
    def without(kvm: Kvm) -> Kvm:
        return replace(kvm, virtual=replace(kvm.virtual, has_tsc_aux=False))

    memory = {AREA: (0xC000_0103).to_bytes(16, "little")}
    entry = launch({"vm_entry_msr_load_count": 1}, memory=memory, kvm=without)
    assert entry.outcome == exit_on_entry(34, 1)


def test_paging_and_the_apic_change_mode_only_in_steps(launch: Launch) -> None:
    def disabled(request: EntryRequest) -> EntryRequest:
        return replace(request, l1=replace(request.l1, apic_base=0xFEE0_0000))

    memory = {AREA: (0x1B).to_bytes(8, "little") + (0xFEE0_0C00).to_bytes(8, "little")}
    edits = {"vm_entry_msr_load_count": 1}
    assert launch(edits, memory=memory).outcome == ENTERED
    assert launch(edits, memory=memory, request=disabled).outcome == exit_on_entry(34, 1)
