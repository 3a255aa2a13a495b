# SPDX-License-Identifier: GPL-2.0-only
"""KVM_RUN: vcpu_run(), vcpu_block() and vcpu_enter_guest() of x86.c, as far as a signal lets them.

The guest does what the exits say, one for each VM entry; then a signal ends it. Without any, KVM
comes as far as to the entry, and takes back what it was about to inject. A vCPU that sleeps gets
the signal at once.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass

from nvmxfuzz.kvm.entry_behaviour import MissingRoot
from nvmxfuzz.kvm.entry_run import VM_BUGGED, Over
from nvmxfuzz.kvm.exceptions import claim_exception_of_userspace
from nvmxfuzz.kvm.inject_events import (
    kvm_check_and_inject_events,
    process_nmi,
    process_smi,
    vmx_cancel_injection,
)
from nvmxfuzz.kvm.invalid_guest import handle_invalid_guest_state
from nvmxfuzz.kvm.nested_events import kvm_check_nested_events
from nvmxfuzz.kvm.nested_instructions import keep_shadow_vmcs
from nvmxfuzz.kvm.nested_pages import has_backed_root, nested_get_vmcs12_pages
from nvmxfuzz.kvm.nested_vmx_result import INTERNAL_ERROR
from nvmxfuzz.kvm.triple_fault import (
    handle_invalid_l2,
    handle_pending_run,
    nested_vmx_triple_fault,
    vmx_vcpu_pre_run,
)
from nvmxfuzz.kvm.vcpu_events import NotModelledError, clear_event_queues, is_nmi
from nvmxfuzz.kvm.vcpu_has_events import kvm_vcpu_has_events
from nvmxfuzz.kvm.vcpu_reset import kvm_apic_accept_events
from nvmxfuzz.kvm.vcpu_vmx import (
    MP_HALTED,
    MP_INIT_RECEIVED,
    MP_RUNNABLE,
    MP_UNINITIALIZED,
    VcpuVmx,
)
from nvmxfuzz.kvm.virtual_cpu import ALL_ONES
from nvmxfuzz.kvm.vmcs02_fields import PDPTR_FIELDS
from nvmxfuzz.kvm.vmx_handle_exit import GuestExit, handle_exit
from nvmxfuzz.kvm.vmx_registers import is_pae_paging, is_paging, vmx_set_rflags

EMULATION_FAILURE = "internal-error 1"
INTERRUPTED = "intr"
SHUTDOWN = "shutdown"
_MOST_ENTRIES = 1000
_BLOCKING_BY_NMI = 8


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
    if vmx.mp_state == MP_UNINITIALIZED:
        kvm_apic_accept_events(vmx)
        return Ran(left=INTERRUPTED)
    signalled = vmx.mp_state != MP_RUNNABLE
    claim_exception_of_userspace(vmx)
    if not vmx_vcpu_pre_run(vmx):
        return Ran(left=EMULATION_FAILURE)
    for _ in range(_MOST_ENTRIES):
        if vmx.mp_state == MP_RUNNABLE:
            guest = exits[ran.entries] if ran.entries < len(exits) and not signalled else None
            if guest is not None and ran.entries and _is_quiet(vmx):
                ran.left = _enter_again(vmx, guest, ran)
            else:
                ran.left = _enter(vmx, guest, ran)
        else:
            signalled |= vcpu_block(vmx)
        if vmx.bugged:
            return Ran(-errno.EIO)
        if ran.left:
            return ran
        if signalled or ran.entries >= len(exits):
            ran.left = INTERRUPTED
            return ran
    raise NotModelledError("a vCPU that runs for ever")


def _enter(vmx: VcpuVmx, guest: GuestExit | None, ran: Ran) -> str:
    """vcpu_enter_guest(), in which the VM may break."""
    try:
        return vcpu_enter_guest(vmx, guest, ran)
    except Over as over:
        if over.died != VM_BUGGED:
            raise
        vmx.bugged = True
        return ""


def vcpu_block(vmx: VcpuVmx) -> bool:
    """Sleep until an event comes; whether it was a signal that ended the sleep."""
    if not kvm_vcpu_has_events(vmx):
        return True
    if vmx.vcpu.guest_mode:
        kvm_check_nested_events(vmx)
    kvm_apic_accept_events(vmx)
    if vmx.mp_state == MP_HALTED:
        vmx.mp_state = MP_RUNNABLE
    elif vmx.mp_state not in (MP_RUNNABLE, MP_INIT_RECEIVED):
        vmx.vcpu.warn("vcpu_block.mp_state")
    return False


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
        if events.triple_fault:
            events.triple_fault = False
            return SHUTDOWN
    process_smi(vmx)
    if events.nmi_request:
        events.nmi_request = False
        process_nmi(vmx)
    kvm_apic_accept_events(vmx)
    if vmx.mp_state == MP_INIT_RECEIVED:
        return ""
    events.emulated_delivery = False
    kvm_check_and_inject_events(vmx)
    _reload_mmu(vmx)
    nested = vmx.nested
    if vmx.shadowing and nested.current_vmptr != ALL_ONES and not nested.shadow_vmcs:
        # nested_sync_vmcs12_to_shadow()
        keep_shadow_vmcs(vmx)
    if guest is None or events.emulated_delivery:
        vmx_cancel_injection(vmx)
        return ""
    if vmx.msrs is not None:
        vmx.msrs.has_run = True
    if vmx.emulation_required:
        if vmx.nested.nested_run_pending or vcpu.guest_mode:
            handle_invalid_l2(vmx)
            return ""
        result = handle_invalid_guest_state(vmx)
        return EMULATION_FAILURE if result == INTERNAL_ERROR else ""
    return _enter_again(vmx, guest, ran)


def _is_quiet(vmx: VcpuVmx) -> bool:
    """Whether L1 can be entered again with nothing to do before."""
    events = vmx.events
    return not (
        vmx.vcpu.guest_mode
        or vmx.emulation_required
        or events.exception_pending
        or events.need_reinjection
        or events.nmi_queued
        or events.nmi_pending
        or events.smi_pending
        or events.smi_request
        or events.init_or_sipi
    )


def _enter_again(vmx: VcpuVmx, guest: GuestExit, ran: Ran) -> str:
    vcpu = vmx.vcpu
    ran.last_rip = vcpu.rip
    vcpu.vmcs["guest_rip"], vcpu.vmcs["guest_rsp"] = vcpu.rip, vcpu.rsp
    ran.entries += 1
    return _leave_guest(vmx, guest, ran)


def _get_pages(vmx: VcpuVmx) -> bool:
    if vmx.pdptrs_from_userspace:
        raise NotModelledError("PDPTEs from userspace")
    found = nested_get_vmcs12_pages(vmx.vcpu)
    if "l1.pdptes.valid" in vmx.vcpu.fired and not vmx.vcpu.behaviour.keeps_asking_for_pages:
        raise NotModelledError("a KVM_RUN that ends, and gives no reason")
    return found


def _leave_guest(vmx: VcpuVmx, guest: GuestExit, ran: Ran) -> str:
    vcpu = vmx.vcpu
    for name, value in guest.registers.items():
        vmx.gprs[name] = value
    if vcpu.guest_mode:
        vmx.nested.nested_run_pending = vcpu.nested_run_pending = False
    if guest.vmfail is None and not guest.reason >> 31:
        _take_exit(vmx, guest)
    if vmx.nested.nested_run_pending:
        return handle_pending_run(vmx)
    ran.result = handle_exit(vmx, guest)
    return EMULATION_FAILURE if ran.result == INTERNAL_ERROR else ""


def _take_exit(vmx: VcpuVmx, guest: GuestExit) -> None:
    """What the processor has left of a guest that was entered, with the event for it delivered."""
    vcpu, vmcs = vmx.vcpu, vmx.vcpu.vmcs
    if vcpu.guest_mode:
        vcpu.vmcs02_launched = True
    if is_nmi(vmcs["vm_entry_intr_info_field"]):
        vmcs["guest_interruptibility_info"] |= _BLOCKING_BY_NMI
    vmcs["vm_entry_intr_info_field"] = 0
    vmcs["vm_exit_instruction_len"] = guest.length
    vmcs["vmx_instruction_info"] = guest.information
    clear_event_queues(vmx.events)
    if "guest_rip" in guest.fields:
        vcpu.rip = guest.fields["guest_rip"]
        vmx_set_rflags(vcpu, guest.fields["guest_rflags"])


def _reload_mmu(vmx: VcpuVmx) -> None:
    vcpu = vmx.vcpu
    if vcpu.params.ept and (vcpu.params.unrestricted_guest or is_paging(vcpu)):
        vcpu.vmcs["guest_cr3"] = vcpu.cr3
    elif vcpu.params.ept:
        vcpu.vmcs["guest_cr3"] = vcpu.kvm.places.identity_map
    if vcpu.params.ept and vcpu.pdptrs is not None and is_pae_paging(vcpu):
        # ept_load_pdptrs()
        vcpu.vmcs.update(zip(PDPTR_FIELDS, vcpu.pdptrs, strict=True))
    if vcpu.guest_mode and vcpu.behaviour.missing_root is not MissingRoot.DUMMY:
        vcpu.vmcs12 = vmx.vmcs12
        if not has_backed_root(vcpu):
            raise NotModelledError("an L2 without a root of page tables")
    if not vcpu.guest_mode and not vcpu.params.ept and not vcpu.memory.is_backed(vcpu.cr3):
        raise NotModelledError("an L1 without a root of page tables")
