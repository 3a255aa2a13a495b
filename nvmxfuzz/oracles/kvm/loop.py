# SPDX-License-Identifier: GPL-2.0-only
"""What must hold of the closed loop: real KVM, a processor below it, and what L1 sees of both.

The rules are those of the virtual processor that KVM offers L1, with what KVM is known to do. The
oracles of the dry run, which are about the same passages, are in `dry_run`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final, Protocol

from nvmxfuzz.arch.fields import FIELDS
from nvmxfuzz.cpu.judgement import Judgement
from nvmxfuzz.cpu.vm_entry import CHAPTER, vm_entry
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import ENTERED, Outcome
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.oracles.bochs import agreement
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.oracles.kvm.entry import (
    SURVIVES,
    Comparison,
    compare_end,
    compare_software,
    harm,
    kind_of,
    permitted_text,
)
from nvmxfuzz.oracles.kvm.known import tables_of
from nvmxfuzz.oracles.kvm.known_loop import (
    EXIT_INFO,
    TRANSPARENT,
    KnownChange,
    changes_of,
    unexplained,
)
from nvmxfuzz.oracles.kvm.l0_owned import L0_OWNED, finding, l0_owned
from nvmxfuzz.oracles.kvm.l1 import unmet
from nvmxfuzz.oracles.kvm.passage import changed_fields, changed_pairs, is_fail, late_failure
from nvmxfuzz.oracles.kvm.tables import KvmTables
from nvmxfuzz.oracles.kvm.witness import place, warnings
from nvmxfuzz.oracles.oracle import Oracle
from nvmxfuzz.oracles.vm_entry import VmEntryWitness
from nvmxfuzz.targets.base import Observation, not_representable
from nvmxfuzz.targets.passage import Passage

PERMITTED_OUTCOME: Final = "entry.permitted-outcome"
VMCS02_SOUND: Final = "entry.vmcs02-sound"

_ENTRY_EXIT: Final = frozenset({"vm_exit_reason", "exit_qualification"})
_MOST_NAMES: Final = 6
_NO_HARM: Final = "KVM: no guest may reach a WARN or a BUG"


class Loop(Protocol):
    """KVM of one kernel with a processor below it."""

    @property
    def name(self) -> str:
        """The name of the target, such as "kvm-6.12+rules"; before the "+" is that of KVM."""

    def virtual(self, profile: Profile) -> Profile:
        """Return the processor that KVM offers L1 on that hardware; itself if it is one."""

    def run(self, attempt: Attempt) -> Observation:
        """Return what L1 sees in the end."""

    def follow(self, attempt: Attempt) -> Passage:
        """Return the same, with all that can be seen on the way there."""

    def follow_dry(self, attempt: Attempt) -> Passage:
        """Return the same, where KVM makes a dry run before it believes in a VM entry."""


class OnceFollowed:
    """A loop on which each attempt runs once, however often it is asked about in a row.

    It does not run what no L1 can bring before KVM. `known` is what is known to change on the way,
    `tables` what KVM is known to do, by default all that is of that kernel.
    """

    def __init__(
        self,
        loop: Loop,
        known: Iterable[KnownChange] | None = None,
        tables: KvmTables | None = None,
    ) -> None:
        self._loop = loop
        self.name = loop.name
        self.kernel = loop.name.partition("+")[0]
        self.tables = tables or tables_of(self.kernel)
        self._known = changes_of(self.kernel) if known is None else tuple(known)
        self._attempt: Attempt | None = None
        self._virtual: Attempt | None = None
        self._ran: Observation | None = None
        self._passages: dict[bool, Passage] = {}

    def virtual(self, attempt: Attempt) -> Attempt:
        """Return an attempt as it is on the processor that KVM offers L1."""
        self._turn_to(attempt)
        if self._virtual is None:
            profile = self._loop.virtual(attempt.profile)
            same = profile is attempt.profile
            self._virtual = attempt if same else replace(attempt, profile=profile)
        return self._virtual

    def run(self, attempt: Attempt) -> Observation:
        """Return what L1 sees in the end."""
        virtual = self.virtual(attempt)
        if self._ran is None:
            reason = unmet(virtual)
            self._ran = not_representable(reason) if reason else self._loop.run(attempt)
        return self._ran

    def follow(self, attempt: Attempt, *, dry: bool = False) -> Passage:
        """Return the passage of an attempt, with a dry run or without."""
        reason = unmet(self.virtual(attempt))
        if dry not in self._passages:
            ask = self._loop.follow_dry if dry else self._loop.follow
            self._passages[dry] = Passage(not_representable(reason)) if reason else ask(attempt)
        return self._passages[dry]

    def let_pass(self, attempt: Attempt) -> bool:
        """Tell whether KVM's software lets an attempt pass: the processor is asked, or L2 halts."""
        passage = self.follow(attempt)
        return bool(passage.entries) or passage.outcome == ENTERED

    def both(self, attempt: Attempt) -> tuple[Passage, Passage]:
        """Return the passages without a dry run and with one."""
        return self.follow(attempt), self.follow(attempt, dry=True)

    def compare(self, judgement: Judgement, attempt: Attempt, passage: Passage) -> Comparison:
        """Compare what L1 sees to what the rules permit; what nothing explains is "missed"."""
        virtual, seen = self.virtual(attempt), passage.observation
        tables = self.tables
        if any(is_fail(each.outcome) for each in passage.dry_runs):
            tables = replace(tables, end=tables.early)
        software = tables is self.tables and not passage.entries and seen.outcome != ENTERED
        compared = compare_software if software else compare_end
        found = compared(judgement, seen, virtual, tables)
        if found.relation == "missed" and (known := _by_processor(passage)):
            return Comparison("known", known=known)
        return found

    def unexplained(self, oracle: str, passage: Passage, changes: Iterable[str]) -> list[str]:
        """Return the changes of a passage that are not known, in their order."""
        return unexplained(self._known, oracle, passage, changes)

    def finding(self, oracle: str, site: str, message: str, rules: Iterable[str] = ()) -> Finding:
        """Return a finding on this loop."""
        return Finding(oracle, tuple(rules), ("cpu", self.name), site, message)

    def _turn_to(self, attempt: Attempt) -> None:
        if attempt is not self._attempt:
            self._attempt, self._virtual, self._ran = attempt, None, None
            self._passages = {}


def _by_processor(passage: Passage) -> tuple[str, ...]:
    """Return how the processor is known to differ from the rules in an entry of this passage."""
    names: list[str] = []
    for each in passage.asked:
        judgement = vm_entry(each.attempt)
        if each.outcome not in judgement.permitted:
            names += agreement.compare(judgement, each.observation, each.attempt).known
    return tuple(dict.fromkeys(names))


class _Loops:
    """The oracles on one loop."""

    def __init__(self, of: OnceFollowed) -> None:
        self.of = of

    def permitted_outcome(self, case: EntryCase, run: VmEntryWitness) -> Finding | None:
        """What L1 sees is an outcome that the rules permit on its virtual processor."""
        attempt, of = case.attempt, self.of
        judgement = run(of.virtual(attempt))
        seen = of.run(attempt)
        if seen.outcome in judgement.permitted or seen.status == "not-representable":
            return None
        found = of.compare(judgement, attempt, of.follow(attempt))
        if found.relation != "missed":
            return None
        assert seen.outcome is not None
        said = f"L1 sees {seen.outcome}, {permitted_text(judgement)}"
        if found.rules:
            return of.finding(PERMITTED_OUTCOME, kind_of(seen.outcome), said, found.rules)
        who, blamed = _refused_by(of.follow(attempt), seen.outcome)
        site = f"{kind_of(seen.outcome)}: {who}"
        return of.finding(PERMITTED_OUTCOME, site, f"{said}: by {who}", blamed)

    def l0_owned(self, case: EntryCase, run: VmEntryWitness) -> Finding | None:
        """KVM's software refuses what breaks only rules about what vmcs02 never has of L1's."""
        attempt, of = case.attempt, self.of
        virtual = of.virtual(attempt)
        judgement = run(virtual)
        if of.run(attempt).outcome in judgement.permitted:
            return None
        found = l0_owned(judgement, virtual, of.tables)
        return finding(of.name, *found) if found and of.let_pass(attempt) else None

    def survives(self, case: EntryCase, _run: VmEntryWitness) -> Finding | None:
        """No VM entry of L1's ends in a warning, a BUG, a signal or heap damage."""
        return self._unharmed(case.attempt, self.of.run(case.attempt))

    def survives_dry_run(self, case: EntryCase, _run: VmEntryWitness) -> Finding | None:
        """Nor does it behind a dry run; of a late VMfail there `entry.dry-run-sound` tells."""
        dry = self.of.follow(case.attempt, dry=True)
        return None if late_failure(dry) else self._unharmed(case.attempt, dry.observation)

    def _unharmed(self, attempt: Attempt, seen: Observation) -> Finding | None:
        # It is the processor that may have no opinion.
        found = warnings(seen) if seen.status == "no-opinion" else harm(seen)
        if not found or self.of.tables.fatal_names(self.of.virtual(attempt), found):
            return None
        return self.of.finding(SURVIVES, found[0], "; ".join(found))

    def transparent(self, case: EntryCase, run: VmEntryWitness) -> Finding | None:
        """What L1 sees is the same with a dry run and without, but for the permitted sets."""
        attempt, of = case.attempt, self.of
        plain, dry = of.both(attempt)
        if plain.outcome != dry.outcome:
            return self._other_outcome(run(of.virtual(attempt)), attempt, plain, dry)
        if plain.outcome is None:
            return None
        # What a late VMfail leaves behind it does not where the dry run finds it.
        changed = of.unexplained(TRANSPARENT, plain, differences(plain, dry))
        if not changed:
            return None
        names = ", ".join(changed[:_MOST_NAMES])
        said = f"both ways L1 sees {plain.outcome}, but with a dry run these are others: {names}"
        return of.finding(TRANSPARENT, f"{kind_of(plain.outcome)}: {changed[0]}", said)

    def _other_outcome(
        self, judgement: Judgement, attempt: Attempt, plain: Passage, dry: Passage
    ) -> Finding | None:
        compared = [self.of.compare(judgement, attempt, each) for each in (plain, dry)]
        died = [
            each.observation.status == "died" and found.relation == "none"
            for each, found in zip((plain, dry), compared, strict=True)
        ]
        if all(each.relation != "missed" for each in compared) and not any(died):
            return None
        if not self.of.unexplained(TRANSPARENT, dry, [str(dry.outcome)]):
            return None
        ways = [_said(each) for each in (plain, dry)]
        said = f"without a dry run L1 sees {ways[0]}, with one {ways[1]}"
        site = " and ".join(_site(each) for each in (plain, dry))
        return self.of.finding(TRANSPARENT, site, f"{said}, {permitted_text(judgement)}")

    def vmcs02_sound(self, case: EntryCase, run: VmEntryWitness) -> Finding | None:
        """What KVM accepts gives a merged VMCS whose VM entry does not end in VMfail."""
        attempt, of = case.attempt, self.of
        outcome = of.run(attempt).outcome
        if outcome is None or not is_fail(outcome):
            return None
        late = late_failure(of.follow(attempt))
        judgement = run(of.virtual(attempt))
        if late is None or outcome in judgement.permitted:
            return None
        if of.compare(judgement, attempt, of.follow(attempt)).relation != "missed":
            return None
        said = f"KVM accepts vmcs12, and the processor ends VM entry by vmcs02 with {late}"
        blamed = _deciding(vm_entry(of.follow(attempt).entries[-1].attempt), late)
        return of.finding(VMCS02_SOUND, str(late), said, blamed)

    def exit_info(self, case: EntryCase, _run: VmEntryWitness) -> Finding | None:
        """After a failed entry only exit reason and exit qualification of the VMCS have changed."""
        of = self.of
        for passage in of.both(case.attempt):
            outcome, before, after = passage.outcome, passage.l1_before, passage.l1_after
            if outcome is None or outcome.kind != "exit" or before is None or after is None:
                continue
            changed = of.unexplained(
                EXIT_INFO,
                passage,
                (
                    f"vmcs12 {name}"
                    for name in changed_fields(before.vmcs, after.vmcs)
                    if name not in _ENTRY_EXIT
                ),
            )
            if before.launched != after.launched:
                changed.append("launch state")
            if changed:
                who = "the processor's" if passage.entries else "KVM's own"
                said = f"after {outcome}, {who} doing, these have changed: "
                return of.finding(
                    EXIT_INFO, f"{who}: {changed[0]}", said + ", ".join(changed[:_MOST_NAMES])
                )
        return None


def differences(one: Passage, other: Passage) -> list[str]:
    """Return what L1 finds otherwise after two passages, and what the processor was given."""
    first, second = one.l1_after, other.l1_after
    if first is None or second is None:
        return []
    changed = [f"L1's {name}" for name in changed_pairs(first.registers, second.registers)]
    changed += [f"MSR {int(name):#x}" for name in changed_pairs(first.msrs, second.msrs)]
    changed += [f"vmcs12 {name}" for name in changed_fields(first.vmcs, second.vmcs)]
    if one.entries and other.entries:
        pair = one.entries[-1].attempt.vmcs, other.entries[-1].attempt.vmcs
        changed += [f"vmcs02 {name}" for name in changed_fields(*pair) if name not in _LEFT_BEHIND]
    return changed


_LEFT_BEHIND: Final = frozenset(field.name for field in FIELDS if field.type == "exit-info")
"""What VM entry does not look at: it is there from the dry run."""


def _deciding(judgement: Judgement, outcome: Outcome) -> tuple[str, ...]:
    if judgement.rules is not CHAPTER.rules:
        return ()
    broken = [judgement.rules[index] for index in sorted(set(judgement.broken))]
    first = min((rule.failure.stage for rule in broken), default=0)
    names = tuple(rule.name for rule in broken if rule.failure.stage == first)
    return names if outcome in judgement.permitted else ()


def _refused_by(passage: Passage, outcome: Outcome) -> tuple[str, tuple[str, ...]]:
    """Return who ended a VM entry that breaks no rule, and the rules that vmcs02 broke."""
    if passage.entries:
        judgement = vm_entry(passage.entries[-1].attempt)
        return "the processor", _deciding(judgement, outcome)
    return f"KVM, {place(passage.observation.messages)}", ()


def _said(passage: Passage) -> str:
    seen = passage.observation
    return str(seen.outcome) if seen.outcome else f"{seen.status} ({seen.reason})"


def _site(passage: Passage) -> str:
    seen = passage.observation
    return kind_of(seen.outcome) if seen.outcome else seen.status


def loop_oracles(
    loop: Loop, known: Iterable[KnownChange] | None = None, tables: KvmTables | None = None
) -> tuple[
    tuple[Oracle[EntryCase, VmEntryWitness], ...], tuple[Oracle[EntryCase, VmEntryWitness], ...]
]:
    """Return the oracles over VM entries on `loop`: those to ask always, and those that cost more.

    They run each attempt once, and must be asked about one attempt after the other. `known` and
    `tables` are as in `OnceFollowed`.
    """
    from nvmxfuzz.oracles.kvm.dry_run import dry_run_oracles

    followed = OnceFollowed(loop, known, tables)
    of = _Loops(followed)
    always = (
        Oracle(PERMITTED_OUTCOME, "SDM: VM Entries", of.permitted_outcome),
        Oracle(L0_OWNED, "SDM: VM Entries", of.l0_owned),
        Oracle(SURVIVES, _NO_HARM, of.survives),
    )
    others = (
        Oracle(VMCS02_SOUND, "SDM: VM Entries", of.vmcs02_sound),
        Oracle(EXIT_INFO, "SDM: VM-Entry Failures During or After Loading", of.exit_info),
        Oracle(TRANSPARENT, "KVM: a dry run is a matter of its own", of.transparent),
        Oracle(SURVIVES, _NO_HARM, of.survives_dry_run),
        *dry_run_oracles(followed),
    )
    return always, others
