# SPDX-License-Identifier: GPL-2.0-only
"""What many trials come to: medians and 90th percentiles, for a fault and for a whole variant."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from nvmxfuzz.power.trials import Result

_NINETIETH = 0.9


@dataclass(frozen=True, slots=True)
class Summary:
    """Trials that belong together; seconds and executions are up to the first correct finding.

    A trial that found nothing counts as one that took for ever: where more than half (a tenth) of
    them did, the median (90th percentile) is infinite.
    """

    trials: int
    found: int
    seconds: float
    seconds_90: float
    executions: float
    executions_90: float
    others: int
    """Findings that came before the correct one."""


def summary_of(results: Sequence[Result]) -> Summary:
    """Return what some trials come to; there is at least one."""
    seconds = [each.trial.seconds if each.trial.found else math.inf for each in results]
    executions = [each.trial.executions if each.trial.found else math.inf for each in results]
    return Summary(
        trials=len(results),
        found=sum(each.trial.found for each in results),
        seconds=median(seconds),
        seconds_90=_ninetieth(seconds),
        executions=median(executions),
        executions_90=_ninetieth(executions),
        others=sum(len(each.trial.others) for each in results),
    )


def _ninetieth(values: Iterable[float]) -> float:
    """Return the smallest value that nine of ten do not exceed."""
    ordered = sorted(values)
    return ordered[math.ceil(_NINETIETH * len(ordered)) - 1]
