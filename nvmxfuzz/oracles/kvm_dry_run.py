# SPDX-License-Identifier: GPL-2.0-only
"""What must hold of KVM's dry run, and of what KVM puts back after it, a VMfail or a failed entry.

A dry run is a VM entry by vmcs02 that is sure to fail for its guest state: if it ends in VMfail,
L1's VM entry does, and if it ends in a VM exit, no check is left that could.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from nvmxfuzz.arch.controls import Secondary, VmExit
from nvmxfuzz.arch.fields import FIELDS
from nvmxfuzz.arch.registers import Rflags
from nvmxfuzz.cpu.vm_entry import vm_entry
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.machine.outcome import ENTERED
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.oracles.kvm_loop import (
    OnceFollowed,
    changed_fields,
    changed_pairs,
    is_fail,
    late_failure,
)
from nvmxfuzz.oracles.oracle import Oracle
from nvmxfuzz.oracles.vm_entry import VmEntryWitness
from nvmxfuzz.targets.passage import Passage

DRY_RUN_EXITS: Final = "entry.dry-run-exits"
DRY_RUN_SOUND: Final = "entry.dry-run-sound"
HOST_RESTORED: Final = "entry.host-restored"
FAIL_BEFORE_STATE: Final = "entry.fail-before-state"

_SOURCE: Final = "KVM: the dry run of nested VM entry"
_FLAGS: Final = Rflags.CF | Rflags.PF | Rflags.AF | Rflags.ZF | Rflags.SF | Rflags.OF
_LENGTH: Final = 3
"""Of VMLAUNCH and VMRESUME, in bytes: where L1 goes on after VMfail."""
_MOST_NAMES: Final = 6

_GUEST: Final = frozenset(field.name for field in FIELDS if field.type == "guest")
_EXIT_INFO: Final = frozenset(field.name for field in FIELDS if field.type == "exit-info")
_L1_GOES_ON: Final = frozenset(
    {"guest_rip", "guest_rflags", "guest_interruptibility_info", "guest_pending_dbg_exceptions"}
)
"""What an instruction that is done changes in the VMCS of L1."""
_WRITTEN_BEHIND: Final = frozenset({"execution.tsc-multiplier.zero"})
"""Rules on fields that KVM writes only behind the dry run, to which that is not how they are:
docs/findings/dry-run-tsc-multiplier.md."""
_MODE_OF_L1: Final = frozenset(
    {
        "cr0_guest_host_mask",
        "cr0_read_shadow",
        "cr4_guest_host_mask",
        "cr4_read_shadow",
        "exception_bitmap",
        "vm_entry_controls",
        "vm_exit_controls",
        "cpu_based_vm_exec_control",
        "secondary_vm_exec_control",
        "ept_pointer",
    }
)
"""Controls in the VMCS of L1 that hold, or depend on, the state that a failed entry loads."""


class _DryRuns:
    def __init__(self, of: OnceFollowed) -> None:
        self._of = of

    def exits(self, case: EntryCase, _run: VmEntryWitness) -> Finding | None:
        """The dry run never enters the guest."""
        for each in self._of.follow(case.attempt, dry=True).dry_runs:
            if each.outcome == ENTERED:
                said = "the processor enters the guest in a dry run"
                return self._of.finding(DRY_RUN_EXITS, "entered", said)
        return None

    def sound(self, case: EntryCase, _run: VmEntryWitness) -> Finding | None:
        """The dry run ended in a VM exit, so that the entry behind it does not end in VMfail."""
        passage = self._of.follow(case.attempt, dry=True)
        late = late_failure(passage)
        if late is None or not any(each.outcome.kind == "exit" for each in passage.dry_runs):
            return None
        broken = set(vm_entry(passage.entries[-1].attempt).broken_names)
        if broken & _WRITTEN_BEHIND:
            return None
        said = f"the dry run ended in a VM exit, and the entry behind it in {late}"
        return self._of.finding(DRY_RUN_SOUND, str(late), said)

    def host_restored(self, case: EntryCase, _run: VmEntryWitness) -> Finding | None:
        """After a dry run, a VMfail or a failed entry, what KVM changed for it is as before."""
        for dry, passage in enumerate(self._of.both(case.attempt)):
            changed = list(_left_changed(passage))
            if changed:
                way = "with a dry run" if dry else "without a dry run"
                said = f"{way}, after {passage.outcome}, these are not as before: "
                site = f"{_stage(passage)}: {changed[0]}"
                names = ", ".join(changed[:_MOST_NAMES])
                return self._of.finding(HOST_RESTORED, site, said + names)
        return None

    def fail_before_state(self, case: EntryCase, _run: VmEntryWitness) -> Finding | None:
        """Before a VMfail nothing of the guest state was processed, its MSR-load list included."""
        for passage in self._of.both(case.attempt):
            outcome, before, after = passage.outcome, passage.l1_before, passage.l1_after
            if outcome is None or not is_fail(outcome) or before is None or after is None:
                continue
            if late_failure(passage) and not passage.dry_runs:
                # Without a dry run KVM learns of it too late: docs/findings/late-vmfail.md.
                continue
            changed = [f"MSR {int(name):#x}" for name in changed_pairs(before.msrs, after.msrs)]
            changed += [
                f"vmcs12 {name}"
                for name in changed_fields(before.vmcs, after.vmcs)
                if name != "vm_instruction_error"
            ]
            if changed:
                said = f"{outcome} came after these had changed: {', '.join(changed[:_MOST_NAMES])}"
                return self._of.finding(FAIL_BEFORE_STATE, f"{_stage(passage)}: {changed[0]}", said)
        return None


def _stage(passage: Passage) -> str:
    """Return who ended the entry: the processor in earnest, in a dry run, or KVM."""
    if passage.entries:
        return f"{'dry run and ' if passage.dry_runs else ''}{_kind(passage)} by the processor"
    if passage.dry_runs and is_fail(passage.dry_runs[-1].outcome):
        return f"{_kind(passage)} by the dry run"
    return f"{_kind(passage)} by KVM"


def _kind(passage: Passage) -> str:
    return "VMfail" if passage.outcome is not None and is_fail(passage.outcome) else "failed entry"


def _left_changed(passage: Passage) -> Iterator[str]:
    outcome, before, after = passage.outcome, passage.l0_before, passage.l0_after
    if outcome is None or before is None or after is None:
        return
    if outcome == ENTERED and not passage.entries:
        # L2 halts, and is not over.
        return
    for name in changed_pairs(before.registers, after.registers):
        if name != "efer" or _has_efer_control(passage):
            yield name
    if before.loaded != after.loaded:
        yield f"the loaded VMCS is {after.loaded}"
    if outcome == ENTERED:
        return
    changed = changed_fields(before.vmcs01, after.vmcs01)
    if is_fail(outcome):
        own = _L1_GOES_ON | _EXIT_INFO
        if not before.vmcs01.secondary_vm_exec_control & Secondary.ENABLE_EPT:
            # The root of KVM's own page tables, wherever they are at the moment.
            own |= {"guest_cr3"}
        yield from (f"vmcs01 {name}" for name in changed if name not in own)
        yield from _registers_of_l1(passage)
    else:
        own = _GUEST | _MODE_OF_L1 | _EXIT_INFO
        yield from (f"vmcs01 {name}" for name in changed if name not in own)


def _has_efer_control(passage: Passage) -> bool:
    """Tell whether VM exit loads EFER; if not, KVM puts it back on its way to user space."""
    may = (each.attempt.profile.caps.exit_may for each in passage.asked)
    return all(controls & VmExit.LOAD_IA32_EFER for controls in may)


def _registers_of_l1(passage: Passage) -> Iterator[str]:
    """Yield what of L1's registers is not as an instruction that failed leaves it."""
    assert passage.l1_before is not None
    assert passage.l1_after is not None
    before, after = dict(passage.l1_before.registers), dict(passage.l1_after.registers)
    before["rip"] += _LENGTH
    for name, value in before.items():
        flags = _FLAGS if name == "rflags" else 0
        if name == "efer" and late_failure(passage) and not _has_efer_control(passage):
            # That of L2 stays: docs/findings/late-vmfail.md.
            continue
        if (value ^ after[name]) & ~flags:
            yield f"L1's {name}"


def dry_run_oracles(of: OnceFollowed) -> tuple[Oracle[EntryCase, VmEntryWitness], ...]:
    """Return the oracles on the dry run, and on what is put back."""
    runs = _DryRuns(of)
    return (
        Oracle(DRY_RUN_EXITS, _SOURCE, runs.exits),
        Oracle(DRY_RUN_SOUND, _SOURCE, runs.sound),
        Oracle(HOST_RESTORED, _SOURCE, runs.host_restored),
        Oracle(FAIL_BEFORE_STATE, "SDM: VM Entries", runs.fail_before_state),
    )
