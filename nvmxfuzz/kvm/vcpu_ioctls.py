# SPDX-License-Identifier: GPL-2.0-only
"""The ioctls by which userspace reads and writes a vCPU: registers and MSRs.

x86.c, in 6.12 regs.c too. Each `kvm_set_` returns 0 or -errno; registers of L2 are written as those
of L1 are, and nobody asks here whether L2 can run with them.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field, fields

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.controls import Secondary
from nvmxfuzz.arch.registers import Cr0, Cr4, Efer, Rflags
from nvmxfuzz.kvm.check_values import kvm_valid_efer, kvm_vcpu_is_legal_cr3, nested_cpu_has2
from nvmxfuzz.kvm.msr_vcpu import do_set_msr, is_vmx_msr, vmx_get_msr
from nvmxfuzz.kvm.msrs import kvm_set_msr
from nvmxfuzz.kvm.nested_load import load_pdptrs
from nvmxfuzz.kvm.nested_vmexit import vmx_leave_nested
from nvmxfuzz.kvm.segments import Segment
from nvmxfuzz.kvm.set_registers import (
    kvm_is_valid_cr0,
    kvm_is_valid_cr4,
    kvm_set_rflags,
    set_cr0,
    vmx_get_segment,
    vmx_set_segment,
)
from nvmxfuzz.kvm.vcpu_cpuid import capability_msrs_changed
from nvmxfuzz.kvm.vcpu_events import NotModelledError, QueuedInterrupt
from nvmxfuzz.kvm.vcpu_vmx import (
    GPRS,
    MP_RUNNABLE,
    VcpuVmx,
)
from nvmxfuzz.kvm.vmcs02_fields import PDPTR_FIELDS
from nvmxfuzz.kvm.vmcs12 import write_fields
from nvmxfuzz.kvm.vmx_registers import (
    is_pae_paging,
    vmx_guest_debugctl_read,
    vmx_set_cr4,
    vmx_set_efer,
)

REFUSED = "refused"
"""KVM_SET_MSRS has not taken the MSR, which is no error."""

SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")
SEGMENT_PARTS = tuple(each.name for each in fields(Segment))
_APIC_RESERVED = 0x2FF
_X2APIC = 1 << 10
_APIC_MODE = _X2APIC | 1 << 11
_BSP = 1 << 8
_RESET_RIP = 0xFFF0
_SYSENTER = {
    msr.MSR_IA32_SYSENTER_CS: "guest_sysenter_cs",
    msr.MSR_IA32_SYSENTER_ESP: "guest_sysenter_esp",
    msr.MSR_IA32_SYSENTER_EIP: "guest_sysenter_eip",
}


@dataclass(slots=True)
class Sregs:
    """struct kvm_sregs2; `pdptrs` is None where they are not told, or not given."""

    segments: dict[str, Segment] = field(default_factory=dict)
    cr0: int = 0
    cr2: int = 0
    cr3: int = 0
    cr4: int = 0
    cr8: int = 0
    efer: int = 0
    apic_base: int = 0
    gdt_base: int = 0
    gdt_limit: int = 0
    idt_base: int = 0
    idt_limit: int = 0
    pdptrs: tuple[int, ...] | None = None
    interrupt: int | None = None
    """The interrupt that is injected, which only struct kvm_sregs has."""


# ---------------------------------------------------------------------- registers


def kvm_get_regs(vmx: VcpuVmx) -> dict[str, int]:
    """KVM_GET_REGS, by name."""
    vcpu = vmx.vcpu
    return {**vmx.gprs, "rsp": vcpu.rsp, "rip": vcpu.rip, "rflags": vcpu.rflags}


def kvm_set_regs(vmx: VcpuVmx, regs: dict[str, int]) -> int:
    """KVM_SET_REGS; what was pending is not any more."""
    for name in GPRS:
        vmx.gprs[name] = regs[name]
    vmx.vcpu.rsp, vmx.vcpu.rip = regs["rsp"], regs["rip"]
    kvm_set_rflags(vmx, regs["rflags"] | Rflags.FIXED1)
    vmx.events.exception.pending = False
    return 0


def kvm_get_sregs2(vmx: VcpuVmx) -> Sregs:
    """KVM_GET_SREGS2."""
    vcpu, vmcs = vmx.vcpu, vmx.vcpu.vmcs
    return Sregs(
        segments={name: vmx_get_segment(vmx, _vmcs_name(name)) for name in SEGMENTS},
        cr0=vcpu.cr0,
        cr2=vmx.cr2,
        cr3=vcpu.cr3,
        cr4=vcpu.cr4,
        cr8=vmx.cr8,
        efer=vcpu.efer,
        apic_base=vcpu.apic_base,
        gdt_base=vmcs["guest_gdtr_base"],
        gdt_limit=vmcs["guest_gdtr_limit"] & 0xFFFF,
        idt_base=vmcs["guest_idtr_base"],
        idt_limit=vmcs["guest_idtr_limit"] & 0xFFFF,
        pdptrs=_pdptrs(vmx) if is_pae_paging(vcpu) else None,
    )


def kvm_get_sregs(vmx: VcpuVmx) -> Sregs:
    """KVM_GET_SREGS: the same without PDPTEs, with the interrupt that is injected."""
    sregs, interrupt = kvm_get_sregs2(vmx), vmx.events.interrupt
    sregs.pdptrs = None
    if interrupt.injected and not interrupt.soft:
        sregs.interrupt = interrupt.vector
    return sregs


def _vmcs_name(name: str) -> str:
    return "ldtr" if name == "ldt" else name


def _pdptrs(vmx: VcpuVmx) -> tuple[int, ...]:
    vcpu = vmx.vcpu
    nested_ept = vcpu.guest_mode and nested_cpu_has2(vmx.vmcs12, Secondary.ENABLE_EPT)
    if vcpu.pdptrs is None or (nested_ept and not vmx.pdptrs_dirty):
        return tuple(vcpu.vmcs[name] for name in PDPTR_FIELDS)
    return vcpu.pdptrs


def kvm_is_valid_sregs(vmx: VcpuVmx, sregs: Sregs) -> bool:
    """Whether the registers go together, and with VMX operation."""
    vcpu = vmx.vcpu
    if sregs.efer & Efer.LME and sregs.cr0 & Cr0.PG:
        if not sregs.cr4 & Cr4.PAE or not sregs.efer & Efer.LMA:
            return False
        if not kvm_vcpu_is_legal_cr3(vcpu, sregs.cr3):
            return False
    elif sregs.efer & Efer.LMA or sregs.segments["cs"].l:
        return False
    if not kvm_is_valid_cr4(vmx, sregs.cr4) or not kvm_is_valid_cr0(vmx, sregs.cr0):
        return False
    return not vcpu.behaviour.checks_efer_in_sregs or kvm_valid_efer(vcpu, sregs.efer)


def kvm_set_sregs(vmx: VcpuVmx, sregs: Sregs) -> int:
    """KVM_SET_SREGS, or KVM_SET_SREGS2 if `pdptrs` is given."""
    vcpu, vmcs = vmx.vcpu, vmx.vcpu.vmcs
    if not kvm_is_valid_sregs(vmx, sregs) or not _is_valid_apic_base(vmx, sregs.apic_base):
        return -errno.EINVAL
    if sregs.pdptrs is not None and not _takes_pdptrs(sregs):
        return -errno.EINVAL
    vcpu.apic_base = sregs.apic_base
    vmcs["guest_idtr_limit"], vmcs["guest_idtr_base"] = sregs.idt_limit, sregs.idt_base
    vmcs["guest_gdtr_limit"], vmcs["guest_gdtr_base"] = sregs.gdt_limit, sregs.gdt_base
    vmx.cr2 = sregs.cr2
    vcpu.cr3 = sregs.cr3
    vmx_set_efer(vcpu, sregs.efer)
    set_cr0(vmx, sregs.cr0)
    vmx_set_cr4(vcpu, sregs.cr4)
    if sregs.pdptrs is None and is_pae_paging(vcpu):
        load_pdptrs(vcpu, vcpu.cr3)
    for name in SEGMENTS:
        vmx_set_segment(vmx, _vmcs_name(name), sregs.segments[name])
    if not sregs.cr8 & ~0xF:
        vmx.cr8 = sregs.cr8
    if sregs.interrupt is not None:
        vmx.events.interrupt = QueuedInterrupt(injected=True, vector=sregs.interrupt)
    if _is_reset_by_userspace(vmx):
        vmx.mp_state = MP_RUNNABLE
    if sregs.pdptrs is not None:
        vcpu.pdptrs = sregs.pdptrs
        vmx.pdptrs_from_userspace = vmx.pdptrs_dirty = True
    return 0


def _is_reset_by_userspace(vmx: VcpuVmx) -> bool:
    """Whether the first vCPU is as after reset, which some userspace takes for running."""
    vcpu, vmcs = vmx.vcpu, vmx.vcpu.vmcs
    if not vcpu.apic_base & _BSP or vcpu.rip != _RESET_RIP or vcpu.cr0 & Cr0.PE:
        return False
    return vmcs["guest_cs_selector"] == 0xF000 and vmcs["guest_cs_base"] == 0xFFFF_0000


def _takes_pdptrs(sregs: Sregs) -> bool:
    pae = sregs.cr0 & Cr0.PG and sregs.cr4 & Cr4.PAE and not sregs.efer & Efer.LMA
    return bool(pae)


def _is_valid_apic_base(vmx: VcpuVmx, value: int) -> bool:
    virtual = vmx.vcpu.virtual
    reserved = virtual.reserved_gpa_bits | _APIC_RESERVED
    if "x2apic" not in virtual.features:
        reserved |= _X2APIC
    return not value & reserved and value & _APIC_MODE != _X2APIC


# ---------------------------------------------------------------------- MSRs


def kvm_get_msr(vmx: VcpuVmx, index: int) -> int | None:
    """KVM_GET_MSRS of one MSR that a session looks at; None if it cannot be read."""
    vcpu = vmx.vcpu
    if index in _SYSENTER:
        return vcpu.vmcs[_SYSENTER[index]]
    if index == msr.MSR_EFER:
        return vcpu.efer
    if index == msr.MSR_IA32_CR_PAT:
        return vcpu.pat
    if index == msr.MSR_IA32_DEBUGCTLMSR:
        return vmx_guest_debugctl_read(vcpu)
    if index == msr.MSR_IA32_SMBASE:
        return vmx.smbase
    if vmx.msrs is None:
        raise NotModelledError(f"MSR {index:#x}")
    return vmx_get_msr(vmx.msrs, index)


def kvm_set_one_msr(vmx: VcpuVmx, index: int, value: int) -> str:
    """KVM_SET_MSRS of one: "" or "refused"."""
    vcpu = vmx.vcpu
    if index == msr.MSR_IA32_TSC:
        # Whatever follows from it is a matter of the clock.
        return ""
    if index == msr.MSR_IA32_SMBASE:
        vmx.smbase = value
        return ""
    if index == msr.MSR_EFER:
        if value & vcpu.kvm.virtual.efer_reserved:
            return REFUSED
        vmx_set_efer(vcpu, value & ~Efer.LMA | vcpu.efer & Efer.LMA)
        return ""
    if is_vmx_msr(index) or index == msr.MSR_IA32_FEAT_CTL:
        return _set_capability(vmx, index, value)
    if vcpu.guest_mode:
        vcpu.vmcs12 = vmx.vmcs12
    taken = kvm_set_msr(vcpu, index, value)
    if vcpu.guest_mode:
        write_fields(vmx.nested.cached_vmcs12, vcpu.vmcs12_writes)
        vcpu.vmcs12_writes.clear()
    return "" if taken else REFUSED


def _set_capability(vmx: VcpuVmx, index: int, value: int) -> str:
    if vmx.msrs is None:
        raise NotModelledError("capability MSRs")
    before = vmx.msrs.msrs.copy()
    vmx.msrs.vmxon, vmx.msrs.smm_vmxon = vmx.nested.vmxon, vmx.nested.smm_vmxon
    if not do_set_msr(vmx.msrs, index, value):
        return REFUSED
    if index == msr.MSR_IA32_FEAT_CTL and not value:
        vmx_leave_nested(vmx)
    if vmx.msrs.msrs != before:
        capability_msrs_changed(vmx)
    return ""
