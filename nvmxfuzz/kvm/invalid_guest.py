# SPDX-License-Identifier: GPL-2.0-only
"""handle_invalid_guest_state(): KVM emulates an L1 that hardware cannot run.

vmx/vmx.c. Of the emulator the model knows RSM, with which every handler of an SMI begins here.
"""

from __future__ import annotations

from nvmxfuzz.arch.controls import Primary
from nvmxfuzz.arch.events import Interruptibility
from nvmxfuzz.arch.registers import Rflags
from nvmxfuzz.kvm.nested_vmx_result import INTERNAL_ERROR
from nvmxfuzz.kvm.triple_fault import vmx_vcpu_pre_run
from nvmxfuzz.kvm.vcpu_events import NotModelledError
from nvmxfuzz.kvm.vcpu_vmx import VcpuVmx
from nvmxfuzz.kvm.vmx_handle_exit import RSM, fetch_code, handle_ud

_SHADOW = Interruptibility.BLOCKING_BY_STI | Interruptibility.BLOCKING_BY_MOV_SS


def handle_invalid_guest_state(vmx: VcpuVmx) -> str:
    """Emulate an instruction of L1, behind which events come; INTERNAL_ERROR where that fails."""
    vcpu, vmcs = vmx.vcpu, vmx.vcpu.vmcs
    blocked = not vcpu.rflags & Rflags.IF or vmcs["guest_interruptibility_info"] & _SHADOW
    if vmcs["cpu_based_vm_exec_control"] & Primary.INTERRUPT_WINDOW_EXITING and not blocked:
        vmcs["cpu_based_vm_exec_control"] &= ~Primary.INTERRUPT_WINDOW_EXITING
        return ""
    if fetch_code(vmx) != RSM:
        raise NotModelledError("L1 is emulated")
    result = handle_ud(vmx)
    return result if result == INTERNAL_ERROR or vmx_vcpu_pre_run(vmx) else INTERNAL_ERROR
