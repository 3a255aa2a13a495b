# SPDX-License-Identifier: GPL-2.0-only
"""What RDMSR returns on a processor like a profile, in the hands of a Linux that booted on it.

The VMX capability MSRs are the profile's, as they are. Of the others a processor has those that
its features, controls and CPUID leaves announce; their values are those that firmware and a
kernel leave behind, and mean nothing more. SDM: "Model-Specific Registers (MSRs)".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.controls import Secondary
from nvmxfuzz.arch.registers import Efer
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.targets.kvm_native.cpuid import counters_of

_PAT: Final = 0x0407_0506_0007_0106
"""As Linux sets it: write-back, write-combining, uncached twice, and so on."""

_LOCKED: Final = 1 << 0
_VMX_IN_SMX: Final = 1 << 1
_VMX_OUTSIDE_SMX: Final = 1 << 2
_SGX_LAUNCH_CONTROL: Final = 1 << 17
_SGX: Final = 1 << 18

_EVERYWHERE: Final = (
    (msr.MSR_IA32_TSC, 0),
    (0x17, 0),  # IA32_PLATFORM_ID
    (msr.MSR_IA32_APICBASE, 0xFEE0_0900),  # at its usual place, enabled, bootstrap processor
    (0x34, 0),  # MSR_SMI_COUNT
    (msr.MSR_IA32_UCODE_REV, 1 << 32),
    (0xCD, 0),  # MSR_FSB_FREQ
    (0xCE, 0),  # MSR_PLATFORM_INFO
    (0xFE, 0x508),  # IA32_MTRRCAP: 8 variable ranges, fixed ranges, write combining
    (0x140, 0),  # MSR_MISC_FEATURES_ENABLES
    (msr.MSR_IA32_SYSENTER_CS, 0x10),
    (msr.MSR_IA32_SYSENTER_ESP, 0xFFFF_FE00_0000_3000),
    (msr.MSR_IA32_SYSENTER_EIP, 0xFFFF_FFFF_8100_1000),
    (0x179, 0xF00_0C14),  # IA32_MCG_CAP: 20 banks, LMCE among the rest
    (msr.MSR_IA32_MISC_ENABLE, 0x85_0089),  # fast strings, performance monitoring, MONITOR
    (msr.MSR_IA32_DEBUGCTLMSR, 0),
    (msr.MSR_IA32_CR_PAT, _PAT),
)

_LONG_MODE: Final = (
    (msr.MSR_STAR, 0x0023_0010_0000_0000),
    (msr.MSR_LSTAR, 0xFFFF_FFFF_8100_0000),
    (msr.MSR_CSTAR, 0xFFFF_FFFF_8100_0800),
    (msr.MSR_SYSCALL_MASK, 0x0004_7700),
    (msr.MSR_FS_BASE, 0),
    (msr.MSR_GS_BASE, 0xFFFF_8880_0000_0000),
    (msr.MSR_KERNEL_GS_BASE, 0),
)

_CET: Final = (0x6A0, 0x6A2, 0x6A4, 0x6A5, 0x6A6, 0x6A7, 0x6A8)
_BY_FEATURE: Final = {
    "spec-ctrl": (msr.MSR_IA32_SPEC_CTRL, 0x49, 0x10B),  # and PRED_CMD, FLUSH_CMD
    "mpx": (msr.MSR_IA32_BNDCFGS,),
    "sgx": (0x8C, 0x8D, 0x8E, 0x8F),  # IA32_SGXLEPUBKEYHASH0 to 3
    "intel-pt": (0x560, 0x561, 0x570, 0x571, 0x572, 0x580, 0x581, 0x582, 0x583),
    "arch-lbr": (msr.MSR_ARCH_LBR_CTL, 0x14CF),  # and IA32_LBR_DEPTH
    "pks": (msr.MSR_IA32_PKRS,),
    "cet-ss": _CET,
    "cet-ibt": (msr.MSR_IA32_U_CET, msr.MSR_IA32_S_CET),
    "uintr": tuple(range(0x985, 0x98B)),
    "fred": tuple(range(msr.MSR_IA32_FRED_RSP0, msr.MSR_IA32_FRED_CONFIG + 1)),
    "x2apic": (0x6E0,),  # IA32_TSC_DEADLINE
}
"""MSRs that a feature brings along; all are 0 after boot."""

_BY_SECONDARY: Final = {
    Secondary.ENABLE_RDTSCP: msr.MSR_TSC_AUX,
    Secondary.ENABLE_XSAVES_XRSTORS: msr.MSR_IA32_XSS,
    Secondary.ENABLE_USER_WAIT_AND_PAUSE: 0xE1,  # IA32_UMWAIT_CONTROL
    Secondary.ENABLE_INVPCID: 0x3B,  # IA32_TSC_ADJUST, see CPUID
}

_NO_KNOWN_WEAKNESS: Final = 0x2B
"""IA32_ARCH_CAPABILITIES: RDCL_NO, IBRS_ALL, SKIP_L1DFL_VMENTRY, MDS_NO."""


def msrs_of(profile: Profile) -> tuple[tuple[int, int], ...]:
    """Return (index, value) of every MSR of a processor like `profile`, by index."""
    table = dict(_EVERYWHERE)
    table.update(_by_features(profile))
    table.update(_performance(profile))
    for control, index in _BY_SECONDARY.items():
        if profile.caps.secondary_may & control:
            table[index] = 0
    table[msr.MSR_IA32_FEAT_CTL] = feature_control(profile)
    table.update(profile.msrs)
    return tuple(sorted(table.items()))


def feature_control(profile: Profile) -> int:
    """Return IA32_FEATURE_CONTROL as firmware locks it: VMX is on, and SGX where there is."""
    safer_mode = _VMX_IN_SMX if "smx" in profile.features else 0
    enclaves = _SGX | _SGX_LAUNCH_CONTROL if "sgx" in profile.features else 0
    return _LOCKED | _VMX_OUTSIDE_SMX | safer_mode | enclaves


def efer_of(profile: Profile) -> int:
    """Return IA32_EFER of a 64-bit kernel, or of a 32-bit one where there is no long mode."""
    no_execute = Efer.NXE if "nx" in profile.features else 0
    long_mode = Efer.SCE | Efer.LME | Efer.LMA if "long-mode" in profile.features else 0
    return no_execute | long_mode


def _by_features(profile: Profile) -> Iterator[tuple[int, int]]:
    for name in sorted(profile.features):
        for index in _BY_FEATURE.get(name, ()):
            yield index, 0
    if "long-mode" in profile.features:
        yield from _LONG_MODE
    if efer_of(profile):
        yield msr.MSR_EFER, efer_of(profile)
    if "spec-ctrl" in profile.features:
        yield 0x10A, _NO_KNOWN_WEAKNESS
    if "smm-dual-monitor" in profile.features:
        yield msr.MSR_IA32_SMM_MONITOR_CTL, 0


def _performance(profile: Profile) -> Iterator[tuple[int, int]]:
    general, fixed = counters_of(profile)
    for number in range(general):
        yield 0xC1 + number, 0  # IA32_PMCn
        yield 0x186 + number, 0  # IA32_PERFEVTSELn
    if "perf-global-ctrl" in profile.features:
        for number in range(fixed):
            yield 0x309 + number, 0  # IA32_FIXED_CTRn
        yield 0x345, 0  # IA32_PERF_CAPABILITIES
        yield 0x38D, 0  # IA32_FIXED_CTR_CTRL
        yield 0x38E, 0  # IA32_PERF_GLOBAL_STATUS
        yield msr.MSR_CORE_PERF_GLOBAL_CTRL, 0
        yield 0x390, 0  # IA32_PERF_GLOBAL_OVF_CTRL
