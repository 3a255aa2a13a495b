# SPDX-License-Identifier: GPL-2.0-only
"""The problem that the passes solve: the fewest changes against a base that still show a finding.

A pass proposes changes; the problem takes them if they are smaller and the finding still shows.
Every proposal that is taken is strictly smaller, so that passes may be repeated until none helps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import TypeAlias

from nvmxfuzz.inputs.bases import base, base_names, default_base
from nvmxfuzz.inputs.case import ConfigCase, EntryCase, SlotCase
from nvmxfuzz.inputs.difference import Change, Edit, apply, differences, origin
from nvmxfuzz.inputs.layout import layout
from nvmxfuzz.inputs.memory_edit import MemoryEdit
from nvmxfuzz.inputs.words import config_word, entry_word
from nvmxfuzz.machine.profile import DEFAULT_PROFILE, load_profile

Size: TypeAlias = tuple[int, int, int]
"""Number of changes (a byte of memory is one), bits that differ, bits that are set."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What minimising may cost: runs, seconds, and whether someone wants it to end."""

    runs: int = 4000
    seconds: float = 10.0
    stop: Callable[[], bool] = bool


class Problem:
    """The smallest case so far, as changes against its base."""

    def __init__(self, case: SlotCase, shows: Callable[[SlotCase], bool], budget: Budget) -> None:
        self.start = origin(case)
        self.changes = differences(case)
        self._shows = shows
        self._budget = budget
        self._runs = 0
        self._deadline = monotonic() + budget.seconds
        self._tried: set[tuple[Change, ...]] = {self.changes}

    @property
    def case(self) -> SlotCase:
        """The smallest case so far."""
        return apply(self.start, self.changes)

    @property
    def exhausted(self) -> bool:
        """Whether the budget is spent."""
        return (
            self._runs >= self._budget.runs or monotonic() >= self._deadline or self._budget.stop()
        )

    def propose(self, changes: Sequence[Change]) -> bool:
        """Take `changes` if they are smaller and still show the finding; tell whether."""
        proposal = tuple(changes)
        if proposal in self._tried or self.size(proposal) >= self.size(self.changes):
            return False
        self._tried.add(proposal)
        if not self._still_shows(apply(self.start, proposal)):
            return False
        self.changes = proposal
        return True

    def propose_start(self, start: SlotCase) -> bool:
        """Tell the changes against another base if the finding still shows."""
        if not self._still_shows(apply(start, self.changes)):
            return False
        self.start = start
        self.changes = differences(apply(start, self.changes))
        self._tried = {self.changes}
        return True

    def origin_of(self, edit: Edit) -> int:
        """Return what the base has in the slot of an edit, 0 for a word of memory."""
        slot = layout(self.start.harness).by_name[edit.slot]
        if isinstance(self.start, EntryCase):
            attempt = self.start.attempt
            if slot.area == "memory":
                return attempt.memory.read_int(slot.address, slot.size)
            return entry_word(attempt, slot)
        return config_word(self.start, slot)

    def size(self, changes: Sequence[Change]) -> Size:
        """Return how big a set of changes is."""
        count = differing = ones = 0
        for change in changes:
            if isinstance(change, MemoryEdit):
                count += len(change.data)
                ones += int.from_bytes(change.data, "little").bit_count()
            else:
                count += 1
                differing += (change.value ^ self.origin_of(change)).bit_count()
                ones += change.value.bit_count()
        return count, differing, ones

    def _still_shows(self, case: SlotCase) -> bool:
        if self.exhausted:
            return False
        self._runs += 1
        return self._shows(case)


def plainer_starts(start: SlotCase) -> Iterator[SlotCase]:
    """Yield bases that a reader knows better: of the default profile, and of the usual guest."""
    if isinstance(start, ConfigCase):
        if start.base != DEFAULT_PROFILE:
            yield origin(replace(start, base=DEFAULT_PROFILE))
        return
    usual = load_profile(DEFAULT_PROFILE)
    for profile, name in ((usual, start.base), (start.profile, default_base(start.profile))):
        known = name in base_names(profile)
        if known and (profile.name, name) != (start.profile.name, start.base):
            yield EntryCase(base(name, profile), name, start.note)
