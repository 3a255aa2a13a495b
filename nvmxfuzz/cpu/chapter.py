# SPDX-License-Identifier: GPL-2.0-only
"""Judging an entry against all rules of a chapter.

Rules that share a condition are asked together, and the condition once; conditions on the same
word are skipped together where the word is 0. That keeps some 400 small functions affordable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from nvmxfuzz.cpu.entry import Entry
from nvmxfuzz.cpu.judgement import Judgement
from nvmxfuzz.cpu.questions import Ask, compile_questions
from nvmxfuzz.cpu.rule import Rule, Section, Subject, Verdict

View: TypeAlias = Callable[[Entry], Sequence[Subject]]


class Chapter:
    """The rules of several sections, ready to judge.

    `views` gives by name the parts of an entry that rules may look at. A view is a sequence: its
    subjects are judged in turn, and judging stops after the first that breaks a rule, since the
    processor stops there too. A rule of a view without subjects is n/a.
    """

    def __init__(self, sections: Iterable[Section], views: Mapping[str, View]) -> None:
        self.views = dict(views)
        self.rules = tuple(rule for section in sections for rule in section.rules)
        self.index = {rule.name: index for index, rule in enumerate(self.rules)}
        if len(self.index) != len(self.rules):
            raise ValueError("two rules have the same name")
        self._ask_entry = compile_questions(self.rules, None)
        self._ask_views = tuple(
            (view, compile_questions(self.rules, name)) for name, view in self.views.items()
        )

    @property
    def sections(self) -> dict[str, tuple[Rule, ...]]:
        """The rules by the title of their section, in order; several files may share a title."""
        found: dict[str, list[Rule]] = {}
        for rule in self.rules:
            found.setdefault(rule.section, []).append(rule)
        return {title: tuple(rules) for title, rules in found.items()}

    @property
    def questions(self) -> tuple[Ask, ...]:
        """The functions that ask the rules, in which most of these are written out."""
        return (self._ask_entry, *(ask for _, ask in self._ask_views))

    def judge(self, entry: Entry) -> Judgement:
        """Return which rules are broken, unknown and asked at all for `entry`."""
        misses: list[tuple[int, Verdict]] = []
        miss = misses.append
        asked = self._ask_entry(entry, miss)
        positions: list[tuple[int, int]] = []
        for view, ask in self._ask_views:
            for position, subject in enumerate(view(entry), 1):
                before = len(misses)
                asked |= ask(subject, miss)
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
            tuple([index for index, verdict in misses if verdict is not None]),
            tuple([index for index, verdict in misses if verdict is None]),
            tuple(positions),
        )
