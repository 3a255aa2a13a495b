# SPDX-License-Identifier: GPL-2.0-only
"""The problem that the passes solve: the fewest changes against a base that still show a finding.

A pass proposes changes; the problem takes them if they are smaller and the finding still shows.
Every proposal that is taken is strictly smaller, so that passes may be repeated until none helps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

from nvmxfuzz.inputs.case import SlotCase
from nvmxfuzz.inputs.difference import Change, Edit, apply, differences, origin
from nvmxfuzz.inputs.memory_edit import MemoryEdit
from nvmxfuzz.triage.minimise.sizes import Size, changes_size, memory_of, word_of


@dataclass(frozen=True, slots=True)
class Budget:
    """What minimising may cost: runs, seconds, and whether someone wants it to end."""

    runs: int = 4000
    seconds: float = 10.0
    stop: Callable[[], bool] = bool


class _Runs:
    """The runs that all tellings of one case have together."""

    def __init__(self, shows: Callable[[SlotCase], bool], budget: Budget) -> None:
        self._shows = shows
        self._budget = budget
        self._left = budget.runs
        self._deadline = monotonic() + budget.seconds

    @property
    def exhausted(self) -> bool:
        """Whether the budget is spent."""
        return self._left <= 0 or monotonic() >= self._deadline or self._budget.stop()

    def shows(self, case: SlotCase) -> bool:
        """Tell whether a case still shows the finding: not, where there is no budget for it."""
        if self.exhausted:
            return False
        self._left -= 1
        return self._shows(case)


class Problem:
    """The smallest case so far, as changes against its base."""

    def __init__(self, case: SlotCase, shows: Callable[[SlotCase], bool], budget: Budget) -> None:
        self._runs = _Runs(shows, budget)
        self.start: SlotCase
        self.changes: tuple[Change, ...]
        self._turn_to(case)

    @property
    def case(self) -> SlotCase:
        """The smallest case so far."""
        return apply(self.start, self.changes)

    @property
    def exhausted(self) -> bool:
        """Whether the budget is spent."""
        return self._runs.exhausted

    def propose(self, changes: Sequence[Change]) -> bool:
        """Take `changes` if they are smaller and still show the finding; tell whether."""
        proposal = tuple(changes)
        if proposal in self._tried or self.size(proposal) >= self.size(self.changes):
            return False
        self._tried.add(proposal)
        if not self._runs.shows(apply(self.start, proposal)):
            return False
        self.changes = proposal
        return True

    def propose_move(self, changes: Sequence[Change]) -> bool:
        """Take as many changes at a place that the caller knows to be better, whatever their bits.

        The caller sees to it that this comes to an end.
        """
        proposal = tuple(changes)
        if self.size(proposal)[0] > self.size(self.changes)[0]:
            return False
        if not self._runs.shows(apply(self.start, proposal)):
            return False
        self.changes = proposal
        return True

    def propose_start(self, start: SlotCase) -> bool:
        """Tell the changes against another base if the finding still shows."""
        return self.propose_case(apply(start, self.changes))

    def propose_case(self, case: SlotCase) -> bool:
        """Go on with a case that is told against another base, if the finding still shows."""
        if not self._runs.shows(case):
            return False
        self._turn_to(case)
        return True

    def told_as(self, case: SlotCase) -> Problem | None:
        """Return the problem of another case, None if it does not show the finding."""
        if not self._runs.shows(case):
            return None
        other = object.__new__(Problem)
        other._turn_to(case)
        other._runs = self._runs
        return other

    def split(self) -> None:
        """Tell each byte of memory by itself, which is the same case of the same size."""
        changes: list[Change] = []
        for change in self.changes:
            if isinstance(change, MemoryEdit):
                changes += [
                    MemoryEdit(change.address + at, bytes([byte]), change.backed)
                    for at, byte in enumerate(change.data)
                ]
            else:
                changes.append(change)
        self.changes = tuple(changes)

    def origin_of(self, change: Change) -> int:
        """Return what the base has in the slot of an edit, or where bytes of memory change."""
        if isinstance(change, Edit):
            return word_of(self.start, change)
        return memory_of(self.start, change.address, len(change.data))

    def size(self, changes: Sequence[Change]) -> Size:
        """Return how big a set of changes is."""
        return changes_size(self.start, changes)

    def _turn_to(self, case: SlotCase) -> None:
        self.start = origin(case)
        self.changes = differences(case)
        self._tried: set[tuple[Change, ...]] = {self.changes}
