# SPDX-License-Identifier: GPL-2.0-only
"""What a KVM_RUN of a session came to, as the outcome of a step says it."""

from __future__ import annotations

from typing import Final

from nvmxfuzz.arch.registers import Rflags
from nvmxfuzz.oracles.session.witness import StepResult
from nvmxfuzz.targets.kvm_native import structures as s
from nvmxfuzz.targets.kvm_native.session_vcpu import SessionVcpu

_ENTRY_FAILURE: Final = 1 << 31
_REASON: Final = 0xFFFF
_TRIPLE_FAULT: Final = 2
_LONGEST_INSTRUCTION: Final = 15


def end_of(
    vcpu: SessionVcpu, was_l2: bool, ran: tuple[int, str], *, told: bool = False
) -> StepResult:
    """Return what a KVM_RUN came to; `told`: of an instruction that has a result."""
    error, left = ran
    if error:
        return StepResult(error)
    events = vcpu.get_events()
    if events.smi.smm and not told:
        return StepResult(0, "smm", left)
    if vcpu.in_l2():
        return StepResult(0, "l2" if was_l2 else "entered", left)
    if was_l2:
        return StepResult(0, "smm" if events.smi.smm else _left_l2(vcpu), left)
    if not told or not vcpu.entries:
        return StepResult(0, "smm" if events.smi.smm else "l1", left)
    return StepResult(0, _of_instruction(vcpu, events), left)


def _left_l2(vcpu: SessionVcpu) -> str:
    reason, qualification, _ = vcpu.vmcs12_end()
    if reason & _ENTRY_FAILURE:
        return f"exit {reason & _REASON} qualification {qualification}"
    if reason & _REASON == _TRIPLE_FAULT:
        return "triple-fault"
    return f"exit {reason & _REASON}"


def _of_instruction(vcpu: SessionVcpu, events: s.VcpuEvents) -> str:
    """Return what an instruction of L1 came to that is still L1."""
    regs = vcpu.get_regs()
    if events.exception.pending or events.exception.injected:
        return f"fault {events.exception.nr}"
    if regs.rip == vcpu.last_rip:
        reason = vcpu.vmcs12_end()[0]
        return _left_l2(vcpu) if reason & _ENTRY_FAILURE else "l1"
    if not vcpu.last_rip < regs.rip <= vcpu.last_rip + _LONGEST_INSTRUCTION:
        return _left_l2(vcpu)
    if regs.rflags & Rflags.CF:
        return "vmfail-invalid"
    if regs.rflags & Rflags.ZF:
        return f"vmfail-valid {vcpu.vmcs12_end()[2]}"
    return "done"
