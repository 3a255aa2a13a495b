# SPDX-License-Identifier: GPL-2.0-only
"""Whether what was found is still there."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias

from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.triage.case_finding import CaseFinding
from nvmxfuzz.triage.examiner import Answer
from nvmxfuzz.triage.fresh import Fresh
from nvmxfuzz.triage.grouping import group_of
from nvmxfuzz.triage.job import Limits, Setting

Status: TypeAlias = Literal["still there", "gone", "different"]
STILL_THERE: Final = "still there"
GONE: Final = "gone"
DIFFERENT: Final = "different"


@dataclass(frozen=True, slots=True)
class Standing:
    """What became of a finding, and the findings that say so.

    `seen` is the finding itself where it is still there, and what was found in its place where it
    is different. Of what is gone nothing is seen but what is known anyway.
    """

    status: Status
    seen: tuple[Finding, ...] = ()

    @property
    def sentence(self) -> str:
        """What there is to say."""
        if self.status == STILL_THERE:
            return f"{STILL_THERE}: {self.seen[0].message}"
        if self.status == DIFFERENT:
            return f"{DIFFERENT}: {', '.join(each.identity for each in self.seen)}"
        return self.status


def same_as(finding: Finding, answer: Answer) -> Finding | None:
    """Return what an answer has of a finding: itself, or one of its group."""
    seen = (*answer.findings, *answer.known)
    group = group_of(finding)
    alike = [each for each in seen if group_of(each) == group]
    exact = [each for each in alike if each.identity == finding.identity]
    return next(iter(exact or alike), None)


class Replayer:
    """Runs findings again, in one process for all of one harness and target; `close` it.

    What is not still there is run once more in a process that has run nothing else.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._processes: dict[Setting, Fresh] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def standing(self, found: CaseFinding) -> Standing:
        """Return what became of a finding; InputError if it cannot be run here."""
        process = self._processes.get(found.setting)
        is_used = process is not None
        if process is None:
            process = self._processes[found.setting] = Fresh(
                found.setting, self._limits, known_too=True
            )
        standing = _standing(process, found)
        if standing.status != STILL_THERE and is_used:
            process.close()
            standing = _standing(process, found)
        return standing

    def close(self) -> None:
        """End the processes."""
        for process in self._processes.values():
            process.close()


def _standing(process: Fresh, found: CaseFinding) -> Standing:
    other: dict[Finding, None] = {}
    for asked in found.inputs:
        answer = process.examine(asked)
        there = same_as(found.finding, answer)
        if there is not None:
            return Standing(STILL_THERE, (there,))
        other.update(dict.fromkeys(answer.findings))
    return Standing(DIFFERENT, tuple(other)) if other else Standing(GONE)
