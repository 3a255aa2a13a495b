# SPDX-License-Identifier: GPL-2.0-only
"""kvm_vcpu_has_events() and HLT, of x86.c: what a vCPU does not sleep through, or wakes up for."""

from __future__ import annotations

from nvmxfuzz.kvm.nested_events import has_nested_events, vmx_nmi_blocked
from nvmxfuzz.kvm.vcpu_reset import init_sipi_allowed
from nvmxfuzz.kvm.vcpu_vmx import MP_HALTED, VcpuVmx


def kvm_vcpu_has_events(vmx: VcpuVmx) -> bool:
    """Whether there is something to wake up for."""
    events = vmx.events
    if events.init_or_sipi and init_sipi_allowed(vmx):
        return True
    if events.exception_pending or events.nmi_request or events.smi_request:
        return True
    blocked = vmx.nested.nested_run_pending
    # -EBUSY is no reason to go on sleeping.
    if events.nmi_pending and (blocked or not vmx_nmi_blocked(vmx)):
        return True
    if events.smi_pending and (blocked or not vmx.in_smm):
        return True
    return vmx.vcpu.guest_mode and has_nested_events(vmx)


def kvm_emulate_halt_noskip(vmx: VcpuVmx) -> None:
    """HLT, with the local APIC in the kernel."""
    if not vmx.vcpu.behaviour.hlt_asks_for_events or not kvm_vcpu_has_events(vmx):
        vmx.mp_state = MP_HALTED
