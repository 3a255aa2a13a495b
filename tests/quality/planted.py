# SPDX-License-Identifier: GPL-2.0-only
"""Planted faults by number, and what the minimiser makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from nvmxfuzz.inputs.case import Case
from nvmxfuzz.triage.minimise import Budget, minimise
from tests.quality.fault import Planted
from tests.quality.in_entries import ENTRIES
from tests.quality.in_worlds import WORLDS

BUDGET = Budget(runs=4000, seconds=60)
"""The runs of a campaign, and more time than any of these takes."""


@dataclass(frozen=True, slots=True)
class Shrunk:
    """What came of one fault: whether it is the minimum, and the runs that it took."""

    planted: Planted
    found: Case
    runs: int

    @property
    def is_minimum(self) -> bool:
        """Whether nothing is left but what the fault needs."""
        return self.planted.is_minimum(self.found)


def planted(number: int) -> Planted:
    """Return the fault of a number, the same on every computer; the kinds come in turn."""
    kinds = (*ENTRIES, *WORLDS)
    return kinds[number % len(kinds)](Random(number))


def shrunk(number: int) -> Shrunk:
    """Return what the minimiser makes of a fault."""
    fault, runs = planted(number), 0

    def shows(case: Case) -> bool:
        nonlocal runs
        runs += 1
        return bool(fault.shows(case))

    found = minimise(fault.case, shows, BUDGET)
    return Shrunk(fault, found, runs)
