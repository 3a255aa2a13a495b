# SPDX-License-Identifier: GPL-2.0-only
"""kvm_multiple_exception(): an exception is queued for the guest, or for L1 as a VM exit of L2.

x86.c, and nested_vmx_is_exception_vmexit() of vmx/nested.c.
"""

from __future__ import annotations

from dataclasses import replace

from nvmxfuzz.arch.events import Vector
from nvmxfuzz.kvm.vcpu_events import CONTRIBUTORY, QueuedException
from nvmxfuzz.kvm.vcpu_vmx import VcpuVmx

_ENABLED_BREAKPOINT = 1 << 12
_DR6_TRAPS = 0xF
_DR6_ACTIVE_LOW = 0xFFFF_0FF0
_DR6_FIXED_1 = 0xFFFE_07F0
_DR6_RTM = 1 << 16
_HARDWARE_ERROR_CODE = 0xFFFF


def kvm_multiple_exception(
    vmx: VcpuVmx, vector: int, error_code: int | None, payload: int | None = None
) -> None:
    """Queue an exception; together with one that is queued it may be #DF, or a triple fault."""
    events, queued = vmx.events, vmx.events.exception
    new = QueuedException(
        pending=True,
        vector=int(vector),
        has_error_code=error_code is not None,
        error_code=error_code or 0,
        has_payload=payload is not None,
        payload=payload or 0,
    )
    if vmx.vcpu.guest_mode and nested_vmx_is_exception_vmexit(vmx, vector, error_code or 0):
        events.exception_vmexit = new
        return
    if queued.pending or queued.injected:
        if queued.vector == Vector.DF:
            events.triple_fault = True
            return
        if _is_double_fault(queued.vector, vector):
            queued.pending = queued.injected = False
            kvm_multiple_exception(vmx, Vector.DF, 0)
            return
    events.exception = new
    if vmx.vcpu.behaviour.delivers_payload_at_once and not vmx.vcpu.guest_mode:
        kvm_deliver_exception_payload(vmx)


def _is_double_fault(first: int, second: int) -> bool:
    if first == Vector.PF:
        return second == Vector.PF or second in CONTRIBUTORY
    return first in CONTRIBUTORY and second in CONTRIBUTORY


def nested_vmx_is_exception_vmexit(vmx: VcpuVmx, vector: int, error_code: int) -> bool:
    """Whether L1 wants to know of an exception of L2."""
    vmcs12 = vmx.vmcs12
    wanted = vmcs12.exception_bitmap >> (vector & 31) & 1
    if vector != Vector.PF:
        return wanted == 1
    masked = error_code & _HARDWARE_ERROR_CODE & vmcs12.page_fault_error_code_mask
    return (masked != vmcs12.page_fault_error_code_match) != (wanted == 1)


def claim_exception_of_userspace(vmx: VcpuVmx) -> None:
    """Make an exception of KVM_SET_VCPU_EVENTS a VM exit, if L1 wants to know of it."""
    events, queued = vmx.events, vmx.events.exception
    if (
        events.exception_from_userspace
        and vmx.vcpu.guest_mode
        and nested_vmx_is_exception_vmexit(vmx, queued.vector, queued.error_code)
    ):
        events.exception_vmexit = replace(queued, pending=True, injected=False)
        queued.injected = queued.pending = False
    events.exception_from_userspace = False


def kvm_deliver_exception_payload(vmx: VcpuVmx) -> None:
    """Put what comes with the exception into CR2 or DR6."""
    queued = vmx.events.exception
    if not queued.has_payload:
        return
    if queued.vector == Vector.PF:
        vmx.cr2 = queued.payload
    elif queued.vector == Vector.DB:
        # What is active low in DR6 is 1 in the payload.
        fixed = vmx.vcpu.behaviour.keeps_fixed_dr6
        dr6 = vmx.dr6 & ~_DR6_TRAPS | (_DR6_RTM if fixed else _DR6_ACTIVE_LOW)
        dr6 &= ~(queued.payload & _DR6_ACTIVE_LOW)
        dr6 = (dr6 | queued.payload & ~_DR6_ACTIVE_LOW) & ~_ENABLED_BREAKPOINT
        vmx.dr6 = dr6 | _DR6_FIXED_1 if fixed else dr6
    queued.has_payload, queued.payload = False, 0
