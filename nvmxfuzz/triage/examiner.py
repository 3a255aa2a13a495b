# SPDX-License-Identifier: GPL-2.0-only
"""All that the oracles of a harness say of one case after the other, in this process."""

from __future__ import annotations

from dataclasses import dataclass

from nvmxfuzz.campaign.harness import WITNESS_ERRORS, error_finding
from nvmxfuzz.campaign.plan import load_harness, referenced_harness
from nvmxfuzz.campaign.second_witness import with_target
from nvmxfuzz.inputs.case import Case
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.triage.job import Setting
from nvmxfuzz.triage.known_too import known_too_of


@dataclass(frozen=True, slots=True)
class Answer:
    """What was seen of a case.

    `known` are the findings that a campaign is silent about, because they are known: only where
    they were asked for, as is why the witness cannot stand for the case, `unrepresented`.
    """

    findings: tuple[Finding, ...]
    known: tuple[Finding, ...] = ()
    unrepresented: str = ""

    @property
    def identities(self) -> tuple[str, ...]:
        """The identities of all that was seen, what is known too, each once."""
        return tuple(dict.fromkeys(each.identity for each in (*self.findings, *self.known)))


class Examiner:
    """A harness with its target. Nothing guards this process against what it runs."""

    def __init__(self, setting: Setting, *, known_too: bool = False) -> None:
        """Load harness and target; InputError if one of them cannot be."""
        plain = load_harness(referenced_harness(setting.harness))
        self.harness = with_target(plain, setting.target, isolated=False)
        self._known = known_too_of(self.harness, setting.target) if known_too else None

    def examine(self, case: Case) -> Answer:
        """Return what every oracle says of a case."""
        findings = self.harness.examine(case)
        if self._known is None:
            return Answer(findings)
        seen = {each.identity for each in findings}
        try:
            known = [each for each in self._known.findings(case) if each.identity not in seen]
            unrepresented = self._known.unrepresented(case)
        except WITNESS_ERRORS as error:
            return Answer((*findings, error_finding(error, self.harness.name)))
        return Answer(findings, tuple(known), unrepresented)
