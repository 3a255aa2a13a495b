# SPDX-License-Identifier: GPL-2.0-only
"""KVM_RUN: vcpu_run() and vcpu_enter_guest() of x86.c, as far as a signal lets them come.

The guest does what the exits say, one for each VM entry; then a signal ends it. Without any, KVM
comes as far as to the entry, and takes back what it was about to inject.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass

from nvmxfuzz.arch.exit_reasons import ExitReason
from nvmxfuzz.arch.registers import Cr0, Rflags
from nvmxfuzz.kvm.entry_behaviour import MissingRoot
from nvmxfuzz.kvm.entry_run import VM_BUGGED, Over
from nvmxfuzz.kvm.nested_pages import has_backed_root, nested_get_vmcs12_pages
from nvmxfuzz.kvm.nested_vmexit import L2Exit, nested_vmx_vmexit
from nvmxfuzz.kvm.nested_vmx_result import INTERNAL_ERROR, kvm_deliver_exception_payload
from nvmxfuzz.kvm.smm import enter_smm
from nvmxfuzz.kvm.triple_fault import (
    handle_invalid_state,
    handle_pending_run,
    nested_vmx_triple_fault,
    vmx_vcpu_pre_run,
)
from nvmxfuzz.kvm.vcpu_events import (
    FAULTS,
    NotModelledError,
    clear_exception_queue,
    interruption_info,
    vmx_complete_interrupts,
)
from nvmxfuzz.kvm.vcpu_vmx import MP_RUNNABLE, VcpuVmx
from nvmxfuzz.kvm.vmx_handle_exit import GuestExit, handle_exit
from nvmxfuzz.kvm.vmx_registers import is_paging, vmx_set_rflags

EMULATION_FAILURE = "internal-error 1"
INTERRUPTED = "intr"
SHUTDOWN = "shutdown"
_MOST_ENTRIES = 1000
_MTF = L2Exit(int(ExitReason.MONITOR_TRAP_FLAG))


@dataclass(slots=True)
class Ran:
    """What KVM_RUN came to: 0 or -errno, why it came back, and how the last exit ended."""

    errno: int = 0
    left: str = ""
    result: str = ""
    entries: int = 0
    last_rip: int = 0
    """Where the guest was at the last entry."""


def kvm_run(vmx: VcpuVmx, exits: Sequence[GuestExit] = ()) -> Ran:
    """KVM_RUN until the guest has done all that, KVM gives up, or there is nothing to enter."""
    ran = Ran()
    if vmx.bugged:
        return Ran(-errno.EIO)
    if vmx.mp_state != MP_RUNNABLE:
        raise NotModelledError("a vCPU that does not run")
    if not vmx_vcpu_pre_run(vmx):
        return Ran(left=EMULATION_FAILURE)
    if vmx.emulation_required and not vmx.vcpu.guest_mode:
        raise NotModelledError("L1 is emulated")
    for _ in range(_MOST_ENTRIES):
        guest = exits[ran.entries] if ran.entries < len(exits) else None
        left = ""
        try:
            left = vcpu_enter_guest(vmx, guest, ran)
        except Over as over:
            if over.died != VM_BUGGED:
                raise
            vmx.bugged = True
        if vmx.bugged:
            return Ran(-errno.EIO)
        if left:
            ran.left = left
            return ran
        if ran.entries >= len(exits):
            ran.left = INTERRUPTED
            return ran
        if vmx.mp_state != MP_RUNNABLE:
            raise NotModelledError("a vCPU that does not run on")
    raise NotModelledError("a vCPU that runs for ever")


def vcpu_enter_guest(vmx: VcpuVmx, guest: GuestExit | None, ran: Ran) -> str:
    """Enter the guest, and deal with the exit; return why KVM_RUN ends by it, or ""."""
    vcpu, events = vmx.vcpu, vmx.events
    if events.get_nested_state_pages:
        vcpu.vmcs12 = vmx.vmcs12
        if vcpu.guest_mode and not _get_pages(vmx):
            return EMULATION_FAILURE
        events.get_nested_state_pages = False
    if events.triple_fault:
        if vcpu.guest_mode:
            nested_vmx_triple_fault(vmx)
        else:
            events.triple_fault = False
            return SHUTDOWN
    _inject_events(vmx)
    _reload_mmu(vmx)
    if guest is None:
        _cancel_injection(vmx)
        return ""
    if vmx.emulation_required:
        handle_invalid_state(vmx)
        return ""
    ran.last_rip = vcpu.rip
    vcpu.vmcs["guest_rip"], vcpu.vmcs["guest_rsp"] = vcpu.rip, vcpu.rsp
    ran.entries += 1
    if vmx.msrs is not None:
        vmx.msrs.has_run = True
    return _leave_guest(vmx, guest, ran)


def _get_pages(vmx: VcpuVmx) -> bool:
    if vmx.pdptrs_from_userspace:
        raise NotModelledError("PDPTEs from userspace")
    return nested_get_vmcs12_pages(vmx.vcpu)


def _leave_guest(vmx: VcpuVmx, guest: GuestExit, ran: Ran) -> str:
    vcpu, events = vmx.vcpu, vmx.events
    for name, value in guest.registers.items():
        vmx.gprs[name] = value
    if vcpu.guest_mode:
        vmx.nested.nested_run_pending = vcpu.nested_run_pending = False
    if guest.vmfail is None and not guest.reason >> 31:
        if vcpu.guest_mode:
            vcpu.vmcs02_launched = True
        vcpu.vmcs["vm_entry_intr_info_field"] = 0
        vcpu.vmcs["vm_exit_instruction_len"] = guest.length
        vcpu.vmcs["vmx_instruction_info"] = guest.information
        events.nmi_injected = False
        clear_exception_queue(events)
        if "guest_rip" in guest.fields:
            vcpu.rip = guest.fields["guest_rip"]
            vmx_set_rflags(vcpu, guest.fields["guest_rflags"])
    if vmx.nested.nested_run_pending:
        return handle_pending_run(vmx)
    ran.result = handle_exit(vmx, guest)
    return EMULATION_FAILURE if ran.result == INTERNAL_ERROR else ""


def _inject_events(vmx: VcpuVmx) -> None:
    """kvm_check_and_inject_events(), for exceptions, MTF and SMIs."""
    vcpu, events = vmx.vcpu, vmx.events
    if events.nmi_pending or events.nmi_injected:
        raise NotModelledError("an NMI")
    queued = events.exception
    if vcpu.guest_mode and (queued.pending or vmx.nested.mtf_pending):
        if queued.pending or vmx.nested.nested_run_pending:
            raise NotModelledError("an exception that is pending in L2")
        nested_vmx_vmexit(vmx, _MTF)
    if queued.injected:
        _inject_exception(vmx)
    if queued.pending:
        if FAULTS >> queued.vector & 1:
            vmx_set_rflags(vcpu, vcpu.rflags | Rflags.RF)
        _inject_exception(vmx)
        queued.pending, queued.injected = False, True
    if not events.smi_pending or vmx.in_smm:
        return
    if not queued.injected and not vmx.nested.nested_run_pending:
        events.smi_pending = False
        enter_smm(vmx)


def _inject_exception(vmx: VcpuVmx) -> None:
    queued = vmx.events.exception
    vmcs = vmx.vcpu.vmcs
    queued.has_error_code &= vmx.vcpu.cr0 & Cr0.PE != 0
    kvm_deliver_exception_payload(vmx)
    if queued.has_error_code:
        # Hardware takes no more bits of it.
        vmcs["vm_entry_exception_error_code"] = queued.error_code & 0xFFFF
    vmcs["vm_entry_intr_info_field"] = interruption_info(queued)


def _cancel_injection(vmx: VcpuVmx) -> None:
    """vmx_cancel_injection(): what VM entry was to inject is in the queue again."""
    vmcs = vmx.vcpu.vmcs
    info, code = vmcs["vm_entry_intr_info_field"], vmcs["vm_entry_exception_error_code"]
    vmx_complete_interrupts(vmx.events, info, code)
    vmcs["vm_entry_intr_info_field"] = 0


def _reload_mmu(vmx: VcpuVmx) -> None:
    vcpu = vmx.vcpu
    if vcpu.params.ept and (vcpu.params.unrestricted_guest or is_paging(vcpu)):
        vcpu.vmcs["guest_cr3"] = vcpu.cr3
    if vcpu.guest_mode and vcpu.behaviour.missing_root is not MissingRoot.DUMMY:
        vcpu.vmcs12 = vmx.vmcs12
        if not has_backed_root(vcpu):
            raise NotModelledError("an L2 without a root of page tables")
    if not vcpu.guest_mode and not vcpu.params.ept and not vcpu.memory.is_backed(vcpu.cr3):
        raise NotModelledError("an L1 without a root of page tables")
