# SPDX-License-Identifier: GPL-2.0-only
"""handle_invalid_guest_state(): KVM emulates an L1 that hardware cannot run.

vmx/vmx.c. Of the emulator the model knows RSM, with which every handler of an SMI begins here.
"""

from __future__ import annotations

from nvmxfuzz.arch.controls import Primary
from nvmxfuzz.arch.registers import Rflags
from nvmxfuzz.kvm.check_values import is_noncanonical_address
from nvmxfuzz.kvm.guest_walk import Fault, kvm_read_guest_virt
from nvmxfuzz.kvm.nested_instructions import PROTECTION, UNDEFINED
from nvmxfuzz.kvm.nested_vmx_result import INTERNAL_ERROR, kvm_queue_exception
from nvmxfuzz.kvm.triple_fault import vmx_vcpu_pre_run
from nvmxfuzz.kvm.vcpu_events import INTERRUPT_SHADOW, NotModelledError
from nvmxfuzz.kvm.vcpu_vmx import VcpuVmx, vmx_get_cpl
from nvmxfuzz.kvm.vmx_handle_exit import (
    RSM,
    fetch_code,
    handle_ud,
    is_emulated_in_64_bits,
    is_within_cs,
)

_WORD = 0xFFFF_FFFF
_LEAST = 3
_USER = 4


def handle_invalid_guest_state(vmx: VcpuVmx) -> str:
    """Emulate an instruction of L1, behind which events come; INTERNAL_ERROR where that fails."""
    vcpu, vmcs = vmx.vcpu, vmx.vcpu.vmcs
    blocked = not vcpu.rflags & Rflags.IF or vmcs["guest_interruptibility_info"] & INTERRUPT_SHADOW
    if vmcs["cpu_based_vm_exec_control"] & Primary.INTERRUPT_WINDOW_EXITING and not blocked:
        vmcs["cpu_based_vm_exec_control"] &= ~Primary.INTERRUPT_WINDOW_EXITING
        return ""
    far = is_emulated_in_64_bits(vmx) and is_noncanonical_address(vcpu.rip, vcpu)
    code = b"" if far else fetch_code(vmx)
    if code and code != RSM:
        raise NotModelledError("L1 is emulated")
    result = handle_ud(vmx) if code else _fetch_fails(vmx)
    if vmx.events.triple_fault and vcpu.rmode is not None and vmx.emulation_required:
        raise NotModelledError("L1 is emulated, and has shut down")
    return result if result == INTERNAL_ERROR or vmx_vcpu_pre_run(vmx) else INTERNAL_ERROR


def _fetch_fails(vmx: VcpuVmx) -> str:
    """There is no code: the exception of the emulator, or its failure where there is no memory."""
    vcpu, rip = vmx.vcpu, vmx.vcpu.rip
    if is_emulated_in_64_bits(vmx):
        if is_noncanonical_address(rip, vcpu):
            return kvm_queue_exception(vmx, PROTECTION)
    elif not is_within_cs(vmx, rip):
        return kvm_queue_exception(vmx, PROTECTION)
    else:
        rip = rip + vcpu.vmcs["guest_cs_base"] & _WORD
    found = kvm_read_guest_virt(vcpu, rip, 1, fetch=True)
    if not isinstance(found, Fault):
        raise NotModelledError("code at the end of a page")
    if found.vector is not None:
        error = found.error_code | (_USER if vmx_get_cpl(vmx) == _LEAST else 0)
        return kvm_queue_exception(vmx, Fault(found.vector, error, found.address))
    kvm_queue_exception(vmx, UNDEFINED)
    return INTERNAL_ERROR if vmx_get_cpl(vmx) == 0 else ""
