# SPDX-License-Identifier: GPL-2.0-only
"""The small predicates that KVM's consistency checks are made of, under the kernel's names.

From nested.h, cpuid.h and x86.h. Each takes a value and what the vCPU lets it be.
"""

from __future__ import annotations

from nvmxfuzz.arch.controls import Primary, Secondary
from nvmxfuzz.arch.registers import Cr0, Cr4, DebugCtl
from nvmxfuzz.kvm.vcpu import Vcpu
from nvmxfuzz.kvm.virtual_cpu import ALL_ONES
from nvmxfuzz.machine.vmcs import Vmcs

_SECONDARY = int(Primary.ACTIVATE_SECONDARY_CONTROLS)
_UNRESTRICTED = int(Secondary.UNRESTRICTED_GUEST)
_WITHOUT_PAGING = ALL_ONES & ~(Cr0.PE | Cr0.PG)
_LA57 = int(Cr4.LA57)
_TOLERATED = ALL_ONES & ~(DebugCtl.BTF | DebugCtl.LBR)


def vmx_control_verify(control: int, low: int, high: int) -> bool:
    """Whether every bit of `low` is 1 and every bit outside `high` is 0."""
    return (control & high) | low == control


fixed_bits_valid = vmx_control_verify


def nested_cpu_has2(vmcs12: Vmcs, bit: int) -> bool:
    """Whether a secondary control is 1 and the secondary controls are active."""
    return (
        vmcs12.cpu_based_vm_exec_control & _SECONDARY != 0
        and vmcs12.secondary_vm_exec_control & bit != 0
    )


def page_address_valid(vcpu: Vcpu, gpa: int) -> bool:
    """Whether `gpa` is the start of a page and within the guest's physical-address width."""
    return gpa & (vcpu.virtual.reserved_gpa_bits | 0xFFF) == 0


def kvm_vcpu_is_legal_gpa(vcpu: Vcpu, gpa: int) -> bool:
    """Whether `gpa` is within the guest's physical-address width."""
    return gpa & vcpu.virtual.reserved_gpa_bits == 0


def kvm_vcpu_is_legal_aligned_gpa(vcpu: Vcpu, gpa: int, alignment: int) -> bool:
    """Whether `gpa` is a legal address and a multiple of `alignment`, a power of two."""
    return gpa & (vcpu.virtual.reserved_gpa_bits | (alignment - 1)) == 0


def kvm_vcpu_is_legal_cr3(vcpu: Vcpu, cr3: int) -> bool:
    """Whether CR3 has no bit above the physical-address width, LAM bits aside."""
    return cr3 & ~vcpu.virtual.cr3_ignored & vcpu.virtual.reserved_gpa_bits == 0


def is_canonical(address: int, bits: int) -> bool:
    """Whether bits 63 to `bits` - 1 of a 64-bit address are the same."""
    return (address + (1 << (bits - 1)) & ALL_ONES) >> bits == 0


def vcpu_virt_addr_bits(vcpu: Vcpu) -> int:
    """Return the width of linear addresses that CR4.LA57 selects at this moment."""
    return 57 if vcpu.cr4 & _LA57 else 48


def is_noncanonical_address(address: int, vcpu: Vcpu) -> bool:
    """Whether code could not use `address` in the vCPU's present mode."""
    return not is_canonical(address, vcpu_virt_addr_bits(vcpu))


def is_noncanonical_base_address(address: int, vcpu: Vcpu) -> bool:
    """Whether `address` cannot be the base of a segment or descriptor table, or be in an MSR."""
    if vcpu.behaviour.host_width_canonical:
        return not is_canonical(address, vcpu.virtual.host_virt_addr_bits)
    return is_noncanonical_address(address, vcpu)


is_noncanonical_msr_address = is_noncanonical_base_address


def kvm_pat_valid(value: int) -> bool:
    """Whether each byte is one of the memory types 0, 1, 4, 5, 6 and 7."""
    if value & 0xF8F8_F8F8_F8F8_F8F8:
        return False
    return value | (value & 0x0202_0202_0202_0202) << 1 == value


def kvm_valid_efer(vcpu: Vcpu, efer: int) -> bool:
    """Whether the vCPU's CPUID lets EFER have each bit that is 1."""
    return efer & vcpu.virtual.efer_reserved == 0


def kvm_valid_perf_global_ctrl(vcpu: Vcpu, value: int) -> bool:
    """Whether each bit that is 1 enables a counter of the virtual PMU."""
    return value & vcpu.virtual.perf_global_ctrl_reserved == 0


def vmx_is_valid_debugctl(vcpu: Vcpu, value: int) -> bool:
    """Whether KVM emulates each bit that is 1, or at least swallows it (BTF, LBR)."""
    return value & ~vcpu.virtual.debugctl_supported & _TOLERATED == 0


def nested_guest_cr0_valid(vcpu: Vcpu, value: int) -> bool:
    """Whether CR0 keeps the fixed bits, of which an unrestricted guest need not keep PE and PG."""
    msrs = vcpu.virtual.msrs
    fixed0 = msrs.cr0_fixed0
    if msrs.secondary_ctls_high & _UNRESTRICTED and nested_cpu_has2(vcpu.vmcs12, _UNRESTRICTED):
        fixed0 &= _WITHOUT_PAGING
    return fixed_bits_valid(value, fixed0, msrs.cr0_fixed1)


def nested_host_cr0_valid(vcpu: Vcpu, value: int) -> bool:
    """Whether CR0 keeps the bits that are fixed in VMX operation."""
    msrs = vcpu.virtual.msrs
    return fixed_bits_valid(value, msrs.cr0_fixed0, msrs.cr0_fixed1)


def nested_cr4_valid(vcpu: Vcpu, value: int) -> bool:
    """Whether CR4 keeps the fixed bits and, later, has no bit that the vCPU's CPUID reserves."""
    virtual = vcpu.virtual
    msrs = virtual.msrs
    if not fixed_bits_valid(value, msrs.cr4_fixed0, msrs.cr4_fixed1):
        return False
    return not vcpu.behaviour.cr4_by_cpuid or value & virtual.cr4_reserved == 0
