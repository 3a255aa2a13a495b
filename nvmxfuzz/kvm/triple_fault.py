# SPDX-License-Identifier: GPL-2.0-only
"""emulation_required: a guest that hardware cannot run, and what KVM_RUN makes of it.

vmx/vmx.c. L1 is emulated, which this model does not follow; L2 never is: it comes to a triple
fault that L1 sees, unless its VM entry is pending, which KVM takes for a bug of its own.
"""

from __future__ import annotations

from nvmxfuzz.arch.exit_reasons import ExitReason
from nvmxfuzz.kvm.nested_vmexit import L2Exit, nested_vmx_vmexit
from nvmxfuzz.kvm.vcpu_events import NotModelledError
from nvmxfuzz.kvm.vcpu_vmx import VcpuVmx

TRIPLE_FAULT = L2Exit(int(ExitReason.TRIPLE_FAULT))
BUG = "__vmx_handle_exit.nested_run_pending"


def vmx_vcpu_pre_run(vmx: VcpuVmx) -> bool:
    """Whether KVM_RUN goes on: no exception can be emulated into an invalid guest.

    A triple fault that is requested counts as an exception.
    """
    queued = vmx.events.exception
    waiting = queued.pending or queued.injected or vmx.events.triple_fault
    return not (vmx.emulation_required and waiting)


def handle_invalid_state(vmx: VcpuVmx) -> bool:
    """Deal with the VM exit that stands for the entry not made; False: the VM is broken by it."""
    if vmx.nested.nested_run_pending:
        handle_pending_run(vmx)
        return False
    if not vmx.vcpu.guest_mode:
        raise NotModelledError("L1 is emulated")
    nested_vmx_vmexit(vmx, TRIPLE_FAULT)
    return True


def handle_pending_run(vmx: VcpuVmx) -> str:
    """A VM exit while a VM entry to L2 is pending: KVM declares the VM broken."""
    vmx.vcpu.warn(BUG)
    vmx.bugged = True
    return ""


def nested_vmx_triple_fault(vmx: VcpuVmx) -> None:
    """A triple fault of L2 is requested: L1 sees it as a VM exit."""
    vmx.events.triple_fault = False
    nested_vmx_vmexit(vmx, TRIPLE_FAULT)
