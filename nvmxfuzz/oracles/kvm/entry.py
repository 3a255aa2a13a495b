# SPDX-License-Identifier: GPL-2.0-only
"""What must hold between the rules and KVM: what it lets L1's VM entry pass, and what it refuses.

KVM checks a part of what a processor does, and leaves the rest to the processor that runs its
merged VMCS, vmcs02. The known differences say which part: with them applied to the rules, KVM's
software must do just what the rules say, and what it leaves to the processor must come to an end
that the rules permit. That is looked at each time. What is left is a finding.

The rules are those of the virtual processor that KVM offers L1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from nvmxfuzz.arch.exit_reasons import ExitReason
from nvmxfuzz.cpu.judgement import Judgement
from nvmxfuzz.cpu.vm_entry import CHAPTER
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import ENTERED, Outcome
from nvmxfuzz.oracles.corrected import Corrected
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.oracles.kvm.known import tables_of
from nvmxfuzz.oracles.kvm.l0_owned import L0_OWNED, finding, l0_owned
from nvmxfuzz.oracles.kvm.tables import KvmTables
from nvmxfuzz.oracles.kvm.witness import Kvm, Once, first_check, on_virtual, place, warnings
from nvmxfuzz.oracles.oracle import Oracle
from nvmxfuzz.oracles.vm_entry import VmEntryWitness
from nvmxfuzz.targets.base import Observation

NO_MISSED_CHECK: Final = "entry.no-missed-check"
NO_OVERREACH: Final = "entry.no-overreach"
MERGED_ENTERS: Final = "entry.merged-enters"
SURVIVES: Final = "kvm.survives"

Relation = Literal["none", "agreed", "known", "missed", "overreach"]
"""KVM has no outcome; it does what the rules permit; known differences explain it; nothing does."""
Check: TypeAlias = Callable[[EntryCase, VmEntryWitness], Finding | None]

_ENTERED: Final = 8
_STAGES: Final[dict[str, dict[int, int]]] = {
    "fault": {6: 0, 13: 1},
    "fail-invalid": {0: 2},
    "fail-valid": {26: 3, 4: 4, 5: 4},
    "exit": {ExitReason.INVALID_STATE: 6, ExitReason.MSR_LOAD_FAIL: 7},
    "entered": {0: _ENTERED},
}
"""Stages of VM entry by the outcome that ends it there; of another VMfail it is the fifth."""
_CONTROLS_OR_HOST: Final = 5


@dataclass(frozen=True, slots=True)
class Comparison:
    """How what KVM did compares to the rules.

    `known` names the differences that explain it. What nothing explains has a `site`, which is
    the same for the same disagreement, the rules concerned, and a sentence on it.
    """

    relation: Relation
    known: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    site: str = ""
    message: str = ""


_NONE: Final = Comparison("none")
_AGREED: Final = Comparison("agreed")


def compare(
    judgement: Judgement, attempt: Attempt, kvm: Kvm, tables: KvmTables | None = None
) -> Comparison:
    """Run an attempt on KVM, and compare what it does to the judgement of the attempt.

    The processor behind KVM is asked only where KVM's software lets pass what the rules refuse.
    `tables` is what KVM is known to do.
    """
    seen = kvm.run(attempt)
    outcome = seen.outcome
    if outcome in judgement.permitted:
        return _AGREED
    virtual = on_virtual(attempt, kvm)
    tables = tables or tables_of(kvm.name)
    if outcome is None:
        return _without_end(seen, virtual, tables)
    software = tables.software.judge(virtual)
    if not tables.software.corrects(judgement, software):
        # The known differences are those of the rules, and this witness is another one.
        return _unexplained(judgement, judgement, attempt, kvm)
    if outcome not in software.permitted:
        return _unexplained(judgement, software, attempt, kvm)
    known = tables.software.names_applied(virtual, judgement, software)
    if outcome == ENTERED:
        end = kvm.on_hardware(attempt).outcome
        if end is None:
            known = tables.fatal_names(virtual, harm(kvm.on_hardware(attempt)))
        elif end not in judgement.permitted:
            corrected = tables.end.judge(virtual)
            if end not in corrected.permitted:
                return _unexplained(judgement, judgement, attempt, kvm)
            known += tables.end.names_applied(virtual, judgement, corrected)
        if not known:
            return _unexplained(judgement, judgement, attempt, kvm)
    return Comparison("known", known=tuple(dict.fromkeys(known)))


def compare_merged(
    judgement: Judgement, attempt: Attempt, kvm: Kvm, tables: KvmTables | None = None
) -> Comparison:
    """Compare what the processor does with the merged VMCS where KVM's software may enter."""
    if ENTERED not in judgement.permitted or kvm.run(attempt).outcome != ENTERED:
        return _NONE
    seen = kvm.on_hardware(attempt)
    found = compare_end(judgement, seen, on_virtual(attempt, kvm), tables or tables_of(kvm.name))
    if found.relation != "missed":
        return found
    assert seen.outcome is not None
    return Comparison(
        "overreach",
        site=f"hardware: {kind_of(seen.outcome)}",
        message=f"the processor ends the VM entry of the merged VMCS with {seen.outcome}, "
        f"{permitted_text(judgement)}",
    )


def compare_end(
    judgement: Judgement, seen: Observation, virtual: Attempt, tables: KvmTables
) -> Comparison:
    """Compare what L1 sees, where the processor had the last word, to the judgement.

    What nothing explains is "missed", without a site.
    """
    end = seen.outcome
    if end in judgement.permitted:
        return _AGREED
    if end is None:
        return _without_end(seen, virtual, tables)
    return _by_tables(judgement, end, virtual, tables.end)


def compare_software(
    judgement: Judgement, seen: Observation, virtual: Attempt, tables: KvmTables
) -> Comparison:
    """Compare what L1 sees, where KVM's software alone has refused, to the judgement; likewise."""
    end = seen.outcome
    if end in judgement.permitted:
        return _AGREED
    if end is None:
        return _without_end(seen, virtual, tables)
    return _by_tables(judgement, end, virtual, tables.software)


def _by_tables(
    judgement: Judgement, end: Outcome, virtual: Attempt, table: Corrected
) -> Comparison:
    corrected = table.judge(virtual)
    if end in corrected.permitted and table.corrects(judgement, corrected):
        return Comparison("known", known=table.names_applied(virtual, judgement, corrected))
    return Comparison("missed", rules=_broken_before(judgement, _ENTERED))


def _without_end(seen: Observation, virtual: Attempt, tables: KvmTables) -> Comparison:
    """Return the comparison for an attempt without an outcome: known if KVM is not over it."""
    found = harm(seen)
    names = tables.fatal_names(virtual, found) if found else ()
    return Comparison("known", known=names) if names else _NONE


def _unexplained(
    judgement: Judgement, corrected: Judgement, attempt: Attempt, kvm: Kvm
) -> Comparison:
    """Return the comparison for what a judgement with the known differences does not explain."""
    seen = kvm.run(attempt)
    outcome = seen.outcome
    assert outcome is not None
    broken = _broken_before(corrected, _stage(outcome))
    if not broken:
        check = first_check(seen.messages)
        said = f" ({check.text})" if check else ""
        return Comparison(
            "overreach",
            rules=_broken_before(corrected, _stage(outcome) + 1),
            site=f"{kind_of(outcome)}: {place(seen.messages)}",
            message=f"KVM ends VM entry with {outcome}{said}, {permitted_text(judgement)}",
        )
    if outcome != ENTERED:
        site = f"later: KVM itself: {kind_of(outcome)}"
        said = f"KVM ends VM entry only with {outcome}, {permitted_text(judgement)}"
        return Comparison("missed", rules=broken, site=site, message=said)
    return _left_to_hardware(judgement, broken, kvm.on_hardware(attempt).outcome)


def _left_to_hardware(
    judgement: Judgement, broken: tuple[str, ...], end: Outcome | None
) -> Comparison:
    """Return the comparison for what KVM's software lets pass, by what L1 sees in the end."""
    said = f"KVM's software lets VM entry pass, {permitted_text(judgement)}; "
    if end == ENTERED:
        # Each of the rules is one that nobody checks, so that one of them is enough.
        return Comparison(
            "missed", rules=broken[:1], site="later: nobody", message=f"{said}L2 runs"
        )
    who = "the processor that runs the merged VMCS ends it with"
    if end is None:
        return Comparison(
            "missed", rules=broken, site="later: not known", message=f"{said}no end is known"
        )
    site = "hardware" if end in judgement.permitted else f"hardware otherwise: {kind_of(end)}"
    return Comparison("missed", rules=broken, site=f"later: {site}", message=f"{said}{who} {end}")


def permitted_text(judgement: Judgement) -> str:
    """Return what is permitted, as part of a sentence."""
    return f"permitted are {', '.join(map(str, judgement.permitted))}"


def _stage(outcome: Outcome) -> int:
    return _STAGES[outcome.kind].get(outcome.number, _CONTROLS_OR_HOST)


def _broken_before(judgement: Judgement, stage: int) -> tuple[str, ...]:
    """Return the broken rules of the first stage that has any, if it comes before `stage`."""
    broken = [judgement.rules[index] for index in sorted(set(judgement.broken))]
    first = min((rule.failure.stage for rule in broken), default=_ENTERED)
    if first >= stage:
        return ()
    return tuple(rule.name for rule in broken if rule.failure.stage == first)


def kind_of(outcome: Outcome) -> str:
    """Return an outcome without the place in the MSR-load list, which is chance."""
    place = outcome.kind == "exit" and outcome.number == ExitReason.MSR_LOAD_FAIL
    return f"exit {outcome.number}" if place else str(outcome)


class _Entries:
    """The oracles of VM entry on one KVM; each attempt runs there once for all of them."""

    def __init__(self, kvm: Kvm, tables: KvmTables | None = None) -> None:
        self.kvm = kvm if isinstance(kvm, Once) else Once(kvm)
        self._tables = tables or tables_of(kvm.name)
        self._left = self._tables.left
        self._before: tuple[Attempt, Judgement, Comparison] | None = None

    def _compared(self, attempt: Attempt, run: VmEntryWitness) -> Comparison:
        return self._comparison(attempt, run(on_virtual(attempt, self.kvm)))

    def _comparison(self, attempt: Attempt, judgement: Judgement) -> Comparison:
        if self._before is not None:
            before, judged, found = self._before
            if before is attempt and judged is judgement:
                return found
        found = compare(judgement, attempt, self.kvm, self._tables)
        self._before = attempt, judgement, found
        return found

    def _is_left_to_hardware(self, judgement: Judgement) -> bool:
        """Whether KVM makes none of the checks that fail, wherever they do: a short way to know."""
        return (
            judgement.rules is CHAPTER.rules
            and self._left.issuperset(judgement.broken)
            and self._left.issuperset(judgement.unknown)
        )

    def _finding(self, oracle: str, found: Comparison) -> Finding:
        return Finding(oracle, found.rules, ("cpu", self.kvm.name), found.site, found.message)

    def no_missed_check(self, case: EntryCase, run: VmEntryWitness) -> Finding | None:
        """KVM's software refuses what the rules refuse, at no later stage, or is known not to."""
        attempt = case.attempt
        judgement = run(on_virtual(attempt, self.kvm))
        outcome = self.kvm.run(attempt).outcome
        if outcome == ENTERED and self._is_left_to_hardware(judgement):
            return None
        found = self._comparison(attempt, judgement)
        return self._finding(NO_MISSED_CHECK, found) if found.relation == "missed" else None

    def caught_by_hardware(self, case: EntryCase, run: VmEntryWitness) -> Finding | None:
        """What KVM leaves to the processor by design, that ends as the rules permit."""
        attempt = case.attempt
        judgement = run(on_virtual(attempt, self.kvm))
        if self.kvm.run(attempt).outcome != ENTERED or not self._is_left_to_hardware(judgement):
            return None
        found = self._comparison(attempt, judgement)
        return self._finding(NO_MISSED_CHECK, found) if found.relation == "missed" else None

    def no_overreach(self, case: EntryCase, run: VmEntryWitness) -> Finding | None:
        """KVM refuses nothing that the rules let pass, nor earlier or otherwise than they do."""
        if self.kvm.run(case.attempt).outcome == ENTERED:
            return None
        found = self._compared(case.attempt, run)
        return self._finding(NO_OVERREACH, found) if found.relation == "overreach" else None

    def l0_owned(self, case: EntryCase, run: VmEntryWitness) -> Finding | None:
        """KVM's software refuses what breaks only rules about what vmcs02 never has of L1's."""
        if self.kvm.run(case.attempt).outcome != ENTERED:
            return None
        virtual = on_virtual(case.attempt, self.kvm)
        found = l0_owned(run(virtual), virtual, self._tables)
        return finding(self.kvm.name, *found) if found else None

    def merged_enters(self, case: EntryCase, run: VmEntryWitness) -> Finding | None:
        """What the rules and KVM's software let pass, the processor enters with the merged VMCS."""
        judgement = run(on_virtual(case.attempt, self.kvm))
        found = compare_merged(judgement, case.attempt, self.kvm, self._tables)
        return self._finding(MERGED_ENTERS, found) if found.relation == "overreach" else None

    def survives(self, case: EntryCase, _run: VmEntryWitness) -> Finding | None:
        """No VM entry of L1's ends in a warning, a BUG, a signal, heap damage, or in user space."""
        return self._unharmed(case, self.kvm.run(case.attempt))

    def survives_the_processor(self, case: EntryCase, _run: VmEntryWitness) -> Finding | None:
        """Nor does it where the processor that runs the merged VMCS has a say."""
        ended = self.kvm.ended(case.attempt)
        return None if ended is None else self._unharmed(case, ended)

    def _unharmed(self, case: EntryCase, seen: Observation) -> Finding | None:
        found = harm(seen)
        if not found:
            return None
        virtual = on_virtual(case.attempt, self.kvm)
        if self._tables.fatal_names(virtual, found):
            return None
        return self._finding(SURVIVES, Comparison("none", site=found[0], message="; ".join(found)))


def harm(seen: Observation) -> tuple[str, ...]:
    """Return what KVM did not get over: warnings, or how it ended."""
    gave_up = seen.status == "died" or seen.status == "no-opinion"
    return (*warnings(seen), *((seen.reason,) if gave_up else ()))


def kvm_oracles(
    kvm: Kvm, tables: KvmTables | None = None
) -> tuple[
    tuple[Oracle[EntryCase, VmEntryWitness], ...], tuple[Oracle[EntryCase, VmEntryWitness], ...]
]:
    """Return the oracles over VM entries on `kvm`: those to ask always, and those that cost more.

    They run each attempt once, and must be asked about one attempt after the other. `tables` is
    what KVM is known to do, by default all that is known of that kernel.
    """
    of = _Entries(kvm, tables)
    always = (
        Oracle(NO_MISSED_CHECK, "SDM: VM Entries", of.no_missed_check),
        Oracle(NO_OVERREACH, "SDM: VM Entries", of.no_overreach),
        Oracle(L0_OWNED, "SDM: VM Entries", of.l0_owned),
        Oracle(SURVIVES, "KVM: no guest may reach a WARN or a BUG", of.survives),
    )
    others = (
        # The same promise, where it takes the processor to see that it is kept.
        Oracle(NO_MISSED_CHECK, "SDM: VM Entries", of.caught_by_hardware),
        Oracle(MERGED_ENTERS, "SDM: VM Entries", of.merged_enters),
        Oracle(SURVIVES, "KVM: no guest may reach a WARN or a BUG", of.survives_the_processor),
    )
    return always, others
