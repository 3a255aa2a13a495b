# SPDX-License-Identifier: GPL-2.0-only
"""The steps of a session in which the guest runs: instructions of L1 and exits of L2.

KVM_RUN goes on until KVM has dealt with what the guest did, and a signal ends it before the next
entry. So exceptions that KVM raises are pending, and nothing has been entered that no step names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from nvmxfuzz.arch.fields import FIELD_BY_NAME
from nvmxfuzz.arch.registers import Cr0, Cr4, Efer, Rflags
from nvmxfuzz.inputs.session_steps import SessionStep
from nvmxfuzz.oracles.session.witness import PLACE_ADDRESSES, StepResult
from nvmxfuzz.targets.kvm_native import ioctl_numbers as io
from nvmxfuzz.targets.kvm_native import structures as s
from nvmxfuzz.targets.kvm_native.port import VMCALL, Exit
from nvmxfuzz.targets.kvm_native.session_boot import operand_memory
from nvmxfuzz.targets.kvm_native.session_end import end_of
from nvmxfuzz.targets.kvm_native.session_exits import (
    INTERRUPTION,
    NEEDS,
    NEUTRAL_REASON,
    NOTHING,
    UNDEFINED,
    field_access,
    l2_exit,
    script,
    with_memory,
    without_operand,
)
from nvmxfuzz.targets.kvm_native.session_other_exits import (
    OTHER_NEEDS,
    cr_access_needs,
    l2_other_exit,
)
from nvmxfuzz.targets.kvm_native.session_smm import rsm, smi, smram_write
from nvmxfuzz.targets.kvm_native.session_vcpu import SessionVcpu

Handler = Callable[[SessionVcpu, SessionStep], StepResult]

_ARITHMETIC: Final = Rflags.CF | Rflags.PF | Rflags.AF | Rflags.ZF | Rflags.SF | Rflags.OF
_VMX_LENGTH: Final = 3
_UNDEFINED_FIRST: Final = frozenset({"compatibility", "real", "virtual-8086"})
"""Modes in which the processor raises #UD for a VMX instruction, which goes before a VM exit."""
_VMCALL: Final = script(VMCALL)
_ENTERED: Final = (0, "intr")
"""How KVM_RUN ends that has come as far as to the entry, where KVM fills the shadow VMCS."""


def run_instruction(vcpu: SessionVcpu, step: SessionStep, actions: Any) -> StepResult:  # noqa: ANN401 # an array of native.Action
    """Let whoever runs execute a VMX instruction, L1 in the mode that the step says."""
    mode = step.chosen("mode")
    was_l2 = vcpu.in_l2()
    if was_l2:
        return _run_l2(vcpu, actions)
    if mode == "kernel":
        return end_of(vcpu, was_l2, vcpu.run(_as_in_mode(vcpu, actions)), told=True)
    error, undo = _enter_mode(vcpu, mode)
    if error:
        return StepResult(error)
    chosen = _as_in_mode(vcpu, UNDEFINED if mode in _UNDEFINED_FIRST else actions)
    result = end_of(vcpu, was_l2, vcpu.run(chosen), told=True)
    if not vcpu.in_l2() and not result.outcome.startswith(("exit", "smm", "triple")):
        undo()
    return result


def _as_in_mode(vcpu: SessionVcpu, actions: Any) -> Any:  # noqa: ANN401 # arrays of native.Action
    """Return what becomes of a VMX instruction: #UD in a mode without.

    In SMM, where firmware has RSM in place of the instruction, KVM comes to the same by itself. An
    L1 that KVM has to emulate executes what is in memory, and is interrupted where that is over.
    """
    if vcpu.emulation_required():
        return INTERRUPTION
    without = not vcpu.in_vmx_code() and not vcpu.get_events().smi.smm
    return UNDEFINED if without else actions


# ---------------------------------------------------------------------- modes


def _enter_mode(vcpu: SessionVcpu, mode: str) -> tuple[int, Callable[[], None]]:
    """KVM_SET_SREGS and, for virtual-8086 mode, KVM_SET_REGS; and how to undo that."""
    before = bytes(vcpu.get_sregs())
    _set_mode(vcpu.sregs, mode)
    error = vcpu.set(io.KVM_SET_SREGS, vcpu.sregs)
    virtual = mode == "virtual-8086"
    if virtual and not error:
        regs = vcpu.get_regs()
        regs.rflags |= Rflags.VM
        error = vcpu.set(io.KVM_SET_REGS, regs)

    def undo() -> None:
        if virtual:
            regs = vcpu.get_regs()
            regs.rflags &= ~Rflags.VM
            vcpu.set(io.KVM_SET_REGS, regs)
        vcpu.call(io.KVM_SET_SREGS, before)

    return error, undo


def _set_mode(sregs: s.Sregs, mode: str) -> None:
    match mode:
        case "user":
            for segment in (sregs.cs, sregs.ss):
                segment.dpl, segment.selector = 3, segment.selector | 3
        case "compatibility":
            sregs.cs.l, sregs.cs.db = 0, 1
        case "real":
            sregs.cr0 &= ~(Cr0.PE | Cr0.PG)
            sregs.efer &= ~Efer.LMA
            _flatten(sregs, 0x3)
        case "virtual-8086":
            sregs.efer &= ~(Efer.LMA | Efer.LME)
            _flatten(sregs, 0x3, dpl=3)
        case "no-vmxe":
            sregs.cr4 &= ~Cr4.VMXE


def _flatten(sregs: s.Sregs, kind: int, dpl: int = 0) -> None:
    """Make the segments those of real-address mode."""
    for name in ("cs", "ds", "es", "fs", "gs", "ss"):
        segment = getattr(sregs, name)
        segment.base, segment.selector, segment.limit = 0, 0, 0xFFFF
        segment.type, segment.dpl, segment.s, segment.present = kind, dpl, 1, 1
        segment.l = segment.db = segment.g = segment.unusable = 0


# ---------------------------------------------------------------------- L1's instructions


@lru_cache(maxsize=256)
def _memory_script(kind: str, operand: str, vcpu: int, in_rcx: int = 0) -> Any:  # noqa: ANN401
    return script(with_memory(kind, operand, vcpu, in_rcx))


def _operand(vcpu: SessionVcpu, name: str, first: int, second: int | None = None) -> None:
    """Put a memory operand of 8 or 16 bytes where the instruction reads it."""
    address = operand_memory(name, vcpu.number)
    if address is None:
        return
    data = first.to_bytes(8, "little")
    if second is not None:
        data += second.to_bytes(8, "little")
    vcpu.vm.memory.write(address, data)


def pointer(vcpu: SessionVcpu, step: SessionStep) -> StepResult:
    """VMXON, VMCLEAR or VMPTRLD of a region."""
    operand = step.chosen("operand")
    _operand(vcpu, operand, PLACE_ADDRESSES[step.chosen("region")])
    return run_instruction(vcpu, step, _memory_script(step.kind, operand, vcpu.number))


def vmptrst(vcpu: SessionVcpu, step: SessionStep) -> StepResult:
    """VMPTRST."""
    return run_instruction(
        vcpu, step, _memory_script("vmptrst", step.chosen("operand"), vcpu.number)
    )


_PLAIN: Final = {kind: script(without_operand(kind)) for kind in ("vmxoff", "vmlaunch", "vmresume")}


def plain(vcpu: SessionVcpu, step: SessionStep) -> StepResult:
    """VMXOFF, VMLAUNCH or VMRESUME."""
    return run_instruction(vcpu, step, _PLAIN[step.kind])


def invept(vcpu: SessionVcpu, step: SessionStep) -> StepResult:
    """INVEPT."""
    operand = step.chosen("operand")
    _operand(vcpu, operand, step.number("eptp"), 0)
    actions = _memory_script("invept", operand, vcpu.number, step.number("type"))
    return run_instruction(vcpu, step, actions)


def invvpid(vcpu: SessionVcpu, step: SessionStep) -> StepResult:
    """INVVPID."""
    operand = step.chosen("operand")
    _operand(vcpu, operand, step.number("vpid"), step.number("address"))
    actions = _memory_script("invvpid", operand, vcpu.number, step.number("type"))
    return run_instruction(vcpu, step, actions)


def field_step(vcpu: SessionVcpu, step: SessionStep) -> StepResult:
    """VMREAD into RAX, or VMWRITE: by the processor alone where it has a shadow VMCS for that."""
    name = step.chosen("field")
    value = step.number("value") if step.kind == "vmwrite" else 0
    if step.chosen("mode") == "kernel":
        was_l2 = vcpu.in_l2()
        ran = vcpu.run()
        if ran != _ENTERED or (was_l2 and not vcpu.in_l2()):
            return end_of(vcpu, was_l2, ran, told=True)
        if vcpu.shadow.takes(step.kind, name) and vcpu.uses_shadow():
            return _without_exit(vcpu, step.kind, name, value)
    return run_instruction(vcpu, step, script(field_access(step.kind, name, value)))


def _without_exit(vcpu: SessionVcpu, kind: str, name: str, value: int) -> StepResult:
    """Let the processor do it, which KVM finds at some later exit."""
    regs = vcpu.get_regs()
    registers = {"rcx": FIELD_BY_NAME[name].encoding}
    if kind == "vmread":
        registers["rax"] = vcpu.shadow.read(name)
    else:
        registers["rax"] = value
        vcpu.shadow.write(name, value)
    fields = {"guest_rip": regs.rip + _VMX_LENGTH, "guest_rflags": regs.rflags & ~_ARITHMETIC}
    ran = vcpu.run(script(Exit(NEUTRAL_REASON, fields=fields, registers=registers)))
    return end_of(vcpu, False, ran, told=True)


def prepare(vcpu: SessionVcpu, step: SessionStep) -> StepResult:
    """L1 writes a VMCS, field by field, and what it points to; the first that fails ends it."""
    attempt = vcpu.vm.bases.attempt(step.chosen("base"))
    was_l2 = vcpu.in_l2()
    ran = vcpu.run()
    if ran != _ENTERED or (was_l2 and not vcpu.in_l2()):
        return end_of(vcpu, was_l2, ran, told=True)
    for address, data in attempt.memory.regions:
        vcpu.vm.write(address, data)
    values = attempt.vmcs.items()
    taken = vcpu.shadow.taken("vmwrite") if vcpu.uses_shadow() else frozenset()
    fields = vcpu.vm.bases.fields
    asked = [name for name in fields if name not in taken]
    if taken:
        vcpu.shadow.write_all((name, values[name]) for name in fields if name in taken)
    scripts = vcpu.vm.bases.scripts(step.chosen("base"), tuple(asked))
    other = None if was_l2 else _as_in_mode(vcpu, None)
    if other is not None:
        scripts = (other,)
    result = StepResult(0, "done", ran[1])
    for actions in scripts:
        result = end_of(vcpu, was_l2, vcpu.run(actions), told=True)
        if result.outcome != "done":
            return result
    return result


# ---------------------------------------------------------------------- running on


def run(vcpu: SessionVcpu, step: SessionStep) -> StepResult:  # noqa: ARG001 # as all steps
    """Let L2 execute VMCALL; let L1 run, and be interrupted."""
    if vcpu.in_l2():
        return _run_l2(vcpu, _VMCALL)
    return end_of(vcpu, False, vcpu.run(NOTHING))


def l2_runs(vcpu: SessionVcpu, step: SessionStep) -> StepResult:
    """Let L2 cause an exit; VMCALL if the processor does not make that exit with vmcs02."""
    if not vcpu.in_l2():
        return run(vcpu, step)
    return _run_l2(vcpu, _l2_script(vcpu, step))


def _run_l2(vcpu: SessionVcpu, actions: Any) -> StepResult:  # noqa: ANN401 # an array of native.Action
    """Let L2 do something, unless an event that is pending takes the vCPU out of it before."""
    ran = vcpu.run()
    if ran == (0, "intr") and vcpu.in_l2():
        ran = vcpu.run(actions)
    return end_of(vcpu, True, ran)


def _l2_script(vcpu: SessionVcpu, step: SessionStep) -> Any:  # noqa: ANN401 # an array of native.Action
    name, qualification = step.chosen("exit"), step.number("qualification")
    if step.kind == "l2-exit":
        return _exit_script(name, qualification) if _allowed(vcpu, NEEDS.get(name)) else _VMCALL
    needed = OTHER_NEEDS.get(name)
    if name == "cr-access":
        needed = cr_access_needs(qualification)
    if not _allowed(vcpu, needed):
        return _VMCALL
    return script(l2_other_exit(name, qualification, step.chosen("delivered")))


def _allowed(vcpu: SessionVcpu, needed: tuple[str, int] | None) -> bool:
    """Tell whether the processor makes an exit that needs a control of vmcs02."""
    if needed is None:
        return True
    field, control = needed
    return vcpu.vmcs02_field(FIELD_BY_NAME[field].encoding) & control != 0


@lru_cache(maxsize=1024)
def _exit_script(name: str, qualification: int) -> Any:  # noqa: ANN401
    return script(l2_exit(name, qualification))


def run_immediate(vcpu: SessionVcpu, step: SessionStep) -> StepResult:  # noqa: ARG001 # as all steps
    """KVM_RUN with immediate_exit."""
    return StepResult(vcpu.run_immediate())


def memory_write(vcpu: SessionVcpu, step: SessionStep) -> StepResult:
    """Write eight bytes of guest memory."""
    address = PLACE_ADDRESSES[step.chosen("region")] + step.number("offset")
    written = vcpu.vm.write(address, step.number("value").to_bytes(8, "little"))
    return StepResult(outcome="" if written else "unbacked")


def no_memory(vcpu: SessionVcpu, step: SessionStep) -> StepResult:
    """Have an allocation of the next step fail."""
    vcpu.vm.refused = step.number("allocation")
    return StepResult()


GUEST: Final[Mapping[str, Handler]] = MappingProxyType(
    {
        **dict.fromkeys(("vmxon", "vmclear", "vmptrld"), pointer),
        **dict.fromkeys(("vmxoff", "vmlaunch", "vmresume"), plain),
        **dict.fromkeys(("vmread", "vmwrite"), field_step),
        "vmptrst": vmptrst,
        "invept": invept,
        "invvpid": invvpid,
        "prepare": prepare,
        "run": run,
        **dict.fromkeys(("l2-exit", "l2-other-exit"), l2_runs),
        "run-immediate": run_immediate,
        "smi": smi,
        "rsm": rsm,
        "smram-write": smram_write,
        "memory-write": memory_write,
        "no-memory": no_memory,
    }
)
"""What carries each of these steps out."""
