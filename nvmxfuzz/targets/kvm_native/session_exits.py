# SPDX-License-Identifier: GPL-2.0-only
"""What the guest does in a step of a session, as the VM exit that the processor makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from nvmxfuzz.arch.controls import Pin, Primary, Secondary
from nvmxfuzz.arch.events import EventType, InterruptionInfo, Vector
from nvmxfuzz.arch.exit_reasons import ExitReason
from nvmxfuzz.oracles.session.witness import LINEAR_ADDRESSES
from nvmxfuzz.targets.kvm_native import l1, native
from nvmxfuzz.targets.kvm_native.port import (
    VMCALL,
    Answer,
    Exit,
    FailedEntry,
    VmFail,
    action,
)

_ADDRESS_64: Final = 2 << 7
_NO_INDEX: Final = 1 << 22
_NO_BASE: Final = 1 << 27
_SEGMENTS: Final[Mapping[str, int]] = {"ds": 3 << 15, "ss": 2 << 15}
_KIND_IN_RCX: Final = 1 << 28
_REGISTERS_RAX_RCX: Final = 1 << 10 | 0 << 3 | 1 << 28
_WORD: Final = (1 << 32) - 1
_PAGE_MASK: Final = 0xFFF
_OPERANDS_OF_A_VCPU: Final = 0x100
_PHYSICAL: Final = (1 << 36) - 1
_UNKNOWN_ENTRY_ERROR: Final = 7

_MEMORY: Final[Mapping[str, tuple[int, int]]] = {
    "vmxon": (ExitReason.VMON, 4),
    "vmclear": (ExitReason.VMCLEAR, 4),
    "vmptrld": (ExitReason.VMPTRLD, 3),
    "vmptrst": (ExitReason.VMPTRST, 3),
    "invept": (ExitReason.INVEPT, 5),
    "invvpid": (ExitReason.INVVPID, 5),
}
_PLAIN: Final[Mapping[str, tuple[int, int]]] = {
    "vmxoff": (ExitReason.VMOFF, 3),
    "vmlaunch": (ExitReason.VMLAUNCH, 3),
    "vmresume": (ExitReason.VMRESUME, 3),
}


def interruption(kind: int, vector: int, *, error: bool = False) -> int:
    """Return the interruption information of an event."""
    code = InterruptionInfo.DELIVER_ERROR_CODE if error else 0
    return InterruptionInfo.VALID | kind << InterruptionInfo.TYPE.position | vector | code


def exception(vector: int, *, error: int | None = None, qualification: int = 0) -> Exit:
    """Return the exit of an exception of the processor."""
    info = interruption(EventType.HARDWARE_EXCEPTION, vector, error=error is not None)
    fields = {"vm_exit_intr_info": info, "vm_exit_intr_error_code": error or 0}
    return Exit(ExitReason.EXCEPTION_NMI, qualification=qualification, fields=fields)


NEUTRAL_REASON: Final = ExitReason.INTERRUPT_WINDOW
NEUTRAL: Final = Exit(NEUTRAL_REASON)
"""An exit of L1 that changes nothing."""

INTERRUPTED: Final = Exit(
    ExitReason.EXTERNAL_INTERRUPT,
    fields={"vm_exit_intr_info": interruption(EventType.EXTERNAL_INTERRUPT, 0x20)},
)
"""The same of L2, which L1 never hears of."""


def operand_address(name: str, vcpu: int) -> int:
    """Return the linear address of a memory operand of one vCPU."""
    return LINEAR_ADDRESSES[name][1] + vcpu * _OPERANDS_OF_A_VCPU


def with_memory(kind: str, operand: str, vcpu: int, in_rcx: int = 0) -> Exit:
    """Return the exit of an instruction with a memory operand; `in_rcx` is the type of INVEPT."""
    reason, length = _MEMORY[kind]
    segment, _ = LINEAR_ADDRESSES[operand]
    information = _ADDRESS_64 | _SEGMENTS[segment] | _NO_INDEX | _NO_BASE
    registers = {}
    if kind in ("invept", "invvpid"):
        information |= _KIND_IN_RCX
        registers["rcx"] = in_rcx
    return Exit(
        reason,
        qualification=operand_address(operand, vcpu),
        length=length,
        information=information,
        registers=registers,
    )


def without_operand(kind: str) -> Exit:
    """Return the exit of VMXOFF, VMLAUNCH or VMRESUME."""
    reason, length = _PLAIN[kind]
    return Exit(reason, length=length)


def field_access(kind: str, name: str, value: int = 0) -> Exit:
    """Return the exit of VMREAD or VMWRITE: the value is RAX, the field encoding is in RCX."""
    return l1.vmwrite(name, value) if kind == "vmwrite" else l1.vmread(name)


def script(*answers: Answer) -> Any:  # noqa: ANN401 # a ctypes array
    """Return answers as the C side takes them."""
    return (native.Action * max(len(answers), 1))(*map(action, answers))


@lru_cache(maxsize=1024)
def l2_exit(name: str, qualification: int) -> Answer:
    """Return the exit that a step names, of an L2 whose registers may be anything."""
    q = qualification
    if name.startswith("failed-entry-"):
        return FailedEntry(int(name.removeprefix("failed-entry-")), q & 7)
    if name == "vmfail":
        return VmFail(_UNKNOWN_ENTRY_ERROR)
    return _register_exit(name, q) or _event_exit(name, q) or _other_exit(name, q)


def _register_exit(name: str, q: int) -> Exit | None:
    if name.endswith("-write"):
        number = int(name[2])
        registers = {"rax": q}
        return Exit(ExitReason.CR_ACCESS, number, length=3, registers=registers)
    match name:
        case "cpuid":
            return Exit(ExitReason.CPUID, length=2, registers={"rax": q & _WORD, "rcx": q >> 32})
        case "rdmsr":
            return Exit(ExitReason.MSR_READ, length=2, registers={"rcx": q & _WORD})
        case "wrmsr":
            registers = {"rcx": q & _WORD, "rax": q >> 32, "rdx": 0}
            return Exit(ExitReason.MSR_WRITE, length=2, registers=registers)
        case "io":
            direction_and_string = q & 0x38
            return Exit(ExitReason.IO_INSTRUCTION, q & 0xFFFF_0000 | direction_and_string, length=2)
    return None


def _event_exit(name: str, q: int) -> Exit | None:
    match name:
        case "exception-ud":
            return exception(Vector.UD)
        case "exception-gp":
            return exception(Vector.GP, error=q & 0xFFFF)
        case "exception-db":
            return exception(Vector.DB, qualification=q & 0x600F)
        case "nmi":
            info = interruption(EventType.NMI, 2)
            return Exit(ExitReason.EXCEPTION_NMI, fields={"vm_exit_intr_info": info})
        case "external-interrupt":
            info = interruption(EventType.EXTERNAL_INTERRUPT, 0x20 | q & 0xFF)
            return Exit(ExitReason.EXTERNAL_INTERRUPT, fields={"vm_exit_intr_info": info})
    return None


def _other_exit(name: str, q: int) -> Exit:
    access = {"guest_physical_address": q & _PHYSICAL & ~_PAGE_MASK}
    match name:
        case "hlt":
            return Exit(ExitReason.HLT, length=1)
        case "triple-fault":
            return Exit(ExitReason.TRIPLE_FAULT)
        case "ept-violation":
            return Exit(ExitReason.EPT_VIOLATION, 0x180 | q & 7 or 1, fields=access)
        case "ept-misconfiguration":
            return Exit(ExitReason.EPT_MISCONFIG, fields=access)
        case "vmlaunch":
            return without_operand("vmlaunch")
        case "vmread":
            return field_access("vmread", "guest_rip")
        case "invept":
            return with_memory("invept", "good", 0, 1)
        case "preemption-timer":
            return Exit(ExitReason.PREEMPTION_TIMER)
        case "monitor-trap-flag":
            return Exit(ExitReason.MONITOR_TRAP_FLAG)
        case "interrupt-window":
            return Exit(ExitReason.INTERRUPT_WINDOW)
        case "nmi-window":
            return Exit(ExitReason.NMI_WINDOW)
        case "task-switch":
            return Exit(ExitReason.TASK_SWITCH, q & 0xC000_FFFF, length=2)
        case "apic-access":
            return Exit(ExitReason.APIC_ACCESS, q & 0x1FFF)
    return VMCALL


NEEDS: Final[Mapping[str, tuple[str, int]]] = {
    "hlt": ("cpu_based_vm_exec_control", Primary.HLT_EXITING),
    "interrupt-window": ("cpu_based_vm_exec_control", Primary.INTERRUPT_WINDOW_EXITING),
    "nmi-window": ("cpu_based_vm_exec_control", Primary.NMI_WINDOW_EXITING),
    "monitor-trap-flag": ("cpu_based_vm_exec_control", Primary.MONITOR_TRAP_FLAG),
    "cr3-write": ("cpu_based_vm_exec_control", Primary.CR3_LOAD_EXITING),
    "preemption-timer": ("pin_based_vm_exec_control", Pin.ACTIVATE_VMX_PREEMPTION_TIMER),
    "ept-violation": ("secondary_vm_exec_control", Secondary.ENABLE_EPT),
    "ept-misconfiguration": ("secondary_vm_exec_control", Secondary.ENABLE_EPT),
    "apic-access": ("secondary_vm_exec_control", Secondary.VIRTUALIZE_APIC_ACCESSES),
    "exception-ud": ("exception_bitmap", 1 << Vector.UD),
    "exception-gp": ("exception_bitmap", 1 << Vector.GP),
    "exception-db": ("exception_bitmap", 1 << Vector.DB),
}
"""What the processor must have been told by the current VMCS, or it makes no such exit."""


UNDEFINED: Final = script(l1.UNDEFINED_OPCODE)
"""The script of an instruction that the processor does not have."""
NOTHING: Final = script(NEUTRAL)
INTERRUPTION: Final = script(INTERRUPTED)
