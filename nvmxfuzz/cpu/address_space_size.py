# SPDX-License-Identifier: GPL-2.0-only
"""The mode of the processor, of the host and of the guest, held against one another.

SDM: "Checks Related to Address-Space Size". The SDM does not say whether a control that fails
here counts as a control (error 7) or as host state (error 8); KVM (`nested_vmx_run`) and Bochs
have error 8, and so have these rules.
"""

from __future__ import annotations

from nvmxfuzz.arch import sections
from nvmxfuzz.arch.controls import VmEntry, VmExit
from nvmxfuzz.arch.registers import Cr4
from nvmxfuzz.cpu.conditions import (
    host_32,
    host_64,
    in_ia_32e_mode,
    no_intel_64,
    outside_ia_32e_mode,
)
from nvmxfuzz.cpu.entry import Entry
from nvmxfuzz.cpu.failures import HOST_STATE
from nvmxfuzz.cpu.predicates import canonical, fits_in_32_bits
from nvmxfuzz.cpu.rule import UNKNOWN, Section, Verdict, within

SECTION = Section(sections.ADDRESS_SPACE_SIZE, HOST_STATE)


@within("vm_exit", VmExit.LOAD_CET_STATE)
def loads_cet(entry: Entry) -> int:
    """VM exit loads CET state, on a processor that supports Intel 64 architecture."""
    return entry.intel_64


@within("vm_exit", VmExit.LOAD_CET_STATE)
def host_32_loads_cet(entry: Entry) -> int:
    """The host is 32-bit, and VM exit loads its CET state."""
    return host_32(entry)


@within("vm_exit", VmExit.LOAD_CET_STATE)
def host_64_loads_cet(entry: Entry) -> int:
    """The host is 64-bit, and VM exit loads its CET state."""
    return host_64(entry)


@SECTION.rule("space.guest.outside-ia-32e", when=outside_ia_32e_mode)
def legacy_entry_has_legacy_guest(entry: Entry) -> bool:
    """The "IA-32e mode guest" VM-entry control is 0 if VM entry is executed outside IA-32e mode."""
    return entry.ia32e_guest == 0


@SECTION.rule("space.host.outside-ia-32e", when=outside_ia_32e_mode)
def legacy_entry_has_32_bit_host(entry: Entry) -> bool:
    """The "host address-space size" VM-exit control is 0 outside IA-32e mode."""
    return entry.vm_exit & VmExit.HOST_ADDRESS_SPACE_SIZE == 0


@SECTION.rule("space.host.in-ia-32e", when=in_ia_32e_mode)
def ia_32e_entry_has_64_bit_host(entry: Entry) -> bool:
    """The "host address-space size" VM-exit control is 1 if VM entry is executed in IA-32e mode."""
    return entry.vm_exit & VmExit.HOST_ADDRESS_SPACE_SIZE != 0


@SECTION.rule("space.guest.host-32", when=host_32)
def host_32_has_legacy_guest(entry: Entry) -> bool:
    """The "IA-32e mode guest" VM-entry control is 0 if the host is 32-bit."""
    return entry.ia32e_guest == 0


@SECTION.rule("space.cr4.pcide", when=host_32)
def host_32_has_no_pcid(entry: Entry) -> bool:
    """CR4.PCIDE (bit 17) of the host is 0 if the host is 32-bit."""
    return entry.vmcs.host_cr4 & Cr4.PCIDE == 0


@SECTION.rule("space.cr4.fred", when=host_32)
def host_32_has_no_fred(entry: Entry) -> bool:
    """CR4.FRED (bit 32) of the host is 0 if the host is 32-bit."""
    return entry.vmcs.host_cr4 & Cr4.FRED == 0


@SECTION.rule("space.rip.upper", when=host_32)
def host_32_rip(entry: Entry) -> bool:
    """Bits 63:32 of the host RIP are 0 if the host is 32-bit."""
    return fits_in_32_bits(entry.vmcs.host_rip)


@SECTION.rule("space.s-cet.upper", when=host_32_loads_cet)
def host_32_s_cet(entry: Entry) -> bool:
    """Bits 63:32 of the host IA32_S_CET are 0 if it is to be loaded for a 32-bit host."""
    return fits_in_32_bits(entry.vmcs.host_s_cet)


@SECTION.rule("space.ssp.upper", when=host_32_loads_cet)
def host_32_ssp(entry: Entry) -> bool:
    """Bits 63:32 of the host SSP are 0 if it is to be loaded for a 32-bit host."""
    return fits_in_32_bits(entry.vmcs.host_ssp)


@SECTION.rule("space.cr4.pae", when=host_64)
def host_64_has_pae(entry: Entry) -> bool:
    """CR4.PAE (bit 5) of the host is 1 if the host is 64-bit."""
    return entry.vmcs.host_cr4 & Cr4.PAE != 0


@SECTION.rule("space.rip.canonical", when=host_64)
def host_64_rip(entry: Entry) -> Verdict:
    """The host RIP is canonical if the host is 64-bit."""
    # Whether 57 bits will do where the processor has them but the host's CR4.LA57 is 0, the SDM
    # does not say; KVM goes by CR4.LA57.
    return (
        True
        if canonical(entry.vmcs.host_rip, 48)
        else False
        if not canonical(entry.vmcs.host_rip, entry.profile.linear_address_bits)
        else True
        if entry.vmcs.host_cr4 & Cr4.LA57
        else UNKNOWN
    )


@SECTION.rule("space.s-cet.canonical", when=host_64_loads_cet)
def host_64_s_cet(entry: Entry) -> bool:
    """The host IA32_S_CET is canonical if it is to be loaded for a 64-bit host."""
    return canonical(entry.vmcs.host_s_cet, entry.profile.linear_address_bits)


@SECTION.rule("space.ssp.canonical", when=host_64_loads_cet)
def host_64_ssp(entry: Entry) -> bool:
    """The host SSP is canonical if it is to be loaded for a 64-bit host."""
    return canonical(entry.vmcs.host_ssp, entry.profile.linear_address_bits)


@SECTION.rule("space.ssp-table.canonical", when=loads_cet)
def ssp_table(entry: Entry) -> bool:
    """The host IA32_INTERRUPT_SSP_TABLE_ADDR is canonical if it is to be loaded."""
    return canonical(entry.vmcs.host_intr_ssp_table, entry.profile.linear_address_bits)


@SECTION.rule("space.guest.no-intel-64", when=no_intel_64)
def no_ia_32e_guest_without_intel_64(entry: Entry) -> bool:
    """The "IA-32e mode guest" VM-entry control is 0 on a processor without Intel 64."""
    return entry.vmcs.vm_entry_controls & VmEntry.IA_32E_MODE_GUEST == 0


@SECTION.rule("space.host.no-intel-64", when=no_intel_64)
def no_64_bit_host_without_intel_64(entry: Entry) -> bool:
    """The "host address-space size" VM-exit control is 0 on a processor without Intel 64."""
    return entry.vmcs.vm_exit_controls & VmExit.HOST_ADDRESS_SPACE_SIZE == 0
