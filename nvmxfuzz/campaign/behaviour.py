# SPDX-License-Identifier: GPL-2.0-only
"""What a worker has seen so far, and whether an input shows anything new."""

from __future__ import annotations

from nvmxfuzz.campaign.events import Seen
from nvmxfuzz.campaign.harness import Verdicts


class Behaviour:
    """The verdicts seen on each point, as masks, and which points were broken alone."""

    __slots__ = ("_all", "_told", "broken", "held", "na", "sole", "unknown")

    def __init__(self, points: int) -> None:
        self._all = (1 << points) - 1
        self.na = self.held = self.broken = self.unknown = self.sole = 0
        self._told = Seen()

    def note(self, verdicts: Verdicts) -> bool:
        """Take the verdicts of one run; return True if one of them is new."""
        asked = verdicts.asked
        broken = 0
        for point in verdicts.broken:
            broken |= 1 << point
        unknown = 0
        for point in verdicts.unknown:
            unknown |= 1 << point
        na = self._all & ~asked
        held = asked & ~(broken | unknown)
        sole = broken if broken & (broken - 1) == 0 else 0
        new = (
            na & ~self.na
            | held & ~self.held
            | broken & ~self.broken
            | unknown & ~self.unknown
            | sole & ~self.sole
        )
        if not new:
            return False
        self.na |= na
        self.held |= held
        self.broken |= broken
        self.unknown |= unknown
        self.sole |= sole
        return True

    @property
    def seen(self) -> Seen:
        """What was seen, as the worker reports it."""
        return Seen(self.na, self.held, self.broken, self.unknown)

    def news(self) -> Seen:
        """Return which verdicts were seen since this was asked last."""
        seen = self.seen
        new, self._told = seen - self._told, seen
        return new
