# SPDX-License-Identifier: GPL-2.0-only
"""One vCPU: its ioctls, KVM_RUN among them, and what L1 finds on it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from nvmxfuzz.arch.msr import VMX_CAPABILITY_MSRS
from nvmxfuzz.targets.kvm_native import ioctl_numbers as io
from nvmxfuzz.targets.kvm_native import structures as s
from nvmxfuzz.targets.kvm_native.errors import IoctlError
from nvmxfuzz.targets.kvm_native.guest_memory import GuestMemory
from nvmxfuzz.targets.kvm_native.library import Library
from nvmxfuzz.targets.kvm_native.port import Port, PortFailed
from nvmxfuzz.targets.kvm_native.results import Stopped

_T = TypeVar("_T", bound=ctypes.Structure)


def ioctl(library: Library, file: int, command: int, argument: Any = 0) -> int:  # noqa: ANN401
    """Return what the call of `command` returns; IoctlError if that is an error.

    The argument is a number, or anything that `Library.call` takes for memory.
    """
    value = library.call("nvmx_ioctl", file, command, argument)
    if value < 0:
        raise IoctlError(-value, io.NAMES.get(command, f"ioctl {command:#x}"))
    return value


def get_msrs(library: Library, file: int, indices: Sequence[int]) -> tuple[int, ...]:
    """KVM_GET_MSRS: return the values up to the first MSR that KVM refuses."""
    table = s.counted(s.MsrEntry, [s.MsrEntry(index) for index in indices])
    count = ioctl(library, file, io.KVM_GET_MSRS, ctypes.byref(table))
    return tuple(entry.data for entry in table.items[:count])


@dataclass(frozen=True, slots=True)
class RunExit:
    """Why KVM_RUN returned to user space: KVM_EXIT_ number, its name, and words that belong to it.

    `suberror` is what an internal error names; `hardware` the reason of a failed VM entry, or the
    VM exit that KVM does not know.
    """

    reason: int
    name: str
    hardware: int | None = None
    suberror: int | None = None

    def __str__(self) -> str:
        if self.suberror is not None:
            return f"{self.name} {self.suberror}"
        return self.name if self.hardware is None else f"{self.name} {self.hardware:#x}"


class Vcpu:
    """One vCPU. `address` is that of its struct kvm_vcpu, for `nvmxfuzz...kvm_native.direct`."""

    def __init__(self, library: Library, file: int, memory: GuestMemory) -> None:
        self.library = library
        self.file = file
        self.memory = memory
        self.address: int = library.functions.nvmx_vcpu(file) or 0
        if not self.address:
            raise ValueError(f"file {file} is not that of a vCPU")
        self._run = s.RunHead.from_address(library.functions.nvmx_kvm_run(self.address))

    # ------------------------------------------------------------------ CPUID and MSRs

    def set_cpuid(self, entries: Sequence[s.CpuidEntry]) -> None:
        """KVM_SET_CPUID2."""
        table = s.counted(s.CpuidEntry, entries)
        self._ioctl(io.KVM_SET_CPUID2, ctypes.byref(table))

    def get_cpuid(self, room: int = 256) -> tuple[s.CpuidEntry, ...]:
        """KVM_GET_CPUID2."""
        table = s.counted(s.CpuidEntry, (), room)
        self._ioctl(io.KVM_GET_CPUID2, ctypes.byref(table))
        return tuple(table.items[: table.count])

    def get_msrs(self, indices: Sequence[int]) -> tuple[int, ...]:
        """KVM_GET_MSRS: return the values up to the first MSR that KVM refuses."""
        return get_msrs(self.library, self.file, indices)

    def get_msr(self, index: int) -> int | None:
        """Return the value of one MSR, None if KVM refuses."""
        values = self.get_msrs((index,))
        return values[0] if values else None

    def set_msrs(self, values: Iterable[tuple[int, int]]) -> int:
        """KVM_SET_MSRS of (index, value): return how many KVM has taken before it refused one."""
        entries = [s.MsrEntry(index, 0, value) for index, value in values]
        table = s.counted(s.MsrEntry, entries)
        return self._ioctl(io.KVM_SET_MSRS, ctypes.byref(table))

    def set_msr(self, index: int, value: int) -> bool:
        """Set one MSR; tell whether KVM has taken it."""
        return self.set_msrs(((index, value),)) == 1

    # ------------------------------------------------------------------ registers and state

    def get_regs(self) -> s.Regs:
        """KVM_GET_REGS."""
        return self._get(io.KVM_GET_REGS, s.Regs())

    def set_regs(self, regs: s.Regs) -> None:
        """KVM_SET_REGS."""
        self._ioctl(io.KVM_SET_REGS, ctypes.byref(regs))

    def get_sregs(self) -> s.Sregs:
        """KVM_GET_SREGS."""
        return self._get(io.KVM_GET_SREGS, s.Sregs())

    def set_sregs(self, sregs: s.Sregs) -> None:
        """KVM_SET_SREGS."""
        self._ioctl(io.KVM_SET_SREGS, ctypes.byref(sregs))

    def get_sregs2(self) -> s.Sregs2:
        """KVM_GET_SREGS2."""
        return self._get(io.KVM_GET_SREGS2, s.Sregs2())

    def set_sregs2(self, sregs: s.Sregs2) -> None:
        """KVM_SET_SREGS2."""
        self._ioctl(io.KVM_SET_SREGS2, ctypes.byref(sregs))

    def get_events(self) -> s.VcpuEvents:
        """KVM_GET_VCPU_EVENTS."""
        events = self._get(io.KVM_GET_VCPU_EVENTS, s.VcpuEvents())
        if not events.flags & io.VCPU_EVENTS_TRIPLE_FAULT:
            # Linux 6.1 leaves here what was on its stack, which differs from run to run.
            events.triple_fault_pending = 0
        return events

    def set_events(self, events: s.VcpuEvents) -> None:
        """KVM_SET_VCPU_EVENTS."""
        self._ioctl(io.KVM_SET_VCPU_EVENTS, ctypes.byref(events))

    def get_mp_state(self) -> int:
        """KVM_GET_MP_STATE."""
        return int(self._get(io.KVM_GET_MP_STATE, s.MpState()).mp_state)

    def set_mp_state(self, state: int) -> None:
        """KVM_SET_MP_STATE."""
        self._ioctl(io.KVM_SET_MP_STATE, ctypes.byref(s.MpState(state)))

    def get_nested_state(self) -> s.NestedState:
        """KVM_GET_NESTED_STATE: whether the vCPU is in VMX operation or in L2, and its VMCS12."""
        state = s.NestedState(size=ctypes.sizeof(s.NestedState))
        return self._get(io.KVM_GET_NESTED_STATE, state)

    def set_nested_state(self, state: s.NestedState) -> None:
        """KVM_SET_NESTED_STATE."""
        self._ioctl(io.KVM_SET_NESTED_STATE, ctypes.byref(state))

    def enable_cap(self, capability: int, *arguments: int) -> None:
        """KVM_ENABLE_CAP of the vCPU."""
        cap = s.EnableCap(capability)
        cap.args[: len(arguments)] = arguments
        self._ioctl(io.KVM_ENABLE_CAP, ctypes.byref(cap))

    def enable_evmcs(self) -> int:
        """Offer L1 the enlightened VMCS; return its versions, as KVM tells them."""
        version = ctypes.c_uint16()
        self.enable_cap(io.KVM_CAP_HYPERV_ENLIGHTENED_VMCS, ctypes.addressof(version))
        return version.value

    # ------------------------------------------------------------------ running

    def smi(self) -> None:
        """KVM_SMI: an SMI is pending from now on."""
        self._ioctl(io.KVM_SMI)

    def nmi(self) -> None:
        """KVM_NMI: an NMI is pending from now on."""
        self._ioctl(io.KVM_NMI)

    def run(self, port: Port) -> RunExit:
        """KVM_RUN, with `port` as the processor below KVM; return why it came back.

        Stopped if it did not. Where the port gave up, the cause is a `PortFailed`. Any other
        exception of the port is raised as it is: it is a defect, not what came of a case.
        """
        port.connect(self.library, self.address)
        try:
            self._ioctl(io.KVM_RUN)
        except Stopped as stopped:
            raise blameless(stopped) from stopped.__cause__
        return self.left()

    def in_l2(self) -> bool:
        """Tell whether the vCPU is in L2: is_guest_mode()."""
        return bool(self.library.functions.nvmx_is_guest_mode(self.address))

    def run_head(self) -> s.RunHead:
        """Return the start of struct kvm_run itself: what is written there reaches KVM."""
        return self._run

    def left(self) -> RunExit:
        """Return why KVM_RUN came back last."""
        reason = self._run.exit_reason
        name = io.EXIT_REASONS.get(reason, str(reason))
        match name:
            case "unknown" | "fail-entry":
                return RunExit(reason, name, hardware=self._run.words[0])
            case "internal-error":
                return RunExit(reason, name, suberror=self._run.words[0] & 0xFFFF_FFFF)
        return RunExit(reason, name)

    def _get(self, command: int, structure: _T) -> _T:
        self._ioctl(command, ctypes.byref(structure))
        return structure

    def _ioctl(self, command: int, argument: Any = 0) -> int:  # noqa: ANN401 # as Library.call
        return ioctl(self.library, self.file, command, argument)


def blameless(stopped: Stopped) -> Stopped:
    """Return what stopped KVM_RUN; raise what the port raised, unless it is a `PortFailed`."""
    cause = stopped.__cause__
    if cause is not None and not isinstance(cause, PortFailed):
        raise cause from None
    return stopped


def sentence_of(stopped: Stopped) -> str:
    """Return what stopped a call, with what the port says if it was the port that gave up."""
    sentence, cause = stopped.result.sentence(), stopped.__cause__
    return f"{sentence}: {cause}" if isinstance(cause, PortFailed) else sentence


def offered(vcpu: Vcpu) -> dict[int, int]:
    """Return the VMX capability MSRs that L1 finds on `vcpu`, by index: its virtual processor."""
    values = ((index, vcpu.get_msr(index)) for index, _ in VMX_CAPABILITY_MSRS)
    return {index: value for index, value in values if value is not None}
