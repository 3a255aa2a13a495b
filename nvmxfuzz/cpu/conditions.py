# SPDX-License-Identifier: GPL-2.0-only
"""Conditions that several rules share: what must be the case for a rule to apply at all.

Rules that name the same function here are asked together, and the function is called once.
"""

from __future__ import annotations

from nvmxfuzz.arch.controls import VmEntry, VmExit, VmExit2
from nvmxfuzz.arch.events import EventType
from nvmxfuzz.arch.registers import Efer
from nvmxfuzz.cpu.entry import Entry
from nvmxfuzz.cpu.rule import Given, within

intel_64 = Given("intel_64")
"""The processor supports Intel 64 architecture."""


def no_intel_64(entry: Entry) -> bool:
    """The processor does not support Intel 64 architecture."""
    return entry.intel_64 == 0


@within("intel_64")
def intel_64_without_lam(entry: Entry) -> bool:
    """The processor supports Intel 64 architecture, but not linear-address masking."""
    return "lam" not in entry.profile.features


@within("intel_64")
def in_ia_32e_mode(entry: Entry) -> int:
    """VM entry is executed in IA-32e mode."""
    return entry.processor.efer & Efer.LMA


@within("intel_64")
def outside_ia_32e_mode(entry: Entry) -> bool:
    """VM entry is executed outside IA-32e mode, on a processor that has it."""
    return entry.processor.efer & Efer.LMA == 0


@within("intel_64")
def host_64(entry: Entry) -> int:
    """The "host address-space size" VM-exit control is 1."""
    return entry.vm_exit & VmExit.HOST_ADDRESS_SPACE_SIZE


@within("intel_64")
def host_32(entry: Entry) -> bool:
    """The "host address-space size" VM-exit control is 0."""
    return entry.vm_exit & VmExit.HOST_ADDRESS_SPACE_SIZE == 0


@within("intel_64")
def ia_32e_guest(entry: Entry) -> int:
    """The "IA-32e mode guest" VM-entry control is 1."""
    return entry.ia32e_guest


@within("intel_64")
def not_ia_32e_guest(entry: Entry) -> bool:
    """The "IA-32e mode guest" VM-entry control is 0, on a processor that has it."""
    return entry.ia32e_guest == 0


exit_loads_cet = Given("vm_exit", VmExit.LOAD_CET_STATE)
"""The "load CET state" VM-exit control is 1."""

entry_loads_cet = Given("vm_entry", VmEntry.LOAD_CET_STATE)
"""The "load CET state" VM-entry control is 1."""


@within("vm_entry", VmEntry.LOAD_CET_STATE)
def intel_64_loads_cet(entry: Entry) -> int:
    """VM entry loads CET state, on a processor that supports Intel 64 architecture."""
    return entry.intel_64


exit_loads_efer = Given("vm_exit", VmExit.LOAD_IA32_EFER)
"""The "load IA32_EFER" VM-exit control is 1."""

entry_loads_efer = Given("vm_entry", VmEntry.LOAD_IA32_EFER)
"""The "load IA32_EFER" VM-entry control is 1."""

exit_loads_fred = Given("vm_exit2", VmExit2.LOAD_IA32_FRED)
"""The "load FRED" secondary VM-exit control is in effect."""

entry_loads_fred = Given("vm_entry", VmEntry.LOAD_IA32_FRED)
"""The "load FRED" VM-entry control is 1."""

loads_debug_controls = Given("vm_entry", VmEntry.LOAD_DEBUG_CONTROLS)
"""The "load debug controls" VM-entry control is 1."""


@within("in_smm")
def returns_from_smm(entry: Entry) -> bool:
    """VM entry is executed in SMM and leaves it."""
    return entry.vm_entry & VmEntry.ENTRY_TO_SMM == 0


def does_not_return_from_smm(entry: Entry) -> bool:
    """VM entry is executed outside SMM, or stays in it: the execution controls are checked."""
    return entry.in_smm == 0 or entry.vm_entry & VmEntry.ENTRY_TO_SMM != 0


@within("event")
def injects_external_interrupt(entry: Entry) -> bool:
    """VM entry injects an external interrupt."""
    return entry.event_type == EventType.EXTERNAL_INTERRUPT


@within("event")
def injects_nmi(entry: Entry) -> bool:
    """VM entry injects a non-maskable interrupt."""
    return entry.event_type == EventType.NMI


enters_smm = Given("vm_entry", VmEntry.ENTRY_TO_SMM)
"""The "entry to SMM" VM-entry control is 1."""


def outside_smm(entry: Entry) -> bool:
    """VM entry is executed outside SMM."""
    return entry.in_smm == 0
