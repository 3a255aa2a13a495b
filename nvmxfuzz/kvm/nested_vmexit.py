# SPDX-License-Identifier: GPL-2.0-only
"""nested_vmx_vmexit() and prepare_vmcs12() on a vCPU that lives on: L2 is left for L1.

vmx/nested.c. What concerns the registers is in nested_exit.py, for failed entries too.
"""

from __future__ import annotations

from dataclasses import dataclass

from nvmxfuzz.arch.controls import Secondary
from nvmxfuzz.arch.events import EventType, InterruptionInfo, Vector
from nvmxfuzz.arch.exit_reasons import ExitReason
from nvmxfuzz.kvm import nested_exit
from nvmxfuzz.kvm.check_values import nested_cpu_has2
from nvmxfuzz.kvm.nested_instructions import free_nested
from nvmxfuzz.kvm.nested_store import nested_vmx_store_msr
from nvmxfuzz.kvm.vcpu_events import (
    NMI_INFO,
    clear_event_queues,
    interrupt_info,
    interruption_info,
    is_soft,
)
from nvmxfuzz.kvm.vcpu_vmx import (
    MP_HALTED,
    MP_INIT_RECEIVED,
    MP_RUNNABLE,
    VcpuVmx,
    end_entry,
)
from nvmxfuzz.kvm.virtual_cpu import ALL_ONES
from nvmxfuzz.kvm.vmcs12 import LAUNCH_STATE, write_fields, write_word
from nvmxfuzz.kvm.vmx_registers import vmx_guest_state_valid
from nvmxfuzz.machine.vmcs import Vmcs

FAILED_VMENTRY = nested_exit.FAILED_VMENTRY
_EVENT = InterruptionInfo.VALID | InterruptionInfo.TYPE | 0xFF
_DOUBLE_FAULT = (
    InterruptionInfo.VALID
    | EventType.HARDWARE_EXCEPTION << InterruptionInfo.TYPE.position
    | Vector.DF
)


@dataclass(frozen=True, slots=True)
class L2Exit:
    """A VM exit of L2 as L1 is to see it."""

    reason: int
    qualification: int = 0
    interruption: int = 0


def vmx_emulation_required(vmx: VcpuVmx) -> bool:
    """Whether KVM cannot run the guest with the segments that it has, and emulates for that."""
    return vmx.vcpu.params.emulate_invalid_guest_state and not vmx_guest_state_valid(vmx.vcpu)


def sync_vmcs02_to_vmcs12(vmx: VcpuVmx) -> None:
    """Write L2's state into the cached vmcs12, while L2 is active."""
    vcpu = vmx.vcpu
    vcpu.halted = vmx.mp_state == MP_HALTED
    vcpu.waits_for_sipi = vmx.mp_state == MP_INIT_RECEIVED
    vcpu.vmcs12 = vmx.vmcs12
    vcpu.vmcs12_writes.clear()
    nested_exit.sync_vmcs02_to_vmcs12(vcpu, vcpu.vmcs12)
    write_fields(vmx.nested.cached_vmcs12, vcpu.vmcs12_writes)
    vcpu.vmcs12_writes.clear()


def nested_vmx_vmexit(vmx: VcpuVmx, why: L2Exit | None) -> None:
    """Leave L2 for L1; without a reason, for KVM's own ends."""
    vcpu, events, nested = vmx.vcpu, vmx.events, vmx.nested
    nested.mtf_pending = False
    if nested.nested_run_pending:
        vcpu.warn("nested_vmx_vmexit.nested_run_pending")
    events.get_nested_state_pages = False
    vcpu.halted = vmx.mp_state == MP_HALTED
    vcpu.waits_for_sipi = vmx.mp_state == MP_INIT_RECEIVED
    vcpu.vmcs12 = vmcs12 = vmx.vmcs12
    vcpu.vmcs12_writes.clear()
    if why is not None:
        nested.shadow_vmcs = {}
    if why is None:
        nested_exit.nested_vmx_vmexit(vcpu, None, 0, failed=False)
    else:
        information = _exit_information(vmx, vmcs12, why)
        _store_msrs(vmx, vmcs12, why)
        nested_exit.nested_vmx_vmexit(vcpu, why.reason, why.qualification, failed=False)
        if not why.reason & FAILED_VMENTRY:
            write_fields(nested.cached_vmcs12, information)
            write_word(nested.cached_vmcs12, LAUNCH_STATE, 1)
    end_entry(vmx)
    nested.need_sync_vmcs02_to_vmcs12_rare = True
    _flush_shadow_vmcs12(vmx, vmcs12)
    clear_event_queues(events)
    events.triple_fault |= bool(vcpu.aborted)
    vmx.mp_state = MP_RUNNABLE
    vmx.emulation_required = vmx_emulation_required(vmx)


def _store_msrs(vmx: VcpuVmx, vmcs12: Vmcs, why: L2Exit) -> None:
    count = 0 if why.reason & FAILED_VMENTRY else vmcs12.vm_exit_msr_store_count
    if count and not nested_vmx_store_msr(vmx, vmcs12.vm_exit_msr_store_addr, count):
        nested_exit.nested_vmx_abort(vmx.vcpu, "guest-msrs")


def _exit_information(vmx: VcpuVmx, vmcs12: Vmcs, why: L2Exit) -> dict[str, int]:
    """Return the fields that only a VM exit of an L2 that has run writes: prepare_vmcs12()."""
    fields = {
        "vm_entry_intr_info_field": vmcs12.vm_entry_intr_info_field & ~InterruptionInfo.VALID,
        "vm_exit_intr_info": why.interruption,
        # Of an exit that KVM makes up it is what the last one has left.
        "vm_exit_instruction_len": vmx.vcpu.vmcs["vm_exit_instruction_len"],
        "vmx_instruction_info": vmx.vcpu.vmcs["vmx_instruction_info"],
        "idt_vectoring_info_field": 0,
    }
    return fields | _vmcs12_save_pending_event(vmx, why)


def _vmcs12_save_pending_event(vmx: VcpuVmx, why: L2Exit) -> dict[str, int]:
    """An event that was being delivered when the exit came is told as IDT vectoring."""
    events, queued = vmx.events, vmx.events.exception
    if _is_never_vectoring(why):
        return {}
    if queued.injected:
        fields = {"idt_vectoring_info_field": interruption_info(queued)}
        if is_soft(queued.vector):
            fields["vm_exit_instruction_len"] = events.instruction_length
        if queued.has_error_code:
            fields["idt_vectoring_error_code"] = queued.error_code
        return fields
    if events.nmi_injected:
        return {"idt_vectoring_info_field": NMI_INFO}
    if not events.interrupt.injected:
        return {}
    fields = {"idt_vectoring_info_field": interrupt_info(events.interrupt)}
    if events.interrupt.soft:
        fields["vm_entry_instruction_len"] = events.instruction_length
    return fields


def _is_never_vectoring(why: L2Exit) -> bool:
    """Whether the exit is one that the SDM has never come in the delivery of an event."""
    if why.reason & 0xFFFF == ExitReason.TRIPLE_FAULT:
        return True
    double_fault = why.interruption & _EVENT == _DOUBLE_FAULT
    return why.reason & 0xFFFF == ExitReason.EXCEPTION_NMI and double_fault


def _flush_shadow_vmcs12(vmx: VcpuVmx, vmcs12: Vmcs) -> None:
    if has_shadow_vmcs12(vmcs12):
        image = bytes(vmx.nested.cached_shadow_vmcs12)
        vmx.vcpu.memory.write(vmcs12.vmcs_link_pointer, image)


def has_shadow_vmcs12(vmcs12: Vmcs) -> bool:
    """Whether L2 may read and write a VMCS of L1's choice."""
    shadowing = nested_cpu_has2(vmcs12, Secondary.VMCS_SHADOWING)
    return shadowing and vmcs12.vmcs_link_pointer != ALL_ONES


def vmx_leave_nested(vmx: VcpuVmx) -> None:
    """End VMX operation at userspace's word, out of L2 too."""
    if vmx.vcpu.guest_mode:
        vmx.nested.nested_run_pending = vmx.vcpu.nested_run_pending = False
        nested_vmx_vmexit(vmx, None)
    free_nested(vmx)
