# SPDX-License-Identifier: GPL-2.0-only
"""kvm_set_cpu_caps() and vmx_set_cpu_caps(): the CPUID that KVM supports, as far as it counts here.

cpuid.c and vmx/vmx.c. Only the features of `guest_cpuid.CPUID_BITS` are modelled.
"""

from __future__ import annotations

from nvmxfuzz.arch.controls import Secondary
from nvmxfuzz.kvm.enable_flags import EnableFlags
from nvmxfuzz.kvm.guest_cpuid import GuestCpuid
from nvmxfuzz.kvm.host import HostCpu
from nvmxfuzz.kvm.msr_behaviour import MsrBehaviour
from nvmxfuzz.kvm.vmcs_config import VmcsConfig
from nvmxfuzz.kvm.vmx_capabilities import cpu_has_vmx_mpx, has_secondary

_TAKEN_OVER = frozenset(
    {"VME", "DE", "PSE", "TSC", "PAE", "MCE", "PGE", "FXSR", "XMM", "PCID", "XSAVE", "RDRAND"}
    | {"FSGSBASE", "SMEP", "RDSEED", "SMAP", "UMIP", "LA57", "NX"}
)
"""What KVM supports wherever the processor has it."""

_BY_CONTROL = (
    ("INVPCID", Secondary.ENABLE_INVPCID),
    ("XSAVES", Secondary.ENABLE_XSAVES_XRSTORS),
    ("RDTSCP", Secondary.ENABLE_RDTSCP),
    ("RDPID", Secondary.ENABLE_RDTSCP),
    ("WAITPKG", Secondary.ENABLE_USER_WAIT_AND_PAUSE),
)
_KVM_MAX_PMU_VERSION = 2


def vmx_set_cpu_caps(
    config: VmcsConfig, flags: EnableFlags, host: HostCpu, behaviour: MsrBehaviour
) -> GuestCpuid:
    """Return what KVM_GET_SUPPORTED_CPUID offers; VMX goes with the parameter `nested`."""
    found = host.features & _TAKEN_OVER
    found |= {name for name, control in _BY_CONTROL if has_secondary(config, control)} & (
        host.features
    )
    if "XSAVE" not in host.features:
        found -= {"XSAVES"}
    if flags.nested:
        found |= {"VMX"}
    if "MPX" in host.features and cpu_has_vmx_mpx(config):
        found |= {"MPX"}
    if has_secondary(config, Secondary.DESCRIPTOR_TABLE_EXITING):
        found |= {"UMIP"}
    if flags.enable_ept and {"PKU", "OSPKE"} <= host.features:
        found |= {"PKU"}
    if flags.enable_sgx:
        found |= {"SGX", "SGX_LC"} & host.features
    if behaviour.knows_lam:
        found |= {"LAM"} & host.features
    version = min(host.pmu_version, _KVM_MAX_PMU_VERSION) if flags.enable_pmu else 0
    return GuestCpuid(frozenset(found), version)
