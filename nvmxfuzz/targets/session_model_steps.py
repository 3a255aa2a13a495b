# SPDX-License-Identifier: GPL-2.0-only
"""The steps of a session on the model of KVM.

What the guest does is told by VM exits, which are those that the real KVM gets (`session_exits`).
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from nvmxfuzz.arch.controls import Pin
from nvmxfuzz.arch.exit_reasons import ExitReason
from nvmxfuzz.arch.fields import FIELDS
from nvmxfuzz.arch.registers import Cr0, Cr4, Efer, Rflags
from nvmxfuzz.arch.smram import SMRAM
from nvmxfuzz.inputs.session_steps import SessionStep
from nvmxfuzz.kvm.inject_events import process_smi_and_nmi
from nvmxfuzz.kvm.nested_instructions import SHADOW_FIELDS_RW
from nvmxfuzz.kvm.segments import Segment
from nvmxfuzz.kvm.vcpu_events import NotModelledError, is_soft
from nvmxfuzz.kvm.vcpu_ioctls import (
    Sregs,
    kvm_get_regs,
    kvm_get_sregs,
    kvm_set_regs,
    kvm_set_sregs,
)
from nvmxfuzz.kvm.vcpu_run import INTERRUPTED, Ran, kvm_run
from nvmxfuzz.kvm.vcpu_vmx import MP_RUNNABLE, VcpuVmx, is_vmx_code, vmx_get_cpl
from nvmxfuzz.kvm.vmcs12 import OFFSETS, read_word, write_fields
from nvmxfuzz.kvm.vmx_handle_exit import GuestExit
from nvmxfuzz.oracles.session.witness import PLACE_ADDRESSES, StepResult
from nvmxfuzz.targets.kvm_native import l1
from nvmxfuzz.targets.kvm_native.port import VMCALL, Answer, Exit, FailedEntry, VmFail
from nvmxfuzz.targets.kvm_native.session_boot import operand_memory
from nvmxfuzz.targets.kvm_native.session_exits import (
    NEEDS,
    NEUTRAL,
    field_access,
    l2_exit,
    with_memory,
    without_operand,
)
from nvmxfuzz.targets.session_model_userspace import USERSPACE_STEPS, Handler, SessionMachine

_ALL: Final = (1 << 64) - 1
_ENTRY_FAILURE: Final = 1 << 31
_REASON: Final = 0xFFFF
_TRIPLE_FAULT: Final = 2
_LONGEST: Final = 15
_LONGEST_SCRIPT: Final = 64
_UNDEFINED_FIRST: Final = frozenset({"compatibility", "real", "virtual-8086"})
_INTERRUPTED: Final = Exit(ExitReason.EXTERNAL_INTERRUPT)
_RSM: Final = b"\x0f\xaa"
_WRITTEN: Final = tuple(
    field.name for field in FIELDS if field.name in OFFSETS and field.type != "exit-info"
)
"""Fields that L1 writes when it prepares a VMCS."""
_SHADOWED: Final = frozenset(field.name for field in FIELDS if field.encoding in SHADOW_FIELDS_RW)


def guest_exit(answer: Answer) -> GuestExit:
    """Return an answer of the hardware port as the model takes it."""
    if isinstance(answer, VmFail):
        return GuestExit(0, vmfail=answer.error or 0)
    if isinstance(answer, FailedEntry):
        return GuestExit(answer.reason | _ENTRY_FAILURE, answer.qualification)
    return GuestExit(
        answer.reason,
        answer.qualification,
        answer.length,
        answer.information,
        answer.fields,
        answer.registers,
    )


_INTERRUPTION: Final = guest_exit(_INTERRUPTED)


def _run(vmx: VcpuVmx, *guest: GuestExit) -> Ran:
    """KVM_RUN; an L2 that cannot be entered does nothing, nor does L1 behind it."""
    must_not_run = vmx.vcpu.guest_mode and vmx.emulation_required
    if must_not_run:
        process_smi_and_nmi(vmx)
        must_not_run = not vmx.events.smi_pending
    return kvm_run(vmx, (guest_exit(NEUTRAL),) if guest and must_not_run else guest)


def _run_l2(vmx: VcpuVmx, guest: GuestExit) -> StepResult:
    """Let L2 do something, unless an event that is pending takes the vCPU out of it before."""
    ran = _run(vmx)
    if not ran.errno and ran.left == INTERRUPTED and vmx.vcpu.guest_mode:
        ran = _run(vmx, guest)
    return _end(vmx, True, ran)


# ---------------------------------------------------------------------- what it came to


def _end(vmx: VcpuVmx, was_l2: bool, ran: Ran, *, told: bool = False) -> StepResult:
    """Return what a KVM_RUN came to; `told`: of an instruction that has a result."""
    if ran.errno:
        return StepResult(ran.errno)
    process_smi_and_nmi(vmx)
    if vmx.in_smm and not told:
        return StepResult(0, "smm", ran.left)
    if vmx.vcpu.guest_mode:
        return StepResult(0, "l2" if was_l2 else "entered", ran.left)
    if was_l2:
        return StepResult(0, "smm" if vmx.in_smm else _left_l2(vmx), ran.left)
    if not told or not ran.entries:
        return StepResult(0, "smm" if vmx.in_smm else "l1", ran.left)
    return StepResult(0, _of_instruction(vmx, ran), ran.left)


def _ends(vmx: VcpuVmx, name: str) -> int:
    if not vmx.nested.vmxon and not vmx.nested.smm_vmxon:
        return 0
    if name == "exit_qualification":
        return vmx.vmcs12.exit_qualification
    return read_word(vmx.nested.cached_vmcs12, OFFSETS[name])


def _left_l2(vmx: VcpuVmx) -> str:
    reason = _ends(vmx, "vm_exit_reason")
    if reason & _ENTRY_FAILURE:
        return f"exit {reason & _REASON} qualification {_ends(vmx, 'exit_qualification')}"
    return "triple-fault" if reason & _REASON == _TRIPLE_FAULT else f"exit {reason & _REASON}"


def _fault(vmx: VcpuVmx) -> str:
    """Return the exception that userspace sees queued, "" if none: #BP and #OF it never sees."""
    queued = vmx.events.exception
    seen = (queued.pending or queued.injected) and not is_soft(queued.vector)
    return f"fault {queued.vector}" if seen else ""


def _of_instruction(vmx: VcpuVmx, ran: Ran) -> str:
    if fault := _fault(vmx):
        return fault
    rip, rflags = vmx.vcpu.rip, vmx.vcpu.rflags
    if rip == ran.last_rip:
        return _left_l2(vmx) if _ends(vmx, "vm_exit_reason") & _ENTRY_FAILURE else "l1"
    if not ran.last_rip < rip <= ran.last_rip + _LONGEST:
        return _left_l2(vmx)
    if rflags & Rflags.CF:
        return "vmfail-invalid"
    if rflags & Rflags.ZF:
        return f"vmfail-valid {_ends(vmx, 'vm_instruction_error')}"
    return "done"


# ---------------------------------------------------------------------- L1


def _instruction(vmx: VcpuVmx, step: SessionStep, guest: GuestExit) -> StepResult:
    mode = step.chosen("mode")
    was_l2 = vmx.vcpu.guest_mode
    if was_l2:
        return _run_l2(vmx, guest)
    if mode == "kernel":
        return _end(vmx, was_l2, _run(vmx, _as_in_mode(vmx, guest)), told=True)
    before, sregs = kvm_get_sregs(vmx), kvm_get_sregs(vmx)
    _set_mode(sregs, mode)
    error = kvm_set_sregs(vmx, sregs)
    if error:
        return StepResult(error)
    if mode == "virtual-8086":
        _set_virtual_8086(vmx, Rflags.VM)
    undefined = mode in _UNDEFINED_FIRST
    guest = _as_in_mode(vmx, guest_exit(l1.UNDEFINED_OPCODE) if undefined else guest)
    result = _end(vmx, was_l2, _run(vmx, guest), told=True)
    if not vmx.vcpu.guest_mode and not result.outcome.startswith(("exit", "smm", "triple")):
        if mode == "virtual-8086":
            _set_virtual_8086(vmx, 0)
        kvm_set_sregs(vmx, before)
    return result


def _as_in_mode(vmx: VcpuVmx, guest: GuestExit) -> GuestExit:
    """Return what becomes of a VMX instruction: #UD in a mode without.

    In SMM KVM comes to the same by itself, as long as there is no VMX operation. An L1 that KVM has
    to emulate executes what is in memory.
    """
    if vmx.emulation_required:
        return _INTERRUPTION
    if is_vmx_code(vmx) or guest.reason == ExitReason.EXCEPTION_NMI:
        return guest
    if not vmx.in_smm:
        return guest_exit(l1.UNDEFINED_OPCODE)
    if vmx.nested.vmxon or vmx.vcpu.cr4 & Cr4.VMXE:
        raise NotModelledError("VMX operation in SMM")
    return guest


def _set_virtual_8086(vmx: VcpuVmx, flag: int) -> None:
    regs = kvm_get_regs(vmx)
    kvm_set_regs(vmx, {**regs, "rflags": regs["rflags"] & ~Rflags.VM | flag})


def _set_mode(sregs: Sregs, mode: str) -> None:
    match mode:
        case "user":
            for name in ("cs", "ss"):
                sregs.segments[name].dpl = 3
                sregs.segments[name].selector |= 3
        case "compatibility":
            sregs.segments["cs"].l, sregs.segments["cs"].db = 0, 1
        case "real":
            sregs.cr0 &= ~(Cr0.PE | Cr0.PG)
            sregs.efer &= ~Efer.LMA
            _flatten(sregs, 0)
        case "virtual-8086":
            sregs.efer &= ~(Efer.LMA | Efer.LME)
            _flatten(sregs, 3)
        case "no-vmxe":
            sregs.cr4 &= ~Cr4.VMXE


def _flatten(sregs: Sregs, dpl: int) -> None:
    for name in ("cs", "ds", "es", "fs", "gs", "ss"):
        sregs.segments[name] = Segment(
            limit=0xFFFF, type=3, dpl=dpl, s=1, present=1, avl=sregs.segments[name].avl
        )


def _operand(
    machine: SessionMachine, step: SessionStep, first: int, second: int | None = None
) -> str:
    name = step.chosen("operand")
    address = operand_memory(name, step.vcpu % len(machine.vcpus))
    if address is not None:
        data = first.to_bytes(8, "little")
        if second is not None:
            data += second.to_bytes(8, "little")
        machine.memory.write(address, data)
    return name


def pointer(machine: SessionMachine, vmx: VcpuVmx, step: SessionStep) -> StepResult:
    """VMXON, VMCLEAR or VMPTRLD of a region."""
    operand = _operand(machine, step, PLACE_ADDRESSES[step.chosen("region")])
    number = machine.vcpus.index(vmx)
    return _instruction(vmx, step, guest_exit(with_memory(step.kind, operand, number)))


def vmptrst(machine: SessionMachine, vmx: VcpuVmx, step: SessionStep) -> StepResult:
    """VMPTRST."""
    answer = with_memory("vmptrst", step.chosen("operand"), machine.vcpus.index(vmx))
    return _instruction(vmx, step, guest_exit(answer))


def plain(machine: SessionMachine, vmx: VcpuVmx, step: SessionStep) -> StepResult:
    """VMXOFF, VMLAUNCH or VMRESUME."""
    del machine
    result = _instruction(vmx, step, guest_exit(without_operand(step.kind)))
    timer = vmx.vmcs12.pin_based_vm_exec_control & Pin.ACTIVATE_VMX_PREEMPTION_TIMER
    if vmx.vcpu.guest_mode and timer:
        raise NotModelledError("the time of the VMX-preemption timer")
    return result


def invalidation(machine: SessionMachine, vmx: VcpuVmx, step: SessionStep) -> StepResult:
    """INVEPT or INVVPID."""
    if step.kind == "invept":
        operand = _operand(machine, step, step.number("eptp"), 0)
    else:
        operand = _operand(machine, step, step.number("vpid"), step.number("address"))
    number = machine.vcpus.index(vmx)
    answer = with_memory(step.kind, operand, number, step.number("type"))
    return _instruction(vmx, step, guest_exit(answer))


def field_step(machine: SessionMachine, vmx: VcpuVmx, step: SessionStep) -> StepResult:
    """VMREAD into RAX, or VMWRITE."""
    value = step.number("value") if step.kind == "vmwrite" else 0
    if step.chosen("mode") == "kernel":
        was_l2 = vmx.vcpu.guest_mode
        ran = _run(vmx)
        if ran.errno or ran.left != INTERRUPTED or (was_l2 and not vmx.vcpu.guest_mode):
            return _end(vmx, was_l2, ran, told=True)
        if machine.shadowing:
            _uses_shadow(vmx)
    answer = field_access(step.kind, step.chosen("field"), value)
    return _instruction(vmx, step, guest_exit(answer))


@lru_cache(maxsize=4096)
def _vmwrite(name: str, value: int) -> GuestExit:
    return guest_exit(field_access("vmwrite", name, value))


def _uses_shadow(vmx: VcpuVmx) -> bool:
    """Whether the processor executes VMREAD and VMWRITE on the shadow VMCS, where L1 has one."""
    vcpu = vmx.vcpu
    if vmx.mp_state != MP_RUNNABLE or vmx.emulation_required:
        return False
    if vcpu.guest_mode or vmx.nested.current_vmptr == _ALL:
        return False
    if not is_vmx_code(vmx) or vmx_get_cpl(vmx):
        return False
    if not vmx.nested.vmxon:
        raise NotModelledError("a shadow VMCS outside VMX operation")
    if vcpu.vmcs["guest_interruptibility_info"] & 3 or vcpu.rflags & Rflags.TF:
        raise NotModelledError("a shadow VMCS, and something that an instruction ends")
    return True


def prepare(machine: SessionMachine, vmx: VcpuVmx, step: SessionStep) -> StepResult:
    """L1 writes a VMCS, field by field, and what it points to; the first that fails ends it."""
    attempt = machine.attempts(step.chosen("base"))
    was_l2 = vmx.vcpu.guest_mode
    ran = _run(vmx)
    if ran.errno or ran.left != INTERRUPTED or (was_l2 and not vmx.vcpu.guest_mode):
        return _end(vmx, was_l2, ran, told=True)
    for address, data in attempt.memory.regions:
        machine.memory.write(address, data)
    values = attempt.vmcs.items()
    asked = _WRITTEN
    if machine.shadowing and _uses_shadow(vmx):
        # The processor writes these into the shadow VMCS, and nobody moves on.
        asked = tuple(name for name in _WRITTEN if name not in _SHADOWED)
        shadowed = {name: values[name] for name in _WRITTEN if name in _SHADOWED}
        write_fields(vmx.nested.cached_vmcs12, shadowed)
        if vmx.nested.shadow_vmcs:
            vmx.nested.shadow_vmcs |= shadowed
    exits = [_vmwrite(name, values[name]) for name in asked]
    first = exits[0] if was_l2 else _as_in_mode(vmx, exits[0])
    if first is not exits[0]:
        exits = [first]
    # In pieces, as what plays the processor for KVM does it.
    starts = (0, *range(1, len(exits), _LONGEST_SCRIPT))
    for start, end in zip(starts, (*starts[1:], len(exits)), strict=True):
        result = _end(vmx, was_l2, _run(vmx, *exits[start:end]), told=True)
        if result.outcome != "done":
            break
    return result


# ---------------------------------------------------------------------- running on


def run(machine: SessionMachine, vmx: VcpuVmx, step: SessionStep) -> StepResult:
    """Let L2 execute VMCALL; let L1 run, and be interrupted."""
    del machine, step
    if vmx.vcpu.guest_mode:
        return _run_l2(vmx, guest_exit(VMCALL))
    return _end(vmx, False, _run(vmx, guest_exit(NEUTRAL)))


def l2_runs(machine: SessionMachine, vmx: VcpuVmx, step: SessionStep) -> StepResult:
    """Let L2 cause an exit; VMCALL if the processor does not make that exit with vmcs02."""
    if not vmx.vcpu.guest_mode:
        return run(machine, vmx, step)
    name = step.chosen("exit")
    if name == "preemption-timer":
        raise NotModelledError("the VMX-preemption timer, which KVM uses too")
    needed = NEEDS.get(name)
    answer: Answer = VMCALL
    if needed is None or vmx.vcpu.vmcs[needed[0]] & needed[1]:
        answer = l2_exit(name, step.number("qualification"))
    return _run_l2(vmx, guest_exit(answer))


def run_immediate(machine: SessionMachine, vmx: VcpuVmx, step: SessionStep) -> StepResult:
    """KVM_RUN with immediate_exit."""
    del machine, step
    return StepResult(-errno.EIO if vmx.bugged else -errno.EINTR)


def smi(machine: SessionMachine, vmx: VcpuVmx, step: SessionStep) -> StepResult:
    """KVM_SMI, and KVM comes as far as to the next entry; L2 is entered first if L1 said so."""
    del step
    was_l2 = vmx.vcpu.guest_mode
    vmx.events.smi_request = True
    ran = _run(vmx)
    if not ran.errno:
        process_smi_and_nmi(vmx)
    if not ran.errno and vmx.events.smi_pending:
        _run(vmx, guest_exit(_INTERRUPTED if vmx.vcpu.guest_mode else NEUTRAL))
        ran = _run(vmx)
    result = _end(vmx, was_l2, ran)
    if result.outcome == "smm":
        machine.memory.write(vmx.vcpu.vmcs["guest_cs_base"] + vmx.vcpu.rip, _RSM)
    return result


def rsm(machine: SessionMachine, vmx: VcpuVmx, step: SessionStep) -> StepResult:
    """RSM raises #UD, and KVM emulates it; or KVM has to emulate all of SMM."""
    del machine, step
    was_l2 = vmx.vcpu.guest_mode
    answer = _INTERRUPTED if vmx.emulation_required else l1.UNDEFINED_OPCODE
    result = _end(vmx, was_l2, _run(vmx, guest_exit(answer)))
    fault = _fault(vmx)
    return replace(result, outcome=fault) if fault and not result.errno and not was_l2 else result


def smram_write(machine: SessionMachine, vmx: VcpuVmx, step: SessionStep) -> StepResult:
    """Edit the saved state where SMBASE says that it is."""
    offset, size = SMRAM[step.chosen("field")]
    old = machine.memory.read_int(vmx.smbase + offset, size)
    if old is None:
        return StepResult(outcome="unbacked")
    new = (old & ~step.number("unset") ^ step.number("flip")) & (1 << 8 * size) - 1
    machine.memory.write(vmx.smbase + offset, new.to_bytes(size, "little"))
    return StepResult()


def memory_write(machine: SessionMachine, vmx: VcpuVmx, step: SessionStep) -> StepResult:
    """Write eight bytes of guest memory."""
    del vmx
    address = PLACE_ADDRESSES[step.chosen("region")] + step.number("offset")
    written = machine.memory.write(address, step.number("value").to_bytes(8, "little"))
    return StepResult(outcome="" if written else "unbacked")


STEPS: Final[Mapping[str, Handler]] = MappingProxyType(
    {
        **dict.fromkeys(("vmxon", "vmclear", "vmptrld"), pointer),
        **dict.fromkeys(("vmxoff", "vmlaunch", "vmresume"), plain),
        **dict.fromkeys(("vmread", "vmwrite"), field_step),
        **dict.fromkeys(("invept", "invvpid"), invalidation),
        "vmptrst": vmptrst,
        "prepare": prepare,
        "run": run,
        "l2-exit": l2_runs,
        "run-immediate": run_immediate,
        "smi": smi,
        "rsm": rsm,
        "smram-write": smram_write,
        "memory-write": memory_write,
        **USERSPACE_STEPS,
    }
)
"""What carries each of these steps out; the others are not modelled."""
