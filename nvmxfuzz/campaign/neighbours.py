# SPDX-License-Identifier: GPL-2.0-only
"""The neighbours of an input: run in bursts, without Python, where that shows something.

Around each VM entry that gets past the controls and the host state, or fails for the guest state,
C runs `SIZE` others with a field or a few edited (`targets.kvm_native.burst`). An edit of such an
entry meets every check, while one of an entry that fails early mostly fails as before. What is new
or different comes back as an input, and is executed as any other one is.
"""

from __future__ import annotations

from typing import Final
from zlib import crc32

from nvmxfuzz.campaign.harness import Verdicts
from nvmxfuzz.campaign.last_input import LastInput
from nvmxfuzz.campaign.memory import memory_uncounted
from nvmxfuzz.cpu.failures import GUEST_STATE
from nvmxfuzz.cpu.vm_entry import CHAPTER
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.open_end import open_end
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.oracles.kvm.l1 import unmet
from nvmxfuzz.targets.kvm_native.burst import Bursts, Written

SIZE: Final = 32
"""Neighbours of one entry."""

_LATE: Final = frozenset(
    number for number, rule in enumerate(CHAPTER.rules) if rule.failure.stage >= GUEST_STATE.stage
)


class Neighbours:
    """The bursts of a campaign; `profiles` are those that its inputs have numbers for."""

    def __init__(self, bursts: Bursts, profiles: tuple[str, ...]) -> None:
        self._bursts, self._profiles = bursts, profiles

    @property
    def entries(self) -> int:
        """How many VM entries were run in bursts."""
        return self._bursts.totals[0]

    def around(
        self, case: EntryCase, verdicts: Verdicts, data: bytes, last_input: LastInput, seed: int
    ) -> tuple[bytes, ...]:
        """Run the neighbours of an input; return those that are worth a look, as inputs."""
        if not _LATE.issuperset(verdicts.broken):
            return ()
        if unmet(case.attempt):
            return ()
        head = open_end(case, data, self._profiles)
        if head is None:
            return ()
        self._prepare(case.profile)
        written = Written(*last_input.open_end(head), len(head))
        # An input has other neighbours in another worker.
        chance = crc32(data) | (seed & 0xFFFF_FFFF) << 32
        told = self._bursts.around(case.attempt, written, (chance, SIZE))
        return tuple([head + each.records for each in told])

    def _prepare(self, profile: Profile) -> None:
        """Load KVM for a profile that is met for the first time: not of the cases' memory."""
        if not self._bursts.is_ready(profile):
            with memory_uncounted():
                self._bursts.prepare(profile)
