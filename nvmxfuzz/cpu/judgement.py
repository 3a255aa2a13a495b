# SPDX-License-Identifier: GPL-2.0-only
"""What the rules say of one entry: every verdict, and the outcomes that are permitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from nvmxfuzz.cpu.failures import MSR_LOADING_STAGE
from nvmxfuzz.cpu.rule import Rule
from nvmxfuzz.machine.outcome import ENTERED, Outcome, exit_on_entry

VerdictName = Literal["n/a", "held", "broken", "unknown"]


@dataclass(frozen=True, slots=True)
class Judgement:
    """Verdicts by the index of a rule in `rules`.

    `asked` has bit n set if rule n applied. `broken` and `unknown` list indices; an index stands
    twice in `unknown` if two entries of an MSR list left it open. `positions` pairs the index of
    a broken or unknown rule of a list with the place in that list, counted from 1.
    """

    rules: Sequence[Rule]
    asked: int
    broken: tuple[int, ...]
    unknown: tuple[int, ...]
    positions: tuple[tuple[int, int], ...]

    @property
    def broken_names(self) -> tuple[str, ...]:
        """The names of the broken rules, in the order of the chapter."""
        return tuple(self.rules[index].name for index in sorted(set(self.broken)))

    @property
    def unknown_names(self) -> tuple[str, ...]:
        """The names of the rules whose answer is not known, in the order of the chapter."""
        return tuple(self.rules[index].name for index in sorted(set(self.unknown)))

    def verdict(self, index: int) -> VerdictName:
        """Return the verdict on one rule."""
        if index in self.broken:
            return "broken"
        if index in self.unknown:
            return "unknown"
        return "held" if self.asked >> index & 1 else "n/a"

    @property
    def permitted(self) -> tuple[Outcome, ...]:
        """Every outcome that the rules permit, in ascending order.

        The stages of VM entry come in a fixed order, the checks of one stage in any: a broken
        rule ends entry in its stage, one whose answer is not known may.
        """
        if not self.broken and not self.unknown:
            return (ENTERED,)
        outcomes: set[Outcome] = set()
        last_stage = min((self._stage(index) for index in self.broken), default=None)
        for index in self.broken + self.unknown:
            if last_stage is None or self._stage(index) <= last_stage:
                outcomes.update(self._failures(index))
        if last_stage is None:
            outcomes.add(ENTERED)
        return tuple(sorted(outcomes))

    def _stage(self, index: int) -> int:
        return self.rules[index].failure.stage

    def _failures(self, index: int) -> tuple[Outcome, ...]:
        failure = self.rules[index].failure
        if failure.stage != MSR_LOADING_STAGE:
            return (failure.outcome,)
        reason = failure.outcome.number
        return tuple(exit_on_entry(reason, at) for rule, at in self.positions if rule == index)
