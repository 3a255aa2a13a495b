# SPDX-License-Identifier: GPL-2.0-only
"""Checks on VM-exit control fields: the control words and the two MSR areas."""

from __future__ import annotations

from nvmxfuzz.arch.controls import Pin, VmExit
from nvmxfuzz.arch.sections import EXIT_CONTROLS
from nvmxfuzz.cpu import failures
from nvmxfuzz.cpu.conditions import does_not_return_from_smm
from nvmxfuzz.cpu.entry import Entry
from nvmxfuzz.cpu.predicates import aligned, last_msr_entry_byte
from nvmxfuzz.cpu.rule import Given, Section

SECTION = Section(EXIT_CONTROLS, failures.CONTROLS)


activates_secondary_exit_controls = Given("vm_exit", VmExit.ACTIVATE_SECONDARY_CONTROLS)
"""The secondary VM-exit controls are in use."""


def preemption_timer_off(entry: Entry) -> bool:
    """The "activate VMX-preemption timer" control is 0, and the entry does not return from SMM."""
    return entry.pin & Pin.ACTIVATE_VMX_PREEMPTION_TIMER == 0 and does_not_return_from_smm(entry)


exit_stores_msrs = Given("vmcs.vm_exit_msr_store_count")
"""The VM-exit MSR-store count is not 0."""


exit_loads_msrs = Given("vmcs.vm_exit_msr_load_count")
"""The VM-exit MSR-load count is not 0."""


@SECTION.rule("exit.primary.must-be-1")
def exit_ones(entry: Entry) -> bool:
    """Every primary VM-exit control that the processor requires to be 1 is 1."""
    return entry.caps.exit_must & ~entry.vmcs.vm_exit_controls == 0


@SECTION.rule("exit.primary.may-be-1")
def exit_supported(entry: Entry) -> bool:
    """Every primary VM-exit control that is 1 is one that the processor allows to be 1."""
    return entry.vmcs.vm_exit_controls & ~entry.caps.exit_may == 0


@SECTION.rule("exit.secondary.may-be-1", when=activates_secondary_exit_controls)
def secondary_exit_supported(entry: Entry) -> bool:
    """If the secondary VM-exit controls are activated, each that is 1 is allowed to be 1."""
    return entry.vmcs.secondary_vm_exit_controls & ~entry.caps.exit2_may == 0


@SECTION.rule("exit.preemption-timer.save", when=preemption_timer_off)
def saved_preemption_timer_is_active(entry: Entry) -> bool:
    """If the VMX-preemption timer is not activated, VM exit does not save its value."""
    return entry.vm_exit & VmExit.SAVE_VMX_PREEMPTION_TIMER_VALUE == 0


@SECTION.rule("exit.msr-store.aligned", when=exit_stores_msrs)
def msr_store_aligned(entry: Entry) -> bool:
    """Bits 3:0 of the VM-exit MSR-store address are 0 if the area has entries."""
    return aligned(entry.vmcs.vm_exit_msr_store_addr, 16)


@SECTION.rule("exit.msr-store.width", when=exit_stores_msrs)
def msr_store_width(entry: Entry) -> bool:
    """The VM-exit MSR-store address is within the physical-address width if it has entries."""
    return entry.vmcs.vm_exit_msr_store_addr & entry.caps.physical_reserved == 0


@SECTION.rule("exit.msr-store.end", when=exit_stores_msrs)
def msr_store_end(entry: Entry) -> bool:
    """The last byte of the VM-exit MSR-store area is within the physical-address width."""
    return (
        last_msr_entry_byte(entry.vmcs.vm_exit_msr_store_addr, entry.vmcs.vm_exit_msr_store_count)
        >> entry.caps.address_limit_bits
        == 0
    )


@SECTION.rule("exit.msr-load.aligned", when=exit_loads_msrs)
def msr_load_aligned(entry: Entry) -> bool:
    """Bits 3:0 of the VM-exit MSR-load address are 0 if the area has entries."""
    return aligned(entry.vmcs.vm_exit_msr_load_addr, 16)


@SECTION.rule("exit.msr-load.width", when=exit_loads_msrs)
def msr_load_width(entry: Entry) -> bool:
    """The VM-exit MSR-load address is within the physical-address width if it has entries."""
    return entry.vmcs.vm_exit_msr_load_addr & entry.caps.physical_reserved == 0


@SECTION.rule("exit.msr-load.end", when=exit_loads_msrs)
def msr_load_end(entry: Entry) -> bool:
    """The last byte of the VM-exit MSR-load area is within the physical-address width."""
    return (
        last_msr_entry_byte(entry.vmcs.vm_exit_msr_load_addr, entry.vmcs.vm_exit_msr_load_count)
        >> entry.caps.address_limit_bits
        == 0
    )
