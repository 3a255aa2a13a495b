# SPDX-License-Identifier: GPL-2.0-only
"""One VMLAUNCH or VMRESUME of L1's, to be made by the model and by KVM itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.memory import Memory
from nvmxfuzz.machine.outcome import ENTERED, Outcome
from nvmxfuzz.machine.processor import Processor
from nvmxfuzz.machine.vmcs import Vmcs


@dataclass(frozen=True, slots=True)
class Launch:
    """One VMLAUNCH or VMRESUME by L1.

    `answers` are what the processor below says to the VM entries that KVM asks of it, in order;
    without any, vmcs02 is prepared but not run. `memory` is (address, bytes), ascending.
    """

    vmcs12: Vmcs
    processor: Processor = field(default_factory=Processor)
    memory: tuple[tuple[int, bytes], ...] = ()
    launch: bool = True
    launched: bool = False
    answers: tuple[Outcome, ...] = ()


class Scripted:
    """The processor below the model: the answers of a launch, in order, then willing."""

    def __init__(self, answers: Sequence[Outcome]) -> None:
        self._answers = iter(answers)

    def enter(self, attempt: Attempt) -> Outcome:
        """Return the next answer."""
        del attempt
        return next(self._answers, ENTERED)


def loads(launch: Launch, msrs: frozenset[int]) -> bool:
    """Tell whether an MSR list may load one of these."""
    memory = Memory(launch.memory)
    vmcs = launch.vmcs12.__dict__
    for name in ("vm_entry_msr_load", "vm_exit_msr_load"):
        for number in range(min(vmcs[f"{name}_count"], 20)):
            at = vmcs[f"{name}_addr"] + 16 * number
            if int.from_bytes(memory.read(at, 4), "little") in msrs:
                return True
    return False
