# SPDX-License-Identifier: GPL-2.0-only
"""Says of a dump of a failed VM entry which checks the state breaks, and what is probably wrong."""

from __future__ import annotations

from dataclasses import dataclass

from nvmxfuzz.inputs.dumps.dump import Dump
from nvmxfuzz.machine.outcome import Outcome
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.triage.explain.causes import Cause, causes_of
from nvmxfuzz.triage.explain.hypotheses import assumptions, hypotheses, reported
from nvmxfuzz.triage.explain.verdicts import Judged, Verdict, judge, judge_msrs


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is said of one dump. `judged` has every rule, in the order of the SDM's chapter."""

    dump: Dump
    reported: Outcome | None
    assumptions: tuple[str, ...]
    judged: tuple[Judged, ...]
    causes: tuple[Cause, ...]

    @property
    def broken(self) -> tuple[Judged, ...]:
        """The rules that the state breaks whatever else was the case."""
        return tuple(one for one in self.judged if one.verdict == "broken")

    @property
    def depends(self) -> tuple[Judged, ...]:
        """The rules that it breaks in some cases, and that may be why VM entry failed."""
        return self._possible("depends")

    @property
    def unknown(self) -> tuple[Judged, ...]:
        """The rules on which the dump does not tell enough, and that may be why."""
        return self._possible("unknown")

    def _possible(self, verdict: Verdict) -> tuple[Judged, ...]:
        return tuple(
            one
            for one in self.judged
            if one.verdict == verdict and may_be_why(one.rule.failure.outcome, self.reported)
        )


def may_be_why(outcome: Outcome, reported: Outcome | None) -> bool:
    """Tell whether a check that leads to `outcome` may be why what was `reported` came about.

    The number decides: QEMU does not print the qualification.
    """
    return reported is None or (outcome.kind, outcome.number) == (reported.kind, reported.number)


def explain(dump: Dump, profile: Profile | None = None) -> Explanation:
    """Explain a dump, which was printed on `profile` if that is known."""
    considered = tuple(hypotheses(dump, profile))
    judged = (
        (*judge(dump, considered), *judge_msrs(considered, dump.entry_msrs)) if considered else ()
    )
    outcome = reported(dump)
    return Explanation(
        dump,
        outcome,
        assumptions(dump, profile, considered),
        judged,
        causes_of(dump, outcome, judged),
    )
