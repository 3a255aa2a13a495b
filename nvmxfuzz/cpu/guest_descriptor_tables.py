# SPDX-License-Identifier: GPL-2.0-only
"""Guest GDTR and IDTR.

SDM: "Checks on Guest Descriptor-Table Registers". The bases are held against the processor's
linear-address width, whatever CR4.LA57 says.
"""

from __future__ import annotations

from nvmxfuzz.arch import sections
from nvmxfuzz.cpu.conditions import intel_64
from nvmxfuzz.cpu.entry import Entry
from nvmxfuzz.cpu.failures import GUEST_STATE
from nvmxfuzz.cpu.predicates import canonical
from nvmxfuzz.cpu.rule import Section

SECTION = Section(sections.GUEST_DESCRIPTOR_TABLES, GUEST_STATE)


@SECTION.rule("guest.gdtr.base", when=intel_64)
def gdtr_base_canonical(entry: Entry) -> bool:
    """The GDTR base is canonical, on processors that support Intel 64 architecture."""
    return canonical(entry.vmcs.guest_gdtr_base, entry.profile.linear_address_bits)


@SECTION.rule("guest.idtr.base", when=intel_64)
def idtr_base_canonical(entry: Entry) -> bool:
    """The IDTR base is canonical, on processors that support Intel 64 architecture."""
    return canonical(entry.vmcs.guest_idtr_base, entry.profile.linear_address_bits)


@SECTION.rule("guest.gdtr.limit")
def gdtr_limit_is_16_bits(entry: Entry) -> bool:
    """Bits 31:16 of the GDTR limit are 0."""
    return entry.vmcs.guest_gdtr_limit >> 16 == 0


@SECTION.rule("guest.idtr.limit")
def idtr_limit_is_16_bits(entry: Entry) -> bool:
    """Bits 31:16 of the IDTR limit are 0."""
    return entry.vmcs.guest_idtr_limit >> 16 == 0
