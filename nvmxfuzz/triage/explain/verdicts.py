# SPDX-License-Identifier: GPL-2.0-only
"""The verdict on each rule over all hypotheses, and what it rests on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeAlias, cast

from nvmxfuzz.arch.segments import SEGMENTS
from nvmxfuzz.cpu import msr_loading
from nvmxfuzz.cpu.entry import Entry
from nvmxfuzz.cpu.failures import CONTROLS, GUEST_STATE
from nvmxfuzz.cpu.msr_slots import MsrSlot
from nvmxfuzz.cpu.rule import Rule
from nvmxfuzz.cpu.vm_entry import CHAPTER
from nvmxfuzz.inputs.dumps.dump import Dump
from nvmxfuzz.triage.explain.hypotheses import GUEST, Hypothesis
from nvmxfuzz.triage.explain.known import KnownEntry, NotKnown, segment_of
from nvmxfuzz.triage.explain.processors import MOST_LENIENT, STRICTEST

Answer: TypeAlias = Literal["n/a", "held", "broken", "open", "unknown"]
"""Of one hypothesis; "open" is where the SDM or the profile leaves it to the processor."""

Verdict: TypeAlias = Literal["fine", "broken", "depends", "unknown"]
"""Of all: "fine" is held or n/a whatever was the case, "depends" is broken in some cases."""

_VIEW: Final = "msr-load"
_SAME: Final[Mapping[Answer, Answer]] = {"held": "n/a", "unknown": "open"}


@dataclass(frozen=True, slots=True)
class Asked:
    """What one rule says under one hypothesis: what it looked at, and what it lacks.

    `read` are the fields that the rule looked at, `applies` those of its condition alone.
    """

    answer: Answer
    read: frozenset[str] = frozenset()
    applies: frozenset[str] = frozenset()
    missing: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Judged:
    """The verdict on one rule.

    `values` are the fields that a broken rule looked at, as they were where it is broken, and
    `applies` those by which it applies at all; `missing` is what would have to be known. Of a rule
    that `depends`, `broken_if` names where it is broken, `held_if` where it is not. `position` is
    that in the MSR-load list, from 1, or 0.
    """

    rule: Rule
    verdict: Verdict
    values: Mapping[str, int] = field(default_factory=dict, hash=False)
    applies: Mapping[str, int] = field(default_factory=dict, hash=False)
    missing: tuple[str, ...] = ()
    broken_if: tuple[str, ...] = ()
    held_if: tuple[str, ...] = ()
    position: int = 0

    @property
    def likely(self) -> bool:
        """Whether it is broken, or would be on every published processor that is considered."""
        return self.verdict == "broken" or (
            self.verdict == "depends"
            and not any(name.startswith(GUEST) for name in self.broken_if)
            and not set(self.held_if) - {STRICTEST, MOST_LENIENT}
            and bool(set(self.broken_if) - {STRICTEST, MOST_LENIENT})
        )


def judge(dump: Dump, considered: Sequence[Hypothesis]) -> tuple[Judged, ...]:
    """Return the verdict on every rule on controls, host state and guest state.

    On guest state alone if the controls are not those of the dump, but made up.
    """
    first = GUEST_STATE.stage if dump.source == "qemu" else CONTROLS.stage
    corners, entries = _corners(considered), _entries(considered)
    return tuple(
        _between(rule, corners, entries, _asked)
        for rule in CHAPTER.rules
        if first <= rule.failure.stage <= GUEST_STATE.stage
    )


def judge_msrs(
    considered: Sequence[Hypothesis], msrs: Sequence[tuple[int, int]]
) -> Iterator[Judged]:
    """Yield the rules on loading MSRs that an entry of the list breaks, or may break."""
    rules = [rule for rule in msr_loading.SECTION.rules if rule.view == _VIEW]
    corners, entries = _corners(considered), _entries(considered)
    for position, (index, value) in enumerate(msrs, 1):

        def ask(rule: Rule, entry: KnownEntry, index: int = index, value: int = value) -> Asked:
            entry.read.clear()
            # What the rules see of an Entry is all that there is of it.
            slot = MsrSlot(cast(Entry, entry), index, 0, value)
            return _answer(rule, slot, entry.read)

        for rule in rules:
            found = _between(rule, corners, entries, ask)
            if found.verdict in ("broken", "depends"):
                yield replace(found, position=position)


def _entries(considered: Sequence[Hypothesis]) -> list[tuple[Hypothesis, KnownEntry]]:
    return [(one, KnownEntry(one.profile, one.fields)) for one in considered]


def _corners(considered: Sequence[Hypothesis]) -> frozenset[int]:
    """Return the places of the processors between which all others are; all if there are none."""
    found = frozenset(
        place
        for place, one in enumerate(considered)
        if one.profile.name in (STRICTEST, MOST_LENIENT)
    )
    return found or frozenset(range(len(considered)))


def _between(
    rule: Rule,
    corners: frozenset[int],
    entries: Sequence[tuple[Hypothesis, KnownEntry]],
    ask: Callable[[Rule, KnownEntry], Asked],
) -> Judged:
    """Return the verdict on a rule: what the corners agree on, the others are not asked."""
    few = [pair for place, pair in enumerate(entries) if place in corners]
    asked = [ask(rule, entry) for _, entry in few]
    if len({_SAME.get(one.answer, one.answer) for one in asked}) > 1:
        few = list(entries)
        asked = [ask(rule, entry) for _, entry in few]
    return _merged(rule, [hypothesis for hypothesis, _ in few], asked)


def _asked(rule: Rule, entry: KnownEntry) -> Asked:
    entry.read.clear()
    if rule.view is None:
        return _answer(rule, entry, entry.read)
    if rule.view not in SEGMENTS:
        return Asked("unknown", missing=frozenset({rule.view}))
    try:
        segment = segment_of(entry, rule.view, CHAPTER.views[rule.view])
    except NotKnown as lacking:
        return Asked("unknown", missing=lacking.names)
    # The view reads all of the register; the rule does not.
    entry.read.clear()
    return _answer(rule, segment, entry.read)


def _answer(rule: Rule, subject: Any, read: set[str]) -> Asked:  # noqa: ANN401 # what rules take
    applies: frozenset[str] = frozenset()
    try:
        if rule.condition is not None:
            if not rule.condition(subject):
                return Asked("n/a")
            applies = frozenset(read)
            read.clear()
        holds = rule.predicate(subject)
    except NotKnown as lacking:
        return Asked("unknown", missing=lacking.names)
    answer: Answer = "open" if holds is None else "held" if holds else "broken"
    return Asked(answer, frozenset(read), applies - read)


def _merged(rule: Rule, considered: Sequence[Hypothesis], asked: Sequence[Asked]) -> Judged:
    answers = {one.answer for one in asked}
    if answers <= {"n/a", "held"}:
        return Judged(rule, "fine")
    values: dict[str, int] = {}
    applies: dict[str, int] = {}
    for hypothesis, one in zip(considered, asked, strict=True):
        if one.answer == "broken":
            values |= {name: hypothesis.fields[name] for name in sorted(one.read)}
            applies |= {name: hypothesis.fields[name] for name in sorted(one.applies)}
    if answers == {"broken"}:
        return Judged(rule, "broken", values, applies)
    missing = tuple(sorted(frozenset().union(*(one.missing for one in asked))))
    if "broken" not in answers:
        return Judged(rule, "unknown", missing=missing)
    return Judged(
        rule,
        "depends",
        values,
        applies,
        missing,
        _where(considered, asked, lambda answer: answer == "broken"),
        _where(considered, asked, lambda answer: answer in ("n/a", "held")),
    )


def _where(
    considered: Sequence[Hypothesis], asked: Sequence[Asked], wanted: Callable[[Answer], bool]
) -> tuple[str, ...]:
    """Return where the answer is a wanted one: the kind of guest if that decides, or processors."""
    by_guest: dict[str, set[bool]] = {}
    for hypothesis, one in zip(considered, asked, strict=True):
        by_guest.setdefault(hypothesis.guest, set()).add(wanted(one.answer))
    if len(by_guest) > 1 and all(len(found) == 1 for found in by_guest.values()):
        return tuple(guest for guest, found in by_guest.items() if True in found)
    return tuple(
        dict.fromkeys(
            hypothesis.profile.name
            for hypothesis, one in zip(considered, asked, strict=True)
            if wanted(one.answer)
        )
    )
