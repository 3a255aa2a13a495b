# SPDX-License-Identifier: GPL-2.0-only
"""kvm_set_cr0(), kvm_set_cr3(), kvm_set_cr4() and segments: x86.c and vmx/vmx.c.

What a MOV to a control register does, which RSM does too. Each returns False where the value is
refused, which is #GP for a guest; nothing has changed then but PDPTEs.
"""

from __future__ import annotations

from nvmxfuzz.arch.registers import Cr0, Cr4, Efer, Rflags
from nvmxfuzz.kvm.check_values import (
    kvm_vcpu_is_legal_cr3,
    nested_cr4_valid,
    nested_guest_cr0_valid,
    nested_host_cr0_valid,
)
from nvmxfuzz.kvm.nested_load import load_pdptrs
from nvmxfuzz.kvm.nested_vmexit import vmx_emulation_required
from nvmxfuzz.kvm.segments import (
    Segment,
    is_unrestricted_guest,
    read_segment,
    write_segment,
)
from nvmxfuzz.kvm.vcpu_vmx import VcpuVmx
from nvmxfuzz.kvm.vmx_registers import (
    X86_CR4_PDPTR_BITS,
    is_pae_paging,
    is_paging,
    vmx_set_cr0,
    vmx_set_cr4,
    vmx_set_rflags,
)

_CR0_KNOWN = (
    Cr0.PE | Cr0.MP | Cr0.EM | Cr0.TS | Cr0.ET | Cr0.NE | Cr0.WP | Cr0.AM | Cr0.NW | Cr0.CD | Cr0.PG
)
_CR0_PDPTR_BITS = Cr0.CD | Cr0.NW | Cr0.PG
_PCID = 0xFFF


def vmx_get_segment(vmx: VcpuVmx, name: str) -> Segment:
    """Return a segment of the guest; a usable one is always present."""
    return read_segment(vmx.vcpu, name)


def emulator_get_segment(vmx: VcpuVmx, name: str) -> Segment:
    """Return what of a segment fits in a descriptor, which is what the emulator goes by.

    Userspace may have set a flag to any byte: a granularity of 2 shifts the limit, and is lost.
    """
    segment = vmx_get_segment(vmx, name)
    if segment.unusable:
        return Segment(selector=segment.selector, unusable=1)
    g, limit = segment.g & 1, (segment.limit >> 12 if segment.g else segment.limit) & 0xF_FFFF
    return Segment(
        base=segment.base,
        limit=limit << 12 | 0xFFF if g else limit,
        selector=segment.selector,
        type=segment.type & 0xF,
        present=segment.present & 1,
        dpl=segment.dpl & 3,
        db=segment.db & 1,
        s=segment.s & 1,
        l=segment.l & 1,
        g=g,
        avl=segment.avl & 1,
    )


def vmx_set_segment(vmx: VcpuVmx, name: str, segment: Segment) -> None:
    """Set a segment of the guest, and see whether hardware can run it with that."""
    write_segment(vmx.vcpu, name, segment)
    vmx.emulation_required = vmx_emulation_required(vmx)


def kvm_set_rflags(vmx: VcpuVmx, rflags: int) -> None:
    """Set RFLAGS; virtual-8086 mode has other segments than protected mode."""
    old = vmx.vcpu.rflags
    vmx_set_rflags(vmx.vcpu, rflags)
    if (old ^ rflags) & Rflags.VM and not is_unrestricted_guest(vmx.vcpu):
        vmx.emulation_required = vmx_emulation_required(vmx)


def kvm_is_valid_cr0(vmx: VcpuVmx, cr0: int) -> bool:
    """Whether CR0 can have the value, fixed bits of VMX operation among the reasons."""
    vcpu = vmx.vcpu
    if cr0 >> 32 or cr0 & (Cr0.NW | Cr0.CD) == Cr0.NW or cr0 & (Cr0.PG | Cr0.PE) == Cr0.PG:
        return False
    if vcpu.guest_mode:
        vcpu.vmcs12 = vmx.vmcs12
        return nested_guest_cr0_valid(vcpu, cr0)
    return not vmx.nested.vmxon or nested_host_cr0_valid(vcpu, cr0)


def kvm_is_valid_cr4(vmx: VcpuVmx, cr4: int) -> bool:
    """Whether CR4 can have the value; there is no VMXE in SMM."""
    vcpu = vmx.vcpu
    if cr4 & vcpu.virtual.cr4_reserved or (cr4 & Cr4.VMXE and vmx.in_smm):
        return False
    return not vmx.nested.vmxon or nested_cr4_valid(vcpu, cr4)


def set_cr0(vmx: VcpuVmx, cr0: int) -> None:
    """vmx_set_cr0(), and whether hardware can run the guest with that."""
    vmx_set_cr0(vmx.vcpu, cr0)
    vmx.emulation_required = vmx_emulation_required(vmx)


def kvm_set_cr0(vmx: VcpuVmx, cr0: int) -> bool:
    """MOV to CR0."""
    vcpu = vmx.vcpu
    old = vcpu.cr0
    if not kvm_is_valid_cr0(vmx, cr0):
        return False
    cr0 = (cr0 | Cr0.ET) & _CR0_KNOWN
    code_64 = vcpu.vmcs["guest_cs_ar_bytes"] >> 13 & 1
    enters_long_mode = vcpu.efer & Efer.LME and not is_paging(vcpu) and cr0 & Cr0.PG
    if enters_long_mode and (not vcpu.cr4 & Cr4.PAE or code_64):
        return False
    if (
        not vcpu.efer & Efer.LME
        and cr0 & Cr0.PG
        and vcpu.cr4 & Cr4.PAE
        and (cr0 ^ old) & _CR0_PDPTR_BITS
        and not load_pdptrs(vcpu, vcpu.cr3)
    ):
        return False
    if not cr0 & Cr0.PG and ((vcpu.efer & Efer.LMA and code_64) or vcpu.cr4 & Cr4.PCIDE):
        return False
    set_cr0(vmx, cr0)
    return True


def kvm_set_cr4(vmx: VcpuVmx, cr4: int) -> bool:
    """MOV to CR4."""
    vcpu = vmx.vcpu
    old = vcpu.cr4
    if not kvm_is_valid_cr4(vmx, cr4):
        return False
    if vcpu.efer & Efer.LMA:
        if not cr4 & Cr4.PAE or (cr4 ^ old) & Cr4.LA57:
            return False
    elif (
        is_paging(vcpu)
        and cr4 & Cr4.PAE
        and (cr4 ^ old) & X86_CR4_PDPTR_BITS
        and not load_pdptrs(vcpu, vcpu.cr3)
    ):
        return False
    if cr4 & ~old & Cr4.PCIDE and (vcpu.cr3 & _PCID or not vcpu.efer & Efer.LMA):
        return False
    vmx_set_cr4(vcpu, cr4)
    return True


def kvm_set_cr3(vmx: VcpuVmx, cr3: int) -> bool:
    """MOV to CR3."""
    vcpu = vmx.vcpu
    if vcpu.cr4 & Cr4.PCIDE:
        cr3 &= ~(1 << 63)
    if cr3 == vcpu.cr3 and not is_pae_paging(vcpu):
        return True
    if not kvm_vcpu_is_legal_cr3(vcpu, cr3):
        return False
    if is_pae_paging(vcpu) and not load_pdptrs(vcpu, cr3):
        return False
    vcpu.cr3 = cr3
    return True
