# SPDX-License-Identifier: GPL-2.0-only
"""INIT and SIPI: lapic.c, kvm_vcpu_reset() of x86.c, vmx_vcpu_reset().

An INIT waits while the vCPU is in SMM or in VMX root operation, where a SIPI is lost; in L2 both
are VM exits.
"""

from __future__ import annotations

from typing import Final

from nvmxfuzz.arch.registers import Cr0, Rflags
from nvmxfuzz.kvm.nested_events import kvm_check_nested_events
from nvmxfuzz.kvm.nested_vmexit import vmx_leave_nested
from nvmxfuzz.kvm.set_registers import kvm_set_rflags, set_cr0, vmx_get_segment, vmx_set_segment
from nvmxfuzz.kvm.vcpu_events import NotModelledError, clear_event_queues
from nvmxfuzz.kvm.vcpu_vmx import GPRS, MP_INIT_RECEIVED, MP_RUNNABLE, VcpuVmx
from nvmxfuzz.kvm.vmx_registers import kvm_set_dr7, vmx_set_cr4, vmx_set_efer

_BSP: Final = 1 << 8
_RESET_RIP: Final = 0xFFF0
_DR6: Final = 0xFFFF_0FF0
_CODE: Final = 0x9B
_DATA: Final = 0x93
_TSS: Final = 0x8B
_LDT: Final = 0x82


def init_sipi_allowed(vmx: VcpuVmx) -> bool:
    """kvm_apic_init_sipi_allowed()."""
    return not vmx.in_smm and (not vmx.nested.vmxon or vmx.vcpu.guest_mode)


def kvm_apic_accept_events(vmx: VcpuVmx) -> None:
    """Take an INIT and a SIPI that have arrived, if this is the time."""
    events = vmx.events
    if not events.init_or_sipi:
        return
    if vmx.vcpu.guest_mode and kvm_check_nested_events(vmx):
        return
    if not init_sipi_allowed(vmx):
        if vmx.mp_state == MP_INIT_RECEIVED:
            vmx.vcpu.warn("kvm_apic_accept_events.mp_state")
        events.sipi_pending = False
        return
    if events.init_pending:
        events.init_pending = False
        kvm_vcpu_reset(vmx)
        vmx.mp_state = MP_RUNNABLE if vmx.vcpu.apic_base & _BSP else MP_INIT_RECEIVED
    if events.sipi_pending:
        events.sipi_pending = False
        if vmx.mp_state == MP_INIT_RECEIVED:
            deliver_sipi_vector(vmx, events.sipi_vector & 0xFF)
            vmx.mp_state = MP_RUNNABLE


def deliver_sipi_vector(vmx: VcpuVmx, vector: int) -> None:
    """kvm_vcpu_deliver_sipi_vector(): the vCPU begins at the page that the vector says."""
    vcpu = vmx.vcpu
    code = vmx_get_segment(vmx, "cs")
    code.selector, code.base = vector << 8, vector << 12
    vmx_set_segment(vmx, "cs", code)
    vcpu.rip = 0


def kvm_vcpu_reset(vmx: VcpuVmx) -> None:
    """An INIT: registers as after reset, but for MSRs, CR0.CD and CR0.NW."""
    vcpu, events = vmx.vcpu, vmx.events
    old_cr0 = vcpu.cr0
    stale = vcpu.params.unrestricted_guest and not old_cr0 & Cr0.PG and vcpu.vmcs["guest_cr3"]
    if stale:
        # CR3 is 0 for KVM then, but no one tells the VMCS, from which it comes back.
        raise NotModelledError("CR3 that an INIT has left in the VMCS")
    if vcpu.guest_mode:
        vmx_leave_nested(vmx)
    vmx.in_smm = vmx.smm_inside_nmi = events.smi_pending = False
    events.nmi_queued = events.nmi_pending = 0
    clear_event_queues(events)
    vmx.dr6, vmx.cr2, vmx.cr8 = _DR6, 0, 0
    kvm_set_dr7(vcpu, 0)
    vmx.gprs = dict.fromkeys(GPRS, 0)
    vcpu.rsp = 0
    vmx.gprs["rdx"] = _signature(vmx)
    _reset_vmcs(vmx)
    kvm_set_rflags(vmx, int(Rflags.FIXED1))
    vcpu.rip, vcpu.cr3 = _RESET_RIP, 0
    set_cr0(vmx, Cr0.ET | old_cr0 & (Cr0.NW | Cr0.CD))
    vmx_set_cr4(vcpu, 0)
    vmx_set_efer(vcpu, 0)


def _reset_vmcs(vmx: VcpuVmx) -> None:
    """vmx_vcpu_reset(): the segments, tables and events of vmcs01."""
    vcpu = vmx.vcpu
    vcpu.rmode = None
    vmcs = vcpu.vmcs
    for name in ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldtr"):
        vmcs[f"guest_{name}_selector"] = vmcs[f"guest_{name}_base"] = 0
        vmcs[f"guest_{name}_limit"] = 0xFFFF
        vmcs[f"guest_{name}_ar_bytes"] = _DATA
    vmcs["guest_cs_ar_bytes"], vmcs["guest_tr_ar_bytes"] = _CODE, _TSS
    vmcs["guest_ldtr_ar_bytes"] = _LDT
    vmcs["guest_cs_selector"], vmcs["guest_cs_base"] = 0xF000, 0xFFFF_0000
    for table in ("gdtr", "idtr"):
        vmcs[f"guest_{table}_base"], vmcs[f"guest_{table}_limit"] = 0, 0xFFFF
    for name in (
        "guest_activity_state",
        "guest_interruptibility_info",
        "guest_pending_dbg_exceptions",
        "vm_entry_intr_info_field",
    ):
        vmcs[name] = 0


def _signature(vmx: VcpuVmx) -> int:
    """Return family, model and stepping as CPUID has them, which RDX gets."""
    hardware = vmx.vcpu.kvm.hardware
    family = min(hardware.family, 15)
    extended = hardware.family - family << 20
    model = (hardware.model & 0xF) << 4 | hardware.model >> 4 << 16
    return extended | family << 8 | model | hardware.stepping
