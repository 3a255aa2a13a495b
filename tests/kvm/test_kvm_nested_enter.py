# SPDX-License-Identifier: GPL-2.0-only
"""The ways in and out of nested_vmx_run(), and what each leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeAlias

import pytest

from nvmxfuzz.arch.controls import Primary, Secondary, VmEntry, VmExit
from nvmxfuzz.arch.events import Vector
from nvmxfuzz.arch.registers import Cr4
from nvmxfuzz.kvm.entry_behaviour import ENTRY_KERNELS, entry_behaviour
from nvmxfuzz.kvm.entry_run import INTERNAL_ERROR, TRIPLE_FAULT, NestedEntry
from nvmxfuzz.kvm.hardware import WillingHardware
from nvmxfuzz.kvm.vcpu import EntryRequest, Evmcs, Kvm
from nvmxfuzz.machine.outcome import (
    ENTERED,
    FAIL_INVALID,
    Outcome,
    exit_on_entry,
    fail_valid,
    fault,
)
from nvmxfuzz.machine.processor import Processor

Launch: TypeAlias = Callable[..., NestedEntry]
Change: TypeAlias = Callable[[EntryRequest], EntryRequest]

PRIMARY = "cpu_based_vm_exec_control"
SECONDARY = "secondary_vm_exec_control"
EXIT = "vm_exit_controls"
ENTRY = "vm_entry_controls"
NO_POINTER = 0xFFFF_FFFF_FFFF_FFFF
MSR_AREA = 0x2_3000
HOST_MSR_AREA = 0x2_C000
RIP = 0x1000
ZF, CF = 0x40, 0x1


def on_processor(change: Callable[[Processor], Processor]) -> Change:
    """Change what L1 is doing when it executes the instruction."""

    def changed(request: EntryRequest) -> EntryRequest:
        l1 = request.l1
        return replace(request, l1=replace(l1, processor=change(l1.processor)))

    return changed


def msr_list(*entries: tuple[int, int]) -> bytes:
    return b"".join(i.to_bytes(8, "little") + v.to_bytes(8, "little") for i, v in entries)


@pytest.mark.parametrize("version", ENTRY_KERNELS)
@pytest.mark.parametrize("guest", ["guest-64", "guest-32", "guest-pae", "guest-real", "guest-v86"])
def test_a_sound_l2_is_entered(launch: Launch, version: str, guest: str) -> None:
    entry = launch(version=version, guest=guest, hardware=WillingHardware())
    assert entry.outcome == ENTERED
    assert (entry.check, entry.died, entry.warnings) == ("", "", ())
    assert entry.l1 is None
    assert entry.nested.vmcs02_launched
    assert not entry.nested.dirty_vmcs12


@pytest.mark.parametrize(
    ("change", "check", "outcome"),
    [
        (
            on_processor(lambda old: replace(old, cr0=0x10)),
            "basic.mode.supported",
            fault(Vector.UD),
        ),
        (
            on_processor(lambda old: replace(old, cs_l=False)),
            "basic.mode.supported",
            fault(Vector.UD),
        ),
        (
            on_processor(lambda old: replace(old, vmxon_pointer=NO_POINTER)),
            "basic.vmx-operation.on",
            fault(Vector.UD),
        ),
        (on_processor(lambda old: replace(old, cpl=3)), "basic.cpl.zero", fault(Vector.GP)),
        (
            on_processor(lambda old: replace(old, current_vmcs=NO_POINTER)),
            "basic.vmcs.current",
            FAIL_INVALID,
        ),
        (
            on_processor(lambda old: replace(old, current_vmcs_is_shadow=True)),
            "basic.vmcs.shadow",
            FAIL_INVALID,
        ),
        (
            on_processor(lambda old: replace(old, blocking_by_mov_ss=True)),
            "basic.mov-ss.blocking",
            fail_valid(26),
        ),
        (lambda old: replace(old, launched=True), "basic.launch-state.instruction", fail_valid(4)),
        (lambda old: replace(old, launch=False), "basic.launch-state.instruction", fail_valid(5)),
        (lambda old: replace(old, launch=False, launched=True), "", ENTERED),
    ],
)
def test_before_the_checks(launch: Launch, change: Change, check: str, outcome: Outcome) -> None:
    entry = launch(request=change)
    assert (entry.check, entry.outcome) == (check, outcome)


def test_a_vmfail_moves_l1_on_and_says_why(launch: Launch) -> None:
    entry = launch({"host_cr0": 0})
    assert entry.l1 is not None
    assert entry.l1.rip == RIP + 3
    assert entry.l1.rflags & (ZF | CF) == ZF
    assert entry.vmcs12_writes == (("vm_instruction_error", 8),)
    assert entry.vmcs02 is None
    invalid = launch(request=on_processor(lambda old: replace(old, current_vmcs=NO_POINTER))).l1
    assert invalid is not None
    assert invalid.rflags & (ZF | CF) == CF


def test_a_vm_exit_gives_l1_the_host_state(launch: Launch) -> None:
    edits = {"guest_cr4": 0x20, "host_rip": 0x1234, "host_cr3": 0x5_0000}
    entry = launch(edits, request=on_processor(lambda old: replace(old, rflags=0x202)))
    assert entry.outcome == exit_on_entry(33)
    assert entry.l1 is not None
    assert (entry.l1.rip, entry.l1.cr3, entry.l1.rflags) == (0x1234, 0x5_0000, 2)
    writes = dict(entry.vmcs12_writes)
    assert writes == {"vm_exit_reason": 0x8000_0021, "exit_qualification": 0}
    assert entry.vmcs01 is not None
    assert entry.vmcs01.guest_cs_ar_bytes == 0xA09B
    assert entry.vmcs01.guest_gs_base == 0x8000


def test_efer_of_the_host_follows_its_mode_where_it_is_not_loaded(launch: Launch) -> None:
    bits = {EXIT: int(VmExit.LOAD_IA32_EFER)}
    loaded = launch({"guest_cr4": 0, "host_ia32_efer": 0x500}, bits).l1
    kept = launch({"guest_cr4": 0, "host_ia32_efer": 0x500}).l1
    assert loaded is not None
    assert kept is not None
    assert (loaded.efer, kept.efer) == (0x500, 0xD01)


@pytest.mark.parametrize(
    ("entries", "check", "position"),
    [
        ([(0x174, 8)], "", 0),
        ([(0x174, 8), (0xC000_0100, 0)], "msr-load.fs-base.forbidden", 2),
        ([(0xC000_0101, 0)], "msr-load.gs-base.forbidden", 1),
        ([(0x9B, 0)], "msr-load.smm-monitor-ctl.forbidden", 1),
        ([(0x79, 0)], "msr-list.microcode.write", 1),
        ([(0x8B, 0)], "msr-list.microcode.revision", 1),
        ([(0x174, 8), (0x174, 8), (1 << 32 | 0x174, 8)], "msr-list.entry.reserved", 3),
        ([(0x277, 2)], "msr-load.msr.writable", 1),
        ([(0x480, 0)], "msr-load.msr.writable", 1),
        ([(0x175, 1 << 63)], "", 0),
    ],
)
def test_the_msr_load_list(
    launch: Launch, entries: list[tuple[int, int]], check: str, position: int
) -> None:
    memory = {MSR_AREA: msr_list(*entries)}
    entry = launch({"vm_entry_msr_load_count": len(entries)}, memory=memory)
    assert entry.check == check
    assert entry.outcome == (exit_on_entry(34, position) if check else ENTERED)


def test_an_msr_of_x2apic_cannot_be_loaded_in_x2apic_mode(launch: Launch) -> None:
    memory = {MSR_AREA: msr_list((0x808, 0))}

    def x2apic(request: EntryRequest) -> EntryRequest:
        return replace(request, l1=replace(request.l1, apic_base=0xFEE0_0D00))

    entry = launch({"vm_entry_msr_load_count": 1}, memory=memory, request=x2apic)
    assert entry.check == "msr-list.x2apic.range"


def test_the_msr_list_ends_where_misc_says_or_memory_does(launch: Launch) -> None:
    zero = {MSR_AREA: msr_list(*[(0x174, 0)] * 513)}
    assert launch({"vm_entry_msr_load_count": 513}, memory=zero).outcome == exit_on_entry(34, 513)
    assert launch({"vm_entry_msr_load_count": 512}, memory=zero).outcome == ENTERED
    old = launch({"vm_entry_msr_load_count": 513}, memory=zero, version="4.20")
    assert old.outcome == ENTERED
    outside = {"vm_entry_msr_load_count": 2, "vm_entry_msr_load_addr": 0x3F_FFF0}
    entry = launch(outside, memory={0x3F_FFF0: msr_list((0x174, 0))})
    assert (entry.check, entry.outcome) == ("msr-load.list.memory", exit_on_entry(34, 2))


def test_a_bad_msr_of_the_host_kills_l1(launch: Launch) -> None:
    edits = {"guest_cr4": 0, "vm_exit_msr_load_count": 1}
    entry = launch(edits, memory={HOST_MSR_AREA: msr_list((0x277, 2))})
    assert (entry.outcome, entry.died) == (None, TRIPLE_FAULT)
    assert entry.check == "guest.cr4.valid"


@pytest.mark.parametrize(("version", "entered"), [("4.20", True), ("5.18", False), ("6.12", False)])
def test_an_apic_access_page_that_is_no_memory(launch: Launch, version: str, entered: bool) -> None:
    bits = {PRIMARY: int(Primary.ACTIVATE_SECONDARY_CONTROLS), SECONDARY: 1}
    entry = launch({"apic_access_addr": 0x80_0000}, bits, version=version)
    assert (entry.outcome, entry.died) == ((ENTERED, "") if entered else (None, INTERNAL_ERROR))


def test_pdptes_are_loaded_from_memory_without_ept(launch: Launch) -> None:
    bad = {0x4_0000: (0x5_0003).to_bytes(8, "little")}
    entry = launch(guest="guest-pae", edits={"guest_cr3": 0x4_0000}, memory=bad)
    assert (entry.check, entry.outcome) == ("guest.pdptes.valid", exit_on_entry(33, 2))
    ept = {PRIMARY: int(Primary.ACTIVATE_SECONDARY_CONTROLS), SECONDARY: 2}
    entry = launch({"guest_cr3": 0x4_0000}, ept, guest="guest-pae", memory=bad)
    assert entry.outcome == ENTERED


def test_a_link_pointer_outside_of_memory_spoils_the_one_before(launch: Launch) -> None:
    good = {0x2_4000: (0x11E5_7ED0).to_bytes(4, "little")}

    def after(previous: NestedEntry) -> Change:
        return lambda old: replace(old, nested=previous.nested)

    first = launch({"vmcs_link_pointer": 0x2_4000}, memory=good)
    second = launch({"vmcs_link_pointer": 0x7F00_0000}, request=after(first))
    third = launch({"vmcs_link_pointer": 0x2_4000}, memory=good, request=after(second))
    assert (first.outcome, second.check) == (ENTERED, "guest.link-pointer.memory")
    assert (third.check, third.outcome) == ("guest.link-pointer.read", exit_on_entry(33, 4))


@pytest.mark.parametrize(
    ("pointer", "revision", "check", "outcome"),
    [
        (NO_POINTER, 0, "", ENTERED),
        (0x80_0000, 0, "evmcs.pointer.memory", fault(Vector.UD)),
        (0x6_0000, 2, "evmcs.revision.known", FAIL_INVALID),
        (0x6_0000, 1, "", ENTERED),
    ],
)
def test_the_enlightened_vmcs(
    launch: Launch, pointer: int, revision: int, check: str, outcome: Outcome
) -> None:
    def enlightened(request: EntryRequest) -> EntryRequest:
        return replace(request, l1=replace(request.l1, evmcs=Evmcs(pointer)))

    edits = {"pin_based_vm_exec_control": 0x16}
    memory = {0x6_0000: revision.to_bytes(4, "little")}
    entry = launch(edits, memory=memory, request=enlightened)
    assert (entry.check, entry.outcome) == (check, outcome)


@pytest.mark.parametrize(
    ("bits", "edits", "check", "warns"),
    [
        ({"pin_based_vm_exec_control": 0x40}, {}, "evmcs.pin-based.supported", False),
        ({SECONDARY: int(Secondary.ENABLE_PML)}, {}, "evmcs.secondary.supported", False),
        ({}, {"vm_function_control": 1}, "evmcs.vm-functions.supported", False),
        ({}, {"vm_function_control": 1 << 32}, "evmcs.vm-functions.width", True),
    ],
)
def test_controls_that_the_enlightened_vmcs_lacks(
    launch: Launch, bits: Mapping[str, int], edits: Mapping[str, int], check: str, warns: bool
) -> None:
    def able(request: EntryRequest) -> EntryRequest:
        return replace(request, l1=replace(request.l1, evmcs=Evmcs()))

    entry = launch(edits, bits, request=able)
    assert (entry.check, entry.outcome) == (check, fail_valid(7))
    assert bool(entry.warnings) is warns
    assert launch(edits, bits, request=able, version="4.20").check == ""


@pytest.mark.parametrize(
    ("version", "state", "check"),
    [
        ("5.18", "guest.perf-global-ctrl.msr", exit_on_entry(33)),
        ("6.1", "", ENTERED),
        ("4.20", "", ENTERED),
    ],
)
def test_perf_global_ctrl_without_a_virtual_pmu(
    launch: Launch, version: str, state: str, check: Outcome
) -> None:
    def without_pmu(kvm: Kvm) -> Kvm:
        return replace(kvm, virtual=replace(kvm.virtual, has_perf_global_ctrl=False))

    bits = {ENTRY: int(VmEntry.LOAD_IA32_PERF_GLOBAL_CTRL)}
    entry = launch(bits=bits, version=version, kvm=without_pmu)
    assert (entry.check, entry.outcome) == (state, check)
    assert bool(entry.warnings) is bool(state)


@pytest.mark.parametrize(
    ("version", "died", "runs"),
    [("4.20", "triple-fault", False), ("6.1", "vm-bugged", False), ("6.12", "", True)],
)
def test_a_root_of_page_tables_that_is_no_memory(
    launch: Launch, version: str, died: str, runs: bool
) -> None:
    bits = {PRIMARY: int(Primary.ACTIVATE_SECONDARY_CONTROLS), SECONDARY: 2}
    edits = {"ept_pointer": 0x80_001E}
    entry = launch(edits, bits, version=version, hardware=WillingHardware())
    assert (entry.died, bool(entry.hardware)) == (died, runs)
    assert launch(edits, bits, version=version).outcome == ENTERED


@pytest.mark.parametrize(
    ("edits", "bits", "runs"),
    [
        ({"guest_activity_state": 0}, {}, True),
        ({"guest_activity_state": 1}, {}, False),
        ({"guest_activity_state": 3}, {}, False),
        ({"guest_activity_state": 1, "vm_entry_intr_info_field": 0x8000_0021}, {}, True),
        ({"guest_activity_state": 1}, {PRIMARY: 4, "guest_rflags": 0x200}, True),
        ({"guest_activity_state": 1}, {PRIMARY: 4}, False),
    ],
)
def test_an_l2_that_waits_is_not_run(
    launch: Launch, edits: Mapping[str, int], bits: Mapping[str, int], runs: bool
) -> None:
    entry = launch(edits, bits, hardware=WillingHardware())
    assert (entry.outcome, bool(entry.hardware)) == (ENTERED, runs)


def test_cet_is_checked_where_it_is_known(launch: Launch) -> None:
    def with_cet(kvm: Kvm) -> Kvm:
        virtual = kvm.virtual
        msrs = replace(
            virtual.msrs,
            entry_ctls_high=virtual.msrs.entry_ctls_high | VmEntry.LOAD_CET_STATE,
            exit_ctls_high=virtual.msrs.exit_ctls_high | VmExit.LOAD_CET_STATE,
        )
        features = virtual.features | {"cet-ss", "cet-ibt"}
        return replace(kvm, virtual=replace(virtual, msrs=msrs, features=features))

    bits = {ENTRY: int(VmEntry.LOAD_CET_STATE), EXIT: int(VmExit.LOAD_CET_STATE)}
    for edits, check in (
        ({"host_s_cet": 1 << 6}, "host.s-cet.valid"),
        ({"host_s_cet": 0xC00}, "host.s-cet.valid"),
        ({"host_ssp": 2}, "host.ssp.alignment"),
        ({"host_intr_ssp_table": 1 << 63}, "host.ssp-table.canonical"),
        ({"host_s_cet": 1 << 63}, "host.s-cet.canonical"),
        ({"host_ssp": 1 << 63}, "host.ssp.canonical"),
        ({"guest_s_cet": 0x1000}, "guest.s-cet.valid"),
        ({"guest_ssp": 1}, "guest.ssp.alignment"),
        ({"guest_ssp": 1 << 58}, "guest.ssp.width"),
        ({"guest_ssp": 1 << 56}, ""),
    ):
        assert launch(edits, bits, version="6.19", kvm=with_cet).check == check
    entry = launch({"guest_ssp": 0x7000}, bits, version="6.19", kvm=with_cet)
    assert entry.vmcs02 is not None
    assert entry.vmcs02.guest_ssp == 0x7000
    assert launch(bits=bits, version="6.12").check == "exit.controls.allowed"


@pytest.mark.parametrize(
    ("threshold", "address", "tpr", "check"),
    [
        (3, 0x2_5000, 0x30, ""),
        (3, 0x2_5000, 0x20, "execution.tpr-threshold.virtual-tpr"),
        (0, 0x80_0000, 0, "execution.virtual-apic.memory"),
    ],
)
def test_late_checks_are_for_developers(
    launch: Launch, threshold: int, address: int, tpr: int, check: str
) -> None:
    def developing(kvm: Kvm) -> Kvm:
        return replace(kvm, params=replace(kvm.params, warn_on_missed_cc=True))

    edits = {"tpr_threshold": threshold, "virtual_apic_page_addr": address}
    bits = {PRIMARY: int(Primary.USE_TPR_SHADOW)}
    memory = {0x2_5080: tpr.to_bytes(4, "little")}
    missing = address == 0x80_0000
    if missing:
        bits = {PRIMARY: int(Primary.USE_TPR_SHADOW | Primary.CR8_LOAD_EXITING)}
    entry = launch(edits, bits, memory=memory, version="6.19", kvm=developing)
    assert entry.check == check
    assert launch(edits, bits, memory=memory, version="6.19").check == ""


def test_the_reload_of_l1s_own_pdptes_can_end_the_vm(launch: Launch) -> None:
    def pae(request: EntryRequest) -> EntryRequest:
        return on_processor(
            lambda old: replace(old, efer=0, cs_l=False, cr4=int(Cr4.VMXE | Cr4.PAE), cr3=0x6_0000)
        )(request)

    edits = {EXIT: 0x3_6DFB}
    memory = {0x6_0000: (0x10_0003).to_bytes(8, "little")}
    entry = launch(edits, guest="guest-32", memory=memory, request=pae)
    assert (entry.check, entry.died) == ("l1.pdptes.valid", INTERNAL_ERROR)
    assert launch(edits, guest="guest-32", memory=memory, request=pae, version="4.20").died == ""


def test_every_version_says_what_it_rests_on() -> None:
    assert ENTRY_KERNELS == ("4.20", "5.18", "6.1", "6.12", "6.19")
    assert all(entry_behaviour(version).source for version in ENTRY_KERNELS)
