# SPDX-License-Identifier: GPL-2.0-only
"""VMREAD and VMWRITE of a session whose operand is in memory, in all forms that an operand has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from nvmxfuzz.arch.exit_reasons import ExitReason
from nvmxfuzz.arch.fields import FIELD_BY_NAME
from nvmxfuzz.arch.registers import Efer
from nvmxfuzz.inputs.session_steps import SessionStep
from nvmxfuzz.oracles.session.witness import LINEAR_ADDRESSES, StepResult
from nvmxfuzz.targets.kvm_native import ioctl_numbers as io
from nvmxfuzz.targets.kvm_native.port import Exit
from nvmxfuzz.targets.kvm_native.session_boot import PAGE_DIRECTORY, operand_memory
from nvmxfuzz.targets.kvm_native.session_end import end_of
from nvmxfuzz.targets.kvm_native.session_exits import operand_address, script
from nvmxfuzz.targets.kvm_native.session_guest import run_instruction
from nvmxfuzz.targets.kvm_native.session_vcpu import SessionVcpu

_REASONS: Final = {"vmread": ExitReason.VMREAD, "vmwrite": ExitReason.VMWRITE}
_LENGTH: Final = 3
_SIZE: Final = 8

_ADDRESS_16: Final = 0 << 7
_ADDRESS_32: Final = 1 << 7
_ADDRESS_64: Final = 2 << 7
_SS: Final = 2 << 15
_DS: Final = 3 << 15
_FS: Final = 4 << 15
_NO_INDEX: Final = 1 << 22
_NO_BASE: Final = 1 << 27
_INDEX_RSI_TIMES_2: Final = 6 << 18 | 1
_BASE_RDX: Final = 2 << 23
_FIELD_IN_RCX: Final = 1 << 28
"""VM-exit instruction information."""

_INDEX: Final = 0x20
_BASE: Final = 0x1_0000
_LOW: Final = 0xD000
"""Of an address of 16 bits: a page that L1 has for nothing else."""
_PAE_ROOT: Final = 0x11_3000
_PRESENT: Final = 1


@dataclass(frozen=True, slots=True)
class _Operand:
    """A memory operand: what the exit says of it, and where it is in physical memory, if it is."""

    qualification: int
    information: int
    registers: Mapping[str, int]
    physical: int | None


def _operand_of(vcpu: SessionVcpu, form: str, *, long: bool) -> _Operand:
    usual = _ADDRESS_64 if long else _ADDRESS_32
    plain = _NO_INDEX | _NO_BASE
    if form in LINEAR_ADDRESSES:
        segment = _SS if LINEAR_ADDRESSES[form][0] == "ss" else _DS
        place = operand_memory(form, vcpu.number)
        return _Operand(operand_address(form, vcpu.number), usual | segment | plain, {}, place)
    address, place = operand_address("good", vcpu.number), operand_memory("good", vcpu.number)
    match form:
        case "indexed":
            registers = {"rdx": _BASE, "rsi": _INDEX}
            displacement = address - _BASE - 2 * _INDEX
            information = usual | _DS | _INDEX_RSI_TIMES_2 | _BASE_RDX
            return _Operand(displacement, information, registers, place)
        case "fs-base":
            return _Operand(address, usual | _FS | plain, {}, place)
        case "address-16" if not long:
            low = _LOW + vcpu.number * 0x100
            return _Operand(low, _ADDRESS_16 | _DS | plain, {}, low)
    return _Operand(address, _ADDRESS_32 | _DS | plain, {}, place)


def field_in_memory(vcpu: SessionVcpu, step: SessionStep) -> StepResult:
    """VMREAD into memory or VMWRITE from there."""
    kind = step.kind.removesuffix("-memory")
    name = step.chosen("field")
    protected = step.chosen("mode") == "protected"
    operand = _operand_of(vcpu, step.chosen("operand"), long=not protected)
    if kind == "vmwrite" and operand.physical is not None:
        vcpu.vm.write(operand.physical, step.number("value").to_bytes(_SIZE, "little"))
    error, _ = vcpu.run()
    if error:
        return StepResult(error)
    if vcpu.shadow.takes(kind, name):
        return _without_exit(vcpu, kind, name, operand)
    actions = script(
        Exit(
            _REASONS[kind],
            qualification=operand.qualification,
            length=_LENGTH,
            information=operand.information | _FIELD_IN_RCX,
            registers={**operand.registers, "rcx": FIELD_BY_NAME[name].encoding},
        )
    )
    if protected and not vcpu.in_l2():
        return _in_protected_mode(vcpu, actions)
    return run_instruction(vcpu, step, actions)


def _without_exit(vcpu: SessionVcpu, kind: str, name: str, operand: _Operand) -> StepResult:
    """The processor does it, on the shadow VMCS; what it would fault on it leaves alone."""
    if operand.physical is None:
        return StepResult(0, "l1")
    if kind == "vmread":
        vcpu.vm.write(operand.physical, vcpu.shadow.read(name).to_bytes(_SIZE, "little"))
    else:
        vcpu.shadow.write(name, vcpu.vm.memory.read_int(operand.physical, _SIZE))
    return StepResult(0, "done")


def _in_protected_mode(vcpu: SessionVcpu, actions: Any) -> StepResult:  # noqa: ANN401 # an array of native.Action
    """Let L1 execute it as 32-bit code that pages with PAE."""
    vcpu.vm.write(_PAE_ROOT, (PAGE_DIRECTORY | _PRESENT).to_bytes(8, "little"))
    before = bytes(vcpu.get_sregs())
    vcpu.sregs.efer &= ~(Efer.LMA | Efer.LME)
    vcpu.sregs.cr3 = _PAE_ROOT
    vcpu.sregs.cs.l, vcpu.sregs.cs.db = 0, 1
    error = vcpu.set(io.KVM_SET_SREGS, vcpu.sregs)
    if error:
        return StepResult(error)
    result = end_of(vcpu, False, vcpu.run(actions), told=True)
    if not result.outcome.startswith("smm"):
        vcpu.call(io.KVM_SET_SREGS, before)
    return result


FIELDS_IN_MEMORY: Final[Mapping[str, Callable[[SessionVcpu, SessionStep], StepResult]]] = (
    MappingProxyType(dict.fromkeys(("vmread-memory", "vmwrite-memory"), field_in_memory))
)
