# SPDX-License-Identifier: GPL-2.0-only
"""What /dev/kvm tells of the VMX capability MSRs before there is a VM.

vmx_get_msr_feature() (vmx_get_feature_msr() in 6.12), kvm_init_msr_list(), vmx_has_emulated_msr().
"""

from __future__ import annotations

from collections.abc import Iterable

from nvmxfuzz.kvm.hardware_setup import LoadedKvm
from nvmxfuzz.kvm.msr_behaviour import EMULATED_VMX_MSRS
from nvmxfuzz.kvm.msr_vcpu import is_vmx_msr
from nvmxfuzz.kvm.nested_msrs import vmx_get_vmx_msr


def feature_index_list(module: LoadedKvm) -> tuple[int, ...]:
    """KVM_GET_MSR_FEATURE_INDEX_LIST, the VMX MSRs of it, in order; none without `nested`."""
    return module.behaviour.feature_msrs if module.flags.nested else ()


def index_list(module: LoadedKvm) -> tuple[int, ...]:
    """KVM_GET_MSR_INDEX_LIST, the VMX MSRs of it, in order: what can be read and written back."""
    return EMULATED_VMX_MSRS if module.flags.nested else ()


def get_feature_msr(module: LoadedKvm, index: int) -> int | None:
    """Read a VMX MSR of the system; None: the read fails."""
    if not is_vmx_msr(index):
        return 0 if module.params.ignore_msrs else None
    return vmx_get_vmx_msr(module.nested, index) if module.flags.nested else None


def get_feature_msrs(module: LoadedKvm, indices: Iterable[int]) -> tuple[int, ...]:
    """KVM_GET_MSRS on /dev/kvm: the values read before the first MSR that could not be."""
    values: list[int] = []
    for index in indices:
        value = get_feature_msr(module, index)
        if value is None:
            break
        values.append(value)
    return tuple(values)
