# SPDX-License-Identifier: GPL-2.0-only
"""The fast path: Bochs' VMLAUNCH as a function of a CPU's state and a VMCS, without guest code.

Before each attempt the state is put back to that of the hypervisor, and the VMCS to the image of
the attempt. The VMCS is kept outside the physical memory that the CPU sees, as a processor may.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import ENTERED, FAIL_INVALID, fail_valid, fault
from nvmxfuzz.machine.processor import Processor
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.targets.at_hand import AtHand, Ends
from nvmxfuzz.targets.base import Observation, not_representable
from nvmxfuzz.targets.bochs import modes, patches
from nvmxfuzz.targets.bochs.capabilities import restrict
from nvmxfuzz.targets.bochs.cpu import Cpu, Saved
from nvmxfuzz.targets.bochs.image import ImageFormat
from nvmxfuzz.targets.bochs.messages import ERROR
from nvmxfuzz.targets.bochs.native import RETURNED, address_of, private
from nvmxfuzz.targets.bochs.verdicts import concluded, failed_entry, gave_up

_REGION: Final = 4096
_VMLAUNCH: Final = "_ZN8BX_CPU_C8VMLAUNCHEP15bxInstruction_c"
_INHIBIT: Final = "_ZN8BX_CPU_C18inhibit_interruptsEj"
_BY_MOV_SS: Final = 3
"""What MOV SS inhibits: interrupts and debug exceptions."""
_MOST_STATES: Final = 64
_INSTRUCTION: Final = struct.Struct("<16xH14x")
"""An instruction as Bochs decodes it, as far as VMLAUNCH looks at it: its number."""
_ERROR: Final = struct.Struct("<I")


class FastEngine:
    """A CPU of one model whose VMLAUNCH can be called; several profiles share it."""

    def __init__(self, cpu: Cpu) -> None:
        self.cpu = cpu
        self.format = ImageFormat(cpu)
        self._region = private(_REGION)
        self.region_address = address_of(self._region)
        entry = cpu.native.entry(
            (cpu.address, cpu.offsets.state_size),
            (self.region_address, self.format.size),
            cpu.library.address(_VMLAUNCH),
        )
        u64 = ctypes.c_uint64
        self.entry = entry
        self.enter: Callable[[int, bytes, int], None] = ctypes.PYFUNCTYPE(
            None, u64, ctypes.c_char_p, u64
        )(entry)
        """(address of the state, image, address of the instruction): executes it."""
        number = cpu.offsets.vmlaunch_opcode
        self._instructions = {
            name: ctypes.create_string_buffer(_INSTRUCTION.pack(number + at), _INSTRUCTION.size)
            for at, name in enumerate(("vmlaunch", "vmresume"))
        }
        self.instructions: Mapping[str, int] = {
            name: ctypes.addressof(buffer) for name, buffer in self._instructions.items()
        }

    def at_hand(self, state: Saved) -> AtHand:
        """Return the function that begins in a state."""
        launch, resume = (self.instructions[name] for name in ("vmlaunch", "vmresume"))
        return AtHand(
            enter=self.entry,
            state=ctypes.addressof(state),
            instructions=(launch, resume),
            places=self.format.places,
            size=self.format.size,
            launch_state=self.format.launch_state,
            ends=Ends(
                self.cpu.native.end_address,
                RETURNED,
                patches.ENTERED,
                patches.VM_EXIT,
                ERROR,
                patches.EXCEPTION,
            ),
            error=self.region_address + self.format.instruction_error,
            stamp=self.cpu.memory.stamp,
            forget=self.cpu.memory.forget_missing,
            owner=(self, state),
        )

    def instruction_error(self) -> int:
        """Return the VM-instruction error that the last attempt left in the VMCS."""
        error: int = _ERROR.unpack_from(self._region, self.format.instruction_error)[0]
        return error


@dataclass(frozen=True, slots=True)
class Ready:
    """A CPU that is about to execute the instruction, or `reason` why there can be none."""

    reason: str
    state: Saved | None = None
    address: int = 0
    """Where the state lies in memory."""
    at_hand: AtHand | None = None


class FastPath:
    """Attempts on one profile; with `nearly` on a CPU that may be another one in some points."""

    def __init__(
        self, engine: FastEngine, profile: Profile, model: str, *, nearly: bool = False
    ) -> None:
        self._engine = engine
        self._profile = profile
        cpu = engine.cpu
        cpu.restore(cpu.power_on)
        reason = restrict(cpu, profile, model)
        self._reason = "" if nearly else reason
        self._reset = cpu.save()
        self._known: dict[Processor, Ready] = {}
        self._last: tuple[Processor | None, Ready] = None, Ready("")

    def run(self, attempt: Attempt) -> Observation:
        """Return what comes of the attempt."""
        ready = self.ready(attempt.processor)
        reason = ready.reason or modes.wide_field(attempt)
        if reason:
            return not_representable(reason)
        engine = self._engine
        memory = engine.cpu.memory
        memory.show(attempt.memory)
        image = engine.format.image(attempt.vmcs, attempt.launch_state)
        engine.enter(ready.address, image, engine.instructions[attempt.instruction])
        memory.forget_missing()
        return self._observation(attempt)

    def at_hand(self, attempt: Attempt) -> AtHand | None:
        """Return the CPU of the attempt as a function; None where fields can be too wide for it."""
        if "long-mode" not in self._profile.features:
            return None
        return self.ready(attempt.processor).at_hand

    def ready(self, processor: Processor) -> Ready:
        """Return the CPU as `processor` is."""
        last, ready = self._last
        if processor is last:
            return ready
        known = self._known.get(processor)
        if known is None:
            if len(self._known) >= _MOST_STATES:
                self._known.clear()
            known = self._known[processor] = self._make_ready(processor)
        self._last = processor, known
        return known

    def _make_ready(self, processor: Processor) -> Ready:
        reason = self._reason or modes.objection(processor, self._profile)
        if reason:
            return Ready(reason)
        cpu = self._engine.cpu
        cpu.restore(self._reset)
        cpu.set_registers(modes.registers(processor, 0))
        modes.enter_vmx(cpu, processor, self._engine.region_address)
        if processor.blocking_by_mov_ss:
            cpu.native.call(cpu.library.address(_INHIBIT), _BY_MOV_SS)
        state = cpu.save()
        return Ready("", state, ctypes.addressof(state), self._engine.at_hand(state))

    def _observation(self, attempt: Attempt) -> Observation:
        engine = self._engine
        kind, first, second, third, logged, _ = engine.cpu.native.raw_end()
        if kind == patches.ENTERED:
            outcome = ENTERED
        elif kind == patches.VM_EXIT:
            outcome = failed_entry(second, third)
        elif kind == patches.EXCEPTION:
            outcome = fault(first & 0xFF)
        elif kind == RETURNED:
            error = engine.instruction_error()
            outcome = fail_valid(error) if error else FAIL_INVALID
        else:
            return gave_up(kind, first)
        return concluded(engine.cpu, attempt, outcome, engine.cpu.native.log(logged))
