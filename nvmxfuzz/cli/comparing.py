# SPDX-License-Identifier: GPL-2.0-only
"""A target beside the rules, on one case: what it does, and whether the rules know of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from nvmxfuzz.cpu.judgement import Judgement
from nvmxfuzz.cpu.vm_entry import vm_entry
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import ENTERED
from nvmxfuzz.oracles.bochs import agreement
from nvmxfuzz.oracles.bochs.messages import rules_of
from nvmxfuzz.oracles.kvm import entry as kvm_entry
from nvmxfuzz.oracles.kvm.loop import OnceFollowed
from nvmxfuzz.oracles.kvm.witness import Once, on_virtual
from nvmxfuzz.reports.observation_text import end_text, to_text
from nvmxfuzz.targets.base import Observation, Target
from nvmxfuzz.targets.registry import target_named

if TYPE_CHECKING:
    from nvmxfuzz.oracles.kvm.loop import Loop
    from nvmxfuzz.oracles.kvm.witness import Kvm
    from nvmxfuzz.targets.passage import L1View

_TOLD: Final = ("vm_exit_reason", "exit_qualification", "vm_instruction_error")
"""Fields of the VMCS that say how VM entry ended."""


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
    if target_named(target.name).is_loop:
        return _with_loop(target, attempt)
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


def _with_loop(target: Target, attempt: Attempt) -> Compared:
    """Hold what L1 sees against the rules of the processor that KVM offers it."""
    loop = OnceFollowed(cast("Loop", target))
    judgement = vm_entry(loop.virtual(attempt))
    seen = loop.run(attempt)
    if seen.status == "not-representable":
        return Compared(target.name, judgement, seen, "none")
    found = loop.compare(judgement, attempt, loop.follow(attempt))
    relation = "unexplained" if found.relation == "missed" else found.relation
    return Compared(target.name, judgement, seen, relation, found.known)


def observation_and_end(target: Target, attempt: Attempt) -> tuple[Observation, Observation | None]:
    """Return what a target does, and of a KVM whose software enters L2 what L1 sees in the end.

    What no L1 can bring before KVM is not representable, as it is when witnesses are compared.
    """
    entry = target_named(target.name)
    if entry.is_loop:
        return OnceFollowed(cast("Loop", target)).run(attempt), None
    if not entry.is_kvm:
        return target.run(attempt), None
    kvm = Once(cast("Kvm", target))
    seen = kvm.run(attempt)
    return seen, kvm.on_hardware(attempt) if seen.outcome == ENTERED else None


def seen_by_l1(target: Target, attempt: Attempt) -> L1View | None:
    """Return all that L1 finds after VM entry, of a KVM with a processor below it."""
    if not target_named(target.name).is_loop:
        return None
    return OnceFollowed(cast("Loop", target)).follow(attempt).l1_after


def view_text(view: L1View) -> str:
    """Return for a reader what tells L1 how its VM entry ended."""
    registers = dict(view.registers)
    named = {name: registers[name] for name in ("rip", "rsp", "rflags", "cr0", "cr3", "cr4")}
    fields = {name: view.vmcs.items()[name] for name in _TOLD}
    told = ", ".join(f"{name} {value:#x}" for name, value in {**named, **fields}.items())
    return f"    L1 finds {told}, its VMCS {'launched' if view.launched else 'clear'}"


def observation_json(seen: Observation, end: Observation | None) -> dict[str, object]:
    """Return both as the commands print them with `--json`."""
    return seen.to_json() if end is None else {**seen.to_json(), "end": end.to_json()}


def observation_text(name: str, seen: Observation, end: Observation | None) -> str:
    """Return both for a reader."""
    text = to_text(name, seen)
    return text if end is None else f"{text}\n{end_text(seen, end)}"
