# SPDX-License-Identifier: GPL-2.0-only
"""What is known of WRMSR at CPL 0 in VMX operation: which MSRs exist and what they accept.

SDM: "Model-Specific Registers (MSRs)", "VMX Capability Reporting Facility" and WRMSR. An MSR that
no table here names may or may not be there, and may or may not take a value: loading it has an
unknown end. Left out on purpose are IA32_BIOS_UPDT_TRIG and IA32_BIOS_SIGN_ID, which a processor
may refuse in an MSR list although WRMSR takes them; IA32_APIC_BASE and IA32_MISC_ENABLE, whose
bits vary too much; and IA32_FMASK, of which it is not clear that its reserved half is checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.bits import named_bits
from nvmxfuzz.arch.controls import Secondary
from nvmxfuzz.arch.registers import DebugCtl, LbrCtl, PerfGlobalCtrl, RtitCtl, SpecCtrl
from nvmxfuzz.cpu.rule import UNKNOWN, Verdict
from nvmxfuzz.machine.profile import Profile

SHADOW_STACK_POINTERS = frozenset(
    {msr.MSR_IA32_PL0_SSP, msr.MSR_IA32_PL1_SSP, msr.MSR_IA32_PL2_SSP, msr.MSR_IA32_PL3_SSP}
)
FRED_STACK_POINTERS = frozenset(range(msr.MSR_IA32_FRED_RSP0, msr.MSR_IA32_FRED_RSP3 + 1))
FRED_SHADOW_STACK_POINTERS = frozenset(range(msr.MSR_IA32_FRED_SSP1, msr.MSR_IA32_FRED_SSP3 + 1))
CET_CONTROLS = frozenset({msr.MSR_IA32_U_CET, msr.MSR_IA32_S_CET})
SYSENTER_ADDRESSES = frozenset({msr.MSR_IA32_SYSENTER_ESP, msr.MSR_IA32_SYSENTER_EIP})

READ_ONLY = frozenset(index for index, _ in msr.VMX_CAPABILITY_MSRS) | {msr.MSR_IA32_SMBASE}
"""WRMSR of these faults, on a processor that has them and on one that has not."""

X2APIC = range(msr.MSR_IA32_X2APIC_FIRST, msr.MSR_IA32_X2APIC_LAST + 1)

NOWHERE = range(0x4000_0000, 0x4000_0100)
"""No processor has MSRs here: the range is left to hypervisors, for their guests."""

EVERYWHERE = frozenset(
    {
        msr.MSR_IA32_TSC,
        msr.MSR_IA32_FEAT_CTL,
        msr.MSR_IA32_SYSENTER_CS,
        *SYSENTER_ADDRESSES,
        msr.MSR_IA32_DEBUGCTLMSR,
        msr.MSR_IA32_CR_PAT,
    }
)
"""Every processor with VMX has these."""

_CET = ("cet-ss", "cet-ibt")

BY_FEATURE: Mapping[int, tuple[str, ...]] = MappingProxyType(
    {
        msr.MSR_IA32_SMM_MONITOR_CTL: ("smm-dual-monitor",),
        msr.MSR_EFER: ("long-mode", "nx"),
        msr.MSR_STAR: ("long-mode",),
        msr.MSR_LSTAR: ("long-mode",),
        msr.MSR_CSTAR: ("long-mode",),
        msr.MSR_KERNEL_GS_BASE: ("long-mode",),
        msr.MSR_CORE_PERF_GLOBAL_CTRL: ("perf-global-ctrl",),
        msr.MSR_IA32_SPEC_CTRL: ("spec-ctrl",),
        msr.MSR_IA32_BNDCFGS: ("mpx",),
        msr.MSR_IA32_RTIT_CTL: ("intel-pt",),
        msr.MSR_ARCH_LBR_CTL: ("arch-lbr",),
        msr.MSR_IA32_PKRS: ("pks",),
        msr.MSR_IA32_U_CET: _CET,
        msr.MSR_IA32_S_CET: _CET,
        msr.MSR_IA32_INT_SSP_TAB: ("cet-ss",),
        msr.MSR_IA32_PL0_SSP: ("cet-ss", "fred"),
        msr.MSR_IA32_PL1_SSP: ("cet-ss",),
        msr.MSR_IA32_PL2_SSP: ("cet-ss",),
        msr.MSR_IA32_PL3_SSP: ("cet-ss",),
        msr.MSR_IA32_FRED_STKLVLS: ("fred",),
        msr.MSR_IA32_FRED_CONFIG: ("fred",),
        **dict.fromkeys(FRED_STACK_POINTERS | FRED_SHADOW_STACK_POINTERS, ("fred",)),
    }
)
"""A processor has these if it has one of the features, and not otherwise."""

BY_CONTROL: Mapping[int, int] = MappingProxyType(
    {
        msr.MSR_TSC_AUX: Secondary.ENABLE_RDTSCP,
        msr.MSR_IA32_XSS: Secondary.ENABLE_XSAVES_XRSTORS,
    }
)
"""A processor has these if it allows the secondary control; without it, it still may."""

ADDRESSES = (
    SYSENTER_ADDRESSES
    | SHADOW_STACK_POINTERS
    | FRED_STACK_POINTERS
    | FRED_SHADOW_STACK_POINTERS
    | CET_CONTROLS
    | {
        msr.MSR_LSTAR,
        msr.MSR_CSTAR,
        msr.MSR_KERNEL_GS_BASE,
        msr.MSR_IA32_INT_SSP_TAB,
        msr.MSR_IA32_BNDCFGS,
        msr.MSR_IA32_FRED_CONFIG,
    }
)
"""MSRs that hold a linear address; what else stands in its low bits does not make it canonical."""

ALIGNMENT: Mapping[int, int] = MappingProxyType(
    {
        **dict.fromkeys(SHADOW_STACK_POINTERS, 4),
        **dict.fromkeys(FRED_STACK_POINTERS, 64),
        **dict.fromkeys(FRED_SHADOW_STACK_POINTERS, 8),
    }
)
"""The power of two, in bytes, of which the address in the MSR is a multiple."""

DEBUGCTL_BITS = sum(named_bits(DebugCtl).values())
PERF_GLOBAL_CTRL_BITS = sum(named_bits(PerfGlobalCtrl).values())
RTIT_CTL_BITS = sum(named_bits(RtitCtl).values())
LBR_CTL_BITS = sum(named_bits(LbrCtl).values())
SPEC_CTRL_BITS = sum(named_bits(SpecCtrl).values())

# Components that XSAVES manages: PT, PASID, CET_U, CET_S, HDC, UINTR, LBR and HWP.
XSS_BITS = 1 << 8 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 15 | 1 << 16


def exists(index: int, profile: Profile) -> Verdict:
    """Tell whether a processor has the MSR `index`; UNKNOWN if neither SDM nor profile says."""
    if index in EVERYWHERE:
        return True
    if index in NOWHERE:
        return False
    if index in BY_FEATURE:
        return not profile.features.isdisjoint(BY_FEATURE[index])
    if profile.caps.secondary_may & BY_CONTROL.get(index, 0):
        return True
    return UNKNOWN
