# SPDX-License-Identifier: GPL-2.0-only
"""Which VMX capability MSRs a processor has, as the MSRs themselves tell.

SDM: "VMX Capability Reporting Facility".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.controls import Primary, Secondary, VmExit
from nvmxfuzz.arch.vmx_msr import VmxBasic

_NAMES: Final = dict(msr.VMX_CAPABILITY_MSRS)
_ALWAYS: Final = range(msr.MSR_IA32_VMX_BASIC, msr.MSR_IA32_VMX_VMCS_ENUM + 1)
_REGISTERS: Final = range(msr.MSR_IA32_VMX_CR0_FIXED0, msr.MSR_IA32_VMX_VMCS_ENUM + 1)
"""CR0_FIXED0 to CR4_FIXED1 and VMCS_ENUM, which some tools do not print."""
_TRUE: Final = range(msr.MSR_IA32_VMX_TRUE_PINBASED_CTLS, msr.MSR_IA32_VMX_TRUE_ENTRY_CTLS + 1)


def existing_msrs(msrs: Mapping[int, int]) -> frozenset[int]:
    """Return the indices of the MSRs that a processor with these has."""

    def allowed(index: int) -> int:
        return msrs.get(index, 0) >> 32

    found = set(_ALWAYS)
    if msrs.get(msr.MSR_IA32_VMX_BASIC, 0) & VmxBasic.TRUE_CONTROLS:
        found.update(_TRUE)
    primary = allowed(msr.MSR_IA32_VMX_PROCBASED_CTLS)
    if primary & Primary.ACTIVATE_SECONDARY_CONTROLS:
        found.add(msr.MSR_IA32_VMX_PROCBASED_CTLS2)
    if primary & Primary.ACTIVATE_TERTIARY_CONTROLS:
        found.add(msr.MSR_IA32_VMX_PROCBASED_CTLS3)
    secondary = allowed(msr.MSR_IA32_VMX_PROCBASED_CTLS2)
    if secondary & (Secondary.ENABLE_EPT | Secondary.ENABLE_VPID):
        found.add(msr.MSR_IA32_VMX_EPT_VPID_CAP)
    if secondary & Secondary.ENABLE_VM_FUNCTIONS:
        found.add(msr.MSR_IA32_VMX_VMFUNC)
    if allowed(msr.MSR_IA32_VMX_EXIT_CTLS) & VmExit.ACTIVATE_SECONDARY_CONTROLS:
        found.add(msr.MSR_IA32_VMX_EXIT_CTLS2)
    return frozenset(found)


def missing_msrs(msrs: Mapping[int, int]) -> tuple[str, ...]:
    """Return the MSRs that such a processor has and the table lacks, by name and index.

    Those of the fixed bits, and VMCS_ENUM, are told by `unknown_registers`.
    """
    lacking = existing_msrs(msrs) - msrs.keys()
    return tuple(_named(index) for index in sorted(lacking) if index not in _REGISTERS)


def unknown_registers(msrs: Mapping[int, int]) -> tuple[str, ...]:
    """Return those MSRs of the fixed bits of CR0 and CR4 that the table lacks."""
    return tuple(
        _named(index)
        for index in _REGISTERS
        if index not in msrs and index != msr.MSR_IA32_VMX_VMCS_ENUM
    )


def _named(index: int) -> str:
    return f"{_NAMES[index]} ({index:#x})"
