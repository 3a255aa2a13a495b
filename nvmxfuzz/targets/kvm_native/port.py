# SPDX-License-Identifier: GPL-2.0-only
"""The hardware port: what stands where KVM executes VMLAUNCH or VMRESUME.

KVM asks for a VM entry with a current VMCS. A port answers with the VM exit that came next, with
an entry that failed, or with VMfail. A `Script` has its answers beforehand; an `Answering` asks a
Python function; `nvmxfuzz.targets.kvm_native.judged` lets a target of VM entry judge first.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

from nvmxfuzz.arch.exit_reasons import ExitReason
from nvmxfuzz.arch.fields import FIELD_BY_NAME
from nvmxfuzz.targets.kvm_native import native
from nvmxfuzz.targets.kvm_native.library import Library

REGISTERS: Final = (
    *("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"),
    *(f"r{number}" for number in range(8, 16)),
)
"""In the order of the kernel's array. RSP is a field of the VMCS: changing it here does nothing."""

ENTRY_FAILURE: Final = 1 << 31
"""The bit of the exit reason by which a VM entry that failed is known."""

_VM_EXIT: Final = 0
_VM_FAIL: Final = 1
_RESUME: Final = 1
_ERROR_FIELD: Final = FIELD_BY_NAME["vm_instruction_error"].encoding
_LONGEST_SCRIPT: Final = 64
_MOST_WRITES: Final = 12


@dataclass(frozen=True, slots=True)
class Exit:
    """The guest was entered, and left again for `reason`, as the fields of the VMCS tell it.

    The fields that tell of an event or an operand are 0 unless `fields` has them by name; there
    may be four of other kinds. `registers` are those that the guest has changed, by name.
    """

    reason: int
    qualification: int = 0
    length: int = 0
    """Of the instruction that caused the exit, in bytes; KVM skips that many."""
    information: int = 0
    """VM-exit instruction information."""
    fields: Mapping[str, int] = field(default_factory=dict)
    registers: Mapping[str, int] = field(default_factory=dict)

    def writes(self) -> dict[str, int]:
        """Return what the processor writes into the VMCS, by field."""
        return {
            "vm_exit_reason": self.reason,
            "exit_qualification": self.qualification,
            "vm_exit_instruction_len": self.length,
            "vmx_instruction_info": self.information,
            "vm_exit_intr_info": 0,
            "idt_vectoring_info_field": 0,
            "guest_physical_address": 0,
            # Of this field a VM exit clears the valid bit: an event is not injected twice.
            "vm_entry_intr_info_field": 0,
            **self.fields,
        }


@dataclass(frozen=True, slots=True)
class FailedEntry:
    """The VM entry failed with an exit: 33 for the guest state, 34 for an MSR."""

    reason: int
    qualification: int = 0
    registers: Mapping[str, int] = field(default_factory=dict, init=False)

    def writes(self) -> dict[str, int]:
        """Return what the processor writes into the VMCS, by field."""
        return {
            "vm_exit_reason": self.reason | ENTRY_FAILURE,
            "exit_qualification": self.qualification,
        }


@dataclass(frozen=True, slots=True)
class VmFail:
    """VMfailValid with an error number; None is VMfailInvalid."""

    error: int | None


Answer: TypeAlias = Exit | FailedEntry | VmFail

VMCALL: Final = Exit(ExitReason.VMCALL, length=3)
"""What a guest does that nothing else is said of."""


class PortFailed(Exception):  # noqa: N818 # what came of a case, not an error of the harness
    """The port has no answer; the message says why."""


class PortEntry:
    """One VM entry that KVM asks for. It may be kept no longer than the answer takes."""

    __slots__ = ("_registers", "functions", "number", "resume", "vcpu", "vmcs")

    def __init__(self, library: Library, vcpu: int, entry: native.Entry) -> None:
        self.functions = library.functions
        self.vcpu = vcpu
        self.vmcs: int = entry.vmcs or 0
        """The current VMCS, for nvmx_vmcs_read() and its like."""
        self.resume = bool(entry.flags & _RESUME)
        """VMRESUME, not VMLAUNCH."""
        self.number: int = entry.number
        """Of this entry since the port was connected, from 0."""
        self._registers = entry.registers

    @property
    def is_l2(self) -> bool:
        """Whether the current VMCS is vmcs02, by which KVM runs L2."""
        return bool(self.vmcs == self.functions.nvmx_vmcs(self.vcpu, 2))

    def read(self, name: str) -> int:
        """Return a field of the current VMCS."""
        return int(self.functions.nvmx_vmcs_read(self.vmcs, FIELD_BY_NAME[name].encoding))

    def write(self, name: str, value: int) -> None:
        """Set a field of the current VMCS."""
        self.functions.nvmx_vmcs_write(self.vmcs, FIELD_BY_NAME[name].encoding, value)

    def register(self, name: str) -> int:
        """Return a register of the guest."""
        return int(self._registers[REGISTERS.index(name)])

    def memory(self, address: int, size: int) -> bytes | None:
        """Return host-physical memory; None if there is none."""
        place = self.functions.nvmx_physical(address, size) if size else None
        return ctypes.string_at(place, size) if place else None

    def accept(self, answer: Answer) -> int:
        """Bring about what a port answers; return what the function of the port returns."""
        if isinstance(answer, VmFail):
            if answer.error is not None:
                self.functions.nvmx_vmcs_write(self.vmcs, _ERROR_FIELD, answer.error)
            return _VM_FAIL
        for name, value in answer.writes().items():
            self.write(name, value)
        for name, value in answer.registers.items():
            self._registers[REGISTERS.index(name)] = value
        return _VM_EXIT


class Port(Protocol):
    """What can stand below KVM. `Vcpu.run` connects it for one KVM_RUN."""

    def connect(self, library: Library, vcpu: int) -> None:
        """Be the processor of `library` from now on; `vcpu` is the address of a vCPU."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one entry of a script found. `resume` tells VMRESUME from VMLAUNCH."""

    rip: int
    rflags: int
    entry_controls: int
    resume: bool


class Script(Port):
    """Answers that are known beforehand, one for each entry: the fastest port, all in C.

    At most 64. When they have run out, the call is Stopped with the status "port".
    """

    def __init__(self, *answers: Answer) -> None:
        self._count = len(answers)
        if self._count > _LONGEST_SCRIPT:
            raise ValueError(f"a script has {self._count} answers; it can have {_LONGEST_SCRIPT}")
        self._actions = (native.Action * max(self._count, 1))(*map(action, answers))

    def connect(self, library: Library, vcpu: int) -> None:  # noqa: ARG002 # any vCPU
        """Let the script begin with the next entry."""
        library.functions.nvmx_set_script(ctypes.byref(self._actions), self._count)

    @staticmethod
    def seen(library: Library) -> tuple[Seen, ...]:
        """Return what the entries since the script was connected found."""
        table = (native.Seen * _LONGEST_SCRIPT)()
        count = library.functions.nvmx_script_seen(ctypes.byref(table))
        return tuple(
            Seen(entry.rip, entry.rflags, entry.entry_controls, bool(entry.flags & _RESUME))
            for entry in table[: min(count, _LONGEST_SCRIPT)]
        )


class Answering(Port):
    """Answers by a function. What it raises ends KVM_RUN; a `PortFailed` as Stopped."""

    def __init__(self, answer: Callable[[PortEntry], Answer]) -> None:
        self._answer = answer

    def connect(self, library: Library, vcpu: int) -> None:
        """Ask the function from the next entry on."""

        def entered(entry: native.Entry) -> int:
            asked = PortEntry(library, vcpu, entry)
            return asked.accept(self._answer(asked))

        library.set_port(entered)


def in_turn(answers: Sequence[Answer]) -> Callable[[PortEntry], Answer]:
    """Return a function that gives these answers, one for each call, and then PortFailed."""
    rest: Iterator[Answer] = iter(answers)

    def answer(_: PortEntry) -> Answer:
        found = next(rest, None)
        if found is None:
            raise PortFailed(f"the script of {len(answers)} answers ran out")
        return found

    return answer


def action(answer: Answer) -> native.Action:
    """Return an answer as the C side takes it."""
    if isinstance(answer, VmFail):
        return native.Action(vmfail=1, error=answer.error or 0)
    writes = answer.writes()
    if len(writes) > _MOST_WRITES:
        raise ValueError(f"an answer writes {len(writes)} fields; {_MOST_WRITES} are possible")
    made = native.Action(writes=len(writes))
    for number, (name, value) in enumerate(writes.items()):
        made.write[number] = native.Write(FIELD_BY_NAME[name].encoding, 0, value)
    for name, value in answer.registers.items():
        number = REGISTERS.index(name)
        made.registers |= 1 << number
        made.value[number] = value
    return made
