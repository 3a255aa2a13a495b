# SPDX-License-Identifier: GPL-2.0-only
"""A target of VM entry below KVM: the rules, or Bochs, judge each VM entry that KVM asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import ENTERED, Outcome
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.targets.base import Observation, Target
from nvmxfuzz.targets.kvm_native.port import (
    VMCALL,
    Answer,
    Answering,
    FailedEntry,
    PortEntry,
    PortFailed,
    VmFail,
    in_turn,
)
from nvmxfuzz.targets.kvm_native.vmcs02 import attempt_of

_ORDER: Final = ("entered", "fail-invalid", "fail-valid", "exit", "fault")
"""The kinds of outcomes, as they are preferred where more than one is permitted."""


def likeliest(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the outcome that comes about where several are permitted: the same each time.

    A rule of which nobody knows whether it holds is taken to hold. Of failures the earlier stage
    comes first, and of one stage the lower number.
    """
    return min(outcomes, key=lambda outcome: (_ORDER.index(outcome.kind), outcome))


@dataclass(frozen=True, slots=True)
class Judged:
    """One entry, what the target said of it, and what came about; `is_l2` as of `PortEntry`."""

    attempt: Attempt
    observation: Observation
    outcome: Outcome
    is_l2: bool


class OnTarget(Answering):
    """A port that attempts each VM entry on `target`, a processor like `profile`.

    Where the guest is entered, `guest` says what it does next: a function, or one answer for each
    entry that came about, or nothing: then every guest executes VMCALL. `judged` is what came of
    the entries so far. A target without an opinion, or one that sees an exception in KVM itself,
    is a `PortFailed`.
    """

    def __init__(
        self,
        target: Target,
        profile: Profile,
        guest: Callable[[PortEntry], Answer] | Sequence[Answer] | None = None,
        choose: Callable[[Sequence[Outcome]], Outcome] = likeliest,
    ) -> None:
        super().__init__(self._attempted)
        self._target = target
        self._profile = profile
        self._choose = choose
        self.judged: list[Judged] = []
        if guest is None:
            self._guest: Callable[[PortEntry], Answer] = lambda _: VMCALL
        else:
            self._guest = guest if callable(guest) else in_turn(guest)

    def _attempted(self, entry: PortEntry) -> Answer:
        attempt = attempt_of(entry, self._profile)
        observation = self._target.run(attempt)
        if observation.status != "outcome":
            raise PortFailed(f"{self._target.name}: {observation.status}: {observation.reason}")
        outcome = self._choose(observation.outcomes)
        self.judged.append(Judged(attempt, observation, outcome, entry.is_l2))
        if outcome == ENTERED:
            return self._guest(entry)
        return refused(outcome)


def refused(outcome: Outcome) -> Answer:
    """Return the answer of a processor on which a VM entry fails so."""
    match outcome.kind:
        case "fail-invalid":
            return VmFail(None)
        case "fail-valid":
            return VmFail(outcome.number)
        case "exit":
            return FailedEntry(outcome.number, outcome.qualification)
    raise PortFailed(f"the processor's answer to KVM's own VM entry is {outcome}")
