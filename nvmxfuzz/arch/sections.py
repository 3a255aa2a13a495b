# SPDX-License-Identifier: GPL-2.0-only
"""Titles of the SDM sections that the rules of VM entry follow, in the SDM's order.

Sections are cited by title: their numbers move between editions.
"""

BASIC = "Basic VM-Entry Checks"
EXECUTION_CONTROLS = "VM-Execution Control Fields"
EXIT_CONTROLS = "VM-Exit Control Fields"
ENTRY_CONTROLS = "VM-Entry Control Fields"
HOST_REGISTERS = "Checks on Host Control Registers, MSRs, and SSP"
HOST_SEGMENTS = "Checks on Host Segment and Descriptor-Table Registers"
ADDRESS_SPACE_SIZE = "Checks Related to Address-Space Size"
GUEST_REGISTERS = "Checks on Guest Control Registers, Debug Registers, and MSRs"
GUEST_SEGMENTS = "Checks on Guest Segment Registers"
GUEST_DESCRIPTOR_TABLES = "Checks on Guest Descriptor-Table Registers"
GUEST_RIP_RFLAGS = "Checks on Guest RIP, RFLAGS, and SSP"
GUEST_NON_REGISTER = "Checks on Guest Non-Register State"
GUEST_PDPTES = "Checks on Guest Page-Directory-Pointer-Table Entries"
MSR_LOADING = "Loading MSRs"
# Of the chapter on system management mode.
SMM_RETURN = "VM Entries that Return from SMM"

SECTIONS = (
    BASIC,
    EXECUTION_CONTROLS,
    EXIT_CONTROLS,
    ENTRY_CONTROLS,
    HOST_REGISTERS,
    HOST_SEGMENTS,
    ADDRESS_SPACE_SIZE,
    GUEST_REGISTERS,
    GUEST_SEGMENTS,
    GUEST_DESCRIPTOR_TABLES,
    GUEST_RIP_RFLAGS,
    GUEST_NON_REGISTER,
    GUEST_PDPTES,
    MSR_LOADING,
    SMM_RETURN,
)
