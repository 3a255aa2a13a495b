# SPDX-License-Identifier: GPL-2.0-only
"""vmx_check_nested_events(): which event of L2 is a VM exit to L1, before anything is injected.

vmx/nested.c. Interrupts of the local APIC are not modelled: no session raises any.
"""

from __future__ import annotations

from typing import Final

from nvmxfuzz.arch.controls import Pin
from nvmxfuzz.arch.events import Interruptibility, InterruptionInfo, Vector
from nvmxfuzz.arch.exit_reasons import ExitReason
from nvmxfuzz.arch.registers import Cr0
from nvmxfuzz.kvm.nested_enter import vmx_has_nested_events
from nvmxfuzz.kvm.nested_vmexit import L2Exit, nested_vmx_vmexit
from nvmxfuzz.kvm.triple_fault import nested_vmx_triple_fault
from nvmxfuzz.kvm.vcpu_events import NMI_INFO, QueuedException, exception_type
from nvmxfuzz.kvm.vcpu_vmx import MP_INIT_RECEIVED, VcpuVmx
from nvmxfuzz.kvm.vmcs12 import write_fields

_TYPE: Final = InterruptionInfo.TYPE.position
_DR6_BT: Final = 1 << 15
_DR6_BD: Final = 1 << 13
_DR6_ACTIVE_LOW: Final = 0xFFFF_0FF0
_UNBLOCKS_NMI: Final = 1 << 12
_NMI: Final = int(Interruptibility.BLOCKING_BY_NMI)
_BLOCKS_NMI: Final = Interruptibility.BLOCKING_BY_MOV_SS | Interruptibility.BLOCKING_BY_STI | _NMI
_MTF: Final = L2Exit(int(ExitReason.MONITOR_TRAP_FLAG))
_INIT: Final = L2Exit(int(ExitReason.INIT_SIGNAL))
_TIMER: Final = L2Exit(int(ExitReason.PREEMPTION_TIMER))
_NMI_EXIT: Final = L2Exit(int(ExitReason.EXCEPTION_NMI), 0, NMI_INFO)


def kvm_check_nested_events(vmx: VcpuVmx) -> bool:
    """Leave L2 if an event says so; True (-EBUSY): not before something else has happened."""
    if vmx.events.triple_fault:
        nested_vmx_triple_fault(vmx)
        return False
    return vmx_check_nested_events(vmx)


def vmx_check_nested_events(vmx: VcpuVmx) -> bool:
    """The events in their order of priority; each ends it, a VM exit or not."""
    events, nested = vmx.events, vmx.nested
    block_exceptions = nested.nested_run_pending
    block_events = block_exceptions or events.need_reinjection
    if events.init_pending or events.sipi_pending:
        if block_events:
            return True
        if _exits_for_init_or_sipi(vmx):
            return False
    for_l1, for_l2 = events.exception_vmexit, events.exception
    if for_l1.pending and not _is_low_priority_db_trap(for_l1):
        return block_exceptions or _inject_exception_vmexit(vmx)
    if for_l2.pending and not _is_low_priority_db_trap(for_l2):
        return block_exceptions
    if nested.mtf_pending:
        if not block_events:
            _update_pending_dbg(vmx)
            nested_vmx_vmexit(vmx, _MTF)
        return block_events
    if for_l1.pending:
        return block_exceptions or _inject_exception_vmexit(vmx)
    if for_l2.pending:
        return block_exceptions
    if preemption_timer_pending(vmx):
        if not block_events:
            nested_vmx_vmexit(vmx, _TIMER)
        return block_events
    if events.smi_pending and not vmx.in_smm:
        return block_events
    if events.nmi_pending and not vmx_nmi_blocked(vmx):
        if not block_events and nested_exit_on_nmi(vmx):
            nested_vmx_vmexit(vmx, _NMI_EXIT)
            events.nmi_pending = 0
            vmx.vcpu.vmcs["guest_interruptibility_info"] |= _NMI
        return block_events
    return False


def _exits_for_init_or_sipi(vmx: VcpuVmx) -> bool:
    """Take an INIT or SIPI; False: it is a SIPI that nobody has waited for."""
    events = vmx.events
    if events.init_pending:
        _update_pending_dbg(vmx)
        events.init_pending = False
        if vmx.mp_state != MP_INIT_RECEIVED:
            nested_vmx_vmexit(vmx, _INIT)
        vmx.nested.mtf_pending = False
        return True
    events.sipi_pending = False
    if vmx.mp_state != MP_INIT_RECEIVED:
        return False
    nested_vmx_vmexit(vmx, L2Exit(int(ExitReason.SIPI_SIGNAL), events.sipi_vector & 0xFF))
    return True


def _pending_dbg_trap(queued: QueuedException) -> int:
    if not queued.pending or queued.vector != Vector.DB:
        return 0
    return queued.payload & ~_DR6_BD


def _is_low_priority_db_trap(queued: QueuedException) -> bool:
    return _pending_dbg_trap(queued) & ~_DR6_BT != 0


def _update_pending_dbg(vmx: VcpuVmx) -> None:
    pending = _pending_dbg_trap(vmx.events.exception)
    if pending:
        vmx.vcpu.vmcs["guest_pending_dbg_exceptions"] = pending


def _inject_exception_vmexit(vmx: VcpuVmx) -> bool:
    """nested_vmx_inject_exception_vmexit(); False, as nothing stands in the way."""
    queued, vcpu = vmx.events.exception_vmexit, vmx.vcpu
    info = InterruptionInfo.VALID | exception_type(queued.vector) << _TYPE | queued.vector
    if queued.has_payload:
        qualification = queued.payload
    elif queued.vector == Vector.PF:
        qualification = vmx.cr2
    elif queued.vector == Vector.DB:
        qualification = vmx.dr6 & ~_DR6_BT ^ _DR6_ACTIVE_LOW
    else:
        qualification = 0
    cached = vmx.nested.cached_vmcs12
    if queued.has_error_code and vcpu.cr0 & Cr0.PE:
        write_fields(cached, {"vm_exit_intr_error_code": queued.error_code & 0xFFFF})
        info |= InterruptionInfo.DELIVER_ERROR_CODE
    vectoring = vmx.vmcs12.idt_vectoring_info_field & InterruptionInfo.VALID
    if not vectoring and vcpu.vmcs["guest_interruptibility_info"] & _NMI:
        info |= _UNBLOCKS_NMI
    nested_vmx_vmexit(vmx, L2Exit(int(ExitReason.EXCEPTION_NMI), qualification, info))
    return False


def preemption_timer_pending(vmx: VcpuVmx) -> bool:
    """nested_vmx_preemption_timer_pending()."""
    on = vmx.vmcs12.pin_based_vm_exec_control & Pin.ACTIVATE_VMX_PREEMPTION_TIMER
    return on != 0 and vmx.nested.preemption_timer_expired


def nested_exit_on_nmi(vmx: VcpuVmx) -> bool:
    """Whether L1 gets the NMIs of L2."""
    return vmx.vmcs12.pin_based_vm_exec_control & Pin.NMI_EXITING != 0


def vmx_nmi_blocked(vmx: VcpuVmx) -> bool:
    """Whether the guest takes no NMI."""
    if vmx.vcpu.guest_mode and nested_exit_on_nmi(vmx):
        return False
    return vmx.vcpu.vmcs["guest_interruptibility_info"] & _BLOCKS_NMI != 0


def has_nested_events(vmx: VcpuVmx) -> bool:
    """vmx_has_nested_events(), for a vCPU that sleeps in L2."""
    if preemption_timer_pending(vmx) or vmx.nested.mtf_pending:
        return True
    if not vmx.vcpu.behaviour.virtual_interrupts_wake:
        return False
    vmx.vcpu.vmcs12 = vmx.vmcs12
    return vmx_has_nested_events(vmx.vcpu, vmx.vmcs12)
