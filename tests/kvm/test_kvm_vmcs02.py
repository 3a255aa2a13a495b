# SPDX-License-Identifier: GPL-2.0-only
"""What L1 asks for and what L0 needs, field by field of the VMCS that L2 is run on."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeAlias

import pytest

from nvmxfuzz.arch.controls import Pin, Primary, Secondary, VmEntry, VmExit
from nvmxfuzz.arch.fields import FIELD_BY_NAME, FIELDS
from nvmxfuzz.arch.registers import Cr0, Cr4, DebugCtl
from nvmxfuzz.kvm.entry_behaviour import ENTRY_KERNELS
from nvmxfuzz.kvm.entry_run import NestedEntry
from nvmxfuzz.kvm.hardware import WillingHardware
from nvmxfuzz.kvm.host import ModuleParams
from nvmxfuzz.kvm.vcpu import EntryRequest, Kvm
from nvmxfuzz.kvm.vmcs02_routes import (
    DECIDED_BY,
    L0_OWNED,
    MSR_LIST_FIELDS,
    NEVER_REACHES,
    NEVER_SEEN,
    ROUTES,
    Route,
    reaches,
)
from nvmxfuzz.kvm.vmx_registers import CET_FIELDS
from nvmxfuzz.machine.vmcs import Vmcs

Launch: TypeAlias = Callable[..., NestedEntry]

PIN = "pin_based_vm_exec_control"
PRIMARY = "cpu_based_vm_exec_control"
SECONDARY = "secondary_vm_exec_control"
EXIT = "vm_exit_controls"
ENTRY = "vm_entry_controls"
SECONDARY_ON = int(Primary.ACTIVATE_SECONDARY_CONTROLS)
ALL_ONES = 0xFFFF_FFFF_FFFF_FFFF


def vmcs02(entry: NestedEntry) -> Vmcs:
    assert entry.outcome is not None, entry.died
    assert entry.outcome.kind == "entered", entry.check
    assert entry.vmcs02 is not None
    return entry.vmcs02


def test_guest_state_is_l1s_and_host_state_l0s(launch: Launch) -> None:
    made = vmcs02(launch({"host_rip": 0x1234, "host_cr3": 0x5_0000, "guest_ss_limit": 77}))
    assert made.guest_ss_limit == 77
    assert made.guest_tr_base == 0x9000
    assert made.host_rip >> 47
    assert made.host_cr3 != 0x5_0000
    assert made.vmcs_link_pointer == ALL_ONES


def test_what_l0_wants_stays_on_and_what_it_emulates_stays_off(launch: Launch) -> None:
    bits = {
        PIN: int(Pin.ACTIVATE_VMX_PREEMPTION_TIMER),
        PRIMARY: int(Primary.USE_IO_BITMAPS | Primary.RDTSC_EXITING) | SECONDARY_ON,
        SECONDARY: int(Secondary.ENABLE_EPT | Secondary.ENABLE_PML | Secondary.VMCS_SHADOWING),
    }
    made = vmcs02(launch(bits=bits))
    assert made.pin_based_vm_exec_control == Pin.EXTERNAL_INTERRUPT_EXITING | 0x16 | (
        Pin.NMI_EXITING | Pin.VIRTUAL_NMIS
    )
    primary = made.cpu_based_vm_exec_control
    assert primary & Primary.RDTSC_EXITING
    assert primary & Primary.UNCONDITIONAL_IO_EXITING
    assert not primary & Primary.USE_IO_BITMAPS
    secondary = made.secondary_vm_exec_control
    assert secondary & Secondary.ENABLE_EPT
    assert not secondary & (Secondary.ENABLE_PML | Secondary.VMCS_SHADOWING)


def test_controls_that_only_l1_can_turn_on(launch: Launch) -> None:
    without = vmcs02(launch()).secondary_vm_exec_control
    rdtscp = int(Secondary.ENABLE_RDTSCP)
    bits = {PRIMARY: SECONDARY_ON, SECONDARY: rdtscp}
    assert not without & rdtscp
    assert vmcs02(launch(bits=bits)).secondary_vm_exec_control & rdtscp


@pytest.mark.parametrize(("version", "kept"), [("4.20", True), ("5.18", False), ("6.12", False)])
def test_old_kernels_leave_l0s_unrestricted_guest_and_log_on(
    launch: Launch, version: str, kept: bool
) -> None:
    made = vmcs02(launch(version=version))
    both = Secondary.UNRESTRICTED_GUEST | Secondary.ENABLE_PML
    assert made.secondary_vm_exec_control & both == (both if kept else 0)
    assert made.guest_pml_index == (511 if kept else 0xFFFF)


def test_masks_and_shadows_of_control_registers(launch: Launch) -> None:
    edits = {"cr0_guest_host_mask": int(Cr0.TS | Cr0.CD), "cr0_read_shadow": int(Cr0.TS)}
    made = vmcs02(launch({**edits, "guest_cr0": 0xC005_0033 & ~0x4000_0000}))
    assert made.cr0_guest_host_mask == ALL_ONES & ~Cr0.WP
    assert made.cr0_read_shadow == 0x8005_0033 | Cr0.TS
    masked = vmcs02(launch({"cr4_guest_host_mask": int(Cr4.PGE)}))
    assert masked.cr4_guest_host_mask & Cr4.PGE
    assert not vmcs02(launch()).cr4_guest_host_mask & Cr4.PGE


def test_without_ept_the_guest_runs_on_l0s_page_tables(launch: Launch) -> None:
    shadow = ModuleParams(ept=False, error_on_inconsistent_vmcs_config=False)
    entry = launch(params=shadow, hardware=WillingHardware())
    assert entry.hardware[-1].attempt.vmcs.guest_cr3 != 0x4_0000
    made = vmcs02(entry)
    assert made.exception_bitmap >> 14 & 1
    assert made.guest_cr0 & Cr0.WP
    wanting = {"page_fault_error_code_mask": 5, "page_fault_error_code_match": 5}
    assert vmcs02(launch(wanting, params=shadow)).page_fault_error_code_mask == 0
    assert vmcs02(launch(wanting)).page_fault_error_code_mask == 5


def test_efer_is_switched_only_where_it_differs(launch: Launch) -> None:
    load = {ENTRY: int(VmEntry.LOAD_IA32_EFER)}
    same = vmcs02(launch({"guest_ia32_efer": 0xD01}, load))
    assert not same.vm_entry_controls & VmEntry.LOAD_IA32_EFER
    other = vmcs02(launch({"guest_ia32_efer": 0x500}, load))
    assert other.vm_entry_controls & VmEntry.LOAD_IA32_EFER
    assert other.vm_exit_controls & VmExit.LOAD_IA32_EFER
    assert other.guest_ia32_efer == 0x500


def test_tsc_offsets_add_up_and_multipliers_multiply(launch: Launch) -> None:
    def behind(request: EntryRequest) -> EntryRequest:
        return replace(request, l1=replace(request.l1, tsc_offset=ALL_ONES - 999))

    offsetting = {PRIMARY: int(Primary.USE_TSC_OFFSETTING)}
    assert vmcs02(launch({"tsc_offset": 50}, request=behind)).tsc_offset == ALL_ONES - 999
    assert vmcs02(launch({"tsc_offset": 50}, offsetting, request=behind)).tsc_offset == -950 % 2**64
    scaling = {PRIMARY: offsetting[PRIMARY] | SECONDARY_ON, SECONDARY: 1 << 25}
    edits = {"tsc_offset": 50, "tsc_multiplier": 3 << 47}
    made = vmcs02(launch(edits, scaling, request=behind))
    assert (made.tsc_offset, made.tsc_multiplier) == (-1450 % 2**64, 3 << 47)


@pytest.mark.parametrize(
    ("version", "value"), [("4.20", 0x43), ("5.18", 0x43), ("6.1", 0), ("6.12", 0)]
)
def test_debugctl_that_kvm_does_not_emulate(launch: Launch, version: str, value: int) -> None:
    tolerated = int(DebugCtl.LBR | DebugCtl.BTF)
    wanted = 0x43 if version in ("4.20", "5.18") else tolerated
    entry = launch({"guest_ia32_debugctl": wanted}, {ENTRY: 4}, version=version)
    assert vmcs02(entry).guest_ia32_debugctl == value


def test_pages_are_given_by_their_host_physical_address(launch: Launch) -> None:
    def moved(kvm: Kvm) -> Kvm:
        return replace(kvm, places=replace(kvm.places, guest_memory=0x1000_0000))

    bits = {PRIMARY: int(Primary.USE_TPR_SHADOW) | SECONDARY_ON, SECONDARY: 1}
    made = vmcs02(launch(bits=bits, kvm=moved))
    assert made.virtual_apic_page_addr == 0x1002_5000
    assert made.apic_access_addr == 0x1002_6000


def test_a_virtual_apic_page_that_is_no_memory(launch: Launch) -> None:
    edits = {"virtual_apic_page_addr": 0x80_0000}
    shadow = int(Primary.USE_TPR_SHADOW)
    both = shadow | Primary.CR8_LOAD_EXITING | Primary.CR8_STORE_EXITING
    exiting = vmcs02(launch(edits, {PRIMARY: int(both)}))
    assert not exiting.cpu_based_vm_exec_control & shadow
    illegal = vmcs02(launch(edits, {PRIMARY: shadow}))
    assert illegal.virtual_apic_page_addr == ALL_ONES


def test_fields_that_seldom_change_are_written_only_if_vmcs12_is_dirty(launch: Launch) -> None:
    first = launch()

    def again(request: EntryRequest) -> EntryRequest:
        return replace(request, nested=first.nested)

    second = vmcs02(launch({"guest_ss_limit": 5, "guest_rflags": 0x202}, request=again))
    assert second.guest_ss_limit == 0xFFFF_FFFF
    assert second.guest_rflags == 0x202


def test_the_tsc_is_stored_by_the_processor_if_l1_has_it_stored(launch: Launch) -> None:
    memory = {0x2_B000: (0x174).to_bytes(16, "little") + (0x10).to_bytes(16, "little")}
    edits = {"vm_exit_msr_store_count": 2}
    assert vmcs02(launch(edits, memory=memory)).vm_exit_msr_store_count == 1
    assert vmcs02(launch(edits, memory=memory, version="4.20")).vm_exit_msr_store_count == 0
    assert (
        vmcs02(launch({"vm_exit_msr_store_count": 1}, memory=memory)).vm_exit_msr_store_count == 0
    )


def test_umip_that_the_processor_lacks_is_intercepted(launch: Launch) -> None:
    def old_processor(kvm: Kvm) -> Kvm:
        return replace(kvm, host_umip=False)

    made = vmcs02(launch(bits={"guest_cr4": int(Cr4.UMIP)}, kvm=old_processor))
    assert made.secondary_vm_exec_control & Secondary.DESCRIPTOR_TABLE_EXITING
    assert not made.guest_cr4 & Cr4.UMIP
    assert made.cr4_read_shadow & Cr4.UMIP
    assert vmcs02(launch(bits={"guest_cr4": int(Cr4.UMIP)})).guest_cr4 & Cr4.UMIP


@pytest.mark.parametrize(
    ("version", "address", "posted", "descriptor"),
    [
        ("6.12", 0x2_F040, True, 0x2_F040),
        ("6.12", 0x80_0040, False, 0),
        ("4.20", 0x80_0040, True, 0),
    ],
)
def test_the_descriptor_of_posted_interrupts(
    launch: Launch, version: str, address: int, posted: bool, descriptor: int
) -> None:
    bits = {
        PIN: int(Pin.PROCESS_POSTED_INTERRUPTS | Pin.EXTERNAL_INTERRUPT_EXITING),
        PRIMARY: int(Primary.USE_TPR_SHADOW) | SECONDARY_ON,
        SECONDARY: int(Secondary.VIRTUAL_INTERRUPT_DELIVERY),
        EXIT: int(VmExit.ACKNOWLEDGE_INTERRUPT_ON_EXIT),
    }
    made = vmcs02(launch({"posted_intr_desc_addr": address}, bits, version=version))
    assert bool(made.pin_based_vm_exec_control & Pin.PROCESS_POSTED_INTERRUPTS) is posted
    assert made.posted_intr_desc_addr == descriptor
    assert made.posted_intr_nv == 0xF0


def test_vmcs01_can_be_given(launch: Launch) -> None:
    more = int(VmExit.LOAD_IA32_PERF_GLOBAL_CTRL)
    own = launch().vmcs01
    assert own is not None

    def given(request: EntryRequest) -> EntryRequest:
        return replace(request, vmcs01=own.replace({EXIT: own.vm_exit_controls | more}))

    assert not vmcs02(launch()).vm_exit_controls & more
    assert vmcs02(launch(request=given)).vm_exit_controls & more


def random_edits(draw: random.Random) -> dict[str, int]:
    """Return a few fields of vmcs12 with a bit or a whole value changed."""
    edits = {}
    for field in draw.sample(FIELDS, 3):
        edits[field.name] = draw.choice((1 << draw.randrange(field.width), draw.getrandbits(12)))
    return edits


CHANGES: tuple[Mapping[str, int], ...] = (
    {},
    {PRIMARY: int(Primary.USE_TPR_SHADOW) | SECONDARY_ON, SECONDARY: 0x2},
    {PRIMARY: int(Primary.USE_TSC_OFFSETTING) | SECONDARY_ON, SECONDARY: 1 << 25 | 1 << 15 | 1},
    {ENTRY: 4 | int(VmEntry.LOAD_IA32_PAT | VmEntry.LOAD_IA32_BNDCFGS)},
)


@pytest.mark.parametrize("version", ENTRY_KERNELS)
def test_nothing_but_its_sources_changes_a_field(launch: Launch, version: str) -> None:
    draw = random.Random(version)
    compared = 0
    for bits in CHANGES:
        before = vmcs02(launch(bits=bits, version=version)).__dict__
        for _ in range(120):
            edits = {name: value for name, value in random_edits(draw).items() if name not in bits}
            entry = launch(edits, bits, version=version)
            if entry.check or entry.died or entry.vmcs02 is None:
                continue
            compared += 1
            for name, value in entry.vmcs02.__dict__.items():
                if value != before[name]:
                    assert set(ROUTES[name].sources) & set(edits), name
    assert compared > 100


def test_copied_fields_are_the_same_in_both(launch: Launch) -> None:
    made = vmcs02(launch()).__dict__
    again = vmcs02(launch(hardware=WillingHardware())).__dict__
    copied = [name for name, origin in ROUTES.items() if origin.route is Route.COPIED]
    assert len(copied) > 40
    segments = {f"guest_{name}_limit": 0x123 for name in ("es", "ds", "gdtr")}
    changed = vmcs02(launch(segments)).__dict__
    assert {changed[name] for name in segments} == {0x123}
    assert [name for name in copied if made[name] != again[name]] in (
        [],
        ["guest_rsp", "guest_rip"],
    )


def test_the_routes_are_about_fields_that_exist() -> None:
    assert set(ROUTES) == set(FIELD_BY_NAME)
    assert all(set(origin.sources) <= set(ROUTES) for origin in ROUTES.values())
    assert set(ROUTES) >= MSR_LIST_FIELDS
    assert not MSR_LIST_FIELDS & L0_OWNED
    assert {"host_rip", "vmcs_link_pointer", "io_bitmap_a", "pml_address"} <= L0_OWNED
    assert {"host_rip", "io_bitmap_a", "cr3_target_count", "guest_activity_state"} <= NEVER_SEEN
    assert "guest_cr0" not in NEVER_SEEN | L0_OWNED
    assert {"msr_bitmap", "vm_exit_msr_store_addr"} == NEVER_REACHES - NEVER_SEEN


def with_cet(kvm: Kvm) -> Kvm:
    virtual = kvm.virtual
    msrs = replace(
        virtual.msrs, entry_ctls_high=virtual.msrs.entry_ctls_high | VmEntry.LOAD_CET_STATE
    )
    features = virtual.features | {"cet-ss", "cet-ibt"}
    return replace(kvm, virtual=replace(virtual, msrs=msrs, features=features))


VALUES = {
    "guest_ia32_pat": 0x0606_0606_0606_0606,
    "guest_bndcfgs": 0x1001,
    "guest_dr7": 0x408,
}
"""Of the other fields 8 may be loaded."""


@pytest.mark.parametrize("version", ENTRY_KERNELS)
@pytest.mark.parametrize("name", DECIDED_BY)
def test_a_control_decides_whether_a_field_reaches_vmcs02(
    launch: Launch, version: str, name: str
) -> None:
    if name in CET_FIELDS and version != "6.19":
        return  # No other kernel has them.
    word, control = DECIDED_BY[name]
    value = VALUES.get(name, 8)
    plain = {ENTRY: 0x13FB, PRIMARY: 0x400_6172 | SECONDARY_ON, SECONDARY: 0}
    needed = {PIN: int(Pin.EXTERNAL_INTERRUPT_EXITING)}
    for bits, passed_on in ((0, False), (control, True)):
        edits = {**plain, word: plain[word] & ~control | bits, name: value}
        if word != PRIMARY:
            edits[PRIMARY] |= int(Primary.USE_TPR_SHADOW)
        made = vmcs02(launch(edits, needed, version=version, kvm=with_cet))
        assert (made.__dict__[name] == value) is passed_on
        assert reaches(name, made.replace(edits)) is passed_on
