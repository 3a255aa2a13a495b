# SPDX-License-Identifier: GPL-2.0-only
"""nested_vmx_store_msr() of vmx/nested.c: MSRs of L2 that its VM exit stores into L1's list."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from nvmxfuzz.arch import msr
from nvmxfuzz.kvm.msr_vcpu import is_vmx_msr, vmx_get_msr
from nvmxfuzz.kvm.nested_load import (
    MSR_ENTRY_SIZE,
    nested_vmx_max_atomic_switch_msrs,
    nested_vmx_store_msr_check,
)
from nvmxfuzz.kvm.vcpu_events import NotModelledError
from nvmxfuzz.kvm.vcpu_vmx import VcpuVmx
from nvmxfuzz.kvm.virtual_cpu import ALL_ONES
from nvmxfuzz.kvm.vmx_registers import vmx_guest_debugctl_read

_WORD: Final = 0xFFFF_FFFF
_VALUE: Final = 8
_MACHINE_CHECKS_OF_P5: Final = (0, 1)
_FIELDS: Final[Mapping[int, str]] = MappingProxyType(
    {
        msr.MSR_IA32_SYSENTER_CS: "guest_sysenter_cs",
        msr.MSR_IA32_SYSENTER_ESP: "guest_sysenter_esp",
        msr.MSR_IA32_SYSENTER_EIP: "guest_sysenter_eip",
        msr.MSR_FS_BASE: "guest_fs_base",
        msr.MSR_GS_BASE: "guest_gs_base",
    }
)
_KNOWN: Final = (
    (0, 0x1FFF),
    (0x4000_0000, 0x4000_01FF),
    (0x4B56_4D00, 0x4B56_4DFF),
    (0xC000_0000, 0xC000_1FFF),
    (0xC001_0000, 0xC001_2FFF),
)
"""Where the MSRs are that KVM may know."""
_KEPT: Final = frozenset(
    {
        *(msr.MSR_STAR, msr.MSR_LSTAR, msr.MSR_CSTAR, msr.MSR_SYSCALL_MASK),
        msr.MSR_KERNEL_GS_BASE,
    }
)


def nested_vmx_store_msr(vmx: VcpuVmx, address: int, count: int) -> bool:
    """Store the MSRs of the list, while the vCPU has L2's; False where KVM cannot do an entry."""
    vcpu, memory = vmx.vcpu, vmx.vcpu.memory
    maximum = nested_vmx_max_atomic_switch_msrs(vcpu)
    for number in range(count):
        if number >= maximum:
            return False
        at = address + number * MSR_ENTRY_SIZE & ALL_ONES
        entry = memory.read_int(at, _VALUE)
        if entry is None:
            return False
        failed = nested_vmx_store_msr_check(vcpu, entry & _WORD, entry >> 32)
        if failed:
            vcpu.fired.append(failed)
            return False
        value = _guest_msr(vmx, entry & _WORD)
        if value is None:
            return False
        if not memory.write(at + _VALUE, value.to_bytes(8, "little")):
            return False
    return True


def _guest_msr(vmx: VcpuVmx, index: int) -> int | None:
    """Return an MSR as the guest reads it, None where that fails."""
    vcpu = vmx.vcpu
    if index in _MACHINE_CHECKS_OF_P5:
        return 0
    if index in _FIELDS:
        return vcpu.vmcs[_FIELDS[index]]
    if index in _KEPT:
        return vcpu.msrs.get(index, 0)
    match index:
        case msr.MSR_EFER:
            return vcpu.efer
        case msr.MSR_IA32_CR_PAT:
            return vcpu.pat
        case msr.MSR_IA32_DEBUGCTLMSR:
            return vmx_guest_debugctl_read(vcpu)
        case msr.MSR_IA32_APICBASE:
            return vcpu.apic_base
    if vmx.msrs is not None and (is_vmx_msr(index) or index == msr.MSR_IA32_FEAT_CTL):
        return vmx_get_msr(vmx.msrs, index, host_initiated=False)
    if not any(first <= index <= last for first, last in _KNOWN):
        return None
    raise NotModelledError(f"MSR {index:#x}, which a VM exit stores")
