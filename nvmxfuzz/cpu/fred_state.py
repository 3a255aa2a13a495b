# SPDX-License-Identifier: GPL-2.0-only
"""What VM entry asks of the FRED MSRs, in the host-state and in the guest-state area alike.

SDM: "Checks on Host Control Registers, MSRs, and SSP" and "Checks on Guest Control Registers,
Debug Registers, and MSRs". Their addresses are held against the processor's linear-address
width, whatever CR4.LA57 says. Any value of IA32_FRED_STKLVLS is legal.
"""

from __future__ import annotations

from nvmxfuzz.arch.registers import FredConfig
from nvmxfuzz.cpu.entry import Entry
from nvmxfuzz.cpu.predicates import aligned, canonical
from nvmxfuzz.cpu.rule import Condition, Section

RSP_ALIGNMENT = 64
SSP_ALIGNMENT = 8


def declare_fred_rules(section: Section, area: str, when: Condition) -> None:
    """Declare the rules of one area ("host" or "guest") in `section`, asked if `when` is true."""
    _declare_config_rules(section, area, when)
    for level in (1, 2, 3):
        _declare_pointer_rules(section, (area, f"rsp{level}"), RSP_ALIGNMENT, when)
    for level in (1, 2, 3):
        _declare_pointer_rules(section, (area, f"ssp{level}"), SSP_ALIGNMENT, when)


def _declare_config_rules(section: Section, area: str, when: Condition) -> None:
    field = f"{area}_ia32_fred_config"

    @section.rule(f"{area}.fred-config.reserved", when=when, area=area)
    def reserved(entry: Entry) -> bool:
        """Bits 11, 5:4 and 2 of the {area} IA32_FRED_CONFIG are 0 if it is to be loaded."""
        return not getattr(entry.vmcs, field) & FredConfig.RESERVED

    @section.rule(f"{area}.fred-config.canonical", when=when, area=area)
    def config_canonical(entry: Entry) -> bool:
        """The {area} IA32_FRED_CONFIG is canonical if it is to be loaded."""
        return canonical(getattr(entry.vmcs, field), entry.profile.linear_address_bits)


def _declare_pointer_rules(
    section: Section, register: tuple[str, str], alignment: int, when: Condition
) -> None:
    area, pointer = register
    field = f"{area}_ia32_fred_{pointer}"
    name = f"{area}.fred-{pointer}"
    msr = f"IA32_FRED_{pointer.upper()}"

    @section.rule(f"{name}.canonical", when=when, area=area, msr=msr)
    def pointer_canonical(entry: Entry) -> bool:
        """The {area} {msr} is canonical if it is to be loaded."""
        return canonical(getattr(entry.vmcs, field), entry.profile.linear_address_bits)

    @section.rule(f"{name}.aligned", when=when, area=area, msr=msr, size=str(alignment))
    def pointer_aligned(entry: Entry) -> bool:
        """The {area} {msr} is a multiple of {size} if it is to be loaded."""
        return aligned(getattr(entry.vmcs, field), alignment)
