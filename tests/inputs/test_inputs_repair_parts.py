# SPDX-License-Identifier: GPL-2.0-only
"""Parts of repair: its variety, the table of dependent controls, memory, single decisions."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from random import Random

import pytest

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.bits import named_bits
from nvmxfuzz.arch.controls import Pin, Primary, Secondary, Tertiary, VmEntry, VmExit, VmExit2
from nvmxfuzz.arch.registers import Cr0, Cr4, Efer, Rflags
from nvmxfuzz.inputs.bases import base, base_names
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.repair import dependencies, repair
from nvmxfuzz.inputs.repair.controls import demanded, supported
from nvmxfuzz.inputs.repair.overlay import backed_bytes, overlay
from nvmxfuzz.inputs.strategies import scatter
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.memory import Memory
from nvmxfuzz.machine.processor import NO_POINTER, Processor
from nvmxfuzz.machine.profile import load_profile

ALL_ONES = 0xFFFF_FFFF_FFFF_FFFF


@cache
def repaired_states() -> tuple[Attempt, ...]:
    profile = load_profile("everything")
    names = base_names(profile)
    return tuple(
        repair(scatter(EntryCase(base(name, profile), name), 4 * seed).attempt)
        for seed in range(1200)
        for name in (names[seed % len(names)],)
    )


def control_words(attempt: Attempt) -> Iterator[tuple[type, int]]:
    vmcs = attempt.vmcs
    yield Pin, vmcs.pin_based_vm_exec_control
    yield Primary, vmcs.cpu_based_vm_exec_control
    if vmcs.cpu_based_vm_exec_control & Primary.ACTIVATE_SECONDARY_CONTROLS:
        yield Secondary, vmcs.secondary_vm_exec_control
    if vmcs.cpu_based_vm_exec_control & Primary.ACTIVATE_TERTIARY_CONTROLS:
        yield Tertiary, vmcs.tertiary_vm_exec_control
    yield VmExit, vmcs.vm_exit_controls
    if vmcs.vm_exit_controls & VmExit.ACTIVATE_SECONDARY_CONTROLS:
        yield VmExit2, vmcs.secondary_vm_exit_controls
    yield VmEntry, vmcs.vm_entry_controls


def test_every_control_occurs_set_and_clear() -> None:
    seen: Counter[tuple[type, str, bool]] = Counter()
    for attempt in repaired_states():
        if not attempt.processor.in_smm:
            for table, word in control_words(attempt):
                for name, bit in named_bits(table).items():
                    seen[table, name, word & bit != 0] += 1
    in_smm_only = {"ENTRY_TO_SMM", "DEACTIVATE_DUAL_MONITOR_TREATMENT"}
    for table in (Pin, Primary, Secondary, Tertiary, VmExit, VmExit2, VmEntry):
        for name in named_bits(table):
            assert seen[table, name, False] > 5, name
            assert seen[table, name, True] > 5 or name in in_smm_only, name


def guest_mode(attempt: Attempt) -> str:
    vmcs = attempt.vmcs
    if vmcs.vm_entry_controls & VmEntry.IA_32E_MODE_GUEST:
        return "64-bit" if vmcs.guest_cs_ar_bytes >> 13 & 1 else "compatibility"
    if vmcs.guest_rflags & Rflags.VM:
        return "virtual-8086"
    if not vmcs.guest_cr0 & Cr0.PE:
        return "real"
    if not vmcs.guest_cr0 & Cr0.PG:
        return "unpaged"
    return "PAE" if vmcs.guest_cr4 & Cr4.PAE else "32-bit"


@pytest.mark.parametrize(
    ("aspect", "values"),
    [
        (
            guest_mode,
            {"64-bit", "compatibility", "virtual-8086", "real", "unpaged", "PAE", "32-bit"},
        ),
        (lambda it: it.vmcs.guest_activity_state, {0, 1, 2, 3}),
        (lambda it: it.vmcs.guest_interruptibility_info & 3, {0, 1, 2}),
        (
            lambda it: (
                it.vmcs.vm_entry_intr_info_field >> 31
                and 1 + (it.vmcs.vm_entry_intr_info_field >> 8 & 7)
            ),
            {0, 1, 3, 4, 5, 6, 7, 8},
        ),
        (lambda it: it.vmcs.guest_ss_ar_bytes >> 5 & 3, {0, 1, 2, 3}),
        (lambda it: it.vmcs.vmcs_link_pointer == ALL_ONES, {False, True}),
        (lambda it: bool(it.vmcs.vm_entry_msr_load_count), {False, True}),
        (lambda it: bool(it.vmcs.guest_cr4 & Cr4.FRED), {False, True}),
        (lambda it: bool(it.vmcs.guest_cr4 & Cr4.CET), {False, True}),
        (lambda it: it.processor.in_smm, {False, True}),
        (lambda it: bool(it.processor.efer & Efer.LMA), {False, True}),
    ],
)
def test_repaired_states_vary(aspect: Callable[[Attempt], object], values: set[object]) -> None:
    assert {aspect(attempt) for attempt in repaired_states()} == values


def test_settled_controls_meet_every_dependency() -> None:
    rng = Random(3)
    caps = load_profile("everything").caps
    must, may = demanded(caps), supported(caps)
    for _ in range(2000):
        word = dependencies.settle(
            (rng.getrandbits(288) | must) & may, must, may, rng.getrandbits(64)
        )
        assert dependencies.settled(word)
        assert word & must == must
        assert word & ~may == 0


def test_control_that_must_be_1_gets_what_it_needs() -> None:
    posted = Pin.PROCESS_POSTED_INTERRUPTS << dependencies.PIN
    word = dependencies.settle(posted, posted, -1, 0)
    assert word & posted
    assert word & dependencies.TPR_SHADOW
    assert dependencies.settled(word)


def test_control_without_what_it_needs_is_cleared_or_granted_by_coin() -> None:
    window = Primary.NMI_WINDOW_EXITING << dependencies.PRIMARY
    assert dependencies.settle(window, 0, -1, 0) == 0
    granted = dependencies.settle(window, 0, -1, -1)
    assert granted == window | Pin.VIRTUAL_NMIS | Pin.NMI_EXITING


def test_ignored_control_words_keep_what_they_hold() -> None:
    attempt = base("guest-32", load_profile("skylake-x"))
    edits = {"secondary_vm_exec_control": 0xFFFF_FFFF, "tertiary_vm_exec_control": ALL_ONES}
    edited = replace(attempt, vmcs=attempt.vmcs.replace(edits))
    assert repair(edited) is edited


def test_overlay_is_that_of_memory() -> None:
    rng = Random(5)
    for _ in range(400):
        memory, cells = Memory(), dict[int, bytes]()
        for _ in range(rng.randrange(1, 6)):
            address, data = rng.randrange(40), rng.randbytes(rng.randrange(8))
            memory = overlay(memory, address, data)
            cells.update({at: bytes([byte]) for at, byte in enumerate(data, address)})
        assert memory == Memory.of(cells)


def test_backed_bytes_counts_up_to_the_gap() -> None:
    memory = Memory.of({0x10: bytes(8), 0x20: b"x"})
    assert [backed_bytes(memory, at) for at in (0xF, 0x10, 0x17, 0x18, 0x20)] == [0, 8, 1, 0, 1]


def test_list_without_memory_gets_few_entries() -> None:
    attempt = base("guest-64", load_profile("skylake-x"))
    edits = {"vm_entry_msr_load_count": 0xFFFF_FFFF, "vm_entry_msr_load_addr": 0x50_0000}
    fixed = repair(replace(attempt, vmcs=attempt.vmcs.replace(edits)))
    assert fixed.vmcs.vm_entry_msr_load_count == 3
    assert backed_bytes(fixed.memory, 0x50_0000) == 3 * 16


def test_entry_that_loads_is_kept() -> None:
    attempt = base("guest-64", load_profile("skylake-x"))
    entry = msr.MSR_KERNEL_GS_BASE.to_bytes(8, "little") + (0x1234).to_bytes(8, "little")
    legal = replace(
        attempt,
        memory=overlay(attempt.memory, 0x50_0000, entry),
        vmcs=attempt.vmcs.replace(
            {"vm_entry_msr_load_count": 1, "vm_entry_msr_load_addr": 0x50_0000}
        ),
    )
    assert repair(legal) is legal


def test_list_inside_the_pdptes_gives_way() -> None:
    attempt = base("guest-pae", load_profile("skylake-x"))
    edits = {"vm_entry_msr_load_count": 2, "vm_entry_msr_load_addr": attempt.vmcs.guest_cr3}
    overlapping = attempt.vmcs.replace(edits)
    memory = overlay(attempt.memory, attempt.vmcs.guest_cr3, bytes(64))
    fixed = repair(replace(attempt, vmcs=overlapping, memory=memory))
    assert repair(fixed) is fixed


def test_pdptes_in_the_vmxon_region_move_away() -> None:
    # This processor's revision identifier is no legal PDPTE.
    attempt = base("guest-pae", load_profile("core-duo-t2600"))
    processor = replace(attempt.processor, in_smm=True, vmxon_pointer=0x50_0000)
    vmcs = attempt.vmcs.replace({"guest_cr3": 0x50_0000, "executive_vmcs_pointer": 0x50_0000})
    fixed = repair(replace(attempt, processor=processor, vmcs=vmcs))
    assert fixed.vmcs.guest_cr3 != 0x50_0000
    assert fixed.memory.read_int(0x50_0000, 4) == attempt.profile.caps.revision
    assert repair(fixed) is fixed


def test_hypervisor_outside_vmx_operation_gets_pointers() -> None:
    attempt = base("guest-64", load_profile("skylake-x"))
    lost = Processor(cr0=0, cr4=0, efer=0, cpl=3, vmxon_pointer=NO_POINTER, current_vmcs=NO_POINTER)
    fixed = repair(replace(attempt, processor=lost)).processor
    assert fixed.vmxon_pointer != fixed.current_vmcs
    assert NO_POINTER not in (fixed.vmxon_pointer, fixed.current_vmcs)
    assert fixed.cpl == 0


@pytest.mark.parametrize(
    ("state", "instruction"), [("clear", "vmlaunch"), ("launched", "vmresume")]
)
def test_instruction_follows_the_launch_state(state: str, instruction: str) -> None:
    attempt = base("guest-64", load_profile("skylake-x"))
    for other in ("vmlaunch", "vmresume"):
        given = replace(attempt, launch_state=state, instruction=other)  # type: ignore[arg-type]
        assert repair(given).instruction == instruction


def test_return_from_smm_goes_to_vmx_root_operation() -> None:
    attempt = base("guest-32", load_profile("everything"))
    inside = replace(
        attempt,
        processor=replace(attempt.processor, in_smm=True),
        vmcs=attempt.vmcs.replace({"executive_vmcs_pointer": 0x1234_5678}),
    )
    fixed = repair(inside)
    assert fixed.vmcs.executive_vmcs_pointer == fixed.processor.vmxon_pointer
    assert fixed.memory.read_int(fixed.processor.vmxon_pointer, 4) == attempt.profile.caps.revision


def test_entry_that_stays_in_smm_keeps_its_control() -> None:
    attempt = base("guest-64", load_profile("everything"))
    controls = attempt.vmcs.vm_entry_controls | VmEntry.ENTRY_TO_SMM
    inside = replace(
        attempt,
        processor=replace(attempt.processor, in_smm=True),
        vmcs=attempt.vmcs.replace({"vm_entry_controls": controls}),
    )
    fixed = repair(inside)
    assert fixed.vmcs.vm_entry_controls & VmEntry.ENTRY_TO_SMM
    assert fixed.vmcs.guest_interruptibility_info & 1 << 2


def test_unrestricted_guest_stays_in_real_mode() -> None:
    attempt = base("guest-real", load_profile("skylake-x"))
    broken = attempt.vmcs.replace({"guest_ss_ar_bytes": 0xFFFF_FFFF, "guest_cs_limit": 0x12345})
    fixed = repair(replace(attempt, vmcs=broken))
    assert guest_mode(fixed) == "real"
    assert fixed.vmcs.guest_ss_ar_bytes >> 5 & 3 == 0


def test_traced_hypervisor_does_not_load_the_control_of_tracing() -> None:
    attempt = base("guest-64", load_profile("everything"))
    controls = attempt.vmcs.vm_entry_controls | VmEntry.LOAD_IA32_RTIT_CTL
    traced = replace(
        attempt,
        processor=replace(attempt.processor, rtit_ctl=1),
        vmcs=attempt.vmcs.replace({"vm_entry_controls": controls}),
    )
    fixed = repair(traced)
    assert fixed.processor.rtit_ctl == 1
    assert not fixed.vmcs.vm_entry_controls & VmEntry.LOAD_IA32_RTIT_CTL
