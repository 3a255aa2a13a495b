# SPDX-License-Identifier: GPL-2.0-only
"""What must hold of KVM's dry run, and of what KVM puts back after it, a VMfail or a failed entry.

A dry run is a VM entry by vmcs02 that is sure to fail for its guest state: if it ends in VMfail,
L1's VM entry does, and if it ends in a VM exit, no check is left that could.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from nvmxfuzz.arch.registers import Rflags
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.machine.outcome import ENTERED
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.oracles.kvm.known_loop import DRY_RUN_SOUND, FAIL_BEFORE_STATE, HOST_RESTORED
from nvmxfuzz.oracles.kvm.loop import OnceFollowed
from nvmxfuzz.oracles.kvm.passage import (
    changed_fields,
    changed_pairs,
    ends_in_fail,
    is_fail,
    late_failure,
)
from nvmxfuzz.oracles.oracle import Oracle
from nvmxfuzz.oracles.vm_entry import VmEntryWitness
from nvmxfuzz.targets.passage import Passage

DRY_RUN_EXITS: Final = "entry.dry-run-exits"

_SOURCE: Final = "KVM: the dry run of nested VM entry"
_FLAGS: Final = Rflags.CF | Rflags.PF | Rflags.AF | Rflags.ZF | Rflags.SF | Rflags.OF
_LENGTH: Final = 3
"""Of VMLAUNCH and VMRESUME, in bytes: where L1 goes on after VMfail."""
_MOST_NAMES: Final = 6


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
        if not self._of.unexplained(DRY_RUN_SOUND, passage, [str(late)]):
            return None
        said = f"the dry run ended in a VM exit, and the entry behind it in {late}"
        return self._of.finding(DRY_RUN_SOUND, str(late), said)

    def host_restored(self, case: EntryCase, _run: VmEntryWitness) -> Finding | None:
        """After a dry run, a VMfail or a failed entry, what KVM changed for it is as before."""
        for dry, passage in enumerate(self._of.both(case.attempt)):
            changed = self._of.unexplained(HOST_RESTORED, passage, _left_changed(passage))
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
            changed = [f"MSR {int(name):#x}" for name in changed_pairs(before.msrs, after.msrs)]
            changed += [
                f"vmcs12 {name}"
                for name in changed_fields(before.vmcs, after.vmcs)
                if name != "vm_instruction_error"
            ]
            changed = self._of.unexplained(FAIL_BEFORE_STATE, passage, changed)
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
    return "VMfail" if ends_in_fail(passage) else "failed entry"


def _left_changed(passage: Passage) -> Iterator[str]:
    outcome, before, after = passage.outcome, passage.l0_before, passage.l0_after
    if outcome is None or before is None or after is None:
        return
    if outcome == ENTERED and not passage.entries:
        # L2 halts, and is not over.
        return
    yield from changed_pairs(before.registers, after.registers)
    if before.loaded != after.loaded:
        yield f"the loaded VMCS is {after.loaded}"
    if outcome == ENTERED:
        return
    yield from (f"vmcs01 {name}" for name in changed_fields(before.vmcs01, after.vmcs01))
    if is_fail(outcome):
        yield from _registers_of_l1(passage)


def _registers_of_l1(passage: Passage) -> Iterator[str]:
    """Yield what of L1's registers is not as an instruction that failed leaves it."""
    assert passage.l1_before is not None
    assert passage.l1_after is not None
    before, after = dict(passage.l1_before.registers), dict(passage.l1_after.registers)
    before["rip"] += _LENGTH
    for name, value in before.items():
        flags = _FLAGS if name == "rflags" else 0
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
