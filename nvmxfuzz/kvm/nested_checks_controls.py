# SPDX-License-Identifier: GPL-2.0-only
"""nested_vmx_check_controls(): vmcs12's VM-execution, VM-exit and VM-entry control fields.

vmx/nested.c and, for a vCPU that has the enlightened VMCS, vmx/hyperv.c (vmx/evmcs.c before).
Each function returns the name of the first check that fails, "" if none does.
"""

from __future__ import annotations

from nvmxfuzz.arch.controls import Primary, Secondary
from nvmxfuzz.arch.events import VECTORS_WITH_ERROR_CODE, EventType, InterruptionInfo
from nvmxfuzz.arch.registers import Cr0
from nvmxfuzz.arch.vmx_msr import VmxMisc
from nvmxfuzz.kvm.check_values import (
    kvm_vcpu_is_legal_aligned_gpa,
    kvm_vcpu_is_legal_gpa,
    nested_cpu_has2,
    vmx_control_verify,
)
from nvmxfuzz.kvm.nested_checks_execution import nested_check_vm_execution_controls
from nvmxfuzz.kvm.vcpu import Vcpu
from nvmxfuzz.kvm.virtual_cpu import ALL_ONES
from nvmxfuzz.machine.vmcs import Vmcs

_VALID = int(InterruptionInfo.VALID)
# Bit 13, nested exception, came after KVM wrote down which bits are reserved.
_RESERVED = InterruptionInfo.RESERVED | InterruptionInfo.NESTED_EXCEPTION
_WITH_LENGTH = (
    EventType.SOFTWARE_EXCEPTION,
    EventType.SOFTWARE_INTERRUPT,
    EventType.PRIVILEGED_SOFTWARE_EXCEPTION,
)
_NMI_VECTOR = 2
_MSR_ENTRY_SIZE = 16


def nested_vmx_check_controls(vcpu: Vcpu, vmcs12: Vmcs) -> str:
    """Check every control field; a failure is VMfailValid 7."""
    return (
        nested_check_vm_execution_controls(vcpu, vmcs12)
        or nested_check_vm_exit_controls(vcpu, vmcs12)
        or nested_check_vm_entry_controls(vcpu, vmcs12)
        or (nested_evmcs_check_controls(vcpu, vmcs12) if vcpu.has_evmcs else "")
    )


def nested_vmx_check_msr_switch(vcpu: Vcpu, count: int, address: int) -> bool:
    """Whether an MSR list, if it has entries, is aligned and lies in legal addresses."""
    if count == 0:
        return True
    last = address + count * _MSR_ENTRY_SIZE - 1 & ALL_ONES
    return kvm_vcpu_is_legal_aligned_gpa(vcpu, address, 16) and kvm_vcpu_is_legal_gpa(vcpu, last)


def nested_check_vm_exit_controls(vcpu: Vcpu, vmcs12: Vmcs) -> str:
    """The VM-exit controls and the MSR lists of VM exit."""
    msrs = vcpu.virtual.msrs
    if not vmx_control_verify(vmcs12.vm_exit_controls, msrs.exit_ctls_low, msrs.exit_ctls_high):
        return "exit.controls.allowed"
    if not nested_vmx_check_msr_switch(
        vcpu, vmcs12.vm_exit_msr_load_count, vmcs12.vm_exit_msr_load_addr
    ):
        return "exit.msr-load.area"
    if not nested_vmx_check_msr_switch(
        vcpu, vmcs12.vm_exit_msr_store_count, vmcs12.vm_exit_msr_store_addr
    ):
        return "exit.msr-store.area"
    return ""


def nested_check_vm_entry_controls(vcpu: Vcpu, vmcs12: Vmcs) -> str:
    """The VM-entry controls, the event to inject and the MSR list of VM entry."""
    msrs = vcpu.virtual.msrs
    if not vmx_control_verify(vmcs12.vm_entry_controls, msrs.entry_ctls_low, msrs.entry_ctls_high):
        return "entry.controls.allowed"
    if vmcs12.vm_entry_intr_info_field & _VALID:
        failed = check_event(vcpu, vmcs12)
        if failed:
            return failed
    if not nested_vmx_check_msr_switch(
        vcpu, vmcs12.vm_entry_msr_load_count, vmcs12.vm_entry_msr_load_addr
    ):
        return "entry.msr-load.area"
    return ""


def check_event(vcpu: Vcpu, vmcs12: Vmcs) -> str:
    """The event to inject is one that can be, and has what it needs."""
    info = vmcs12.vm_entry_intr_info_field
    vector = info & 0xFF
    kind = info >> 8 & 7
    has_error_code = info & InterruptionInfo.DELIVER_ERROR_CODE != 0
    if kind == EventType.RESERVED:
        return "entry.event.type"
    if (
        kind == EventType.OTHER_EVENT
        and not vcpu.virtual.msrs.procbased_ctls_high & Primary.MONITOR_TRAP_FLAG
    ):
        return "entry.event.monitor-trap-flag"
    if kind == EventType.NMI and vector != _NMI_VECTOR:
        return "entry.event.nmi-vector"
    if kind == EventType.HARDWARE_EXCEPTION and vector > 31:
        return "entry.event.exception-vector"
    if kind == EventType.OTHER_EVENT and vector != 0:
        return "entry.event.other-vector"
    protected = (
        not nested_cpu_has2(vmcs12, Secondary.UNRESTRICTED_GUEST) or vmcs12.guest_cr0 & Cr0.PE != 0
    )
    should_have_error_code = (
        kind == EventType.HARDWARE_EXCEPTION
        and protected
        and VECTORS_WITH_ERROR_CODE >> vector & 1 != 0
    )
    if has_error_code != should_have_error_code:
        return "entry.event.error-code"
    if has_error_code and vmcs12.vm_entry_exception_error_code & vcpu.behaviour.error_code_reserved:
        return "entry.event.error-code-value"
    if info & _RESERVED:
        return "entry.event.reserved"
    if kind in _WITH_LENGTH:
        return _check_instruction_length(vcpu, vmcs12.vm_entry_instruction_len)
    return ""


def _check_instruction_length(vcpu: Vcpu, length: int) -> str:
    if length > 15:
        return "entry.event.instruction-length"
    if length == 0 and not vcpu.virtual.msrs.misc & VmxMisc.ZERO_LENGTH_INJECTION:
        return "entry.event.zero-length"
    return ""


def nested_evmcs_check_controls(vcpu: Vcpu, vmcs12: Vmcs) -> str:
    """What the enlightened VMCS has no field for is off, whether or not L1 uses it.

    Neither the activation of the secondary controls nor that of VM functions is asked for; VM
    functions above bit 31 also make a kernel warn that takes the field for one of 32 bits.
    """
    supported = vcpu.behaviour.evmcs
    if supported is None:
        return ""
    if vmcs12.pin_based_vm_exec_control & ~supported.pin_based:
        return "evmcs.pin-based.supported"
    if vmcs12.cpu_based_vm_exec_control & ~supported.cpu_based:
        return "evmcs.primary.supported"
    if vmcs12.secondary_vm_exec_control & ~supported.secondary:
        return "evmcs.secondary.supported"
    if vmcs12.vm_exit_controls & ~supported.vmexit:
        return "evmcs.exit.supported"
    if vmcs12.vm_entry_controls & ~supported.vmentry:
        return "evmcs.entry.supported"
    if vcpu.behaviour.evmcs_functions_are_32_bits and vmcs12.vm_function_control >> 32:
        vcpu.warn("nested_evmcs_check_controls.vm_function_control")
        return "evmcs.vm-functions.width"
    if vmcs12.vm_function_control & ~supported.vmfunc:
        return "evmcs.vm-functions.supported"
    return ""
