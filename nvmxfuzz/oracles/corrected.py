# SPDX-License-Identifier: GPL-2.0-only
"""The chapter on VM entry as a target has it: the rules, corrected by its known differences."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from typing import Final

from nvmxfuzz.cpu.chapter import Chapter
from nvmxfuzz.cpu.entry import Entry
from nvmxfuzz.cpu.failures import CONTROLS
from nvmxfuzz.cpu.judgement import Judgement
from nvmxfuzz.cpu.rule import Failure, Predicate, Rule, Section, Subject, Verdict
from nvmxfuzz.cpu.vm_entry import CHAPTER, vm_entry
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.oracles.known import KnownDifference, KnownMistake, Where

_TITLE: Final = "Checks that only the target makes"


class Corrected:
    """The rules as a target has them. Its chapter is made when it is asked for the first time."""

    def __init__(
        self,
        differences: Iterable[KnownDifference],
        mistakes: Iterable[KnownMistake] = (),
    ) -> None:
        self.differences = tuple(differences)
        self.mistakes = tuple(mistakes)
        self._unchecked = {name for entry in self.differences for name in entry.unchecked}

    def judge(self, attempt: Attempt) -> Judgement:
        """Judge an attempt as the target is known to."""
        for mistake in self.mistakes:
            attempt = mistake.taken_for(attempt)
        return self._chapter.judge(Entry(attempt))

    def names_applied(
        self, attempt: Attempt, judgement: Judgement, corrected: Judgement
    ) -> tuple[str, ...]:
        """Return the entries that tell the corrected judgement of an attempt from the other.

        They come in the order of the table.
        """
        before, after = _missed(judgement), _missed(corrected)
        gone = before - after
        return (
            *(
                mistake.name
                for mistake in self.mistakes
                if (other := mistake.taken_for(attempt)) is not attempt
                and _missed(vm_entry(other)) != before
            ),
            *(
                entry.name
                for entry in self.differences
                if entry.name in after
                or any(_covers(entry, rule, attempt) for rule in gone.intersection(entry.unchecked))
            ),
        )

    def corrects(self, judgement: Judgement, corrected: Judgement) -> bool:
        """Tell whether the corrected judgement can come from the other one.

        Where it cannot, that other one is not of these rules. A list is judged up to the first
        subject that breaks a rule, which may be a later one then.
        """
        before, after = _missed(judgement), _missed(corrected)
        changed = {name for name in before ^ after if name in CHAPTER.index}
        alone = {name for name in changed if not CHAPTER.rules[CHAPTER.index[name]].listed}
        return alone <= self._unchecked and alone <= before

    @cached_property
    def _chapter(self) -> Chapter:
        checked = Section(_TITLE, CONTROLS)
        checked.rules += [_as_checked(rule, self.differences) for rule in CHAPTER.rules]
        checked.rules += [
            _added(entry, entry.failure) for entry in self.differences if entry.failure
        ]
        return Chapter((checked,), CHAPTER.views)


def _covers(difference: KnownDifference, rule: str, attempt: Attempt) -> bool:
    """Tell whether a difference holds of something that a rule looks at."""
    view = CHAPTER.rules[CHAPTER.index[rule]].view
    entry = Entry(attempt)
    return any(map(difference.where, (entry,) if view is None else CHAPTER.views[view](entry)))


def _missed(judgement: Judgement) -> set[str]:
    return {*judgement.broken_names, *judgement.unknown_names}


def _as_checked(rule: Rule, differences: Iterable[KnownDifference]) -> Rule:
    """Return a rule that holds where the target does not check it."""
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
    """Return a rule, of the difference's name, that stands for a check only the target makes."""

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
