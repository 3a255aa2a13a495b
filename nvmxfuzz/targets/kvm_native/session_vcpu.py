# SPDX-License-Identifier: GPL-2.0-only
"""A VM of a session and its vCPUs: ioctls whose errors are numbers, and KVM_RUN up to a point."""

from __future__ import annotations

import ctypes
import errno
from dataclasses import dataclass
from functools import cache
from struct import Struct
from typing import Any, Final

from nvmxfuzz.arch.registers import Cr0, Efer, Rflags
from nvmxfuzz.inputs.session_steps import MSRS
from nvmxfuzz.targets.kvm_native import ioctl_numbers as io
from nvmxfuzz.targets.kvm_native import native
from nvmxfuzz.targets.kvm_native import structures as s
from nvmxfuzz.targets.kvm_native.library import Library
from nvmxfuzz.targets.kvm_native.session_bases import Bases
from nvmxfuzz.targets.kvm_native.session_exits import NOTHING
from nvmxfuzz.targets.kvm_native.session_shadow import ShadowVmcs
from nvmxfuzz.targets.kvm_native.vcpu import Vcpu
from nvmxfuzz.targets.kvm_native.vm import Machine, Vm
from nvmxfuzz.targets.kvm_native.vmcs12 import Vmcs12Layout

STEPS_TO_SIGNAL: Final = 5000
"""Steps of the shim after which a signal ends KVM_RUN: KVM may emulate L1 for ever."""
_ENDS: Final = ("vm_exit_reason", "exit_qualification", "vm_instruction_error")

_LONGEST_SCRIPT: Final = 64
_TSC: Final = 0x10
_CAPABILITIES: Final = range(0x480, 0x4A0)


@dataclass(frozen=True, slots=True)
class Saved:
    """What userspace keeps of a vCPU: structures as bytes, MSRs as (index, value)."""

    mp_state: int
    regs: bytes
    sregs: bytes
    events: bytes
    msrs: tuple[tuple[int, int], ...]
    nested: bytes


class SessionVm:
    """What a session happens to. What KVM warns of in a step is collected here."""

    def __init__(self, library: Library, machine: Machine, vm: Vm) -> None:
        self.library = library
        self.file = vm.file
        self.memory = vm.memory
        self.layout = Vmcs12Layout(library)
        self.ends = self.layout.reader(_ENDS)
        self.kept_msrs = tuple(
            index for index in machine.msr_indices() if index not in _CAPABILITIES and index != _TSC
        )
        """Which MSRs are saved and restored."""
        self.vcpus: list[SessionVcpu] = []
        self.warnings: list[str] = []
        self.checks: list[str] = []
        self.broken = False
        """An ioctl was refused as of a VM that KVM has declared broken."""
        self.slots: dict[str, Saved] = {}
        self.refused = 0
        """The allocation in each ioctl of the next step that finds no memory, 0 if all do."""
        self.refusing = 0
        """The same of the step that is being carried out."""
        self.bases = Bases(self.layout)
        self._ioctl = library.prepare("nvmx_ioctl")
        self._reader = library.reader
        self._words = library.reader.words

    def call(self, file: int, command: int, argument: Any = 0) -> int:  # noqa: ANN401 # as Library.call
        """Return what an ioctl returns: -errno is a number as others are."""
        refuses = self.refusing and command not in io.READING
        if refuses:
            self.library.functions.nvmx_refuse_memory(self.refusing)
        try:
            value = self._ioctl(file, command, argument)
        finally:
            if refuses:
                self.library.functions.nvmx_refuse_memory(0)
        if value == -errno.EIO:
            self.broken = True
        words = self._words
        if words[self._reader.WARNINGS] or words[self._reader.CHECKS]:
            self.note()
        return value

    def note(self) -> None:
        """Keep what KVM warned of in the last call."""
        result = self.library.result()
        self.warnings += map(str, result.warnings)
        self.checks += (f"{check.text} in {check.function}" for check in result.checks)

    def forget(self) -> None:
        """A step begins: nothing has been warned of."""
        self.warnings, self.checks = [], []

    def backed(self, address: int, size: int) -> bool:
        """Tell whether the VM has memory there."""
        return any(
            0 <= address - slot.guest_address <= slot.size - size for slot in self.memory.slots
        )

    def write(self, address: int, data: bytes) -> bool:
        """Put bytes into guest memory; False if there is none."""
        found = self.backed(address, len(data))
        if found:
            self.memory.write(address, data)
        return found


class MsrTable:
    """struct kvm_msrs of certain indices, used again and again."""

    def __init__(self, indices: tuple[int, ...]) -> None:
        self.indices = indices
        self._layout = _table(len(indices))
        numbers = [number for index in indices for number in (index, 0, 0)]
        self.buffer = ctypes.create_string_buffer(self._layout.pack(len(indices), 0, *numbers))
        self.address = ctypes.addressof(self.buffer)

    def values(self) -> tuple[int, ...]:
        """Return the values."""
        return self._layout.unpack_from(self.buffer)[4::3]


@cache
def _table(count: int) -> Struct:
    """Return the layout of struct kvm_msrs."""
    return Struct("<II" + "IIQ" * count)


def msr_values(values: tuple[tuple[int, int], ...]) -> bytes:
    """Return struct kvm_msrs that writes these."""
    numbers = [number for index, value in values for number in (index, 0, value)]
    return _table(len(values)).pack(len(values), 0, *numbers)


class SessionVcpu:
    """One vCPU. A structure is filled by its `get_`; `set_` hands one to KVM."""

    def __init__(self, vm: SessionVm, vcpu: Vcpu, number: int) -> None:
        self.vm = vm
        self.number = number
        self.file = vcpu.file
        self.address = vcpu.address
        self.regs, self.sregs, self.sregs2 = s.Regs(), s.Sregs(), s.Sregs2()
        self.events, self.nested, self._mp = s.VcpuEvents(), s.NestedState(), s.MpState()
        self.readable: dict[tuple[int, ...], MsrTable] = {}
        """Which of some MSRs can be read, by all of them; as long as CPUID stays."""
        self.readable_at_first: dict[tuple[int, ...], MsrTable] = {}
        """The same when the world was loaded."""
        self.shadow = ShadowVmcs(vm.library, vcpu.address)
        self.entries = 0
        """How often the guest was entered in the last `run`."""
        self.emulated_l2 = False
        """KVM has emulated an L2 that it could not enter; whoever asks sets it back."""
        self.last_rip = 0
        """Where the guest was at the last of them."""
        self._vcpu = vcpu
        self._functions = vm.library.functions
        self._emulated = vm.library.functions.nvmx_emulated
        self._head = vcpu.run_head()
        self._seen = (native.Seen * _LONGEST_SCRIPT)()
        self._seen_at = ctypes.addressof(self._seen)

    # ------------------------------------------------------------------ what can be read

    def call(self, command: int, argument: Any = 0) -> int:  # noqa: ANN401 # as Library.call
        """Return what an ioctl of this vCPU returns."""
        return self.vm.call(self.file, command, argument)

    def get_regs(self) -> s.Regs:
        """KVM_GET_REGS."""
        self.call(io.KVM_GET_REGS, ctypes.addressof(self.regs))
        return self.regs

    def get_sregs(self) -> s.Sregs:
        """KVM_GET_SREGS."""
        self.call(io.KVM_GET_SREGS, ctypes.addressof(self.sregs))
        return self.sregs

    def get_sregs2(self) -> s.Sregs2:
        """KVM_GET_SREGS2."""
        self.call(io.KVM_GET_SREGS2, ctypes.addressof(self.sregs2))
        return self.sregs2

    def get_events(self) -> s.VcpuEvents:
        """KVM_GET_VCPU_EVENTS."""
        self.call(io.KVM_GET_VCPU_EVENTS, ctypes.addressof(self.events))
        return self.events

    def get_mp_state(self) -> int:
        """KVM_GET_MP_STATE, in which KVM accepts INIT and SIPI; -errno if it fails."""
        error = self.call(io.KVM_GET_MP_STATE, ctypes.addressof(self._mp))
        return error or int(self._mp.mp_state)

    def get_nested(self) -> s.NestedState:
        """KVM_GET_NESTED_STATE."""
        self.nested.size = ctypes.sizeof(s.NestedState)
        self.call(io.KVM_GET_NESTED_STATE, ctypes.addressof(self.nested))
        return self.nested

    def get_msrs(self, indices: tuple[int, ...] = tuple(MSRS.values())) -> MsrTable:
        """KVM_GET_MSRS of those that can be read."""
        table = self.readable.get(indices)
        if table and self.call(io.KVM_GET_MSRS, table.address) == len(table.indices):
            return table
        found = tuple(index for index in indices if self._can_read(index))
        table = self.readable[indices] = MsrTable(found)
        self.call(io.KVM_GET_MSRS, table.address)
        return table

    def _can_read(self, index: int) -> bool:
        return self.get_msr(index) is not None

    def get_msr(self, index: int) -> int | None:
        """Return an MSR, None if KVM refuses."""
        table = MsrTable((index,))
        return table.values()[0] if self.call(io.KVM_GET_MSRS, table.address) == 1 else None

    # ------------------------------------------------------------------ what can be written

    def set(self, command: int, structure: Any) -> int:  # noqa: ANN401 # any ctypes structure
        """Return what an ioctl returns that takes a structure: 0 or -errno."""
        return self.call(command, ctypes.addressof(structure))

    def set_msrs(self, values: tuple[tuple[int, int], ...]) -> int:
        """KVM_SET_MSRS: return how many KVM has taken before it refused one."""
        return self.call(io.KVM_SET_MSRS, msr_values(values))

    # ------------------------------------------------------------------ running

    def in_l2(self) -> bool:
        """Tell whether L2 is active."""
        return bool(self._functions.nvmx_is_guest_mode(self.address))

    def in_vmx_code(self, cpl: int = 3) -> bool:
        """Tell whether the processor executes VMX instructions of the guest, up to that CPL.

        In other modes it raises #UD, and above CPL 0 it leaves the shadow VMCS alone.
        """
        sregs = self.get_sregs()
        if not sregs.cr0 & Cr0.PE or self.get_regs().rflags & Rflags.VM or sregs.ss.dpl > cpl:
            return False
        return bool(not sregs.efer & Efer.LMA or sregs.cs.l)

    def uses_shadow(self) -> bool:
        """Tell whether the processor lets L1 use a shadow VMCS, if there is one, when it runs."""
        runs = self.get_mp_state() == io.MP_RUNNABLE
        return runs and not self.emulation_required() and self.in_vmx_code(cpl=0)

    def emulation_required(self) -> bool:
        """Tell whether KVM cannot enter the guest with the state that it has."""
        return bool(self._functions.nvmx_emulation_required(self.address))

    def vmcs12_end(self) -> tuple[int, ...]:
        """Return exit reason, qualification and instruction error of vmcs12; zeroes if none."""
        address = self._functions.nvmx_cached_vmcs12(self.address)
        return self.vm.ends(address) if address else (0, 0, 0)

    def vmcs02_field(self, encoding: int) -> int:
        """Return a field of vmcs02; 0 if there is none."""
        vmcs = self._functions.nvmx_vmcs(self.address, 2)
        return int(self._functions.nvmx_vmcs_read(vmcs, encoding)) if vmcs else 0

    def run(self, actions: Any = None) -> tuple[int, str]:  # noqa: ANN401 # an array of native.Action
        """KVM_RUN: the guest does these things, each after an entry; then a signal ends it.

        Without any, KVM comes as far as to the entry. Return 0 or -errno, and why it came back.
        """
        before = None
        if self._must_not_emulate():
            before = self._emulated(self.address)
            # L2 does nothing any more; L1, to which it is left, is only interrupted.
            actions = None if actions is None else NOTHING
        count = len(actions) if actions is not None else 0
        self._functions.nvmx_set_signalled_script(actions, count, STEPS_TO_SIGNAL)
        try:
            value = self.call(io.KVM_RUN)
        finally:
            if before is not None and self._emulated(self.address) != before:
                self.emulated_l2 = True
        self.entries = self._functions.nvmx_script_seen(self._seen_at) if count else 0
        if self.entries:
            self.last_rip = self._seen[self.entries - 1].rip
        if value in (0, -errno.EINTR):
            return 0, str(self._vcpu.left())
        return value, ""

    def _must_not_emulate(self) -> bool:
        """Tell whether L2 is next and cannot be entered; the handler of an SMI may be emulated."""
        invalid = self.in_l2() and self.emulation_required()
        return invalid and not self.get_events().smi.pending

    def run_immediate(self) -> int:
        """KVM_RUN with immediate_exit."""
        self._head.immediate_exit = 1
        self._functions.nvmx_set_signalled_script(None, 0, STEPS_TO_SIGNAL)
        value = self.call(io.KVM_RUN)
        self._head.immediate_exit = 0
        return value
