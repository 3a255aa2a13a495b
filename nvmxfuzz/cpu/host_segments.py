# SPDX-License-Identifier: GPL-2.0-only
"""Host segment registers and descriptor-table registers.

SDM: "Checks on Host Segment and Descriptor-Table Registers". The bases are held against the
processor's linear-address width, whatever CR4.LA57 says. KVM: `nested_vmx_check_host_state`.
"""

from __future__ import annotations

from nvmxfuzz.arch import sections
from nvmxfuzz.arch.controls import VmExit
from nvmxfuzz.arch.segments import Selector
from nvmxfuzz.cpu.conditions import intel_64
from nvmxfuzz.cpu.entry import Entry
from nvmxfuzz.cpu.failures import HOST_STATE
from nvmxfuzz.cpu.predicates import canonical
from nvmxfuzz.cpu.rule import Section

SECTION = Section(sections.HOST_SEGMENTS, HOST_STATE)


def host_32_on_any_processor(entry: Entry) -> bool:
    """The "host address-space size" VM-exit control is 0, as it is without Intel 64."""
    return entry.vm_exit & VmExit.HOST_ADDRESS_SPACE_SIZE == 0


def _declare_selector_rules(register: str) -> None:
    field = f"host_{register}_selector"

    @SECTION.rule(f"host.{register}.rpl", register=register.upper())
    def rpl_is_zero(entry: Entry) -> bool:
        """The RPL (bits 1:0) of the {register} selector is 0."""
        return not getattr(entry.vmcs, field) & Selector.RPL

    @SECTION.rule(f"host.{register}.ti", register=register.upper())
    def ti_is_zero(entry: Entry) -> bool:
        """The TI flag (bit 2) of the {register} selector is 0."""
        return not getattr(entry.vmcs, field) & Selector.TI


for _register in ("cs", "ss", "ds", "es", "fs", "gs", "tr"):
    _declare_selector_rules(_register)


@SECTION.rule("host.cs.not-null")
def cs_not_null(entry: Entry) -> bool:
    """The CS selector is not 0000H."""
    return entry.vmcs.host_cs_selector != 0


@SECTION.rule("host.tr.not-null")
def tr_not_null(entry: Entry) -> bool:
    """The TR selector is not 0000H."""
    return entry.vmcs.host_tr_selector != 0


@SECTION.rule("host.ss.not-null", when=host_32_on_any_processor)
def ss_not_null(entry: Entry) -> bool:
    """The SS selector is not 0000H if the "host address-space size" VM-exit control is 0."""
    return entry.vmcs.host_ss_selector != 0


def _declare_base_rule(register: str) -> None:
    field = f"host_{register}_base"

    @SECTION.rule(f"host.{register}.base", when=intel_64, register=register.upper())
    def base_canonical(entry: Entry) -> bool:
        """The {register} base is canonical, on processors that support Intel 64 architecture."""
        return canonical(getattr(entry.vmcs, field), entry.profile.linear_address_bits)


for _register in ("fs", "gs", "gdtr", "idtr", "tr"):
    _declare_base_rule(_register)
