# SPDX-License-Identifier: GPL-2.0-only
"""A closer look at some inputs: those that show something new, and a sample of the others.

Each is run again, in the same process. Whether it comes to the same behaviour says how far a
campaign can be believed; what it shows of known differences is counted. All of it happens beside
the counters that steer libFuzzer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from nvmxfuzz.campaign.harness import WITNESS_ERRORS, Harness, Verdicts
from nvmxfuzz.campaign.native_coverage import NativeCoverage
from nvmxfuzz.inputs.case import Case

LOOK_AT: Final = 1024
"""Of the inputs that show nothing new, one in so many is looked at. A power of two."""


class CloserLook:
    """What came of the inputs that were looked at; `of` takes one."""

    def __init__(self, harness: Harness, beat: Callable[[], None]) -> None:
        """`beat` is called before each run: several of them may take long for one input."""
        self._harness = harness
        self._beat = beat
        self._coverage = (
            NativeCoverage(harness.counters, harness.nested_counters)
            if harness.counters is not None
            else None
        )
        self._fired: frozenset[str] = frozenset()
        self.known: Counter[str] = Counter()
        self.rerun = 0
        self.same = 0

    @property
    def edges(self) -> tuple[int, int]:
        """Return how many edges of nested.c were executed, and how many there are."""
        return (self._coverage.edges, len(self._coverage.part)) if self._coverage else (0, 0)

    def aside(self) -> AbstractContextManager[None]:
        """Keep what is executed meanwhile from the counters that steer libFuzzer."""
        return self._coverage.set_aside() if self._coverage else nullcontext()

    def of(self, case: Case, verdicts: Verdicts | None = None) -> None:
        """Run a case again, after a first run with those verdicts, or twice.

        Whatever it raises has been told of already.
        """
        self.rerun += 1
        with self.aside():
            try:
                first = self._judged(case) if verdicts is None else _values(verdicts)
                self.same += self._judged(case, counts=True) == first and self._is_same_below(case)
            except WITNESS_ERRORS:
                return

    def conditions(self) -> tuple[str, ...]:
        """Return the conditions of KVM that fired since this was asked last, in order."""
        if self._harness.conditions is None:
            return ()
        fired = self._harness.conditions()
        new, self._fired = fired - self._fired, fired
        return tuple(sorted(new))

    def _judged(self, case: Case, *, counts: bool = False) -> object:
        """Run the witness of the harness; count what is known of the case if it `counts`."""
        self._beat()
        result, verdicts = self._harness.judge(case)
        if counts and self._harness.known is not None:
            self.known.update(self._harness.known(case, result))
        return _values(verdicts)

    def _is_same_below(self, case: Case) -> bool:
        """Whether another witness does the same each time, and executes the same code twice.

        What the first run executes is no part of that: behind other cases it shows its processor
        the memory of this one by way of Python, which asks KVM where it is.
        """
        again = self._harness.again
        if again is None:
            return True
        runs = []
        for _ in range(3):
            self._beat()
            if self._coverage is not None:
                self._coverage.clear()
            seen = again(case)
            runs.append((seen, self._coverage.counts() if self._coverage else b""))
        return runs[0][0] == runs[1][0] and runs[1] == runs[2]


def _values(verdicts: Verdicts) -> object:
    return verdicts.asked, tuple(verdicts.broken), tuple(verdicts.unknown)
