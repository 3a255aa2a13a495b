# SPDX-License-Identifier: GPL-2.0-only
"""The steps of a session that are about SMM: SMI, RSM, and the saved state in between."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from nvmxfuzz.arch.smram import SMRAM
from nvmxfuzz.inputs.session_steps import MSRS, SessionStep
from nvmxfuzz.oracles.session.witness import StepResult
from nvmxfuzz.targets.kvm_native import ioctl_numbers as io
from nvmxfuzz.targets.kvm_native.session_end import end_of
from nvmxfuzz.targets.kvm_native.session_exits import INTERRUPTION, NOTHING, UNDEFINED
from nvmxfuzz.targets.kvm_native.session_vcpu import SessionVcpu

_RSM: Final = b"\x0f\xaa"


def smi(vcpu: SessionVcpu, step: SessionStep) -> StepResult:  # noqa: ARG001 # as all steps
    """KVM_SMI, and KVM comes as far as to the next entry.

    What is to be done before comes first: L2's entry, an exception that is injected.
    """
    was_l2 = vcpu.in_l2()
    error = vcpu.call(io.KVM_SMI)
    if error:
        return StepResult(error)
    ran = vcpu.run()
    if not ran[0] and vcpu.get_events().smi.pending:
        vcpu.run(INTERRUPTION if vcpu.in_l2() else NOTHING)
        ran = vcpu.run()
    result = end_of(vcpu, was_l2, ran)
    if result.outcome == "smm":
        _install_handler(vcpu)
    return result


def _install_handler(vcpu: SessionVcpu) -> None:
    """Firmware has RSM where SMM begins."""
    vcpu.vm.write(vcpu.get_sregs().cs.base + vcpu.get_regs().rip, _RSM)


def rsm(vcpu: SessionVcpu, step: SessionStep) -> StepResult:  # noqa: ARG001 # as all steps
    """RSM raises #UD, and KVM emulates it; or KVM has to emulate all of SMM."""
    was_l2 = vcpu.in_l2()
    emulates = vcpu.emulation_required()
    result = end_of(vcpu, was_l2, vcpu.run(INTERRUPTION if emulates else UNDEFINED))
    exception = vcpu.events.exception
    if result.errno or was_l2 or not (exception.pending or exception.injected):
        return result
    return replace(result, outcome=f"fault {exception.nr}")


def smram_write(vcpu: SessionVcpu, step: SessionStep) -> StepResult:
    """Edit the saved state where SMBASE says that it is."""
    smbase = vcpu.get_msr(MSRS["IA32_SMBASE"]) or 0
    offset, size = SMRAM[step.chosen("field")]
    if not vcpu.vm.backed(smbase + offset, size):
        return StepResult(outcome="unbacked")
    memory = vcpu.vm.memory
    old = memory.read_int(smbase + offset, size)
    new = (old & ~step.number("unset") ^ step.number("flip")) & (1 << 8 * size) - 1
    memory.write_int(smbase + offset, new, size)
    return StepResult()
