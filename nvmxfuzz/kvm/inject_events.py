# SPDX-License-Identifier: GPL-2.0-only
"""kvm_check_and_inject_events(): what the next VM entry brings the guest.

x86.c and vmx/vmx.c. KVM comes here when KVM_REQ_EVENT is set; that request is not modelled, since
whatever asks for it has happened in the same step, or KVM_GET_VCPU_EVENTS has behind it.
"""

from __future__ import annotations

from typing import Final

from nvmxfuzz.arch.controls import Primary
from nvmxfuzz.arch.events import Interruptibility, Vector
from nvmxfuzz.arch.registers import Cr0, Rflags
from nvmxfuzz.kvm.exceptions import kvm_deliver_exception_payload
from nvmxfuzz.kvm.nested_events import (
    kvm_check_nested_events,
    nested_exit_on_nmi,
    vmx_nmi_blocked,
)
from nvmxfuzz.kvm.realmode_interrupt import kvm_inject_realmode_interrupt
from nvmxfuzz.kvm.smm import enter_smm
from nvmxfuzz.kvm.vcpu_events import (
    FAULTS,
    INTERRUPT_SHADOW,
    NMI_INFO,
    interrupt_info,
    interruption_info,
    is_soft,
    vmx_complete_interrupts,
)
from nvmxfuzz.kvm.vcpu_vmx import VcpuVmx
from nvmxfuzz.kvm.vmx_registers import kvm_set_dr7, vmx_set_rflags

_GENERAL_DETECT: Final = 1 << 13
_SINGLE_STEP: Final = 1 << 14


def kvm_check_and_inject_events(vmx: VcpuVmx) -> None:
    """Events of L2 that are L1's come first, then what is injected again, then what is new."""
    events = vmx.events
    queued = events.exception
    busy = vmx.vcpu.guest_mode and kvm_check_nested_events(vmx)
    _inject_again(vmx)
    if queued.injected and queued.pending:
        vmx.vcpu.warn("kvm_check_and_inject_events.exception")
    if busy:
        return
    if events.exception_vmexit.pending:
        vmx.vcpu.warn("kvm_check_and_inject_events.exception_vmexit")
    can_inject = not events.need_reinjection
    if queued.pending:
        _inject_new_exception(vmx)
        can_inject = False
    if events.smi_pending:
        if not can_inject or vmx.nested.nested_run_pending:
            return
        if not vmx.in_smm:
            events.smi_pending = False
            enter_smm(vmx)
            can_inject = False
    if events.nmi_pending:
        _inject_new_nmi(vmx, can_inject)


def _inject_again(vmx: VcpuVmx) -> None:
    events = vmx.events
    if events.exception.injected:
        vmx_inject_exception(vmx)
    elif events.exception_pending:
        return
    elif events.nmi_injected:
        vmx_inject_nmi(vmx)
    elif events.interrupt.injected:
        vmx_inject_irq(vmx)


def _inject_new_exception(vmx: VcpuVmx) -> None:
    vcpu, queued = vmx.vcpu, vmx.events.exception
    if FAULTS >> queued.vector & 1:
        vmx_set_rflags(vcpu, vcpu.rflags | Rflags.RF)
    if queued.vector == Vector.DB:
        kvm_deliver_exception_payload(vmx)
        if vcpu.dr7 & _GENERAL_DETECT:
            kvm_set_dr7(vcpu, vcpu.dr7 & ~_GENERAL_DETECT)
    vmx_inject_exception(vmx)
    queued.pending, queued.injected = False, True


def _inject_new_nmi(vmx: VcpuVmx, can_inject: bool) -> None:
    events = vmx.events
    if not can_inject or vmx.nested.nested_run_pending:
        return
    if vmx.vcpu.guest_mode and nested_exit_on_nmi(vmx):
        return
    if not vmx_nmi_blocked(vmx):
        events.nmi_pending -= 1
        events.nmi_injected = True
        vmx_inject_nmi(vmx)
    if events.nmi_pending:
        vmx_enable_nmi_window(vmx)


def vmx_enable_nmi_window(vmx: VcpuVmx) -> None:
    """Have the processor tell when the guest takes an NMI."""
    vmcs = vmx.vcpu.vmcs
    by_sti = vmcs["guest_interruptibility_info"] & Interruptibility.BLOCKING_BY_STI
    window = Primary.INTERRUPT_WINDOW_EXITING if by_sti else Primary.NMI_WINDOW_EXITING
    vmcs["cpu_based_vm_exec_control"] |= window


def vmx_inject_exception(vmx: VcpuVmx) -> None:
    """Inject an exception; real-address mode knows no error code."""
    vcpu, events = vmx.vcpu, vmx.events
    queued, vmcs = events.exception, vmx.vcpu.vmcs
    queued.has_error_code &= vcpu.cr0 & Cr0.PE != 0
    shadow = vmcs["guest_interruptibility_info"] & INTERRUPT_SHADOW
    if queued.vector == Vector.DB and vcpu.rflags & Rflags.TF and shadow:
        vmcs["guest_pending_dbg_exceptions"] |= _SINGLE_STEP
    kvm_deliver_exception_payload(vmx)
    if queued.has_error_code:
        # Hardware takes no more bits of it.
        vmcs["vm_entry_exception_error_code"] = queued.error_code & 0xFFFF
    if vcpu.rmode is not None:
        skipped = events.instruction_length if is_soft(queued.vector) else 0
        kvm_inject_realmode_interrupt(vmx, queued.vector, skipped)
        return
    if vmx.emulation_required:
        vcpu.warn("vmx_inject_exception.emulation_required")
    if is_soft(queued.vector):
        vmcs["vm_entry_instruction_len"] = events.instruction_length
    vmcs["vm_entry_intr_info_field"] = interruption_info(queued)


def vmx_inject_nmi(vmx: VcpuVmx) -> None:
    """Inject an NMI."""
    if vmx.vcpu.rmode is not None:
        kvm_inject_realmode_interrupt(vmx, Vector.NMI, 0)
        return
    vmx.vcpu.vmcs["vm_entry_intr_info_field"] = NMI_INFO


def vmx_inject_irq(vmx: VcpuVmx) -> None:
    """Inject an interrupt, which only userspace or an entry that was not made can have queued."""
    events, vmcs = vmx.events, vmx.vcpu.vmcs
    interrupt = events.interrupt
    if vmx.vcpu.rmode is not None:
        skipped = events.instruction_length if interrupt.soft else 0
        kvm_inject_realmode_interrupt(vmx, interrupt.vector, skipped)
        return
    if interrupt.soft:
        vmcs["vm_entry_instruction_len"] = events.instruction_length
    vmcs["vm_entry_intr_info_field"] = interrupt_info(interrupt)


def vmx_cancel_injection(vmx: VcpuVmx) -> None:
    """What VM entry was to inject is in the queues again."""
    vmx_complete_interrupts(vmx.events, vmx.vcpu.vmcs)
    vmx.vcpu.vmcs["vm_entry_intr_info_field"] = 0


def process_smi_and_nmi(vmx: VcpuVmx) -> None:
    """What has arrived is pending: for userspace that reads it."""
    process_smi(vmx)
    process_nmi(vmx)


def process_smi(vmx: VcpuVmx) -> None:
    """An SMI that has arrived is pending."""
    vmx.events.smi_pending |= vmx.events.smi_request
    vmx.events.smi_request = False


def process_nmi(vmx: VcpuVmx) -> None:
    """NMIs that have arrived are pending, up to a limit, which may take some that were."""
    events = vmx.events
    masked = vmx.vcpu.vmcs["guest_interruptibility_info"] & Interruptibility.BLOCKING_BY_NMI
    limit = 1 if masked or events.nmi_injected else 2
    events.nmi_pending = min(events.nmi_pending + events.nmi_queued, limit)
    events.nmi_queued = 0
