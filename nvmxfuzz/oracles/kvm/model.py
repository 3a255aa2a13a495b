# SPDX-License-Identifier: GPL-2.0-only
"""What must hold between the model of nested VM entry and KVM itself.

The same outcome with the same numbers, or the same way to die; the same consistency checks, traced
in the same order; a warning of one where the other warns; and each field that KVM wrote: vmcs02 as
nested_vmx_run() left it and as each VM entry hands it to the processor, vmcs01, vmcs12, and the
registers that L1 goes on with.

What depends on time or on how deep the stack is at a VM entry is left out, see `UNSTEADY`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, Protocol, TypeAlias

from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.kvm.entry_run import NestedEntry
from nvmxfuzz.kvm.hardware import Hardware
from nvmxfuzz.kvm.traced_checks import check_names, text_digest
from nvmxfuzz.kvm.vcpu import EntryRequest, Kvm
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import Outcome
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.machine.vmcs import Vmcs
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.oracles.kvm.l1 import unmet
from nvmxfuzz.oracles.oracle import Oracle
from nvmxfuzz.oracles.vm_entry import VmEntryWitness

NAME: Final = "agreement.kvm-entry"

Relation = Literal["agreed", "different", "not-representable", "stopped"]
"""Both say the same, or do not; KVM cannot be shown the case; it did not return."""

Difference: TypeAlias = tuple[str, str, str]
"""(what differs, where, message)."""

Model: TypeAlias = Callable[[Kvm, EntryRequest, Hardware | None], NestedEntry]
"""vm_entry() of the model, or one with a fault planted."""

_BEYOND_HELP: Final = frozenset({"entry.root.memory"})
"""Here KVM makes a VM exit of a VM entry that is pending: how L1 dies is up to that exit."""

_UNSEEN: Final = "evmcs."
"""Checks of the enlightened VMCS stand in a file of their own: nobody reports their traces."""

KEPT_CHECKS: Final = 8
"""Of the checks that fail in one entry the witness keeps so many."""

UNSTEADY: Final = frozenset({"host_rsp"})
"""The stack pointer of the kernel is not the same at each of its VM entries."""

_WRITTEN_BY_EXIT: Final = frozenset(
    {
        *("vm_exit_reason", "exit_qualification", "vm_exit_instruction_len"),
        *("vm_exit_intr_info", "idt_vectoring_info_field", "vmx_instruction_info"),
        *("guest_physical_address", "vm_instruction_error"),
    }
)
"""What a processor writes into vmcs02, or vmcs01, and KVM only reads."""

_OF_L1S_NEXT_ENTRY: Final = frozenset(
    {
        *("guest_interruptibility_info", "ple_window", "vmx_preemption_timer_value"),
        *(f"eoi_exit_bitmap{number}" for number in range(4)),
        *(f"guest_pdptr{number}" for number in range(4)),
    }
)
"""Of vmcs01, what KVM settles only when it enters L1 again."""

_APIC_CONTROLS: Final = frozenset(
    {
        *("pin_based_vm_exec_control", "secondary_vm_exec_control"),
        *("tertiary_vm_exec_control", "guest_intr_status"),
    }
)
"""What depends on the mode of L1's local APIC, where KVM virtualizes that by hardware."""

_TIMER: Final = frozenset({"vmx_preemption_timer_value"})
"""KVM's own timer runs out when the clock says."""

_TSC: Final = frozenset({"tsc_offset"})


@dataclass(frozen=True, slots=True)
class RealEntry:
    """What one VMLAUNCH or VMRESUME by L1 came to on KVM itself.

    `outcome` and `died` are as those of `NestedEntry`. `checks` are (function, text) of the
    conditions that failed, `warnings` counts WARNs. A VMCS is None where it is not known. `asked`
    has vmcs02 as each VM entry found it, the dry run first; `l1` the registers that L1 goes on
    with, by name.
    """

    outcome: Outcome | None = None
    died: str = ""
    checks: tuple[tuple[str, str], ...] = ()
    warnings: int = 0
    vmcs01: Vmcs | None = None
    vmcs02: Vmcs | None = None
    vmcs12: Vmcs | None = None
    asked: tuple[Vmcs, ...] = ()
    l1: Mapping[str, int] | None = None
    tsc_written: bool = False
    """L1's MSR list wrote the TSC: its offset is then what the clock says."""
    roots: frozenset[str] = frozenset()
    """Fields with addresses of page tables, which KVM allocates as it goes."""
    apic_written: bool = False
    """L1's MSR list wrote IA32_APIC_BASE: KVM virtualizes L1's APIC otherwise when L1 runs."""
    l1_ran: bool = False
    """KVM has entered L1 again: `vmcs01` is what that VM entry found."""


@dataclass(frozen=True, slots=True)
class NoEntry:
    """Why there is nothing to compare, with a sentence."""

    relation: Literal["not-representable", "stopped"]
    reason: str


@dataclass(frozen=True, slots=True)
class Both:
    """One VMLAUNCH or VMRESUME, what the model makes of it, and what KVM did."""

    request: EntryRequest
    model: NestedEntry
    real: RealEntry | NoEntry


class RealKvm(Protocol):
    """KVM of one kernel, and the model given what KVM found when it was loaded."""

    @property
    def name(self) -> str:
        """The name of the target, such as "kvm-6.12"."""

    def virtual(self, profile: Profile) -> Profile:
        """Return the processor that KVM offers L1 on that hardware."""

    def both(self, attempt: Attempt) -> Both | NoEntry:
        """Let L1 make the attempt on both."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """How KVM compares to the model; `differences` are empty unless it differs."""

    relation: Relation
    differences: tuple[Difference, ...] = ()


AGREED: Final = Comparison("agreed")


def compare(both: Both) -> Comparison:
    """Compare what the model makes of a VM entry to what KVM did with it."""
    real = both.real
    if isinstance(real, NoEntry):
        seen = (("returned", real.reason, f"KVM did not return: {real.reason}"),)
        return Comparison(real.relation, seen if real.relation == "stopped" else ())
    differences = tuple(_differences(both.model, real, both.request))
    return Comparison("different", differences) if differences else AGREED


def _differences(
    model: NestedEntry, real: RealEntry, request: EntryRequest
) -> Iterator[Difference]:
    ours, theirs = ending(model.outcome, model.died), ending(real.outcome, real.died)
    if ours != theirs and not (model.check in _BEYOND_HELP and real.died):
        where = model.check or "entered"
        yield "outcome", where, f"the model has {ours} ({where}), KVM {theirs}"
        return
    if model.check in _BEYOND_HELP:
        return
    yield from _different_checks(model, real)
    if bool(model.warnings) != bool(real.warnings):
        where = ", ".join(model.warnings) or "none"
        yield "warnings", where, f"the model warns of {where}, KVM {real.warnings} times"
    yield from _different_fields(model, real, request)


def ending(outcome: Outcome | None, died: str) -> str:
    """Return how an entry ended, for both sides in the same words."""
    return died or str(outcome)


def _different_checks(model: NestedEntry, real: RealEntry) -> Iterator[Difference]:
    fired = [name for name in model.fired if not name.startswith(_UNSEEN)][:KEPT_CHECKS]
    if not fired and not real.checks:
        return
    left = fired
    before = ""
    for function, text in real.checks:
        names = check_names(function, text)
        site = f"{function} {text_digest(text)}"
        if before in names and left[:1] != [before]:
            # A condition around a condition repeats it.
            continue
        if not left or left[0] not in names:
            ours = left[0] if left else "nothing more"
            yield "checks", site, f"KVM traces {site} ({', '.join(names)}), the model {ours}"
            return
        before = left.pop(0)
    if left and len(real.checks) < KEPT_CHECKS:
        yield "checks", left[0], f"the model traces {left[0]}, KVM nothing more"


def _different_fields(
    model: NestedEntry, real: RealEntry, request: EntryRequest
) -> Iterator[Difference]:
    unsteady = UNSTEADY | _TSC if real.tsc_written else UNSTEADY
    if len(model.hardware) != len(real.asked):
        counts = f"{len(model.hardware)} times, KVM {len(real.asked)} times"
        yield "hardware", "entries", f"the model asks the processor {counts}"
        return
    for ours, theirs in zip(model.hardware, real.asked, strict=True):
        skipped = unsteady | _WRITTEN_BY_EXIT | _TIMER | real.roots
        what = "vmcs02 of the dry run" if ours.dry_run else "vmcs02 at VM entry"
        yield from _unequal(what, ours.attempt.vmcs, theirs, skipped)
    if real.vmcs02 is not None:
        written = model.vmcs02 or request.nested.vmcs02 or Vmcs()
        skipped = unsteady | _WRITTEN_BY_EXIT if real.asked else unsteady
        yield from _unequal("vmcs02", written, real.vmcs02, skipped)
    if real.vmcs01 is not None:
        skipped = unsteady | _WRITTEN_BY_EXIT
        written = model.vmcs01 or request.vmcs01 or Vmcs()
        if real.apic_written:
            skipped |= _APIC_CONTROLS
        if real.l1_ran and model.l1 is not None:
            skipped |= _OF_L1S_NEXT_ENTRY | real.roots
            places = {"guest_rip": model.l1.rip, "guest_rsp": model.l1.rsp}
            written = written.replace({**places, "guest_cr3": model.l1.cr3})
        yield from _unequal("vmcs01", written, real.vmcs01, skipped)
    if real.vmcs12 is not None:
        written = request.vmcs12.replace(dict(model.vmcs12_writes))
        yield from _unequal("vmcs12", written, real.vmcs12, frozenset())
    if real.l1 is not None and model.l1 is not None:
        for name, value in real.l1.items():
            expected = getattr(model.l1, name)
            if expected != value:
                yield "L1", name, f"L1's {name} is {expected:#x} in the model, {value:#x} in KVM"


def _unequal(what: str, model: Vmcs, real: Vmcs, skipped: frozenset[str]) -> Iterator[Difference]:
    ours, theirs = model.__dict__, real.__dict__
    if ours == theirs:
        return
    for name, value in theirs.items():
        if ours[name] != value and name not in skipped:
            said = f"{name} of {what} is {ours[name]:#x} in the model, {value:#x} in KVM"
            yield what, name, said


def agreement(real: RealKvm) -> Oracle[EntryCase, VmEntryWitness]:
    """Return the oracle that compares the model to `real`."""

    def agrees(case: EntryCase, _: VmEntryWitness) -> Finding | None:
        """KVM's software does what the model says: outcome, checks, warnings, every field."""
        attempt = case.attempt
        if unmet(replace(attempt, profile=real.virtual(attempt.profile))):
            return None
        both = real.both(attempt)
        return None if isinstance(both, NoEntry) else _finding(real.name, compare(both))

    return Oracle(NAME, "KVM itself, built from the kernel's source", agrees)


def _finding(name: str, found: Comparison) -> Finding | None:
    if not found.differences:
        return None
    what, where, message = found.differences[0]
    model = f"kvm-model-{name.removeprefix('kvm-')}"
    return Finding(NAME, (what,), (model, name), where, message)
