# SPDX-License-Identifier: GPL-2.0-only
"""Triage of one finding: run again in fresh processes, made small, told whom it is like.

Meant to be called in a process of its own while the campaign goes on; that process runs no case
itself. A case that kills or hangs what it runs in is a result like any other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from time import monotonic
from typing import Final

from nvmxfuzz.inputs.case import Case
from nvmxfuzz.inputs.load import load_case
from nvmxfuzz.inputs.text import dump_text
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.triage.deaths import HANG
from nvmxfuzz.triage.fresh import Fresh
from nvmxfuzz.triage.grouping import group_of
from nvmxfuzz.triage.job import Job, Limits, Setting, TriageResult
from nvmxfuzz.triage.minimise import Budget, minimise

SMALL_SECONDS: Final = 1.0
"""How long a run may take while a case is made small: a thousand times what most do."""

Stop = Callable[[], bool]


def never() -> bool:
    """Nobody wants it to end."""
    return False


@dataclass(frozen=True, slots=True)
class Reruns:
    """What fresh processes showed: how many ran, in how many it was there, what else there was."""

    runs: int
    same: int
    others: tuple[str, ...]


def triage_job(job: Job, limits: Limits | None = None, stop: Stop = never) -> TriageResult:
    """Look into a finding; InputError only if its harness or target cannot be set up here.

    `stop` ends it between two runs, with what there is by then.
    """
    limits = limits or Limits()
    begin = monotonic()
    again = rerun(job.setting, job.data, job.finding.identity, limits, stop)
    result = TriageResult(
        job.finding.identity, group_of(job.finding), again.runs, again.same, again.others
    )
    if again.runs and not result.flaky and not stop():
        text, executions = _smallest(job, limits, stop)
        result = replace(result, case_text=text, executions=executions)
    return replace(result, seconds=monotonic() - begin)


def rerun(
    setting: Setting, asked: Case | bytes, identity: str, limits: Limits, stop: Stop = never
) -> Reruns:
    """Run a case again, each time in a process that has run nothing before."""
    runs = same = 0
    others: dict[str, None] = {}
    for _ in range(limits.reruns):
        if stop():
            break
        with Fresh(setting, limits) as process:
            seen = process.examine(asked).identities
        runs += 1
        same += identity in seen
        others.update(dict.fromkeys(each for each in seen if each != identity))
    return Reruns(runs, same, tuple(others))


def _smallest(job: Job, limits: Limits, stop: Stop) -> tuple[str, int]:
    """Return the smallest case that shows a finding, as text, and what it cost to find it.

    The text is the input's own case where a process that reads the smallest one does not show it.
    """
    identity, executions = job.finding.identity, 0
    hangs = job.finding.rules == (HANG,)
    with Fresh(job.setting, limits) as process:
        case = process.decode(job.data)
        if case is None:
            return "", 0

        def shows(candidate: Case) -> bool:
            nonlocal executions
            executions += 1
            return identity in process.examine(candidate, SMALL_SECONDS).identities

        budget = Budget(limits.runs, limits.seconds, stop)
        small = case if hangs else minimise(case, shows, budget)
    text = as_text(small, job.finding)
    with Fresh(job.setting, limits) as process:
        if identity in process.examine(load_case(text.encode(), identity)).identities:
            return text, executions
    return as_text(case, job.finding), executions


def as_text(case: Case, finding: Finding) -> str:
    """Return a case as TOML, with what was found in it for a note."""
    return dump_text(replace(case, note=finding.message))
