# SPDX-License-Identifier: GPL-2.0-only
"""One Bochs CPU of one model: made, patched, and open to reading and writing of its state."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Final, TypeAlias

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.registers import Rflags
from nvmxfuzz.targets.bochs import patches
from nvmxfuzz.targets.bochs.guest_memory import GuestMemory
from nvmxfuzz.targets.bochs.loading import Library
from nvmxfuzz.targets.bochs.messages import ERROR, PANIC, Messages
from nvmxfuzz.targets.bochs.native import Native
from nvmxfuzz.targets.bochs.patches import Action
from nvmxfuzz.targets.bochs.registers import State
from nvmxfuzz.targets.bochs.wheel import Wheel

MAXPHYADDR: Final = 40
"""Physical-address bits of every model; it is compiled in."""

Saved: TypeAlias = ctypes.Array[ctypes.c_char]
"""A copy of a CPU's state."""

_NO_OFFSET: Final = 0xFFFF_FFFF
_LAUNCH_STATE: Final = 0xFFFF_FFFE
"""The encoding by which Bochs itself asks where the launch state lies."""
_LOCKED_WITH_VMX: Final = 5
"""IA32_FEATURE_CONTROL: locked, and VMX allowed outside SMX operation."""

_SET_ENUM: Final = "_ZN15bx_param_enum_c3setEl"
_SET_NUMBER: Final = "_ZN14bx_param_num_c3setEl"
_RDMSR: Final = "_ZN8BX_CPU_C5rdmsrEjPm"
_WRMSR: Final = "_ZN8BX_CPU_C5wrmsrEjm"
_FIELD_OFFSET: Final = "_ZNK12VMCS_Mapping17vmcs_field_offsetEj"


class Cpu:
    """A CPU in its state after reset, with IA32_FEATURE_CONTROL locked as VMXON needs it.

    `model` is a number of Bochs' parameter cpu.model. Each CPU is a copy of the library.
    """

    def __init__(self, wheel: Wheel, model: int, actions: Mapping[str, Action]) -> None:
        self.offsets = wheel.offsets
        self.library = library = Library(wheel)
        self.native = Native()
        self.messages = Messages()
        self._address = library.address("bx_cpu")
        self._redirect({**patches.CONTAINED, **actions})
        self._handle = self._create(model)
        self.memory = GuestMemory(library, self.native)
        if not self.native.call(library.address(_WRMSR), msr.MSR_IA32_FEAT_CTL, _LOCKED_WITH_VMX):
            raise AssertionError("Bochs refuses to lock IA32_FEATURE_CONTROL")
        self.power_on = self.save()

    def _redirect(self, actions: Mapping[str, Action]) -> None:
        self.library.redirect({symbol: self._stub(symbol, actions[symbol]) for symbol in actions})

    def _stub(self, symbol: str, action: Action) -> int:
        """Return the address of the machine code for one line of the tables in `patches`."""
        native = self.native
        match action:
            case "nothing":
                return native.returning(None)
            case "zero" | "one":
                return native.returning(int(action == "one"))
            case "leave":
                return native.leaving(patches.ENDS[symbol])
            case "leave-in-guest":
                in_guest = self._address + self.offsets.in_vmx_guest
                return native.leaving_if(in_guest, patches.ENDS[symbol], self._original(symbol))
            case "decide":
                return native.deciding(self._original(symbol))
            case "log-error" | "log-panic":
                return native.logging(ERROR if action == "log-error" else PANIC)

    def _original(self, symbol: str) -> int:
        """Return where a call goes that is only looked at."""
        if symbol in patches.INSTRUMENTATION:
            return self.native.returning(None)
        return self.library.address(symbol)

    def _create(self, model: int) -> int:
        self._set_parameter("enum", b"cpu.model", _SET_ENUM, model)
        # The wheel lets WRMSR write MSRs that do not exist.
        self._set_parameter("bool", b"cpu.ignore_bad_msrs", _SET_NUMBER, 0)
        return self.native.call(self.library.address("bochscpu_cpu_new"))

    def _set_parameter(self, kind: str, name: bytes, setter: str, value: int) -> None:
        text = ctypes.create_string_buffer(name)
        find = self.library.address(f"sim_get_param_{kind}")
        parameter = self.native.call(find, ctypes.addressof(text))
        self.native.call(self.library.address(setter), parameter, value)

    def save(self) -> Saved:
        """Return a copy of the state."""
        buffer = ctypes.create_string_buffer(self.offsets.state_size)
        ctypes.memmove(buffer, self._address, self.offsets.state_size)
        return buffer

    def restore(self, state: Saved) -> None:
        """Put a saved state back."""
        ctypes.memmove(self._address, state, self.offsets.state_size)

    def set_registers(self, state: State) -> None:
        """Load the registers, and let Bochs work out the processor's mode."""
        load = self.library.address("bochscpu_cpu_set_state")
        self.native.call(load, self._handle, ctypes.addressof(state))
        if state.rflags & Rflags.VM:
            # RFLAGS is loaded before IA32_EFER, and in IA-32e mode VM cannot be set.
            self.native.call(load, self._handle, ctypes.addressof(state))

    def read(self, offset: int, size: int) -> int:
        """Return an unsigned integer of the state."""
        return int.from_bytes(self.read_bytes(offset, size), "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """Change an unsigned integer of the state."""
        self.write_bytes(offset, value.to_bytes(size, "little"))

    def read_bytes(self, offset: int, size: int) -> bytes:
        """Return a part of the state."""
        return ctypes.string_at(self._address + offset, size)

    def write_bytes(self, offset: int, data: bytes) -> None:
        """Change a part of the state."""
        ctypes.memmove(self._address + offset, data, len(data))

    @property
    def address(self) -> int:
        """Where the state begins in memory."""
        return self._address

    def rdmsr(self, index: int) -> int | None:
        """Return an MSR, or None if RDMSR faults."""
        value = ctypes.c_uint64()
        found = self.native.call(self.library.address(_RDMSR), index, ctypes.addressof(value))
        return value.value if found & 0xFF else None

    def field_offset(self, encoding: int) -> int | None:
        """Return where a field lies in the VMCS region, or None if the model lacks the field."""
        mapping = self.read(self.offsets.vmcs_map, 8)
        offset = self.native.call(self.library.address(_FIELD_OFFSET), mapping, encoding)
        return None if offset & _NO_OFFSET == _NO_OFFSET else offset & _NO_OFFSET

    def launch_state_offset(self) -> int:
        """Return where the launch state lies in the VMCS region."""
        offset = self.field_offset(_LAUNCH_STATE)
        if offset is None:
            raise AssertionError("Bochs knows no place for the launch state")
        return offset
