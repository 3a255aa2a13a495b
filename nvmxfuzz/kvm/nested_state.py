# SPDX-License-Identifier: GPL-2.0-only
"""KVM_GET_NESTED_STATE and KVM_SET_NESTED_STATE: VMX operation as userspace migrates it.

vmx_get_nested_state() and vmx_set_nested_state() of vmx/nested.c behind the ioctl of x86.c, on a
vCPU without the enlightened VMCS. A refusal undoes nothing of what was done before it.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Final

from nvmxfuzz.kvm.check_values import page_address_valid
from nvmxfuzz.kvm.entry_run import VM_BUGGED, EntryRun, Over
from nvmxfuzz.kvm.hardware import WillingHardware
from nvmxfuzz.kvm.nested_checks_controls import nested_vmx_check_controls
from nvmxfuzz.kvm.nested_checks_guest import nested_vmx_check_guest_state
from nvmxfuzz.kvm.nested_checks_host import nested_vmx_check_host_state
from nvmxfuzz.kvm.nested_enter import load_vmcs01, nested_vmx_enter_non_root_mode
from nvmxfuzz.kvm.nested_instructions import enter_vmx_operation, set_current_vmptr
from nvmxfuzz.kvm.nested_msrs import VMCS12_REVISION, VMCS12_SIZE
from nvmxfuzz.kvm.nested_vmexit import (
    has_shadow_vmcs12,
    sync_vmcs02_to_vmcs12,
    vmx_emulation_required,
    vmx_leave_nested,
)
from nvmxfuzz.kvm.vcpu_events import NotModelledError
from nvmxfuzz.kvm.vcpu_vmx import VcpuVmx, begin_entry, copy_vmcs02_to_vmcs12_rare, end_entry
from nvmxfuzz.kvm.virtual_cpu import ALL_ONES
from nvmxfuzz.kvm.vmcs12 import SHADOW_VMCS, VMCS12_STRUCT_SIZE, read_word, write_fields

GUEST_MODE: Final = 1
RUN_PENDING: Final = 2
EVMCS: Final = 4
MTF_PENDING: Final = 8
GIF_SET: Final = 0x100
SMM_GUEST_MODE: Final = 1
SMM_VMXON: Final = 2
PREEMPTION_TIMER_DEADLINE: Final = 1
HEADER_SIZE: Final = 128

_KNOWN_FLAGS = GUEST_MODE | RUN_PENDING | EVMCS | MTF_PENDING | GIF_SET
_FAILED_ENTRY = 2
"""NVMX_VMENTRY_VMEXIT: what nested_vmx_enter_non_root_mode() returns is what the ioctl returns."""


@dataclass(frozen=True, slots=True)
class NestedStateImage:
    """struct kvm_nested_state; `size` is what its header says, the VMCSs are what is there."""

    flags: int = 0
    format: int = 0
    size: int = HEADER_SIZE
    vmxon_pa: int = ALL_ONES
    vmcs12_pa: int = ALL_ONES
    smm_flags: int = 0
    vmx_flags: int = 0
    preemption_timer_deadline: int = 0
    vmcs12: bytes = b""
    shadow_vmcs12: bytes = b""


def vmx_get_nested_state(vmx: VcpuVmx) -> NestedStateImage:
    """Return the state; the cached vmcs12 of an active L2 is brought up to date by that."""
    nested = vmx.nested
    if not vmx.has_vmx or not (nested.vmxon or nested.smm_vmxon):
        return NestedStateImage()
    guest_mode = vmx.vcpu.guest_mode
    flags = vmx_flags = deadline = 0
    if guest_mode:
        flags = GUEST_MODE
        flags |= RUN_PENDING if nested.nested_run_pending else 0
        flags |= MTF_PENDING if nested.mtf_pending else 0
        if nested.has_preemption_timer_deadline and _has_preemption_timer(vmx):
            vmx_flags, deadline = PREEMPTION_TIMER_DEADLINE, nested.preemption_timer_deadline
    smm_flags = SMM_VMXON if nested.smm_vmxon else 0
    smm_flags |= SMM_GUEST_MODE if nested.smm_guest_mode else 0
    vmcs12 = shadow = b""
    if nested.current_vmptr != ALL_ONES:
        shadowing = guest_mode and has_shadow_vmcs12(vmx.vmcs12)
        if guest_mode:
            sync_vmcs02_to_vmcs12(vmx)
            nested.need_sync_vmcs02_to_vmcs12_rare = False
        else:
            copy_vmcs02_to_vmcs12_rare(vmx)
            # After an SMI in L2 the shadow VMCS is what it was when L1 entered L2: older.
            write_fields(nested.cached_vmcs12, nested.shadow_vmcs)
        vmcs12 = bytes(nested.cached_vmcs12)
        shadow = bytes(nested.cached_shadow_vmcs12) if shadowing else b""
    return NestedStateImage(
        flags=flags,
        size=HEADER_SIZE + len(vmcs12) + len(shadow),
        vmxon_pa=nested.vmxon_ptr,
        vmcs12_pa=nested.current_vmptr,
        smm_flags=smm_flags,
        vmx_flags=vmx_flags,
        preemption_timer_deadline=deadline,
        vmcs12=vmcs12,
        shadow_vmcs12=shadow,
    )


def _has_preemption_timer(vmx: VcpuVmx) -> bool:
    return vmx.vmcs12.pin_based_vm_exec_control >> 6 & 1 == 1


def kvm_set_nested_state(vmx: VcpuVmx, state: NestedStateImage) -> int:
    """Return what the ioctl returns: 0, -errno, or 2 where L2 could not be entered."""
    if state.size < HEADER_SIZE or state.flags & ~_KNOWN_FLAGS:
        return -errno.EINVAL
    if state.flags & RUN_PENDING and not state.flags & GUEST_MODE:
        return -errno.EINVAL
    try:
        return vmx_set_nested_state(vmx, state)
    except Over as over:
        # Only where checks are left out: none of what they let pass ends the VM.
        raise NotModelledError(f"KVM_SET_NESTED_STATE that ends the VM: {over}") from over


def vmx_set_nested_state(vmx: VcpuVmx, state: NestedStateImage) -> int:
    """Put the state into effect: VMX operation, the current VMCS, L2."""
    if _is_refused(vmx, state):
        return -errno.EINVAL
    vmx_leave_nested(vmx)
    if state.vmxon_pa == ALL_ONES:
        return 0
    vmx.nested.vmxon_ptr = state.vmxon_pa
    enter_vmx_operation(vmx)
    if state.size < HEADER_SIZE + VMCS12_STRUCT_SIZE:
        with_vmcs = state.flags & (GUEST_MODE | EVMCS) or state.vmcs12_pa != ALL_ONES
        return -errno.EINVAL if with_vmcs else 0
    if (
        state.vmcs12_pa == ALL_ONES
        or state.vmcs12_pa == state.vmxon_pa
        or not page_address_valid(vmx.vcpu, state.vmcs12_pa)
    ):
        return -errno.EINVAL
    set_current_vmptr(vmx, state.vmcs12_pa)
    nested = vmx.nested
    if state.smm_flags & SMM_VMXON:
        nested.smm_vmxon, nested.vmxon = True, False
        if state.smm_flags & SMM_GUEST_MODE:
            nested.smm_guest_mode = True
    nested.cached_vmcs12[:VMCS12_STRUCT_SIZE] = _copied(state.vmcs12)
    if read_word(nested.cached_vmcs12, 0) & ~SHADOW_VMCS != VMCS12_REVISION:
        return -errno.EINVAL
    if not state.flags & GUEST_MODE:
        return 0
    return _enter_l2(vmx, state)


def _copied(image: bytes) -> bytes:
    return image[:VMCS12_STRUCT_SIZE].ljust(VMCS12_STRUCT_SIZE, b"\0")


def _is_refused(vmx: VcpuVmx, state: NestedStateImage) -> bool:
    """Whether the header is refused, and nothing changes."""
    if state.format:
        return True
    if state.vmxon_pa == ALL_ONES:
        if state.smm_flags or state.vmcs12_pa != ALL_ONES or state.flags & ~EVMCS:
            return True
    elif not vmx.has_vmx or not page_address_valid(vmx.vcpu, state.vmxon_pa):
        return True
    if state.smm_flags & SMM_GUEST_MODE and state.flags & GUEST_MODE:
        return True
    if state.smm_flags & ~(SMM_GUEST_MODE | SMM_VMXON):
        return True
    if state.vmx_flags & ~PREEMPTION_TIMER_DEADLINE:
        return True
    odd = state.flags & (GUEST_MODE | RUN_PENDING) if vmx.in_smm else state.smm_flags
    if odd or state.smm_flags & (SMM_GUEST_MODE | SMM_VMXON) == SMM_GUEST_MODE:
        return True
    # No vCPU of this model has the enlightened VMCS.
    return state.flags & EVMCS != 0


def _enter_l2(vmx: VcpuVmx, state: NestedStateImage) -> int:
    """Check vmcs12 and make L2 active; where that fails, the entry is no longer pending."""
    nested = vmx.nested
    nested.nested_run_pending = state.flags & RUN_PENDING != 0
    nested.mtf_pending = state.flags & MTF_PENDING != 0
    result = -errno.EINVAL
    if _takes_shadow(vmx, state):
        nested.has_preemption_timer_deadline = state.vmx_flags & PREEMPTION_TIMER_DEADLINE != 0
        if nested.has_preemption_timer_deadline:
            nested.preemption_timer_deadline = state.preemption_timer_deadline
        vcpu = begin_entry(vmx, launch=False)
        failed = _failed_check(vmx)
        if failed:
            vcpu.fired.append(failed)
        else:
            nested.dirty_vmcs12 = vcpu.dirty_vmcs12 = True
            result = restore_l2(vmx)
    if result:
        nested.nested_run_pending = vmx.vcpu.nested_run_pending = False
    return result


def _takes_shadow(vmx: VcpuVmx, state: NestedStateImage) -> bool:
    if not has_shadow_vmcs12(vmx.vmcs12):
        return True
    if state.size < HEADER_SIZE + VMCS12_SIZE + VMCS12_STRUCT_SIZE:
        return False
    shadow = vmx.nested.cached_shadow_vmcs12
    shadow[:VMCS12_STRUCT_SIZE] = _copied(state.shadow_vmcs12)
    return read_word(shadow, 0) == VMCS12_REVISION | SHADOW_VMCS


def _failed_check(vmx: VcpuVmx) -> str:
    vcpu, vmcs12 = vmx.vcpu, vmx.vcpu.vmcs12
    failed = nested_vmx_check_controls(vcpu, vmcs12) or nested_vmx_check_host_state(vcpu, vmcs12)
    return failed or nested_vmx_check_guest_state(vcpu, vmcs12)[0]


def restore_l2(vmx: VcpuVmx) -> int:
    """Make L2 active again, after `begin_entry`, without L1's instruction: 0, or 2 if that fails.

    Its pages are looked up when it runs next.
    """
    vcpu = vmx.vcpu
    vcpu.nested_run_pending = vmx.nested.nested_run_pending
    load_vmcs01(vcpu)
    try:
        nested_vmx_enter_non_root_mode(EntryRun(vcpu, WillingHardware()), from_vmentry=False)
    except Over as over:
        # L1 is left with what was loaded of L2 so far.
        end_entry(vmx)
        if over.died == VM_BUGGED:
            raise
        return _FAILED_ENTRY
    end_entry(vmx)
    if _has_preemption_timer(vmx) and not vmx.nested.has_preemption_timer_deadline:
        raise NotModelledError("the time of the VMX-preemption timer")
    if vcpu.params.ept:
        # Those that are cached are of another VMCS; vmcs02 has its own.
        vcpu.pdptrs = None
    vmx.events.get_nested_state_pages = True
    vmx.emulation_required = vmx_emulation_required(vmx)
    return 0
