# SPDX-License-Identifier: GPL-2.0-only
"""The rules of the SDM's "Checks on Guest RIP, RFLAGS, and SSP"."""

from __future__ import annotations

from nvmxfuzz.arch.controls import VmEntry
from nvmxfuzz.arch.registers import Cr0, Rflags
from nvmxfuzz.arch.sections import GUEST_RIP_RFLAGS
from nvmxfuzz.arch.segments import AccessRights
from nvmxfuzz.cpu.conditions import (
    entry_loads_cet,
    ia_32e_guest,
    injects_external_interrupt,
    intel_64_loads_cet,
)
from nvmxfuzz.cpu.entry import Entry
from nvmxfuzz.cpu.failures import GUEST_STATE
from nvmxfuzz.cpu.predicates import aligned, canonical, fits_in_32_bits
from nvmxfuzz.cpu.rule import Section, within

SECTION = Section(GUEST_RIP_RFLAGS, GUEST_STATE)

_SSP_ALIGNMENT = 4


@within("ia32e_guest")
def to_64_bit_code(entry: Entry) -> int:
    """The guest will be in IA-32e mode and L of CS is 1."""
    return entry.vmcs.guest_cs_ar_bytes & AccessRights.L


@within("intel_64")
def to_other_code(entry: Entry) -> bool:
    """The guest will not execute 64-bit code, on a processor that could."""
    return entry.ia32e_guest == 0 or entry.vmcs.guest_cs_ar_bytes & AccessRights.L == 0


@within("vm_entry", VmEntry.LOAD_CET_STATE)
def to_other_code_with_cet(entry: Entry) -> int:
    """VM entry loads CET state, and the guest will not execute 64-bit code."""
    return to_other_code(entry)


def to_real_mode(entry: Entry) -> bool:
    """CR0.PE is 0."""
    return entry.vmcs.guest_cr0 & Cr0.PE == 0


@SECTION.rule("guest.rip.high", when=to_other_code)
def rip_in_32_bits(entry: Entry) -> bool:
    """Bits 63:32 of RIP are 0 unless the guest is in IA-32e mode with L of CS set."""
    return fits_in_32_bits(entry.vmcs.guest_rip)


@SECTION.rule("guest.rip.linear-address", when=to_64_bit_code)
def rip_in_linear_address_bits(entry: Entry) -> bool:
    """In 64-bit code bits 63:N of RIP are equal, N the linear-address bits of the processor.

    Bit N-1 may differ: RIP need not be canonical.
    """
    return canonical(entry.vmcs.guest_rip, entry.profile.linear_address_bits + 1)


@SECTION.rule("guest.rflags.reserved")
def reserved_flags_clear(entry: Entry) -> bool:
    """Bits 63:22, 15, 5 and 3 of RFLAGS are 0."""
    return entry.vmcs.guest_rflags & Rflags.RESERVED == 0


@SECTION.rule("guest.rflags.fixed-1")
def bit_1_set(entry: Entry) -> bool:
    """Bit 1 of RFLAGS is 1."""
    return entry.vmcs.guest_rflags & Rflags.FIXED1 != 0


@SECTION.rule("guest.rflags.vm-ia-32e", when=ia_32e_guest, case="the guest is in IA-32e mode")
@SECTION.rule("guest.rflags.vm-real-mode", when=to_real_mode, case="CR0.PE is 0")
def not_virtual_8086(entry: Entry) -> bool:
    """VM in RFLAGS is 0 if {case}."""
    return entry.vmcs.guest_rflags & Rflags.VM == 0


@SECTION.rule("guest.rflags.if", when=injects_external_interrupt)
def interrupts_enabled(entry: Entry) -> bool:
    """IF is 1 when VM entry injects an external interrupt."""
    return entry.vmcs.guest_rflags & Rflags.IF != 0


@SECTION.rule("guest.ssp.aligned", when=entry_loads_cet)
def ssp_aligned(entry: Entry) -> bool:
    """Bits 1:0 of SSP are 0 if VM entry loads CET state."""
    return aligned(entry.vmcs.guest_ssp, _SSP_ALIGNMENT)


@SECTION.rule("guest.ssp.high", when=to_other_code_with_cet)
def ssp_in_32_bits(entry: Entry) -> bool:
    """Bits 63:32 of SSP are 0 if VM entry loads CET state and is not to 64-bit mode."""
    # Demanded under "Loading Guest RIP, RSP, RFLAGS, and SSP", not in the list of checks.
    return fits_in_32_bits(entry.vmcs.guest_ssp)


@SECTION.rule("guest.ssp.linear-address", when=intel_64_loads_cet)
def ssp_in_linear_address_bits(entry: Entry) -> bool:
    """Bits 63:N of SSP are equal if VM entry loads CET state, N the linear-address bits.

    Bit N-1 may differ: SSP need not be canonical.
    """
    return canonical(entry.vmcs.guest_ssp, entry.profile.linear_address_bits + 1)
