# SPDX-License-Identifier: GPL-2.0-only
"""The rules of `nvmxfuzz.cpu` as a target: a witness that knows what is permitted.

Its observation holds every outcome that the rules permit, and the names of the broken and unknown
rules as messages. It has an opinion on every attempt.
"""

from __future__ import annotations

from typing import Final

from nvmxfuzz.cpu.vm_entry import vm_entry
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.targets.base import Message, Observation, Target

NAME: Final = "python-model"


class PythonModel(Target):
    """The rules, judged in this process. Opening it costs nothing."""

    @property
    def name(self) -> str:
        """The name of the target."""
        return NAME

    def open(self, profile: Profile) -> None:
        """Do nothing: every profile is ready."""

    def run(self, attempt: Attempt) -> Observation:
        """Return the permitted outcomes, and the rules that bring them about."""
        judgement = vm_entry(attempt)
        broken = tuple(Message(name, name) for name in judgement.broken_names)
        unknown = tuple(Message(name, f"{name} (unknown)") for name in judgement.unknown_names)
        return Observation("outcome", judgement.permitted, messages=broken + unknown)

    def close(self) -> None:
        """Do nothing: nothing was taken."""
