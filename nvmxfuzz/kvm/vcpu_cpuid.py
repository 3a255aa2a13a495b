# SPDX-License-Identifier: GPL-2.0-only
"""KVM_SET_CPUID2 on a vCPU over a session, and what of it follows from CPUID and capability MSRs.

cpuid.c and vmx_vcpu_after_set_cpuid() of vmx/vmx.c. The capability MSRs themselves are the business
of `after_set_cpuid` and `msr_restore`.
"""

from __future__ import annotations

import errno
from dataclasses import fields, replace

from nvmxfuzz.arch.registers import Cr4, Efer
from nvmxfuzz.kvm.after_set_cpuid import kvm_set_cpuid
from nvmxfuzz.kvm.msr_vcpu import MsrVcpu
from nvmxfuzz.kvm.nested_msrs import NestedVmxMsrs
from nvmxfuzz.kvm.vcpu_vmx import VcpuVmx
from nvmxfuzz.kvm.virtual_cpu import NestedMsrs, VirtualCpu
from nvmxfuzz.kvm.vmx_registers import set_cr4_guest_host_mask, vmx_update_exception_bitmap

_CR4_BY_FEATURE = (
    ("XSAVE", Cr4.OSXSAVE),
    ("SMEP", Cr4.SMEP),
    ("SMAP", Cr4.SMAP),
    ("FSGSBASE", Cr4.FSGSBASE),
    ("PKU", Cr4.PKE),
    ("LA57", Cr4.LA57),
    ("UMIP", Cr4.UMIP),
    ("VMX", Cr4.VMXE),
    ("PCID", Cr4.PCIDE),
    ("LAM", Cr4.LAM_SUP),
)
"""__cr4_reserved_bits(): without the feature the bit is reserved; of the others nobody asks."""
_WORDS = {name: name.lower() for name in ("PCID", "SGX", "MPX", "LA57", "LAM", "NX")}
_COMPUTED = "OSPKE"
"""Where the processor has PKU, KVM makes it what CR4 says, whatever userspace gives."""
_LEAF_7_1 = "LAM"
_LEAF_D_1 = "XSAVES"
_MSR_FIELDS = tuple(each.name for each in fields(NestedMsrs) if each.name != "misc")


def flip_cpuid(vmx: VcpuVmx, feature: str, at_first: VirtualCpu) -> int:
    """KVM_SET_CPUID2 with what the vCPU has but for one feature; 0 or -errno.

    A feature whose leaf the vCPU does not have is none that userspace can change. `at_first` is
    what KVM made of the CPUID that it supports: no vCPU goes beyond its CR4.
    """
    msrs = vmx.msrs
    assert msrs is not None
    if not _has_leaf(msrs, feature) or _is_computed(msrs, feature):
        return 0
    if msrs.has_run:
        return -errno.EINVAL
    if feature == _COMPUTED:
        return 0
    kvm_set_cpuid(msrs, replace(msrs.cpuid, features=msrs.cpuid.features ^ {feature}))
    after_set_cpuid(vmx, msrs, at_first)
    return 0


def _has_leaf(msrs: MsrVcpu, feature: str) -> bool:
    if feature == _LEAF_D_1:
        return "XSAVE" in msrs.module.host.features
    return feature != _LEAF_7_1 or _LEAF_7_1 in msrs.module.host.features


def _is_computed(msrs: MsrVcpu, feature: str) -> bool:
    return feature == _COMPUTED and "PKU" in msrs.module.host.features


def after_set_cpuid(vmx: VcpuVmx, msrs: MsrVcpu, at_first: VirtualCpu) -> None:
    """Bring what the vCPU's registers may hold into line with its CPUID."""
    vcpu = vmx.vcpu
    features = msrs.cpuid.features
    words = {word for name, word in _WORDS.items() if name in features}
    reserved = at_first.cr4_reserved
    for name, bits in _CR4_BY_FEATURE:
        if name not in features:
            reserved |= bits
    no_nx = 0 if "NX" in features else Efer.NXE
    vcpu.virtual = replace(
        at_first,
        features=at_first.features - set(_WORDS.values()) | words,
        cr3_ignored=at_first.cr3_ignored if "LAM" in features else 0,
        cr4_reserved=reserved,
        efer_reserved=at_first.efer_reserved | no_nx,
        has_tsc_aux=not features.isdisjoint({"RDTSCP", "RDPID"}),
        supported_xss=0 if {"XSAVE", "XSAVES"} <= features else None,
    )
    capability_msrs_changed(vmx)
    set_cr4_guest_host_mask(vcpu)
    vmx_update_exception_bitmap(vcpu)


def capability_msrs_changed(vmx: VcpuVmx) -> None:
    """Let the checks of VM entry see the capability MSRs as they are now."""
    assert vmx.msrs is not None
    vmx.vcpu.virtual = replace(vmx.vcpu.virtual, msrs=_nested_msrs(vmx.msrs.msrs))
    vmx.capabilities = None


def _nested_msrs(msrs: NestedVmxMsrs) -> NestedMsrs:
    values = {name: getattr(msrs, name) for name in _MSR_FIELDS}
    return NestedMsrs(misc=msrs.misc_low | msrs.misc_high << 32, **values)
