# SPDX-License-Identifier: GPL-2.0-only
"""Checks on VM-execution control fields: the virtual APIC, posted interrupts, IPIs, its timer."""

from __future__ import annotations

from nvmxfuzz.arch.controls import Pin, Primary, Secondary, Tertiary, VmExit
from nvmxfuzz.arch.sections import EXECUTION_CONTROLS
from nvmxfuzz.cpu import failures
from nvmxfuzz.cpu.conditions import does_not_return_from_smm
from nvmxfuzz.cpu.entry import Entry
from nvmxfuzz.cpu.predicates import aligned, page_aligned
from nvmxfuzz.cpu.rule import Given, Section, within

SECTION = Section(EXECUTION_CONTROLS, failures.CONTROLS)

_VTPR = 0x80
"""Offset of the virtual task-priority register on the virtual-APIC page."""

uses_tpr_shadow = Given("primary", Primary.USE_TPR_SHADOW)
"""The "use TPR shadow" control is 1."""


def no_tpr_shadow(entry: Entry) -> int:
    """The "use TPR shadow" control is 0, and VM entry checks it."""
    return entry.primary & Primary.USE_TPR_SHADOW == 0 and does_not_return_from_smm(entry)


@within("primary", Primary.USE_TPR_SHADOW)
def exits_below_tpr_threshold(entry: Entry) -> bool:
    """The TPR threshold is in use: a TPR shadow without virtual-interrupt delivery."""
    return entry.secondary & Secondary.VIRTUAL_INTERRUPT_DELIVERY == 0


@within("primary", Primary.USE_TPR_SHADOW)
def checks_tpr_threshold_at_entry(entry: Entry) -> bool:
    """The TPR threshold is in use and APIC accesses are not virtualized."""
    neither = Secondary.VIRTUAL_INTERRUPT_DELIVERY | Secondary.VIRTUALIZE_APIC_ACCESSES
    return entry.secondary & neither == 0


virtualizes_apic_accesses = Given("secondary", Secondary.VIRTUALIZE_APIC_ACCESSES)
"""The "virtualize APIC accesses" control is 1."""

virtualizes_x2apic_mode = Given("secondary", Secondary.VIRTUALIZE_X2APIC_MODE)
"""The "virtualize x2APIC mode" control is 1."""

delivers_virtual_interrupts = Given("secondary", Secondary.VIRTUAL_INTERRUPT_DELIVERY)
"""The "virtual-interrupt delivery" control is 1."""

processes_posted_interrupts = Given("pin", Pin.PROCESS_POSTED_INTERRUPTS)
"""The "process posted interrupts" control is 1."""

virtualizes_ipis = Given("tertiary", Tertiary.IPI_VIRTUALIZATION)
"""The "IPI virtualization" control is 1."""

virtualizes_apic_timer = Given("tertiary", Tertiary.APIC_TIMER_VIRTUALIZATION)
"""The "APIC-timer virtualization" control is 1."""


@SECTION.rule("execution.virtual-apic.aligned", when=uses_tpr_shadow)
def virtual_apic_aligned(entry: Entry) -> bool:
    """Bits 11:0 of the virtual-APIC address are 0 if the TPR shadow is used."""
    return page_aligned(entry.vmcs.virtual_apic_page_addr)


@SECTION.rule("execution.virtual-apic.width", when=uses_tpr_shadow)
def virtual_apic_width(entry: Entry) -> bool:
    """The virtual-APIC address is within the physical-address width if the TPR shadow is used."""
    return entry.vmcs.virtual_apic_page_addr & entry.caps.physical_reserved == 0


@SECTION.rule("execution.tpr-threshold.reserved", when=exits_below_tpr_threshold)
def tpr_threshold_reserved(entry: Entry) -> bool:
    """Bits 31:4 of the TPR threshold are 0 if it is in use (no virtual-interrupt delivery)."""
    return entry.vmcs.tpr_threshold & 0xFFFF_FFF0 == 0


@SECTION.rule("execution.tpr-threshold.vtpr", when=checks_tpr_threshold_at_entry)
def tpr_threshold_not_above_vtpr(entry: Entry) -> bool:
    """TPR threshold bits 3:0 are not above VTPR bits 7:4, unless APIC accesses are virtualized."""
    return (
        entry.vmcs.tpr_threshold & 0xF
        <= entry.memory.read_int(entry.vmcs.virtual_apic_page_addr + _VTPR, 1) >> 4
    )


@SECTION.rule("execution.x2apic.tpr-shadow", when=no_tpr_shadow)
def x2apic_needs_tpr_shadow(entry: Entry) -> bool:
    """If "use TPR shadow" is 0, "virtualize x2APIC mode" is 0."""
    return entry.secondary & Secondary.VIRTUALIZE_X2APIC_MODE == 0


@SECTION.rule("execution.apic-registers.tpr-shadow", when=no_tpr_shadow)
def apic_registers_need_tpr_shadow(entry: Entry) -> bool:
    """If "use TPR shadow" is 0, "APIC-register virtualization" is 0."""
    return entry.secondary & Secondary.APIC_REGISTER_VIRTUALIZATION == 0


@SECTION.rule("execution.virtual-interrupts.tpr-shadow", when=no_tpr_shadow)
def virtual_interrupts_need_tpr_shadow(entry: Entry) -> bool:
    """If "use TPR shadow" is 0, "virtual-interrupt delivery" is 0."""
    return entry.secondary & Secondary.VIRTUAL_INTERRUPT_DELIVERY == 0


@SECTION.rule("execution.ipi.tpr-shadow", when=no_tpr_shadow)
def ipis_need_tpr_shadow(entry: Entry) -> bool:
    """If "use TPR shadow" is 0, "IPI virtualization" is 0."""
    return entry.tertiary & Tertiary.IPI_VIRTUALIZATION == 0


@SECTION.rule("execution.apic-access.aligned", when=virtualizes_apic_accesses)
def apic_access_aligned(entry: Entry) -> bool:
    """Bits 11:0 of the APIC-access address are 0 if APIC accesses are virtualized."""
    return page_aligned(entry.vmcs.apic_access_addr)


@SECTION.rule("execution.apic-access.width", when=virtualizes_apic_accesses)
def apic_access_width(entry: Entry) -> bool:
    """The APIC-access address is within the physical-address width if accesses are virtualized."""
    return entry.vmcs.apic_access_addr & entry.caps.physical_reserved == 0


@SECTION.rule("execution.x2apic.apic-accesses", when=virtualizes_x2apic_mode)
def x2apic_excludes_apic_accesses(entry: Entry) -> bool:
    """If "virtualize x2APIC mode" is 1, "virtualize APIC accesses" is 0."""
    return entry.secondary & Secondary.VIRTUALIZE_APIC_ACCESSES == 0


@SECTION.rule(
    "execution.virtual-interrupts.external-interrupt-exiting", when=delivers_virtual_interrupts
)
def virtual_interrupts_need_external_exiting(entry: Entry) -> bool:
    """If "virtual-interrupt delivery" is 1, "external-interrupt exiting" is 1."""
    return entry.pin & Pin.EXTERNAL_INTERRUPT_EXITING != 0


@SECTION.rule("execution.posted-interrupts.delivery", when=processes_posted_interrupts)
def posted_interrupts_need_delivery(entry: Entry) -> bool:
    """If "process posted interrupts" is 1, "virtual-interrupt delivery" is 1."""
    return entry.secondary & Secondary.VIRTUAL_INTERRUPT_DELIVERY != 0


@SECTION.rule("execution.posted-interrupts.acknowledge", when=processes_posted_interrupts)
def posted_interrupts_need_acknowledge(entry: Entry) -> bool:
    """If "process posted interrupts" is 1, "acknowledge interrupt on exit" is 1."""
    return entry.vm_exit & VmExit.ACKNOWLEDGE_INTERRUPT_ON_EXIT != 0


@SECTION.rule("execution.posted-interrupts.vector", when=processes_posted_interrupts)
def posted_interrupt_vector(entry: Entry) -> bool:
    """Bits 15:8 of the posted-interrupt notification vector are 0 if interrupts are posted."""
    return entry.vmcs.posted_intr_nv & 0xFF00 == 0


@SECTION.rule("execution.posted-interrupts.aligned", when=processes_posted_interrupts)
def posted_interrupt_descriptor_aligned(entry: Entry) -> bool:
    """Bits 5:0 of the posted-interrupt descriptor address are 0 if interrupts are posted."""
    return aligned(entry.vmcs.posted_intr_desc_addr, 64)


@SECTION.rule("execution.posted-interrupts.width", when=processes_posted_interrupts)
def posted_interrupt_descriptor_width(entry: Entry) -> bool:
    """The posted-interrupt descriptor is within the physical-address width if it is used."""
    return entry.vmcs.posted_intr_desc_addr & entry.caps.physical_reserved == 0


@SECTION.rule("execution.pid-pointer-table.aligned", when=virtualizes_ipis)
def pid_pointer_table_aligned(entry: Entry) -> bool:
    """Bits 2:0 of the PID-pointer table address are 0 if IPIs are virtualized."""
    return aligned(entry.vmcs.pid_pointer_table, 8)


@SECTION.rule("execution.pid-pointer-table.width", when=virtualizes_ipis)
def pid_pointer_table_width(entry: Entry) -> bool:
    """The PID-pointer table address is within the physical-address width if it is used."""
    return entry.vmcs.pid_pointer_table & entry.caps.physical_reserved == 0


@SECTION.rule("execution.pid-pointer-table.last-entry", when=virtualizes_ipis)
def pid_pointer_table_last_entry(entry: Entry) -> bool:
    """The last PID-pointer table entry, 8 bytes each, begins within the physical-address width."""
    return (
        entry.vmcs.pid_pointer_table + 8 * entry.vmcs.last_pid_pointer_index
        >> entry.caps.address_limit_bits
        == 0
    )


@SECTION.rule("execution.apic-timer.delivery", when=virtualizes_apic_timer)
def apic_timer_needs_delivery(entry: Entry) -> bool:
    """If "APIC-timer virtualization" is 1, "virtual-interrupt delivery" is 1."""
    return entry.secondary & Secondary.VIRTUAL_INTERRUPT_DELIVERY != 0


@SECTION.rule("execution.apic-timer.rdtsc", when=virtualizes_apic_timer)
def apic_timer_excludes_rdtsc_exiting(entry: Entry) -> bool:
    """If "APIC-timer virtualization" is 1, "RDTSC exiting" is 0."""
    return entry.primary & Primary.RDTSC_EXITING == 0


@SECTION.rule("execution.apic-timer.vector", when=virtualizes_apic_timer)
def apic_timer_vector(entry: Entry) -> bool:
    """Bits 15:8 of the virtual timer vector are 0 if the APIC timer is virtualized."""
    return entry.vmcs.virtual_timer_vector & 0xFF00 == 0
