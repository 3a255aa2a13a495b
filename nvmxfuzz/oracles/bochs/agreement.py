# SPDX-License-Identifier: GPL-2.0-only
"""What must hold between the rules and Bochs: an outcome that both permit, for the same reason.

Where it does not, the known differences are applied to the rules, and Bochs must do just what
these corrected rules say. What is left is a finding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from nvmxfuzz.arch.exit_reasons import ExitReason
from nvmxfuzz.cpu.judgement import Judgement
from nvmxfuzz.cpu.vm_entry import vm_entry
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import ENTERED, Outcome, exit_on_entry
from nvmxfuzz.oracles.bochs.known import BOCHS
from nvmxfuzz.oracles.bochs.messages import rules_of
from nvmxfuzz.oracles.corrected import Corrected
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.oracles.oracle import Oracle
from nvmxfuzz.oracles.vm_entry import VmEntryWitness

if TYPE_CHECKING:
    from nvmxfuzz.targets.base import Message, Observation

NAME: Final = "agreement.cpu-bochs"

Observe: TypeAlias = "Callable[[Attempt], Observation]"
"""Runs an attempt on Bochs."""
Relation = Literal["none", "agreed", "known", "unexplained"]
"""Bochs has no outcome; it does what the rules permit; known differences explain it; nothing."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """How what Bochs did compares to the rules.

    `known` names the differences that explain it. What nothing explains has a `site`, which is
    the same for the same disagreement, and the rules concerned.
    """

    relation: Relation
    known: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    site: str = ""


_NONE: Final = Comparison("none")
_AGREED: Final = Comparison("agreed")


def compare(
    judgement: Judgement, seen: Observation, attempt: Attempt, bochs: Corrected = BOCHS
) -> Comparison:
    """Compare the judgement of an attempt to what Bochs did with it.

    `bochs` is what Bochs is known to do.
    """
    outcome = seen.outcome
    if outcome is None:
        return _NONE
    if explains(judgement, outcome, seen.messages) or _left_open(judgement, outcome, attempt):
        return _AGREED
    if judgement != vm_entry(attempt):
        # The known differences are those of the rules, and this witness is another one.
        return _unexplained(judgement, outcome, seen.messages)
    corrected = bochs.judge(attempt)
    if not explains(corrected, outcome, seen.messages):
        return _unexplained(corrected, outcome, seen.messages)
    return Comparison("known", known=bochs.names_applied(attempt, judgement, corrected))


def _left_open(judgement: Judgement, outcome: Outcome, attempt: Attempt) -> bool:
    """Tell whether an MSR load failed where the SDM leaves everything open.

    That is beyond the recommended length of a list. The rules are not asked there, and answer that
    it is not known for the first entry too many, which stands for all that follow.
    """
    first = attempt.profile.caps.max_msr_list + 1
    failed_load = outcome.kind == "exit" and outcome.number == ExitReason.MSR_LOAD_FAIL
    return (
        failed_load
        and outcome.qualification > first
        and exit_on_entry(outcome.number, first) in judgement.permitted
    )


def explains(judgement: Judgement, outcome: Outcome, messages: Sequence[Message]) -> bool:
    """Tell whether a judgement permits an outcome of Bochs, and knows the reason it gives.

    Bochs gives none for the exceptions that all instructions have in common.
    """
    if outcome not in judgement.permitted:
        return False
    if outcome == ENTERED or (outcome.kind == "fault" and not messages):
        return True
    blamed = _blamed(messages)
    return any(
        judgement.rules[index].name in blamed for index in judgement.broken + judgement.unknown
    )


def _blamed(messages: Sequence[Message]) -> tuple[str, ...]:
    """Return the rules that messages blame, and the differences that stand for one."""
    said = messages[-1].template if messages else ""
    known = (entry.name for entry in BOCHS.differences if said in entry.messages)
    return (*(rules_of(messages) or ()), *known)


def _unexplained(judgement: Judgement, outcome: Outcome, messages: Sequence[Message]) -> Comparison:
    """Return the comparison for what a judgement with the known differences does not explain."""
    said = messages[-1].template if messages else "no message"
    if outcome in judgement.permitted:
        rules = rules_of(messages) or ()
        return Comparison("unexplained", rules=rules, site=f"reason: {_kind(outcome)}: {said}")
    rules = _deciding(judgement)
    return Comparison("unexplained", rules=rules, site=f"outcome: {_kind(outcome)}: {said}")


def _deciding(judgement: Judgement) -> tuple[str, ...]:
    """Return the broken rules of the first stage that has any."""
    broken = [judgement.rules[index] for index in sorted(set(judgement.broken))]
    first = min((rule.failure.stage for rule in broken), default=0)
    return tuple(rule.name for rule in broken if rule.failure.stage == first)


def _kind(outcome: Outcome) -> str:
    """Return an outcome without the place in the MSR-load list, which is chance."""
    place = outcome.kind == "exit" and outcome.number == ExitReason.MSR_LOAD_FAIL
    return f"exit {outcome.number}" if place else str(outcome)


def agreement(observe: Observe) -> Oracle[EntryCase, VmEntryWitness]:
    """Return the oracle that compares the rules to the Bochs that `observe` runs attempts on."""

    def agrees(case: EntryCase, run: VmEntryWitness) -> Finding | None:
        """Bochs ends VM entry as the rules permit, for a reason that they have as well."""
        judgement, seen = run(case.attempt), observe(case.attempt)
        found = compare(judgement, seen, case.attempt)
        if found.relation != "unexplained":
            return None
        permitted = ", ".join(map(str, judgement.permitted))
        reason = f" ({seen.messages[-1].text})" if seen.messages else ""
        said = f"permitted are {permitted}; Bochs has {seen.outcome}{reason}"
        return Finding(NAME, found.rules, ("cpu", "bochs"), found.site, said)

    return Oracle(NAME, "Bochs, executing the instruction", agrees)
