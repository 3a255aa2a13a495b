# SPDX-License-Identifier: GPL-2.0-only
"""What triage is asked, what it may cost, and what it came to: values that go between processes."""

from __future__ import annotations

from dataclasses import dataclass

from nvmxfuzz.oracles.finding import Finding

RERUNS = 5
"""How often a finding is run again, each time in a fresh process."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Where cases run: a harness as a store names it (`plan.harness_reference`), and a target."""

    harness: str
    target: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A finding to look into: where it was seen, its input as the engine made it, what it is."""

    harness: str
    target: str | None
    data: bytes
    finding: Finding

    @property
    def setting(self) -> Setting:
        """Where the input runs."""
        return Setting(self.harness, self.target)


@dataclass(frozen=True, slots=True)
class Limits:
    """What triage may cost.

    A run takes at most `case_seconds`, and `memory` bytes of address space beyond what the
    witnesses take; it is a hang, or out of memory, beyond that. Minimising takes at most `runs`
    runs and `seconds`.
    """

    reruns: int = RERUNS
    case_seconds: float = 10.0
    memory: int = 2 << 30
    runs: int = 4000
    seconds: float = 20.0


@dataclass(frozen=True, slots=True)
class TriageResult:
    """What triage came to.

    Of `runs` fresh processes `same` showed exactly this finding; `others` are the identities of
    what was seen besides. `case_text` is the smallest case that shows it, as TOML: "" where none
    was looked for or the input is no case. `executions` is how many runs it took to get there.
    """

    identity: str
    group: str
    runs: int = 0
    same: int = 0
    others: tuple[str, ...] = ()
    case_text: str = ""
    executions: int = 0
    seconds: float = 0.0

    @property
    def flaky(self) -> bool:
        """Whether a run did not show it."""
        return self.same < self.runs

    @property
    def note(self) -> str:
        """What came of it, for the console."""
        if not self.runs:
            return "not run again"
        shown = f"{self.same} of {self.runs} runs show it"
        if self.flaky:
            return f"flaky: {shown}"
        return f"{shown}, minimised" if self.case_text else shown
