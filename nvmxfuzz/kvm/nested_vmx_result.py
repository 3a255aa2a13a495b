# SPDX-License-Identifier: GPL-2.0-only
"""nested_vmx_succeed(), nested_vmx_fail() and exceptions: how a VMX instruction of L1 ends."""

from __future__ import annotations

from nvmxfuzz.arch.events import Vector
from nvmxfuzz.arch.registers import Rflags
from nvmxfuzz.kvm.exceptions import kvm_multiple_exception
from nvmxfuzz.kvm.guest_walk import Fault
from nvmxfuzz.kvm.vcpu_events import has_error_code
from nvmxfuzz.kvm.vcpu_vmx import VcpuVmx, is_64_bit_mode
from nvmxfuzz.kvm.virtual_cpu import ALL_ONES
from nvmxfuzz.kvm.vmcs12 import OFFSETS, write_word
from nvmxfuzz.kvm.vmx_registers import vmx_set_rflags
from nvmxfuzz.machine.outcome import Outcome

DONE = "done"
FAIL_INVALID = "vmfail-invalid"
INTERNAL_ERROR = "internal-error"
"""KVM gives up to userspace; the instruction is not over."""

_FLAGS = Rflags.CF | Rflags.PF | Rflags.AF | Rflags.ZF | Rflags.SF | Rflags.OF
_SINGLE_STEP = 1 << 14
_BLOCKING = 3


def fail_valid(number: int) -> str:
    """Return the words for VMfailValid with an error number."""
    return f"vmfail-valid {number}"


def nested_vmx_succeed(vmx: VcpuVmx, length: int) -> str:
    """VMsucceed, and on to the next instruction, which is `length` bytes further."""
    return _finish(vmx, 0, length, DONE)


def nested_vmx_fail_invalid(vmx: VcpuVmx, length: int) -> str:
    """nested_vmx_failInvalid()."""
    return _finish(vmx, int(Rflags.CF), length, FAIL_INVALID)


def nested_vmx_fail(vmx: VcpuVmx, error: int, length: int) -> str:
    """VMfailValid with an error number, or VMfailInvalid where there is no current VMCS."""
    if vmx.nested.current_vmptr == ALL_ONES:
        return nested_vmx_fail_invalid(vmx, length)
    write_word(vmx.nested.cached_vmcs12, OFFSETS["vm_instruction_error"], error)
    return _finish(vmx, int(Rflags.ZF), length, fail_valid(error))


def kvm_queue_exception(vmx: VcpuVmx, fault: Fault) -> str:
    """Have L1 take an exception; without a vector KVM gives up to userspace."""
    if fault.vector is None:
        return INTERNAL_ERROR
    error_code = fault.error_code if has_error_code(fault.vector) else None
    kvm_multiple_exception(vmx, fault.vector, error_code, fault.address)
    return f"fault {fault.vector}"


def queue_debug_exception(vmx: VcpuVmx, payload: int = _SINGLE_STEP) -> None:
    """Queue #DB with what DR6 gets; as it stands kvm_vcpu_do_singlestep(), behind TF."""
    kvm_multiple_exception(vmx, Vector.DB, None, payload)


def kvm_skip_emulated_instruction(vmx: VcpuVmx, length: int) -> None:
    """Go on to the next instruction; with TF, a #DB is pending behind this one."""
    vcpu = vmx.vcpu
    rip = vcpu.rip + length & ALL_ONES
    if (rip ^ vcpu.rip) >> 31 == 3 and not is_64_bit_mode(vmx):
        rip &= 0xFFFF_FFFF
    vcpu.rip = rip
    vcpu.vmcs["guest_interruptibility_info"] &= ~_BLOCKING
    if vcpu.rflags & Rflags.TF:
        queue_debug_exception(vmx)


def _finish(vmx: VcpuVmx, flag: int, length: int, outcome: str) -> str:
    vmx_set_rflags(vmx.vcpu, vmx.vcpu.rflags & ~_FLAGS | flag)
    kvm_skip_emulated_instruction(vmx, length)
    return outcome


def nested_vmx_result(vmx: VcpuVmx, outcome: Outcome) -> str:
    """Return how a VM entry that was refused has ended; with TF, a #DB is pending behind it."""
    if vmx.vcpu.rflags & Rflags.TF:
        queue_debug_exception(vmx)
    return FAIL_INVALID if outcome.kind == "fail-invalid" else fail_valid(outcome.number)
