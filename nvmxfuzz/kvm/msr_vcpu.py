# SPDX-License-Identifier: GPL-2.0-only
"""A vCPU as far as its VMX capability MSRs go, and the ioctls that reach them.

vmx_get_msr(), vmx_set_msr() (vmx/vmx.c), do_set_msr() and msr_io() (x86.c), with their order.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass, field

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.registers import FeatureControl
from nvmxfuzz.kvm.guest_cpuid import NO_CPUID, GuestCpuid
from nvmxfuzz.kvm.hardware_setup import LoadedKvm
from nvmxfuzz.kvm.msr_behaviour import KVM_FIRST_EMULATED_VMX_MSR, KVM_LAST_EMULATED_VMX_MSR
from nvmxfuzz.kvm.msr_restore import TAKEN, SetResult, vmx_set_vmx_msr
from nvmxfuzz.kvm.nested_evmcs import nested_evmcs_filter_control_msr
from nvmxfuzz.kvm.nested_msrs import NestedVmxMsrs, vmx_get_vmx_msr

KVM_MSR_RET_UNSUPPORTED = 2

FEATURE_CONTROL_VMX = FeatureControl.VMX_INSIDE_SMX | FeatureControl.VMX_OUTSIDE_SMX
KVM_SUPPORTED_FEATURE_CONTROL = (
    FeatureControl.LOCKED
    | FEATURE_CONTROL_VMX
    | FeatureControl.SGX_LAUNCH_CONTROL
    | FeatureControl.SGX
    | FeatureControl.LMCE
)


@dataclass(slots=True)
class MsrVcpu:
    """One vCPU; `create_vcpu` makes it. What changes over its life is here, under kernel names."""

    module: LoadedKvm
    msrs: NestedVmxMsrs
    stuffs_feature_msrs: bool = True
    """KVM_X86_QUIRK_STUFF_FEATURE_MSRS of the VM is on."""
    cpuid: GuestCpuid = NO_CPUID
    vmx_allowed: bool = False
    """nested_vmx_allowed(), or the governed feature VMX."""
    vmxon: bool = False
    smm_vmxon: bool = False
    """In SMM, L1 having been in VMX operation before."""
    has_run: bool = False
    enlightened_vmcs_enabled: bool = False
    msr_ia32_feature_control: int = 0
    msr_ia32_feature_control_valid_bits: int = field(default=int(FeatureControl.LOCKED))


def create_vcpu(module: LoadedKvm, stuffs_feature_msrs: bool = True) -> MsrVcpu:
    """KVM_CREATE_VCPU: __vmx_vcpu_reset() copies the MSRs that KVM offers.

    `stuffs_feature_msrs` False: userspace turned that quirk off; versions without it take no heed.
    """
    stuffs = stuffs_feature_msrs or not module.behaviour.stuffing_is_a_quirk
    msrs = module.nested.copy() if stuffs else NestedVmxMsrs()
    return MsrVcpu(module, msrs, stuffs)


def enter_vmx_operation(vcpu: MsrVcpu) -> None:
    """VMXON succeeded, or KVM_SET_NESTED_STATE had a VMXON region."""
    vcpu.vmxon = True


def vmx_leave_nested(vcpu: MsrVcpu) -> None:
    """VMXOFF, KVM_SET_NESTED_STATE, or IA32_FEATURE_CONTROL set to 0 by userspace."""
    vcpu.vmxon = vcpu.smm_vmxon = False


def vmx_enter_smm(vcpu: MsrVcpu) -> None:
    """An SMI: VMX operation is set aside, and with it what -EBUSY depends on."""
    vcpu.smm_vmxon = vcpu.vmxon
    vcpu.vmxon = False


def vmx_leave_smm(vcpu: MsrVcpu) -> None:
    """RSM: VMX operation goes on."""
    if vcpu.smm_vmxon:
        vcpu.vmxon = True
        vcpu.smm_vmxon = False


def is_vmx_msr(index: int) -> bool:
    """Whether `index` is one of the VMX capability MSRs that KVM emulates."""
    return KVM_FIRST_EMULATED_VMX_MSR <= index <= KVM_LAST_EMULATED_VMX_MSR


def vmx_get_msr(vcpu: MsrVcpu, index: int, host_initiated: bool = True) -> int | None:
    """Return a VMX MSR or IA32_FEATURE_CONTROL; None: the read fails (#GP for L1).

    `host_initiated` False: L1 reads, and may be offered no more than the enlightened VMCS holds.
    """
    if index == msr.MSR_IA32_FEAT_CTL:
        return vcpu.msr_ia32_feature_control
    if not is_vmx_msr(index):
        return 0 if vcpu.module.params.ignore_msrs else None
    if not vcpu.vmx_allowed:
        return None
    value = vmx_get_vmx_msr(vcpu.msrs, index)
    evmcs = vcpu.module.behaviour.evmcs
    if value is None or host_initiated or not vcpu.enlightened_vmcs_enabled:
        return value
    if evmcs.needs_hyperv_cpuid and not vcpu.cpuid.hyperv:
        return value
    return nested_evmcs_filter_control_msr(evmcs, vcpu.cpuid.evmcs_perf_global_ctrl, index, value)


def vmx_set_msr(vcpu: MsrVcpu, index: int, data: int, host_initiated: bool = True) -> SetResult:
    """Write a VMX MSR or IA32_FEATURE_CONTROL; any other index is one that KVM does not know."""
    if index == msr.MSR_IA32_FEAT_CTL:
        return _set_feature_control(vcpu, data, host_initiated)
    if not is_vmx_msr(index):
        ignored = vcpu.module.params.ignore_msrs
        return TAKEN if ignored else SetResult(KVM_MSR_RET_UNSUPPORTED, "set-msr.index.unknown")
    if not host_initiated:
        return SetResult(1, "set-msr.vmx.read-only")
    if not vcpu.vmx_allowed:
        return SetResult(1, "set-msr.vmx.no-cpuid")
    against_vcpu = vcpu.module.behaviour.restores_against_vcpu
    supported = vcpu.msrs if against_vcpu else vcpu.module.nested
    return vmx_set_vmx_msr(vcpu.msrs, supported, vcpu.vmxon, index, data)


def _set_feature_control(vcpu: MsrVcpu, data: int, host_initiated: bool) -> SetResult:
    known = vcpu.module.behaviour.feature_control_valid_for_host and host_initiated
    valid = KVM_SUPPORTED_FEATURE_CONTROL if known else vcpu.msr_ia32_feature_control_valid_bits
    if data & ~valid:
        return SetResult(1, "set-msr.feature-control.bits")
    if not host_initiated and vcpu.msr_ia32_feature_control & FeatureControl.LOCKED:
        return SetResult(1, "set-msr.feature-control.locked")
    vcpu.msr_ia32_feature_control = data
    if host_initiated and data == 0:
        vmx_leave_nested(vcpu)
    return TAKEN


def do_set_msr(vcpu: MsrVcpu, index: int, data: int) -> SetResult:
    """Write as userspace does; a vCPU that has run may keep its capabilities only (6.12)."""
    immutable = vcpu.has_run and vcpu.module.behaviour.immutable_after_run
    if immutable and is_vmx_msr(index) and vmx_get_msr(vcpu, index) != data:
        return SetResult(-errno.EINVAL, "set-msr.vmx.has-run")
    return vmx_set_msr(vcpu, index, data)


def kvm_set_msrs(vcpu: MsrVcpu, entries: Iterable[tuple[int, int]]) -> int:
    """KVM_SET_MSRS: how many (index, value) were taken before the first that was not."""
    done = 0
    for index, data in entries:
        if not do_set_msr(vcpu, index, data):
            break
        done += 1
    return done


def kvm_get_msrs(vcpu: MsrVcpu, indices: Iterable[int]) -> tuple[int, ...]:
    """KVM_GET_MSRS: the values that were read before the first MSR that could not be."""
    values: list[int] = []
    for index in indices:
        value = vmx_get_msr(vcpu, index)
        if value is None:
            break
        values.append(value)
    return tuple(values)


def virtual_msrs(vcpu: MsrVcpu) -> dict[int, int]:
    """Return what L1 reads with RDMSR: index -> value; what faults is not there."""
    indices = range(KVM_FIRST_EMULATED_VMX_MSR, KVM_LAST_EMULATED_VMX_MSR + 1)
    values = ((index, vmx_get_msr(vcpu, index, host_initiated=False)) for index in indices)
    return {index: value for index, value in values if value is not None}
