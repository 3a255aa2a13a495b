# SPDX-License-Identifier: GPL-2.0-only
"""The chapter on VM entry as Bochs has it: the rules, corrected by the known differences."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from typing import Final

from nvmxfuzz.cpu.chapter import Chapter
from nvmxfuzz.cpu.entry import Entry
from nvmxfuzz.cpu.failures import CONTROLS
from nvmxfuzz.cpu.judgement import Judgement
from nvmxfuzz.cpu.rule import Failure, Predicate, Rule, Section, Subject, Verdict
from nvmxfuzz.cpu.vm_entry import CHAPTER, vm_entry
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.memory import Memory
from nvmxfuzz.oracles.known import DIFFERENCES, MISTAKES, KnownDifference, Where

_TITLE: Final = "Checks that only Bochs makes"


def bochs_judgement(attempt: Attempt) -> Judgement:
    """Judge an attempt as Bochs is known to."""
    for mistake in MISTAKES:
        attempt = mistake.taken_for(attempt)
    return _bochs_chapter().judge(Entry(_within_reach(attempt)))


def _within_reach(attempt: Attempt) -> Attempt:
    """Return an attempt without the memory that no address of its processor reaches.

    The rules refuse a structure that goes on beyond; Bochs, where it does not, finds nothing there.
    """
    end = 1 << attempt.profile.maxphyaddr
    regions = attempt.memory.regions
    if not regions or regions[-1][0] + len(regions[-1][1]) <= end:
        return attempt
    kept = tuple((start, data[: end - start]) for start, data in regions if start < end)
    return replace(attempt, memory=Memory(kept))


def names_applied(attempt: Attempt, judgement: Judgement, corrected: Judgement) -> tuple[str, ...]:
    """Return the known differences that tell the corrected judgement of an attempt from the other.

    They come in the order of the table.
    """
    before, after = _missed(judgement), _missed(corrected)
    gone = before - after
    return (
        *(
            mistake.name
            for mistake in MISTAKES
            if (other := mistake.taken_for(attempt)) is not attempt
            and _missed(vm_entry(other)) != before
        ),
        *(
            entry.name
            for entry in DIFFERENCES
            if entry.name in after or not gone.isdisjoint(entry.unchecked)
        ),
    )


def _missed(judgement: Judgement) -> set[str]:
    return {*judgement.broken_names, *judgement.unknown_names}


@cache
def _bochs_chapter() -> Chapter:
    checked = Section(_TITLE, CONTROLS)
    checked.rules += [_as_checked(rule, DIFFERENCES) for rule in CHAPTER.rules]
    checked.rules += [_added(entry, entry.failure) for entry in DIFFERENCES if entry.failure]
    return Chapter((checked,), CHAPTER.views)


def _as_checked(rule: Rule, differences: Iterable[KnownDifference]) -> Rule:
    """Return a rule that holds where Bochs does not check it."""
    for entry in differences:
        if rule.name in entry.unchecked:
            rule = replace(rule, predicate=_unless(entry.where, rule.predicate))
    return rule


def _unless(where: Where, predicate: Predicate) -> Predicate:
    def holds(subject: Subject) -> Verdict:
        verdict = predicate(subject)
        return True if verdict is not True and where(subject) else verdict

    return holds


def _added(entry: KnownDifference, failure: Failure) -> Rule:
    """Return a rule, of the difference's name, that stands for a check only Bochs makes."""

    def holds(subject: Subject) -> bool:
        return not entry.where(subject)

    return Rule(
        name=entry.name,
        section=_TITLE,
        sentence=entry.reason,
        predicate=holds,
        condition=None,
        failure=failure,
        view=entry.view,
        listed=entry.view is not None,
    )
