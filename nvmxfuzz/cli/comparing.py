# SPDX-License-Identifier: GPL-2.0-only
"""A target beside the rules, on one case: what it does, and whether the rules know of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from nvmxfuzz.cpu.judgement import Judgement
from nvmxfuzz.cpu.vm_entry import vm_entry
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import ENTERED
from nvmxfuzz.oracles import agreement, kvm_entry
from nvmxfuzz.oracles.bochs_messages import rules_of
from nvmxfuzz.oracles.kvm_witness import Once, on_virtual
from nvmxfuzz.reports.observation_text import summary, to_text
from nvmxfuzz.targets.base import Observation, Target
from nvmxfuzz.targets.registry import target_named

if TYPE_CHECKING:
    from nvmxfuzz.oracles.kvm_witness import Kvm


@dataclass(frozen=True, slots=True)
class Compared:
    """A target by name, what it did, and how that relates to `judgement`.

    `relation` is "none", "agreed", "known" or "unexplained". `end` is what L1 sees of a KVM in the
    end, where its software lets VM entry pass.
    """

    name: str
    judgement: Judgement
    observation: Observation
    relation: str
    known: tuple[str, ...] = ()
    blames: tuple[str, ...] = ()
    message: str = ""
    end: Observation | None = None

    @property
    def fails(self) -> bool:
        """Whether there is a difference without a known reason, or the target died."""
        last = self.end or self.observation
        return self.relation == "unexplained" or (
            last.status == "died" and self.relation != "known"
        )

    def to_json(self) -> dict[str, object]:
        """Return the form that `compare --json` prints."""
        return {
            **observation_json(self.observation, self.end),
            "blames": list(self.blames),
            "relation": self.relation,
            "known": list(self.known),
        }


def compared(target: Target, attempt: Attempt) -> Compared:
    """Run an attempt on a target and hold it against the rules."""
    if target_named(target.name).is_kvm:
        return _with_kvm(target, attempt)
    judgement, seen = vm_entry(attempt), target.run(attempt)
    found = agreement.compare(judgement, seen, attempt)
    blames = rules_of(seen.messages) or ()
    return Compared(target.name, judgement, seen, found.relation, found.known, blames)


def _with_kvm(target: Target, attempt: Attempt) -> Compared:
    """Hold KVM against the rules of the processor that it offers L1."""
    kvm = Once(cast("Kvm", target))
    judgement = vm_entry(on_virtual(attempt, kvm))
    seen = kvm.run(attempt)
    found = kvm_entry.compare(judgement, attempt, kvm)
    if found.relation == "agreed" and seen.outcome == ENTERED:
        found = kvm_entry.compare_merged(judgement, attempt, kvm)
    relation = "unexplained" if found.relation in ("missed", "overreach") else found.relation
    end = kvm.on_hardware(attempt) if seen.outcome == ENTERED else None
    return Compared(target.name, judgement, seen, relation, found.known, (), found.message, end)


def observation_and_end(target: Target, attempt: Attempt) -> tuple[Observation, Observation | None]:
    """Return what a target does, and of a KVM whose software enters L2 what L1 sees in the end."""
    seen = target.run(attempt)
    if target_named(target.name).is_kvm and seen.outcome == ENTERED:
        return seen, cast("Kvm", target).on_hardware(attempt)
    return seen, None


def observation_json(seen: Observation, end: Observation | None) -> dict[str, object]:
    """Return both as the commands print them with `--json`."""
    return seen.to_json() if end is None else {**seen.to_json(), "end": end.to_json()}


def observation_text(name: str, seen: Observation, end: Observation | None) -> str:
    """Return both for a reader."""
    text = to_text(name, seen)
    return text if end is None else f"{text}\n    in the end: {summary(end)}"
