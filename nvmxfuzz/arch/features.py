# SPDX-License-Identifier: GPL-2.0-only
"""What a processor may have besides its VMX capability MSRs: CPUID facts and behaviours.

The vocabulary is closed: a profile lists names of this table and no others. Only what VM entry
depends on is here. What an MSR says (a control, a bit of CR4_FIXED1) is not said again, except
where a check asks for the feature itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Feature:
    """One fact about a processor."""

    name: str
    sentence: str
    source: str


FEATURES: tuple[Feature, ...] = (
    Feature(
        "long-mode",
        "The processor supports Intel 64 architecture: IA-32e mode, 64-bit fields, canonicality.",
        "CPUID.80000001H:EDX[29]",
    ),
    Feature("nx", "IA32_EFER.NXE can be 1.", "CPUID.80000001H:EDX[20]"),
    Feature("pcid", "CR4.PCIDE can be 1.", "CPUID.01H:ECX[17]"),
    Feature("smx", "Safer mode extensions: CR4.SMXE can be 1.", "CPUID.01H:ECX[6]"),
    Feature("x2apic", "The local APIC has x2APIC mode.", "CPUID.01H:ECX[21]"),
    Feature("sgx", "Intel SGX: blocking by enclave interruption exists.", "CPUID.07H.00H:EBX[2]"),
    Feature("rtm", "Restricted transactional memory.", "CPUID.07H.00H:EBX[11]"),
    Feature("mpx", "Memory protection extensions: IA32_BNDCFGS exists.", "CPUID.07H.00H:EBX[14]"),
    Feature("intel-pt", "Intel Processor Trace: IA32_RTIT_CTL exists.", "CPUID.07H.00H:EBX[25]"),
    Feature("la57", "57-bit linear addresses: CR4.LA57 can be 1.", "CPUID.07H.00H:ECX[16]"),
    Feature("cet-ss", "CET shadow stacks.", "CPUID.07H.00H:ECX[7]"),
    Feature("cet-ibt", "CET indirect-branch tracking.", "CPUID.07H.00H:EDX[20]"),
    Feature("pks", "Protection keys for supervisor-mode pages.", "CPUID.07H.00H:ECX[31]"),
    Feature("bus-lock-detect", "Debug exceptions for bus locks.", "CPUID.07H.00H:ECX[24]"),
    Feature("uintr", "User interrupts: UINV exists.", "CPUID.07H.00H:EDX[5]"),
    Feature("arch-lbr", "Architectural LBRs: IA32_LBR_CTL exists.", "CPUID.07H.00H:EDX[19]"),
    Feature("spec-ctrl", "IA32_SPEC_CTRL exists.", "CPUID.07H.00H:EDX[26]"),
    Feature("lass", "Linear-address-space separation.", "CPUID.07H.01H:EAX[6]"),
    Feature("fred", "Flexible return and event delivery.", "CPUID.07H.01H:EAX[17]"),
    Feature("lam", "Linear-address masking: CR3[62:61] can be 1.", "CPUID.07H.01H:EAX[26]"),
    Feature("perf-global-ctrl", "IA32_PERF_GLOBAL_CTRL exists.", "CPUID.0AH:EAX[7:0] above 1"),
    Feature(
        "smm-dual-monitor",
        "The dual-monitor treatment of SMIs and SMM.",
        "IA32_VMX_BASIC[49]",
    ),
    Feature(
        "nmi-requires-no-sti-blocking",
        "VM entry refuses to inject an NMI while the guest has blocking by STI.",
        'SDM, "Checks on Guest Non-Register State": older editions leave it to the processor',
    ),
)

FEATURE_BY_NAME: Mapping[str, Feature] = MappingProxyType(
    {feature.name: feature for feature in FEATURES}
)
