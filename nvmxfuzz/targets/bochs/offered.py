# SPDX-License-Identifier: GPL-2.0-only
"""Bochs as the processor that KVM offers L1, as nearly as one of its models comes to that.

What KVM offers no model can be in full: the VMCS revision is KVM's own, say. So what this Bochs
does is a reason to look closer, and no verdict. It is a CPU of its own beside the one that stands
for the hardware: each keeps the memory that it was shown.
"""

from __future__ import annotations

from functools import cache

from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.targets.at_hand import AtHand
from nvmxfuzz.targets.bochs import patches
from nvmxfuzz.targets.bochs.cpu import Cpu
from nvmxfuzz.targets.bochs.fast import FastEngine, FastPath
from nvmxfuzz.targets.bochs.models import MODELS
from nvmxfuzz.targets.bochs.wheel import installed


class Offered:
    """A CPU of `model` with as many of the controls as `profile` has of them."""

    def __init__(self, model: str, profile: Profile) -> None:
        self._engine = _engine(model)
        self._path = FastPath(self._engine, profile, model, nearly=True)

    def at_hand(self, attempt: Attempt) -> AtHand | None:
        """Return the CPU as a function that executes what L1 does, with the attempt's memory."""
        at_hand = self._path.at_hand(attempt)
        if at_hand is not None:
            self._engine.cpu.memory.show(attempt.memory)
        return at_hand

    def image(self, attempt: Attempt) -> bytes:
        """Return the image of the VMCS that the function takes."""
        return self._engine.format.image(attempt.vmcs, attempt.launch_state)


@cache
def _engine(model: str) -> FastEngine:
    return FastEngine(Cpu(installed(), MODELS[model], patches.FAST))
