# SPDX-License-Identifier: GPL-2.0-only
"""Judging an entry against all rules of a chapter.

Rules that share a condition are asked together, and the condition once; conditions on the same
word are skipped together where the word is 0. That keeps some 400 small functions affordable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TypeAlias

from nvmxfuzz.cpu.entry import Entry
from nvmxfuzz.cpu.judgement import Judgement
from nvmxfuzz.cpu.rule import Condition, Given, Predicate, Rule, Section, Subject, Verdict

View: TypeAlias = Callable[[Entry], Sequence[Subject]]
Misses: TypeAlias = list[tuple[int, Verdict]]

_Members: TypeAlias = tuple[tuple[Predicate, int], ...]
_Group: TypeAlias = tuple[Condition, int, _Members]
_GivenGroup: TypeAlias = tuple[int, Condition | None, int, _Members]
"""Mask, further test, bits of the rules in `Judgement.asked`, and the rules."""


@dataclass(frozen=True, slots=True)
class _Questions:
    """The rules of one view, arranged by what must be the case for them to be asked."""

    bits: int
    always: _Members
    groups: tuple[_Group, ...]
    words: tuple[tuple[Callable[[Subject], int], tuple[_GivenGroup, ...]], ...]

    def ask(self, subject: Subject, misses: Misses) -> int:
        """Note every rule that does not hold in `misses`; return the bits of those asked."""
        asked = self.bits
        for predicate, index in self.always:
            if not (verdict := predicate(subject)):
                misses.append((index, verdict))
        for condition, bits, members in self.groups:
            if condition(subject):
                asked |= bits
                for predicate, index in members:
                    if not (verdict := predicate(subject)):
                        misses.append((index, verdict))
        for read, given in self.words:
            if word := read(subject):
                for mask, test, bits, members in given:
                    if word & mask and (test is None or test(subject)):
                        asked |= bits
                        for predicate, index in members:
                            if not (verdict := predicate(subject)):
                                misses.append((index, verdict))
        return asked


class Chapter:
    """The rules of several sections, ready to judge.

    `views` gives by name the parts of an entry that rules may look at. A view is a sequence: its
    subjects are judged in turn, and judging stops after the first that breaks a rule, since the
    processor stops there too. A rule of a view without subjects is n/a.
    """

    def __init__(self, sections: Iterable[Section], views: Mapping[str, View]) -> None:
        self.sections = tuple(sections)
        self.views = dict(views)
        self.rules = tuple(rule for section in self.sections for rule in section.rules)
        self.index = {rule.name: index for index, rule in enumerate(self.rules)}
        if len(self.index) != len(self.rules):
            raise ValueError("two rules have the same name")
        self._of_entry = _questions(self.rules, None)
        self._of_views = tuple(
            (view, _questions(self.rules, name)) for name, view in self.views.items()
        )

    def judge(self, entry: Entry) -> Judgement:
        """Return which rules are broken, unknown and asked at all for `entry`."""
        misses: Misses = []
        asked = self._of_entry.ask(entry, misses)
        positions: list[tuple[int, int]] = []
        for view, questions in self._of_views:
            for position, subject in enumerate(view(entry), 1):
                before = len(misses)
                asked |= questions.ask(subject, misses)
                if len(misses) > before:
                    new = misses[before:]
                    positions += [(index, position) for index, _ in new]
                    if any(verdict is not None for _, verdict in new):
                        break
        if not misses:
            return Judgement(self.rules, asked, (), (), ())
        return Judgement(
            self.rules,
            asked,
            tuple(index for index, verdict in misses if verdict is not None),
            tuple(index for index, verdict in misses if verdict is None),
            tuple(positions),
        )


def _questions(rules: Sequence[Rule], view: str | None) -> _Questions:
    """Arrange the rules of one view, each kind in the order of its first rule."""
    by_condition: dict[Condition | None, list[int]] = {}
    for index, rule in enumerate(rules):
        if rule.view == view:
            by_condition.setdefault(rule.condition, []).append(index)
    always: _Members = ()
    groups: list[_Group] = []
    words: dict[str, list[_GivenGroup]] = {}
    for condition, indices in by_condition.items():
        members = tuple((rules[index].predicate, index) for index in indices)
        bits = sum(1 << index for index in indices)
        if condition is None:
            always = members
        elif isinstance(condition, Given):
            given = (condition.mask, condition.test, bits, members)
            words.setdefault(condition.word, []).append(given)
        else:
            groups.append((condition, bits, members))
    return _Questions(
        bits=sum(1 << index for _, index in always),
        always=always,
        groups=tuple(groups),
        words=tuple((attrgetter(word), tuple(given)) for word, given in words.items()),
    )
