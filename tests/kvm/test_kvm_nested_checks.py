# SPDX-License-Identifier: GPL-2.0-only
"""Every consistency check of nested VM entry, broken by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeAlias

import pytest

from nvmxfuzz.arch.controls import Pin, Primary, Secondary, VmEntry, VmExit
from nvmxfuzz.arch.registers import Cr0, Cr4, DebugCtl, Efer
from nvmxfuzz.kvm.entry_behaviour import ENTRY_KERNELS
from nvmxfuzz.kvm.entry_run import NestedEntry
from nvmxfuzz.kvm.vcpu import EntryRequest, Kvm
from nvmxfuzz.machine.outcome import ENTERED, Outcome, exit_on_entry, fail_valid

PIN = "pin_based_vm_exec_control"
PRIMARY = "cpu_based_vm_exec_control"
SECONDARY = "secondary_vm_exec_control"
EXIT = "vm_exit_controls"
ENTRY = "vm_entry_controls"
EVENT = "vm_entry_intr_info_field"

VALID = 1 << 31
SECONDARY_ON = int(Primary.ACTIVATE_SECONDARY_CONTROLS)
EPT = int(Secondary.ENABLE_EPT)
TPR_SHADOW = int(Primary.USE_TPR_SHADOW)
DELIVERY = int(Secondary.VIRTUAL_INTERRUPT_DELIVERY)
SHADOWING = int(Secondary.VMCS_SHADOWING)
FUNCTIONS = int(Secondary.ENABLE_VM_FUNCTIONS)
BIT_63 = 1 << 63
NOT_CANONICAL = 0x0100_0000_0000_0000

Edits: TypeAlias = Mapping[str, int]
Launch: TypeAlias = Callable[..., NestedEntry]


def secondary(*bits: int, primary: int = 0) -> Edits:
    """Return the controls that activate these secondary controls."""
    return {PRIMARY: SECONDARY_ON | primary, SECONDARY: sum(bits)}


POSTED = {
    PIN: int(Pin.PROCESS_POSTED_INTERRUPTS | Pin.EXTERNAL_INTERRUPT_EXITING),
    **secondary(DELIVERY, primary=TPR_SHADOW),
    EXIT: int(VmExit.ACKNOWLEDGE_INTERRUPT_ON_EXIT),
}
NO_ACKNOWLEDGE = {name: value for name, value in POSTED.items() if name != EXIT}
NO_DELIVERY = {**POSTED, SECONDARY: 0}

CONTROLS: tuple[tuple[str, Edits, Edits], ...] = (
    ("execution.pin-based.allowed", {PIN: 1 << 31}, {}),
    ("execution.primary.allowed", {PRIMARY: 1}, {}),
    ("execution.secondary.allowed", secondary(1 << 31), {}),
    ("execution.cr3-targets.count", {}, {"cr3_target_count": 5}),
    ("execution.io-bitmap-a.address", {PRIMARY: 1 << 25}, {"io_bitmap_a": 8}),
    ("execution.io-bitmap-b.address", {PRIMARY: 1 << 25}, {"io_bitmap_b": BIT_63}),
    ("execution.msr-bitmap.address", {PRIMARY: 1 << 28}, {"msr_bitmap": 1}),
    ("execution.virtual-apic.address", {PRIMARY: TPR_SHADOW}, {"virtual_apic_page_addr": 16}),
    ("execution.apic-access.address", secondary(1), {"apic_access_addr": 0xFFF}),
    ("execution.x2apic-mode.apic-accesses", secondary(1, 1 << 4, primary=TPR_SHADOW), {}),
    ("execution.virtual-interrupts.external", secondary(DELIVERY, primary=TPR_SHADOW), {}),
    ("execution.posted-interrupts.delivery", NO_DELIVERY, {}),
    ("execution.posted-interrupts.acknowledge", NO_ACKNOWLEDGE, {}),
    ("execution.posted-interrupts.vector", POSTED, {"posted_intr_nv": 0x100}),
    ("execution.posted-interrupts.descriptor", POSTED, {"posted_intr_desc_addr": 0x2F020}),
    ("execution.apic-virtualization.tpr-shadow", secondary(1 << 4), {}),
    ("execution.virtual-nmis.nmi-exiting", {PIN: int(Pin.VIRTUAL_NMIS)}, {}),
    ("execution.nmi-window.virtual-nmis", {PRIMARY: int(Primary.NMI_WINDOW_EXITING)}, {}),
    ("execution.pml.ept", secondary(1 << 17), {}),
    ("execution.pml.address", secondary(EPT, 1 << 17), {"pml_address": 8}),
    ("execution.unrestricted-guest.ept", secondary(1 << 7), {}),
    ("execution.vmread-bitmap.address", secondary(SHADOWING), {"vmread_bitmap": 4}),
    ("execution.vmwrite-bitmap.address", secondary(SHADOWING), {"vmwrite_bitmap": 4}),
    ("execution.vpid.zero", secondary(1 << 5), {"virtual_processor_id": 0}),
    ("exit.preemption-timer.active", {EXIT: int(VmExit.SAVE_VMX_PREEMPTION_TIMER_VALUE)}, {}),
    ("execution.eptp.memory-type", secondary(EPT), {"ept_pointer": 0x2A018 | 5}),
    ("execution.eptp.uncacheable", secondary(EPT), {"ept_pointer": 0x2A018}),
    ("execution.eptp.walk-length", secondary(EPT), {"ept_pointer": 0x2A006}),
    ("execution.eptp.reserved", secondary(EPT), {"ept_pointer": 0x2A09E}),
    ("execution.eptp.reserved", secondary(EPT), {"ept_pointer": BIT_63 | 0x1E}),
    ("execution.vm-functions.allowed", secondary(FUNCTIONS), {"vm_function_control": 2}),
    ("execution.eptp-switching.ept", secondary(FUNCTIONS), {"vm_function_control": 1}),
    (
        "execution.eptp-list.address",
        secondary(FUNCTIONS, EPT),
        {"vm_function_control": 1, "eptp_list_address": 1},
    ),
    ("exit.controls.allowed", {EXIT: 1 << 31}, {}),
    ("exit.msr-load.area", {}, {"vm_exit_msr_load_count": 1, "vm_exit_msr_load_addr": 8}),
    (
        "exit.msr-store.area",
        {},
        {"vm_exit_msr_store_count": 2, "vm_exit_msr_store_addr": (1 << 52) - 16},
    ),
    ("entry.controls.allowed", {ENTRY: 1 << 31}, {}),
    ("entry.event.type", {}, {EVENT: VALID | 1 << 8}),
    ("entry.event.nmi-vector", {}, {EVENT: VALID | 2 << 8 | 3}),
    ("entry.event.exception-vector", {}, {EVENT: VALID | 3 << 8 | 32}),
    ("entry.event.other-vector", {}, {EVENT: VALID | 7 << 8 | 1}),
    ("entry.event.error-code", {}, {EVENT: VALID | 3 << 8 | 13}),
    (
        "entry.event.error-code-value",
        {},
        {EVENT: VALID | 0xB0D, "vm_entry_exception_error_code": 0x1_0000},
    ),
    ("entry.event.reserved", {}, {EVENT: VALID | 1 << 12}),
    ("entry.event.reserved", {}, {EVENT: VALID | 1 << 13}),
    ("entry.event.instruction-length", {}, {EVENT: VALID | 0x420, "vm_entry_instruction_len": 16}),
    ("entry.msr-load.area", {}, {"vm_entry_msr_load_count": 1, "vm_entry_msr_load_addr": 1}),
)

HOST: tuple[tuple[str, Edits, Edits], ...] = (
    ("host.cr0.fixed", {}, {"host_cr0": int(Cr0.PG | Cr0.PE)}),
    ("host.cr4.valid", {}, {"host_cr4": int(Cr4.PAE)}),
    ("host.cr4.valid", {"host_cr4": 1 << 31}, {}),
    ("host.cr3.width", {}, {"host_cr3": 1 << 52}),
    ("host.sysenter-esp.canonical", {}, {"host_ia32_sysenter_esp": NOT_CANONICAL}),
    ("host.sysenter-eip.canonical", {}, {"host_ia32_sysenter_eip": NOT_CANONICAL}),
    ("host.pat.types", {EXIT: int(VmExit.LOAD_IA32_PAT)}, {"host_ia32_pat": 2}),
    (
        "host.perf-global-ctrl.reserved",
        {EXIT: int(VmExit.LOAD_IA32_PERF_GLOBAL_CTRL)},
        {"host_ia32_perf_global_ctrl": BIT_63},
    ),
    ("host.cr4.pae", {}, {"host_cr4": int(Cr4.VMXE)}),
    ("host.cs.null", {}, {"host_cs_selector": 0}),
    ("host.tr.null", {}, {"host_tr_selector": 0}),
    *(
        (f"host.{name}.selector", {}, {f"host_{name}_selector": 0x14})
        for name in ("cs", "ss", "ds", "es", "fs", "gs", "tr")
    ),
    *(
        (f"host.{name}.base", {}, {f"host_{name}_base": NOT_CANONICAL})
        for name in ("fs", "gs", "gdtr", "idtr", "tr")
    ),
    ("host.rip.canonical", {}, {"host_rip": 1 << 47}),
    ("host.efer.reserved", {EXIT: int(VmExit.LOAD_IA32_EFER)}, {"host_ia32_efer": 0xF01}),
    ("host.efer.lma", {EXIT: int(VmExit.LOAD_IA32_EFER)}, {"host_ia32_efer": int(Efer.LME)}),
    ("host.efer.lme", {EXIT: int(VmExit.LOAD_IA32_EFER)}, {"host_ia32_efer": int(Efer.LMA)}),
)

LOAD_EFER = int(VmEntry.LOAD_IA32_EFER)
GUEST: tuple[tuple[str, Edits, Edits], ...] = (
    ("guest.cr0.fixed", {}, {"guest_cr0": 0x8000_0001}),
    ("guest.cr4.valid", {}, {"guest_cr4": 0x20}),
    ("guest.dr7.width", {ENTRY: 4}, {"guest_dr7": 1 << 32}),
    ("guest.debugctl.supported", {ENTRY: 4}, {"guest_ia32_debugctl": 1 << 6}),
    ("guest.pat.types", {ENTRY: int(VmEntry.LOAD_IA32_PAT)}, {"guest_ia32_pat": 3}),
    (
        "guest.perf-global-ctrl.reserved",
        {ENTRY: int(VmEntry.LOAD_IA32_PERF_GLOBAL_CTRL)},
        {"guest_ia32_perf_global_ctrl": BIT_63},
    ),
    ("guest.ia-32e.pae", {}, {"guest_cr4": int(Cr4.VMXE)}),
    ("guest.ia-32e.paging", secondary(EPT, 1 << 7), {"guest_cr0": 0x31}),
    ("guest.cr0.paging", secondary(EPT, 1 << 7), {"guest_cr0": 0x8000_0030}),
    ("guest.efer.reserved", {ENTRY: LOAD_EFER}, {"guest_ia32_efer": 0xF01}),
    ("guest.efer.lma", {ENTRY: LOAD_EFER}, {"guest_ia32_efer": int(Efer.LME)}),
    ("guest.efer.lme", {ENTRY: LOAD_EFER}, {"guest_ia32_efer": int(Efer.LMA)}),
    (
        "guest.bndcfgs.canonical",
        {ENTRY: int(VmEntry.LOAD_IA32_BNDCFGS)},
        {"guest_bndcfgs": NOT_CANONICAL},
    ),
    ("guest.bndcfgs.reserved", {ENTRY: int(VmEntry.LOAD_IA32_BNDCFGS)}, {"guest_bndcfgs": 4}),
    ("guest.activity.supported", {}, {"guest_activity_state": 2}),
    ("guest.segments.valid", {}, {"guest_cs_ar_bytes": 0xA093}),
    ("guest.cr3.width", {}, {"guest_cr3": 1 << 52}),
)


def check(entry: NestedEntry, name: str, outcome: Outcome) -> None:
    assert (entry.check, entry.outcome) == (name, outcome)


@pytest.mark.parametrize(("name", "bits", "edits"), CONTROLS)
def test_a_bad_control_is_vmfail_7(launch: Launch, name: str, bits: Edits, edits: Edits) -> None:
    check(launch(edits, bits), name, fail_valid(7))


@pytest.mark.parametrize(("name", "bits", "edits"), HOST)
def test_bad_host_state_is_vmfail_8(launch: Launch, name: str, bits: Edits, edits: Edits) -> None:
    check(launch(edits, bits), name, fail_valid(8))


@pytest.mark.parametrize(("name", "bits", "edits"), GUEST)
def test_bad_guest_state_is_a_vm_exit(launch: Launch, name: str, bits: Edits, edits: Edits) -> None:
    check(launch(edits, bits), name, exit_on_entry(33))


@pytest.mark.parametrize(
    "bits",
    [
        POSTED,
        secondary(EPT, FUNCTIONS),
        secondary(EPT, 1 << 7),
        secondary(1 << 4, 1 << 8, primary=TPR_SHADOW),
        {ENTRY: 4 | LOAD_EFER | int(VmEntry.LOAD_IA32_PAT | VmEntry.LOAD_IA32_BNDCFGS)},
        {EXIT: int(VmExit.LOAD_IA32_EFER | VmExit.LOAD_IA32_PAT)},
    ],
)
def test_what_the_edits_turn_on_is_no_fault_in_itself(launch: Launch, bits: Edits) -> None:
    check(launch(bits=bits), "", ENTERED)


def test_the_host_is_in_the_mode_that_l1_is_in(launch: Launch) -> None:
    check(launch({EXIT: 0x3_6DFB}), "host.address-space.size", fail_valid(8))


@pytest.mark.parametrize(
    ("pointer", "header", "name"),
    [
        (0x2_4008, None, "guest.link-pointer.address"),
        (0x40_0000, None, "guest.link-pointer.memory"),
        (0x2_4000, 0x11E5_7ED1, "guest.link-pointer.revision"),
        (0x2_4000, 0x91E5_7ED0, "guest.link-pointer.shadow"),
        (0x2_4000, 0x11E5_7ED0, ""),
    ],
)
def test_the_linked_vmcs(launch: Launch, pointer: int, header: int | None, name: str) -> None:
    memory = {} if header is None else {pointer: header.to_bytes(4, "little")}
    entry = launch({"vmcs_link_pointer": pointer}, memory=memory)
    check(entry, name, exit_on_entry(33, 4) if name else ENTERED)


@pytest.mark.parametrize(
    ("edits", "name"),
    [
        ({}, ""),
        ({ENTRY: 0x13FB}, "host.address-space.guest"),
        ({"host_rip": 1 << 32}, "host.rip.width"),
        ({"host_ss_selector": 0}, "host.ss.null"),
        ({"host_cr4": int(Cr4.VMXE | Cr4.PCIDE)}, "host.cr4.pcide"),
    ],
)
def test_an_l1_of_32_bits(launch: Launch, edits: Edits, name: str) -> None:
    def narrow(request: EntryRequest) -> EntryRequest:
        processor = replace(request.l1.processor, efer=0, cs_l=False, cr4=int(Cr4.VMXE))
        return replace(request, l1=replace(request.l1, processor=processor))

    narrow_host = {EXIT: 0x3_6DFB, "host_cr4": int(Cr4.VMXE)}
    entry = launch({**narrow_host, **edits}, guest="guest-32", request=narrow)
    check(entry, name, fail_valid(8) if name else ENTERED)


def test_only_failed_checks_that_the_kernel_traces_are_listed(launch: Launch) -> None:
    assert launch().fired == ()
    assert launch({"host_cr0": 0}).fired == ("host.cr0.fixed",)
    assert launch({"host_cr0": 0}, version="4.20").fired == ()
    assert launch(bits={EXIT: int(VmExit.SAVE_VMX_PREEMPTION_TIMER_VALUE)}).fired == ()


FREEZE = int(DebugCtl.FREEZE_IN_SMM)


@pytest.mark.parametrize(
    ("bits", "edits", "refusing"),
    [
        ({"host_cr3": 1 << 61}, {}, ("4.20", "5.18", "6.1")),
        ({ENTRY: 4}, {"guest_ia32_debugctl": 1 << 6}, ("6.1", "6.12", "6.19")),
        ({ENTRY: 4}, {"guest_ia32_debugctl": FREEZE}, ("6.1", "6.19")),
        (secondary(EPT, 1 << 7), {"guest_cr0": 0x8000_0030}, ("6.1", "6.12", "6.19")),
        ({PRIMARY: TPR_SHADOW}, {"tpr_threshold": 0x10}, ("6.19",)),
        (secondary(1 << 25), {"tsc_multiplier": 0}, ("6.19",)),
        (secondary(1 << 7), {}, ("5.18", "6.1", "6.12", "6.19")),
        ({}, {"host_ia32_sysenter_esp": 1 << 57}, ("5.18", "6.1", "6.12", "6.19")),
        ({}, {"host_fs_base": 1 << 50}, ("5.18", "6.1")),
        ({}, {"guest_activity_state": 3}, ("4.20",)),
        ({EVENT: VALID | 0xB0D}, {"vm_entry_exception_error_code": 0x8000}, ("4.20",)),
    ],
)
def test_what_only_some_kernels_refuse(
    launch: Launch, bits: Edits, edits: Edits, refusing: tuple[str, ...]
) -> None:
    refused = (name for name in ENTRY_KERNELS if launch(edits, bits, version=name).check)
    assert tuple(refused) == refusing


def test_a_bit_of_cr4_that_cpuid_reserves_but_the_msr_allows(launch: Launch) -> None:
    def restored(kvm: Kvm) -> Kvm:
        msrs = replace(kvm.virtual.msrs, cr4_fixed1=0xFFFF_FFFF)
        return replace(kvm, virtual=replace(kvm.virtual, msrs=msrs))

    for version in ("5.18", "6.1"):
        entry = launch(bits={"host_cr4": 1 << 31}, version=version, kvm=restored)
        assert entry.check == ("" if version == "5.18" else "host.cr4.valid")


@pytest.mark.parametrize(
    ("edits", "name", "outcome"),
    [
        ({"guest_activity_state": 2}, "guest.activity.supported", fail_valid(7)),
        ({"cr3_target_count": 9, "host_cr0": 0}, "execution.cr3-targets.count", fail_valid(7)),
        ({"host_cr0": 0, EVENT: VALID | 1 << 8}, "host.cr0.fixed", fail_valid(8)),
        ({EVENT: VALID | 1 << 8}, "entry.event.type", fail_valid(7)),
        ({"host_cs_selector": 3}, "", ENTERED),
        ({"guest_cr0": 0x8000_0001}, "guest.cr0.fixed", exit_on_entry(33)),
        ({"vmcs_link_pointer": 8}, "guest.link-pointer.address", exit_on_entry(33, 4)),
        ({EXIT: 0x23_6FFB, "host_ia32_efer": 0x100}, "host.efer.lma", exit_on_entry(33)),
    ],
)
def test_the_two_lists_of_4_20(launch: Launch, edits: Edits, name: str, outcome: Outcome) -> None:
    check(launch(edits, version="4.20"), name, outcome)
