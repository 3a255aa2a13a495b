# SPDX-License-Identifier: GPL-2.0-only
"""The CPUID features of a host, worked out from a profile: a processor announces what it has.

A profile says in MSRs what VM entry needs; CPUID of a real processor agrees with them: a bit that
CR4 can have, a control for an instruction that exists.
"""

from __future__ import annotations

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.controls import Primary, Secondary, VmEntry
from nvmxfuzz.arch.registers import Cr4
from nvmxfuzz.kvm.guest_cpuid import CPUID_BITS
from nvmxfuzz.machine.profile import Profile

ALL_FEATURES = frozenset(CPUID_BITS)

_BASE = frozenset({"VME", "DE", "PSE", "TSC", "PAE", "MCE", "PGE", "FXSR", "XMM", "VMX"})

_BY_CR4 = (
    (Cr4.UMIP, "UMIP"),
    (Cr4.SMXE, "SMX"),
    (Cr4.FSGSBASE, "FSGSBASE"),
    (Cr4.PCIDE, "PCID"),
    (Cr4.OSXSAVE, "XSAVE"),
    (Cr4.SMEP, "SMEP"),
    (Cr4.SMAP, "SMAP"),
    (Cr4.PKE, "PKU"),
    (Cr4.PKE, "OSPKE"),
    (Cr4.LAM_SUP, "LAM"),
)

_BY_SECONDARY = (
    (Secondary.ENABLE_RDTSCP, "RDTSCP"),
    (Secondary.ENABLE_INVPCID, "INVPCID"),
    (Secondary.RDRAND_EXITING, "RDRAND"),
    (Secondary.RDSEED_EXITING, "RDSEED"),
    (Secondary.ENABLE_XSAVES_XRSTORS, "XSAVES"),
    (Secondary.ENABLE_USER_WAIT_AND_PAUSE, "WAITPKG"),
)

_BY_NAME = (
    ("nx", "NX"),
    ("pcid", "PCID"),
    ("smx", "SMX"),
    ("la57", "LA57"),
    ("lam", "LAM"),
    ("sgx", "SGX"),
    ("mpx", "MPX"),
)


def features_of(profile: Profile) -> frozenset[str]:
    """Return the features, in the words of `guest_cpuid.CPUID_BITS`, that `profile` stands for."""
    msrs = profile.msrs
    cr4 = msrs.get(msr.MSR_IA32_VMX_CR4_FIXED1, 0)
    primary = msrs.get(msr.MSR_IA32_VMX_PROCBASED_CTLS, 0) >> 32
    has_secondary = primary & Primary.ACTIVATE_SECONDARY_CONTROLS
    secondary = msrs.get(msr.MSR_IA32_VMX_PROCBASED_CTLS2, 0) >> 32 if has_secondary else 0
    entry = msrs.get(msr.MSR_IA32_VMX_ENTRY_CTLS, 0) >> 32
    found = {name for bit, name in _BY_CR4 if cr4 & bit}
    found |= {name for control, name in _BY_SECONDARY if secondary & control}
    found |= {name for word, name in _BY_NAME if word in profile.features}
    if entry & VmEntry.LOAD_IA32_BNDCFGS:
        found.add("MPX")
    return _BASE | found
