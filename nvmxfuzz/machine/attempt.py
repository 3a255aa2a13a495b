# SPDX-License-Identifier: GPL-2.0-only
"""One attempt at VM entry: everything that decides what a VMLAUNCH or VMRESUME comes to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from nvmxfuzz.machine.memory import Memory
from nvmxfuzz.machine.processor import Processor
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.machine.vmcs import Vmcs

Instruction = Literal["vmlaunch", "vmresume"]
LaunchState = Literal["clear", "launched"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """An instruction, the machine that executes it and its current VMCS."""

    profile: Profile
    vmcs: Vmcs
    processor: Processor = field(default_factory=Processor)
    memory: Memory = field(default_factory=Memory)
    instruction: Instruction = "vmlaunch"
    launch_state: LaunchState = "clear"
