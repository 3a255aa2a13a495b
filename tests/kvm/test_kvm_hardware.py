# SPDX-License-Identifier: GPL-2.0-only
"""The processor below KVM: the dry run, failures that KVM did not foresee, and the rules as one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import pytest

from nvmxfuzz.arch.controls import VmEntry, VmExit
from nvmxfuzz.cpu.vm_entry import vm_entry as judge
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.kvm.entry_behaviour import ENTRY_KERNELS
from nvmxfuzz.kvm.entry_run import FAIL_ENTRY, NestedEntry
from nvmxfuzz.kvm.host import DEFAULT_PARAMS, ModuleParams
from nvmxfuzz.kvm.nested_enter import vm_entry
from nvmxfuzz.kvm.nested_kvm import AUTO, entry_request, nested_kvm
from nvmxfuzz.kvm.vcpu import EntryRequest, Kvm
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import ENTERED, Outcome, exit_on_entry, fail_valid
from nvmxfuzz.machine.profile import load_profile, profile_names

Launch: TypeAlias = Callable[..., NestedEntry]

ENTRY = "vm_entry_controls"
EXIT = "vm_exit_controls"
DRY_RUN_PASSES = exit_on_entry(33)
KERNELS_WITH_DRY_RUN = tuple(name for name in ENTRY_KERNELS if name != "6.19")
LOADING = tuple(
    name for name in profile_names() if name not in ("core-duo-t2600", "kvm-virtual", "yonah")
)
"""Profiles on which KVM of x86_64 loads."""
NO_EPT = ModuleParams(ept=False, error_on_inconsistent_vmcs_config=False)


@dataclass
class Scripted:
    """A processor that says what it is told to."""

    outcomes: list[Outcome]
    attempts: list[Attempt] = field(default_factory=list)

    def enter(self, attempt: Attempt) -> Outcome:
        """Return the next outcome."""
        self.attempts.append(attempt)
        return self.outcomes.pop(0)


@dataclass
class Rules:
    """A processor that is the rules of the SDM."""

    broken: list[tuple[str, ...]] = field(default_factory=list)

    def enter(self, attempt: Attempt) -> Outcome:
        """Return the one outcome that the rules permit."""
        judgement = judge(attempt)
        assert not judgement.unknown_names
        self.broken.append(judgement.broken_names)
        return judgement.permitted[0]


def checking_early(kvm: Kvm) -> Kvm:
    return replace(kvm, params=replace(kvm.params, early_consistency_checks=True))


@pytest.mark.parametrize("version", KERNELS_WITH_DRY_RUN)
def test_the_dry_run_is_made_to_fail_and_the_real_one_is_not(launch: Launch, version: str) -> None:
    hardware = Scripted([DRY_RUN_PASSES, ENTERED])
    entry = launch(version=version, kvm=checking_early, hardware=hardware)
    assert (entry.outcome, entry.warnings) == (ENTERED, ())
    assert [made.dry_run for made in entry.hardware] == [True, False]
    dry, real = (attempt.vmcs for attempt in hardware.attempts)
    assert (dry.guest_rflags, real.guest_rflags) == (0, 2)
    assert dry.ept_pointer == 0x5E
    assert hardware.attempts[0].instruction == "vmlaunch"


def test_there_is_no_dry_run_unless_asked_for_or_any_more(launch: Launch) -> None:
    assert len(launch(hardware=Scripted([ENTERED])).hardware) == 1
    entry = launch(version="6.19", kvm=checking_early, hardware=Scripted([ENTERED]))
    assert len(entry.hardware) == 1


@pytest.mark.parametrize(("error", "warns"), [(7, False), (8, True)])
def test_a_dry_run_that_fails_is_vmfail_7(launch: Launch, error: int, warns: bool) -> None:
    hardware = Scripted([fail_valid(error)])
    entry = launch({"guest_cr4": 0}, kvm=checking_early, hardware=hardware)
    assert (entry.check, entry.outcome) == ("hardware.early-check.vmfail", fail_valid(7))
    assert bool(entry.warnings) is warns
    assert entry.l1 is not None
    assert entry.l1.rip == 0x1003


def test_a_dry_run_that_enters_is_a_warning(launch: Launch) -> None:
    entry = launch(kvm=checking_early, hardware=Scripted([ENTERED, ENTERED]))
    assert entry.warnings == ("nested_vmx_check_vmentry_hw.entered",)
    assert entry.outcome == ENTERED


@pytest.mark.parametrize(("watched", "dr7"), [(False, 0x400), (True, 0x703)])
def test_after_the_dry_run_the_host_is_as_before(launch: Launch, watched: bool, dr7: int) -> None:
    def with_breakpoints(kvm: Kvm) -> Kvm:
        host = replace(kvm.host, dr7=0x703 if watched else 0x400, breakpoints_active=watched)
        return replace(checking_early(kvm), host=host)

    hardware = Scripted([DRY_RUN_PASSES, ENTERED])
    entry = launch(kvm=with_breakpoints, hardware=hardware)
    assert entry.host.dr7 == dr7
    assert entry.host.interrupts_enabled


def test_the_dry_run_leaves_msr_lists_alone(launch: Launch) -> None:
    def without_efer_fields(kvm: Kvm) -> Kvm:
        config = replace(
            kvm.config,
            vmentry_ctrl=kvm.config.vmentry_ctrl & ~VmEntry.LOAD_IA32_EFER,
            vmexit_ctrl=kvm.config.vmexit_ctrl & ~VmExit.LOAD_IA32_EFER,
        )
        return replace(checking_early(kvm), config=config)

    def without_nx(request: EntryRequest) -> EntryRequest:
        processor = replace(request.l1.processor, efer=0x500)
        return replace(request, l1=replace(request.l1, processor=processor))

    hardware = Scripted([DRY_RUN_PASSES, ENTERED])
    edits = {"guest_ia32_efer": 0x500}
    launch(edits, kvm=without_efer_fields, request=without_nx, hardware=hardware)
    dry, real = hardware.attempts
    assert (dry.vmcs.vm_entry_msr_load_count, real.vmcs.vm_entry_msr_load_count) == (0, 1)
    loaded = real.memory.read(real.vmcs.vm_entry_msr_load_addr, 16)
    assert loaded == (0xC000_0080).to_bytes(8, "little") + (0x500).to_bytes(8, "little")


@pytest.mark.parametrize("params", [ModuleParams(error_on_inconsistent_vmcs_config=False), NO_EPT])
def test_a_late_vmfail_gives_l1_its_own_state_back(launch: Launch, params: ModuleParams) -> None:
    loading = {ENTRY: 4 | int(VmEntry.LOAD_IA32_EFER | VmEntry.LOAD_IA32_PAT)}
    edits = {"guest_dr7": 0x403, "guest_ia32_efer": 0xD00, "guest_ia32_pat": 0, "guest_cr3": 0}
    plain = launch({"host_cr0": 0}).l1
    entry = launch(edits, loading, params=params, hardware=Scripted([fail_valid(7)]))
    assert (entry.check, entry.outcome) == ("hardware.entry.vmfail", fail_valid(7))
    assert entry.l1 == plain
    assert dict(entry.vmcs12_writes) == {"vm_instruction_error": 7}
    assert entry.warnings == ()


def test_a_late_vmfail_after_the_dry_run_is_a_warning(launch: Launch) -> None:
    hardware = Scripted([DRY_RUN_PASSES, fail_valid(7)])
    entry = launch(kvm=checking_early, hardware=hardware)
    assert entry.warnings == ("nested_vmx_vmexit.early-check",)
    entry = launch(hardware=Scripted([fail_valid(8)]))
    assert (entry.outcome, entry.warnings) == (fail_valid(7), ("nested_vmx_vmexit.error",))


def test_msrs_of_a_late_vmfail_come_from_the_exit_list(launch: Launch) -> None:
    edits = {"vm_entry_msr_load_count": 1, "vm_exit_msr_load_count": 1}
    pat = (0x277).to_bytes(8, "little")
    memory = {
        0x2_3000: pat + (0x06).to_bytes(8, "little"),
        0x2_C000: pat + (0x0606).to_bytes(8, "little"),
    }
    entry = launch(edits, memory=memory, hardware=Scripted([fail_valid(7)]))
    assert entry.l1 is not None
    assert entry.l1.pat == 0x0606


@pytest.mark.parametrize(
    ("version", "early", "kept"),
    [("4.20", False, False), ("6.12", False, True), ("6.12", True, False), ("6.19", True, True)],
)
def test_without_ept_a_late_vmfail_may_cost_l1_its_cr3(
    launch: Launch, version: str, early: bool, kept: bool
) -> None:
    def checking(kvm: Kvm) -> Kvm:
        return replace(kvm, params=replace(kvm.params, early_consistency_checks=early))

    outcomes = (
        [fail_valid(7)] if version != "6.12" or not early else [DRY_RUN_PASSES, fail_valid(7)]
    )
    hardware = Scripted(outcomes)
    entry = launch(version=version, params=NO_EPT, kvm=checking, hardware=hardware)
    plain = launch({"host_cr0": 0}, version=version, params=NO_EPT)
    assert entry.l1 is not None
    assert plain.l1 is not None
    assert (entry.l1.cr3 == plain.l1.cr3) is kept


@pytest.mark.parametrize(
    ("loaded", "restored", "died"),
    [
        ((0x277, 6), [(0x174, 1), (0x277, 0x606)], ""),
        ((0x277, 6), [(0x277, 6)], ""),
        ((0x277, 6), [(0x277, 2)], "triple-fault"),
        ((0x174, 6), [(1 << 32 | 0x174, 7)], "triple-fault"),
    ],
)
def test_the_way_back_through_the_msr_lists(
    launch: Launch, loaded: tuple[int, int], restored: list[tuple[int, int]], died: str
) -> None:
    def listed(entries: list[tuple[int, int]]) -> bytes:
        return b"".join(i.to_bytes(8, "little") + v.to_bytes(8, "little") for i, v in entries)

    edits = {"vm_entry_msr_load_count": 1, "vm_exit_msr_load_count": len(restored)}
    memory = {0x2_3000: listed([loaded]), 0x2_C000: listed(restored)}
    entry = launch(edits, memory=memory, hardware=Scripted([fail_valid(7)]))
    assert entry.died == died


def test_an_exit_list_that_leaves_memory_before_the_msr_is_found(launch: Launch) -> None:
    edits = {
        "vm_entry_msr_load_count": 1,
        "vm_exit_msr_load_count": 2,
        "vm_exit_msr_load_addr": 0x3F_FFF0,
    }
    entry = launch(edits, hardware=Scripted([fail_valid(7)]))
    assert entry.died == "triple-fault"


@pytest.mark.parametrize(
    ("efer", "in_field"), [(0xD00, True), (0x500, True), (0xD00, False), (0x500, False)]
)
def test_efer_of_l1_after_a_late_vmfail(launch: Launch, efer: int, in_field: bool) -> None:
    def switching(kvm: Kvm) -> Kvm:
        keep = (1 << 32) - 1 if in_field else ~int(VmEntry.LOAD_IA32_EFER)
        config = replace(kvm.config, vmentry_ctrl=kvm.config.vmentry_ctrl & keep)
        return replace(kvm, config=config)

    def of_l1(request: EntryRequest) -> EntryRequest:
        processor = replace(request.l1.processor, efer=efer)
        return replace(request, l1=replace(request.l1, processor=processor))

    hardware = Scripted([fail_valid(7)])
    edits = {"guest_ia32_efer": efer}
    entry = launch(edits, kvm=switching, request=of_l1, hardware=hardware)
    assert entry.l1 is not None
    assert entry.l1.efer == efer


def test_an_exit_that_hardware_found_reaches_l1_and_its_vmcs12(launch: Launch) -> None:
    edits = {"host_rip": 0x4444, "guest_dr7": 0x403, "guest_activity_state": 0}
    bits = {EXIT: int(VmExit.SAVE_DEBUG_CONTROLS)}
    entry = launch(edits, bits, hardware=Scripted([exit_on_entry(33, 3)]))
    assert (entry.check, entry.outcome) == ("hardware.entry.exit", exit_on_entry(33, 3))
    writes = dict(entry.vmcs12_writes)
    assert (writes["vm_exit_reason"], writes["exit_qualification"]) == (0x8000_0021, 3)
    assert writes["guest_rip"] == 0x7C00
    # L2 was given L1's DR7, for its own is not loaded: a processor would leave the field alone.
    assert writes["guest_dr7"] == 0x400
    assert entry.l1 is not None
    assert entry.l1.rip == 0x4444


def test_what_an_exit_loads_besides(launch: Launch) -> None:
    loads = VmExit.LOAD_IA32_PAT | VmExit.CLEAR_IA32_BNDCFGS | VmExit.LOAD_IA32_PERF_GLOBAL_CTRL
    edits = {"host_ia32_pat": 6, "host_ia32_perf_global_ctrl": 3}
    bits = {EXIT: int(loads | VmExit.SAVE_IA32_EFER)}
    entry = launch(edits, bits, hardware=Scripted([exit_on_entry(33)]))
    assert entry.vmcs01 is not None
    assert entry.l1 is not None
    assert (entry.vmcs01.guest_ia32_pat, entry.l1.pat, entry.vmcs01.guest_bndcfgs) == (6, 6, 0)
    assert dict(entry.vmcs12_writes)["guest_ia32_efer"] == 0xD01
    old = launch(edits, bits, version="4.20", hardware=Scripted([exit_on_entry(33)]))
    assert old.vmcs01 is not None
    assert old.vmcs01.guest_ia32_perf_global_ctrl == 3


def test_pdptes_of_a_host_that_cannot_be_loaded_kill_l1(launch: Launch) -> None:
    def pae(request: EntryRequest) -> EntryRequest:
        old = request.l1.processor
        processor = replace(old, efer=0, cs_l=False, cr3=0x6_0000)
        return replace(request, l1=replace(request.l1, processor=processor))

    edits = {EXIT: 0x3_6DFB, "host_cr3": 0x6_1000, "guest_cr0": 0x31}
    memory = {0x6_0000: bytes(32), 0x6_1000: (2).to_bytes(8, "little") * 4, 0x6_1008: b"\3"}
    entry = launch(edits, guest="guest-32", memory=memory, request=pae)
    assert (entry.outcome, entry.died) == (None, "triple-fault")


def test_l2_with_pae_paging_has_its_pdptes_in_vmcs02_and_back_in_vmcs12(launch: Launch) -> None:
    bits = {"cpu_based_vm_exec_control": 1 << 31, "secondary_vm_exec_control": 2}
    edits = {"guest_pdptr1": 0x7_1001}
    hardware = Scripted([exit_on_entry(33)])
    entry = launch(edits, bits, guest="guest-pae", hardware=hardware)
    assert hardware.attempts[0].vmcs.guest_pdptr1 == 0x7_1001
    assert dict(entry.vmcs12_writes)["guest_pdptr1"] == 0x7_1001


def test_a_machine_check_during_entry_is_the_end(launch: Launch) -> None:
    entry = launch(hardware=Scripted([exit_on_entry(41)]))
    assert (entry.outcome, entry.died) == (None, FAIL_ENTRY)


@pytest.mark.parametrize("processor", LOADING)
def test_hardware_accepts_what_kvm_makes_of_a_sound_l2(launch: Launch, processor: str) -> None:
    for version in ("6.1", "6.12"):
        rules = Rules()
        entry = launch(version=version, processor=processor, guest="guest-pae", hardware=rules)
        assert entry.outcome == ENTERED
        assert rules.broken == [()]


def test_the_first_dry_run_fails_where_l0_scales_the_tsc(launch: Launch) -> None:
    rules = Rules()
    entry = launch(kvm=checking_early, hardware=rules)
    assert (entry.check, entry.outcome) == ("hardware.early-check.vmfail", fail_valid(7))
    assert "execution.tsc-multiplier.zero" in rules.broken[0]


def test_what_kvm_leaves_to_hardware(launch: Launch) -> None:
    for edits, rule in (
        ({"guest_rflags": 0}, "guest.rflags.fixed-1"),
        ({"guest_interruptibility_info": 3}, "guest.interruptibility.sti-and-mov-ss"),
    ):
        rules = Rules()
        entry = launch(edits, hardware=rules)
        assert (entry.check, entry.outcome) == ("hardware.entry.exit", exit_on_entry(33))
        assert rule in rules.broken[0]


@pytest.mark.parametrize(
    ("parameter", "bare_metal", "made"),
    [(0, True, False), (1, True, True), (1, False, True), (AUTO, True, True), (AUTO, False, False)],
)
def test_dry_runs_are_made_as_the_parameter_says(
    parameter: int, bare_metal: bool, made: bool
) -> None:
    kvm, virtual = nested_kvm(
        load_profile("skylake-x"), "4.20", DEFAULT_PARAMS, parameter, bare_metal=bare_metal
    )
    entry = vm_entry(kvm, entry_request(base("guest-64", virtual)), Rules())
    assert any(each.dry_run for each in entry.hardware) is made
