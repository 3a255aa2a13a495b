# SPDX-License-Identifier: GPL-2.0-only
"""MSRs that VM entry can load for certain, and the legal value nearest to a given one.

SDM: "Loading MSRs" and the chapter on MSRs. MSRs whose presence or reserved bits the profile does
not tell are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Final, TypeAlias

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.controls import Secondary, VmEntry
from nvmxfuzz.arch.registers import BndCfgs, Cr0, Efer, FredConfig
from nvmxfuzz.inputs.repair.draft import LOW_HALF, Draft
from nvmxfuzz.inputs.repair.values import efer_of, masked, pat_of, s_cet_of

_Legal: TypeAlias = Callable[[Draft, int], int]


def loadable(draft: Draft) -> Mapping[int, _Legal]:
    """Return by index of an MSR the function that makes a value legal."""
    has_rdtscp = draft.caps.secondary_may & Secondary.ENABLE_RDTSCP != 0
    return _loadable(draft.profile.features, has_rdtscp)


@cache
def _loadable(features: frozenset[str], has_rdtscp: bool) -> Mapping[int, _Legal]:
    found = dict(_EVERYWHERE)
    for feature, table in _BY_FEATURE.items():
        if feature in features:
            found.update(table)
    if has_rdtscp:
        found[msr.MSR_TSC_AUX] = _low_half
    return MappingProxyType(found)


def _any_value(_draft: Draft, value: int) -> int:
    return value


def _low_half(_draft: Draft, value: int) -> int:
    return value & LOW_HALF


def _address(draft: Draft, value: int) -> int:
    return draft.canonical(value)


def _pat(_draft: Draft, value: int) -> int:
    return pat_of(value)


def _debugctl(draft: Draft, value: int) -> int:
    return masked(value, draft.profile.debugctl_mask)


def _perf_global_ctrl(draft: Draft, value: int) -> int:
    return masked(value, draft.profile.perf_global_ctrl_mask)


def _spec_ctrl(draft: Draft, value: int) -> int:
    return masked(value, draft.profile.spec_ctrl_mask)


def _lbr_ctl(draft: Draft, value: int) -> int:
    return masked(value, draft.profile.lbr_ctl_mask)


def _bndcfgs(draft: Draft, value: int) -> int:
    return draft.canonical(value & ~BndCfgs.RESERVED)


def _cet(draft: Draft, value: int) -> int:
    return draft.canonical(s_cet_of(draft, value))


def _shadow_stack(draft: Draft, value: int) -> int:
    return draft.canonical(value & ~3)


def _fred_config(draft: Draft, value: int) -> int:
    return draft.canonical(value & ~FredConfig.RESERVED)


def _fred_stack(draft: Draft, value: int) -> int:
    return draft.canonical(value & ~0x3F)


def _fred_shadow_stack(draft: Draft, value: int) -> int:
    return draft.canonical(value & ~7)


def _efer(draft: Draft, value: int) -> int:
    """A legal EFER: while the guest uses paging, LME stays what VM entry has just loaded."""
    vmcs = draft.vmcs
    value = efer_of(draft, value)
    if not vmcs.guest_cr0 & Cr0.PG:
        return value
    if draft.vm_entry & VmEntry.LOAD_IA32_EFER:
        loaded = vmcs.guest_ia32_efer & Efer.LME
    else:
        loaded = Efer.LME if draft.ia32e else 0
    return value & ~Efer.LME | loaded


_EVERYWHERE: Final[Mapping[int, _Legal]] = MappingProxyType(
    {
        msr.MSR_IA32_TSC: _any_value,
        msr.MSR_IA32_SYSENTER_CS: _low_half,
        msr.MSR_IA32_SYSENTER_ESP: _address,
        msr.MSR_IA32_SYSENTER_EIP: _address,
        msr.MSR_IA32_CR_PAT: _pat,
        msr.MSR_IA32_DEBUGCTLMSR: _debugctl,
    }
)
_SHADOW_STACKS: Final[Mapping[int, _Legal]] = MappingProxyType(
    {
        msr.MSR_IA32_U_CET: _cet,
        msr.MSR_IA32_S_CET: _cet,
        msr.MSR_IA32_INT_SSP_TAB: _address,
        msr.MSR_IA32_PL0_SSP: _shadow_stack,
        msr.MSR_IA32_PL1_SSP: _shadow_stack,
        msr.MSR_IA32_PL2_SSP: _shadow_stack,
        msr.MSR_IA32_PL3_SSP: _shadow_stack,
    }
)
_FRED: Final[Mapping[int, _Legal]] = MappingProxyType(
    {
        msr.MSR_IA32_FRED_RSP0: _fred_stack,
        msr.MSR_IA32_FRED_RSP1: _fred_stack,
        msr.MSR_IA32_FRED_RSP2: _fred_stack,
        msr.MSR_IA32_FRED_RSP3: _fred_stack,
        msr.MSR_IA32_FRED_STKLVLS: _any_value,
        msr.MSR_IA32_FRED_SSP1: _fred_shadow_stack,
        msr.MSR_IA32_FRED_SSP2: _fred_shadow_stack,
        msr.MSR_IA32_FRED_SSP3: _fred_shadow_stack,
        msr.MSR_IA32_FRED_CONFIG: _fred_config,
    }
)
_BY_FEATURE: Final[Mapping[str, Mapping[int, _Legal]]] = MappingProxyType(
    {
        "long-mode": {
            msr.MSR_EFER: _efer,
            msr.MSR_STAR: _any_value,
            msr.MSR_LSTAR: _address,
            msr.MSR_CSTAR: _address,
            msr.MSR_KERNEL_GS_BASE: _address,
        },
        "perf-global-ctrl": {msr.MSR_CORE_PERF_GLOBAL_CTRL: _perf_global_ctrl},
        "spec-ctrl": {msr.MSR_IA32_SPEC_CTRL: _spec_ctrl},
        "mpx": {msr.MSR_IA32_BNDCFGS: _bndcfgs},
        "arch-lbr": {msr.MSR_ARCH_LBR_CTL: _lbr_ctl},
        "pks": {msr.MSR_IA32_PKRS: _low_half},
        "cet-ss": _SHADOW_STACKS,
        "fred": _FRED,
    }
)
