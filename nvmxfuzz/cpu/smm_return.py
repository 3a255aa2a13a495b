# SPDX-License-Identifier: GPL-2.0-only
"""VM entries that return from SMM: what they check instead of, or beside, the ordinary checks.

Such an entry leaves SMM for VMX root operation if the executive-VMCS pointer is the VMXON
pointer, and else for VMX non-root operation under the executive VMCS that it points to. The
execution controls of the current VMCS play no part. Those of the executive VMCS, which are
checked in their place, are no part of a case: `Processor` says whether they are valid.
"""

from __future__ import annotations

from nvmxfuzz.arch.controls import VmEntry
from nvmxfuzz.arch.events import Activity, EventType, OtherEvent
from nvmxfuzz.arch.sections import SMM_RETURN
from nvmxfuzz.cpu import failures
from nvmxfuzz.cpu.conditions import returns_from_smm
from nvmxfuzz.cpu.entry import Entry
from nvmxfuzz.cpu.predicates import page_aligned
from nvmxfuzz.cpu.rule import Section, within

SECTION = Section(SMM_RETURN, failures.EXECUTIVE_POINTER)


def executive_pointer_valid(entry: Entry) -> bool:
    """The executive-VMCS pointer passes the checks on itself, which come before all else here."""
    return (
        page_aligned(entry.vmcs.executive_vmcs_pointer)
        and entry.vmcs.executive_vmcs_pointer & entry.caps.physical_reserved == 0
        and entry.memory.read_int(entry.vmcs.executive_vmcs_pointer, 4) == entry.caps.revision
    )


@within("in_smm")
def returns_to_root(entry: Entry) -> int:
    """VM entry returns from SMM to VMX root operation."""
    return (
        returns_from_smm(entry)
        and entry.vmcs.executive_vmcs_pointer == entry.processor.vmxon_pointer
    )


@within("in_smm")
def returns_to_non_root(entry: Entry) -> int:
    """VM entry returns from SMM to VMX non-root operation, keeping the dual-monitor treatment."""
    return (
        returns_from_smm(entry)
        and entry.vm_entry & VmEntry.DEACTIVATE_DUAL_MONITOR_TREATMENT == 0
        and entry.vmcs.executive_vmcs_pointer != entry.processor.vmxon_pointer
        and executive_pointer_valid(entry)
    )


@within("in_smm")
def deactivates_dual_monitor(entry: Entry) -> int:
    """VM entry returns from SMM and deactivates the dual-monitor treatment."""
    return (
        returns_from_smm(entry)
        and entry.vm_entry & VmEntry.DEACTIVATE_DUAL_MONITOR_TREATMENT != 0
        and executive_pointer_valid(entry)
    )


@SECTION.rule("smm.executive-pointer.aligned", when=returns_from_smm)
def executive_pointer_aligned(entry: Entry) -> bool:
    """Bits 11:0 of the executive-VMCS pointer are 0 on a return from SMM."""
    return page_aligned(entry.vmcs.executive_vmcs_pointer)


@SECTION.rule("smm.executive-pointer.width", when=returns_from_smm)
def executive_pointer_width(entry: Entry) -> bool:
    """The executive-VMCS pointer is within the physical-address width on a return from SMM."""
    return entry.vmcs.executive_vmcs_pointer & entry.caps.physical_reserved == 0


@SECTION.rule("smm.executive-pointer.revision", when=returns_from_smm)
def executive_pointer_revision(entry: Entry) -> bool:
    """The 4 bytes at the executive-VMCS pointer are the processor's VMCS revision identifier."""
    return entry.memory.read_int(entry.vmcs.executive_vmcs_pointer, 4) == entry.caps.revision


@SECTION.rule(
    "smm.executive-vmcs.launched", when=returns_to_non_root, failure=failures.EXECUTIVE_NOT_LAUNCHED
)
def executive_vmcs_launched(entry: Entry) -> bool:
    """The executive VMCS that a return from SMM enters has the launch state launched."""
    return entry.processor.executive_vmcs_launched


@SECTION.rule(
    "smm.executive-vmcs.controls", when=returns_to_non_root, failure=failures.EXECUTIVE_CONTROLS
)
def executive_controls_valid(entry: Entry) -> bool:
    """The execution controls of the executive VMCS that a return from SMM enters are valid."""
    return entry.processor.executive_controls_valid


@SECTION.rule(
    "smm.deactivate.vmxon-pointer",
    when=deactivates_dual_monitor,
    failure=failures.EXECUTIVE_NOT_VMXON,
)
def deactivation_has_vmxon_pointer(entry: Entry) -> bool:
    """The executive-VMCS pointer is the VMXON pointer if dual-monitor treatment is deactivated."""
    return entry.vmcs.executive_vmcs_pointer == entry.processor.vmxon_pointer


@SECTION.rule("smm.event.pending-mtf", when=returns_to_root, failure=failures.CONTROLS)
def no_mtf_into_root(entry: Entry) -> bool:
    """A return from SMM to VMX root operation does not inject a pending MTF VM exit."""
    return (
        entry.event_type != EventType.OTHER_EVENT
        or entry.event_vector != OtherEvent.PENDING_MTF_VM_EXIT
    )


@SECTION.rule("smm.activity.wait-for-sipi", when=returns_to_root, failure=failures.GUEST_STATE)
def not_waiting_in_root(entry: Entry) -> bool:
    """A return from SMM to VMX root operation is not to the wait-for-SIPI activity state."""
    return entry.vmcs.guest_activity_state != Activity.WAIT_FOR_SIPI
