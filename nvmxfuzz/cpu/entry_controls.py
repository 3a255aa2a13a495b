# SPDX-License-Identifier: GPL-2.0-only
"""Checks on VM-entry control fields: the control word, event injection, MSR loading, SMM."""

from __future__ import annotations

from nvmxfuzz.arch.controls import Primary, VmEntry
from nvmxfuzz.arch.events import (
    VECTORS_WITH_ERROR_CODE,
    EventType,
    InterruptionInfo,
    OtherEvent,
    Vector,
)
from nvmxfuzz.arch.registers import Cr0, Cr4
from nvmxfuzz.arch.sections import ENTRY_CONTROLS
from nvmxfuzz.cpu import failures
from nvmxfuzz.cpu.conditions import injects_nmi, outside_smm
from nvmxfuzz.cpu.entry import Entry
from nvmxfuzz.cpu.predicates import aligned, last_msr_entry_byte
from nvmxfuzz.cpu.rule import Given, Section, within

SECTION = Section(ENTRY_CONTROLS, failures.CONTROLS)

_LAST_EXCEPTION = 31


injects_event = Given("event")
"""VM entry injects an event: the valid bit of the interruption information is 1."""


@within("event")
def injects_hardware_exception(entry: Entry) -> bool:
    """VM entry injects a hardware exception."""
    return entry.event_type == EventType.HARDWARE_EXCEPTION


@within("event")
def injects_no_hardware_exception(entry: Entry) -> int:
    """VM entry injects an event that is not a hardware exception."""
    return entry.event_type != EventType.HARDWARE_EXCEPTION


@within("event")
def injects_other_event(entry: Entry) -> bool:
    """VM entry injects an event of the type "other event"."""
    return entry.event_type == EventType.OTHER_EVENT


@within("event")
def injects_exception_into_real_mode(entry: Entry) -> bool:
    """VM entry injects a hardware exception into an unrestricted guest with CR0.PE = 0."""
    return (
        entry.event_type == EventType.HARDWARE_EXCEPTION
        and entry.unrestricted != 0
        and entry.vmcs.guest_cr0 & Cr0.PE == 0
    )


@within("event")
def injects_exception_with_error_code(entry: Entry) -> bool:
    """VM entry injects, outside real mode, an exception that must come with an error code."""
    return (
        entry.event_type == EventType.HARDWARE_EXCEPTION
        and not entry.caps.any_exception_may_deliver_error_code
        and VECTORS_WITH_ERROR_CODE >> entry.event_vector & 1 != 0
        and (entry.unrestricted == 0 or entry.vmcs.guest_cr0 & Cr0.PE != 0)
    )


@within("event")
def injects_exception_without_error_code(entry: Entry) -> bool:
    """VM entry injects an exception that must come without an error code, by its vector."""
    return (
        entry.event_type == EventType.HARDWARE_EXCEPTION
        and not entry.caps.any_exception_may_deliver_error_code
        and entry.event_vector <= _LAST_EXCEPTION
        and VECTORS_WITH_ERROR_CODE >> entry.event_vector & 1 == 0
    )


@within("event")
def injects_event_without_nesting(entry: Entry) -> bool:
    """VM entry injects an event on a processor that has no nested exceptions."""
    return not entry.caps.nested_exception


delivers_error_code = Given("event", InterruptionInfo.DELIVER_ERROR_CODE)
"""VM entry injects an event with an error code."""


@within("event")
def injects_instruction(entry: Entry) -> bool:
    """VM entry injects an event of an instruction, with that instruction's length.

    These are software interrupts, both types of software exceptions, SYSCALL and SYSENTER.
    """
    return (
        entry.event_type == EventType.SOFTWARE_INTERRUPT
        or entry.event_type == EventType.PRIVILEGED_SOFTWARE_EXCEPTION
        or entry.event_type == EventType.SOFTWARE_EXCEPTION
        or (
            entry.event_type == EventType.OTHER_EVENT
            and (entry.event_vector in (OtherEvent.SYSCALL, OtherEvent.SYSENTER))
        )
    )


entry_loads_msrs = Given("vmcs.vm_entry_msr_load_count")
"""The VM-entry MSR-load count is not 0."""


@SECTION.rule("entry.controls.must-be-1")
def entry_ones(entry: Entry) -> bool:
    """Every VM-entry control that the processor requires to be 1 is 1."""
    return entry.caps.entry_must & ~entry.vmcs.vm_entry_controls == 0


@SECTION.rule("entry.controls.may-be-1")
def entry_supported(entry: Entry) -> bool:
    """Every VM-entry control that is 1 is one that the processor allows to be 1."""
    return entry.vmcs.vm_entry_controls & ~entry.caps.entry_may == 0


@SECTION.rule("entry.event.type", when=injects_event)
def event_type_not_reserved(entry: Entry) -> bool:
    """The type of an injected event is not 1, which is reserved."""
    return entry.event_type != EventType.RESERVED


@SECTION.rule("entry.event.other-type", when=injects_other_event)
def other_event_supported(entry: Entry) -> bool:
    """Type 7, other event, is used only with support for the monitor trap flag or for FRED."""
    return (
        entry.caps.primary_may & Primary.MONITOR_TRAP_FLAG != 0 or "fred" in entry.profile.features
    )


@SECTION.rule("entry.event.nmi-vector", when=injects_nmi)
def nmi_vector(entry: Entry) -> bool:
    """The vector of an injected NMI is 2."""
    return entry.event_vector == Vector.NMI


@SECTION.rule("entry.event.exception-vector", when=injects_hardware_exception)
def exception_vector(entry: Entry) -> bool:
    """The vector of an injected hardware exception is at most 31."""
    return entry.event_vector <= _LAST_EXCEPTION


@SECTION.rule("entry.event.other-vector", when=injects_other_event)
def other_event_vector(entry: Entry) -> bool:
    """An other event is 0 with MTF support, or 1 or 2 into a guest that has CR4.FRED = 1.

    Where the processor has no FRED, that bit of CR4 does not make FRED transitions enabled.
    """
    return (
        entry.caps.primary_may & Primary.MONITOR_TRAP_FLAG != 0
        if entry.event_vector == OtherEvent.PENDING_MTF_VM_EXIT
        else entry.event_vector <= OtherEvent.SYSENTER
        and entry.vmcs.guest_cr4 & entry.caps.cr4_fixed1 & Cr4.FRED != 0
    )


@SECTION.rule("entry.event.error-code-required", when=injects_exception_with_error_code)
def error_code_delivered(entry: Entry) -> bool:
    """Exceptions 8, 10-14 and 17 deliver an error code, unless IA32_VMX_BASIC[56] is 1."""
    return entry.event & InterruptionInfo.DELIVER_ERROR_CODE != 0


@SECTION.rule("entry.event.error-code-vector", when=injects_exception_without_error_code)
def no_error_code_by_vector(entry: Entry) -> bool:
    """Exceptions 0-7, 9, 15, 16 and 18-31 deliver none, unless IA32_VMX_BASIC[56] is 1."""
    return entry.event & InterruptionInfo.DELIVER_ERROR_CODE == 0


@SECTION.rule("entry.event.error-code-type", when=injects_no_hardware_exception)
def no_error_code_by_type(entry: Entry) -> bool:
    """An injected event that is not a hardware exception delivers no error code."""
    return entry.event & InterruptionInfo.DELIVER_ERROR_CODE == 0


@SECTION.rule("entry.event.error-code-real-mode", when=injects_exception_into_real_mode)
def no_error_code_in_real_mode(entry: Entry) -> bool:
    """An exception injected into an unrestricted guest with CR0.PE = 0 delivers no error code."""
    return entry.event & InterruptionInfo.DELIVER_ERROR_CODE == 0


@SECTION.rule("entry.event.nested-type", when=injects_no_hardware_exception)
def no_nesting_by_type(entry: Entry) -> bool:
    """An injected event that is not a hardware exception is not marked as a nested exception."""
    return entry.event & InterruptionInfo.NESTED_EXCEPTION == 0


@SECTION.rule("entry.event.nested-supported", when=injects_event_without_nesting)
def nesting_supported(entry: Entry) -> bool:
    """Where IA32_VMX_BASIC[58] is 0, no injected event is marked as a nested exception."""
    return entry.event & InterruptionInfo.NESTED_EXCEPTION == 0


@SECTION.rule("entry.event.reserved", when=injects_event)
def event_reserved(entry: Entry) -> bool:
    """Bits 30:14 and 12 of the interruption information are 0 if an event is injected."""
    return entry.event & InterruptionInfo.RESERVED == 0


@SECTION.rule("entry.error-code.reserved", when=delivers_error_code)
def error_code_reserved(entry: Entry) -> bool:
    """Bits 31:16 of the VM-entry exception error code are 0 if it is delivered."""
    return entry.vmcs.vm_entry_exception_error_code & 0xFFFF_0000 == 0


@SECTION.rule("entry.instruction-length.maximum", when=injects_instruction)
def instruction_length_maximum(entry: Entry) -> bool:
    """The VM-entry instruction length of an injected instruction's event is at most 15."""
    return entry.vmcs.vm_entry_instruction_len <= 15


@SECTION.rule("entry.instruction-length.zero", when=injects_instruction)
def instruction_length_zero(entry: Entry) -> bool:
    """The VM-entry instruction length is 0 only where IA32_VMX_MISC[30] is 1."""
    return entry.vmcs.vm_entry_instruction_len != 0 or entry.caps.zero_length_injection


@SECTION.rule("entry.msr-load.aligned", when=entry_loads_msrs)
def msr_load_aligned(entry: Entry) -> bool:
    """Bits 3:0 of the VM-entry MSR-load address are 0 if the area has entries."""
    return aligned(entry.vmcs.vm_entry_msr_load_addr, 16)


@SECTION.rule("entry.msr-load.width", when=entry_loads_msrs)
def msr_load_width(entry: Entry) -> bool:
    """The VM-entry MSR-load address is within the physical-address width if it has entries."""
    return entry.vmcs.vm_entry_msr_load_addr & entry.caps.physical_reserved == 0


@SECTION.rule("entry.msr-load.end", when=entry_loads_msrs)
def msr_load_end(entry: Entry) -> bool:
    """The last byte of the VM-entry MSR-load area is within the physical-address width."""
    return (
        last_msr_entry_byte(entry.vmcs.vm_entry_msr_load_addr, entry.vmcs.vm_entry_msr_load_count)
        >> entry.caps.address_limit_bits
        == 0
    )


@SECTION.rule("entry.smm.entry-to-smm", when=outside_smm)
def no_entry_to_smm_from_outside(entry: Entry) -> bool:
    """Outside SMM, "entry to SMM" is 0."""
    return entry.vm_entry & VmEntry.ENTRY_TO_SMM == 0


@SECTION.rule("entry.smm.deactivate", when=outside_smm)
def no_deactivation_from_outside(entry: Entry) -> bool:
    """Outside SMM, "deactivate dual-monitor treatment" is 0."""
    return entry.vm_entry & VmEntry.DEACTIVATE_DUAL_MONITOR_TREATMENT == 0


@SECTION.rule("entry.smm.exclusive")
def entry_to_smm_excludes_deactivation(entry: Entry) -> bool:
    """The controls "entry to SMM" and "deactivate dual-monitor treatment" are not both 1."""
    return (
        entry.vm_entry & VmEntry.ENTRY_TO_SMM == 0
        or entry.vm_entry & VmEntry.DEACTIVATE_DUAL_MONITOR_TREATMENT == 0
    )
