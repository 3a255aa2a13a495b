# SPDX-License-Identifier: GPL-2.0-only
"""Seeing a finding again, and again on the smallest case that shows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nvmxfuzz.inputs.case import Case
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.triage.minimise import Budget, minimise

Examine = Callable[[Case], Sequence[Finding]]


@dataclass(frozen=True, slots=True)
class Triaged:
    """What triage made of a finding: `smallest` is None if a second run did not show it."""

    reproduced: bool
    smallest: Case | None


def shows(examine: Examine, case: Case, identity: str) -> bool:
    """Whether a run on `case` shows exactly the finding with that identity."""
    return any(finding.identity == identity for finding in examine(case))


def triage(examine: Examine, case: Case, identity: str, budget: Budget) -> Triaged:
    """Run a finding again, and minimise its case if it shows once more."""
    if not shows(examine, case, identity):
        return Triaged(reproduced=False, smallest=None)
    smallest = minimise(case, lambda smaller: shows(examine, smaller, identity), budget)
    return Triaged(reproduced=True, smallest=smallest)
