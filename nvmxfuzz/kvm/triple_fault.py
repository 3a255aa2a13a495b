# SPDX-License-Identifier: GPL-2.0-only
"""emulation_required: a guest that hardware cannot run, and what KVM_RUN makes of it.

vmx/vmx.c. L1 is emulated; L2 never is: it comes to a triple fault that L1 sees, unless its VM entry
is pending, which KVM takes for a bug of its own.
"""

from __future__ import annotations

from nvmxfuzz.arch.exit_reasons import ExitReason
from nvmxfuzz.kvm.nested_vmexit import L2Exit, nested_vmx_vmexit
from nvmxfuzz.kvm.vcpu_events import NotModelledError
from nvmxfuzz.kvm.vcpu_vmx import VcpuVmx

TRIPLE_FAULT = L2Exit(int(ExitReason.TRIPLE_FAULT))
BUG = "__vmx_handle_exit.nested_run_pending"


def vmx_vcpu_pre_run(vmx: VcpuVmx) -> bool:
    """Whether KVM_RUN goes on: no exception can be emulated into an invalid guest."""
    events = vmx.events
    invalid = vmx.emulation_required and vmx.vcpu.rmode is None
    return not (invalid and (events.exception_pending or events.exception.injected))


def handle_invalid_l2(vmx: VcpuVmx) -> None:
    """Deal with the VM exit that stands for the entry of L2 not made, or of L1 in its place."""
    if vmx.nested.nested_run_pending:
        handle_pending_run(vmx)
    else:
        nested_vmx_vmexit(vmx, TRIPLE_FAULT)
        if vmx.events.nmi_pending:
            # There is no KVM_REQ_EVENT for it.
            raise NotModelledError("an NMI of L1 that waits for another event")


def handle_pending_run(vmx: VcpuVmx) -> str:
    """A VM exit while a VM entry to L2 is pending: KVM declares the VM broken."""
    vmx.vcpu.warn(BUG)
    vmx.bugged = True
    return ""


def nested_vmx_triple_fault(vmx: VcpuVmx) -> None:
    """A triple fault of L2 is requested: L1 sees it as a VM exit."""
    vmx.events.triple_fault = False
    nested_vmx_vmexit(vmx, TRIPLE_FAULT)
