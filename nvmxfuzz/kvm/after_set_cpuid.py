# SPDX-License-Identifier: GPL-2.0-only
"""KVM_SET_CPUID2, and what it changes in the VMX capability MSRs of a vCPU.

kvm_vcpu_after_set_cpuid() (cpuid.c), vmx_vcpu_after_set_cpuid() and its parts (vmx/vmx.c),
nested_vmx_pmu_refresh() (vmx/nested.c, 5.18), in the kernel's order.
"""

from __future__ import annotations

import errno

from nvmxfuzz.arch.controls import Secondary, VmEntry, VmExit
from nvmxfuzz.arch.registers import Cr4, FeatureControl
from nvmxfuzz.kvm.guest_cpuid import GuestCpuid
from nvmxfuzz.kvm.msr_vcpu import FEATURE_CONTROL_VMX, MsrVcpu
from nvmxfuzz.kvm.vmx_capabilities import cpu_has_vmx_mpx, has_secondary

WORD = (1 << 32) - 1

_CR4_BY_FEATURE = (
    ("VME", Cr4.VME | Cr4.PVI),
    ("TSC", Cr4.TSD),
    ("DE", Cr4.DE),
    ("PSE", Cr4.PSE),
    ("PAE", Cr4.PAE),
    ("MCE", Cr4.MCE),
    ("PGE", Cr4.PGE),
    ("FXSR", Cr4.OSFXSR),
    ("XMM", Cr4.OSXMMEXCPT),
    ("VMX", Cr4.VMXE),
    ("SMX", Cr4.SMXE),
    ("PCID", Cr4.PCIDE),
    ("XSAVE", Cr4.OSXSAVE),
    ("FSGSBASE", Cr4.FSGSBASE),
    ("SMEP", Cr4.SMEP),
    ("SMAP", Cr4.SMAP),
    ("PKU", Cr4.PKE),
    ("UMIP", Cr4.UMIP),
    ("LA57", Cr4.LA57),
)

_ADJUSTED_BY_FEATURE = (
    ("INVPCID", Secondary.ENABLE_INVPCID),
    ("RDRAND", Secondary.RDRAND_EXITING),
    ("RDSEED", Secondary.RDSEED_EXITING),
    ("WAITPKG", Secondary.ENABLE_USER_WAIT_AND_PAUSE),
)


def kvm_set_cpuid(vcpu: MsrVcpu, cpuid: GuestCpuid) -> int:
    """KVM_SET_CPUID2: 0, or -EINVAL for another CPUID once the vCPU has run.

    What else makes the kernel refuse (address widths, dynamic XSAVE features) is not modelled.
    """
    if vcpu.has_run:
        return 0 if cpuid == vcpu.cpuid else -errno.EINVAL
    vcpu.cpuid = cpuid
    vcpu.vmx_allowed = vcpu.module.flags.nested and "VMX" in cpuid.features
    if vcpu.module.behaviour.entry_exit_ctls_follow_cpuid:
        nested_vmx_pmu_refresh(vcpu)
    vmx_vcpu_after_set_cpuid(vcpu)
    return 0


def vmx_vcpu_after_set_cpuid(vcpu: MsrVcpu) -> None:
    """Bring the MSRs of the vCPU into line with its CPUID."""
    vmx_secondary_exec_control(vcpu)
    _feature_control_valid_bits(vcpu)
    if vcpu.vmx_allowed:
        nested_vmx_cr_fixed1_bits_update(vcpu)
        if vcpu.module.behaviour.entry_exit_ctls_follow_cpuid:
            nested_vmx_entry_exit_ctls_update(vcpu)


def vmx_secondary_exec_control(vcpu: MsrVcpu) -> None:
    """Offer, or take away, secondary controls for what CPUID has or lacks; all else is vmcs01."""
    if not vcpu.module.flags.nested or not vcpu.stuffs_feature_msrs:
        return
    features = vcpu.cpuid.features
    vmx_adjust_secondary_exec_control(vcpu, Secondary.ENABLE_XSAVES_XRSTORS, _xsaves_enabled(vcpu))
    vmx_adjust_secondary_exec_control(
        vcpu, Secondary.ENABLE_RDTSCP, not features.isdisjoint({"RDTSCP", "RDPID"})
    )
    for name, control in _ADJUSTED_BY_FEATURE:
        vmx_adjust_secondary_exec_control(vcpu, control, name in features)


def _xsaves_enabled(vcpu: MsrVcpu) -> bool:
    host = vcpu.module.host.features
    if vcpu.module.behaviour.governed_features and "XSAVES" not in host:
        return False
    return "XSAVE" in host and {"XSAVE", "XSAVES"} <= vcpu.cpuid.features


def vmx_adjust_secondary_exec_control(vcpu: MsrVcpu, control: int, enabled: bool) -> None:
    """Let L1 set `control`, or not; left alone where KVM's config does not have it.

    6.12 also asks whether KVM offers the control at all, which it always does where it has it.
    """
    if not has_secondary(vcpu.module.config, control):
        return
    if enabled:
        vcpu.msrs.secondary_ctls_high |= control
    else:
        vcpu.msrs.secondary_ctls_high &= ~control


def _feature_control_valid_bits(vcpu: MsrVcpu) -> None:
    bits = vcpu.msr_ia32_feature_control_valid_bits
    features = vcpu.cpuid.features
    for present, mask in (
        (vcpu.vmx_allowed, FEATURE_CONTROL_VMX),
        ("SGX" in features, int(FeatureControl.SGX)),
        ("SGX_LC" in features, int(FeatureControl.SGX_LAUNCH_CONTROL)),
    ):
        bits = bits | mask if present else bits & ~mask
    vcpu.msr_ia32_feature_control_valid_bits = bits


def nested_vmx_cr_fixed1_bits_update(vcpu: MsrVcpu) -> None:
    """CR0 may hold any of 32 bits, CR4 what CPUID has; userspace cannot set either MSR."""
    features = vcpu.cpuid.features
    allowed = int(Cr4.PCE)
    for name, mask in _CR4_BY_FEATURE:
        if name in features:
            allowed |= mask
    if vcpu.module.behaviour.knows_lam and "LAM" in features:
        allowed |= Cr4.LAM_SUP
    vcpu.msrs.cr0_fixed1 = WORD
    vcpu.msrs.cr4_fixed1 = allowed


def nested_vmx_entry_exit_ctls_update(vcpu: MsrVcpu) -> None:
    """Where KVM supports MPX, the controls for IA32_BNDCFGS follow MPX in CPUID (5.18)."""
    module = vcpu.module
    if "MPX" in module.host.features and cpu_has_vmx_mpx(module.config):
        _allow(
            vcpu,
            VmEntry.LOAD_IA32_BNDCFGS,
            VmExit.CLEAR_IA32_BNDCFGS,
            "MPX" in vcpu.cpuid.features,
        )


def nested_vmx_pmu_refresh(vcpu: MsrVcpu) -> None:
    """The controls for IA32_PERF_GLOBAL_CTRL follow the version of the virtual PMU (5.18).

    Without a virtual PMU they are left as they are.
    """
    version = vcpu.cpuid.pmu_version if vcpu.module.flags.enable_pmu else 0
    if vcpu.vmx_allowed and version:
        _allow(
            vcpu,
            VmEntry.LOAD_IA32_PERF_GLOBAL_CTRL,
            VmExit.LOAD_IA32_PERF_GLOBAL_CTRL,
            version > 1,
        )


def _allow(vcpu: MsrVcpu, entry: int, exit_: int, enabled: bool) -> None:
    if enabled:
        vcpu.msrs.entry_ctls_high |= entry
        vcpu.msrs.exit_ctls_high |= exit_
    else:
        vcpu.msrs.entry_ctls_high &= ~entry
        vcpu.msrs.exit_ctls_high &= ~exit_
