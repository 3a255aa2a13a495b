# SPDX-License-Identifier: GPL-2.0-only
"""The rules of one view, compiled into one function that asks them all.

Walking a table of rules costs as much as the rules themselves; the same walk written out as
straight-line code costs nearly nothing. So it is written out, once, when a chapter is made:

    def ask(subject, miss):
        asked = 0x3
        if not (verdict := subject.vmcs.host_cs_selector != 0): miss((0, verdict))
        if not (verdict := f1(subject)): miss((1, verdict))
        if subject.event:
            asked |= 0x4
            if not (verdict := subject.event_vector != 2): miss((2, verdict))
        if word := subject.vmcs.guest_cr4:
            if word & 0x80:
                asked |= 0x8
                if not (verdict := f3(subject.caps)): miss((3, verdict))
        return asked

A rule is written out as `written_out` tells, or called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias, cast

from nvmxfuzz.cpu.rule import Condition, Given, Rule, Subject, Verdict
from nvmxfuzz.cpu.written_out import written_out

Miss: TypeAlias = Callable[[tuple[int, Verdict]], None]
Ask: TypeAlias = Callable[[Subject, Miss], int]
"""Calls the second argument with (index, verdict) of every rule that does not hold, and returns
the bits of the rules that were asked."""


def compile_questions(rules: Sequence[Rule], view: str | None) -> Ask:
    """Return the function that asks the rules of `view`, each kind in the order of its first."""
    by_condition: dict[Condition | None, list[int]] = {}
    for index, rule in enumerate(rules):
        if rule.view == view:
            by_condition.setdefault(rule.condition, []).append(index)
    writer = _Writer(rules)
    writer.unconditional(by_condition.get(None, []))
    by_word: dict[str, list[tuple[Given, list[int]]]] = {}
    for condition, indices in by_condition.items():
        if isinstance(condition, Given):
            by_word.setdefault(condition.word, []).append((condition, indices))
        elif condition is not None:
            writer.group(f"if {writer.asked(condition)}:", indices, depth=1)
    for word, groups in by_word.items():
        writer.line(f"if word := subject.{word}:", depth=1)
        for given, indices in groups:
            writer.group(writer.given(given), indices, depth=2)
    return writer.finished()


class _Writer:
    """Writes the function line by line; every function it calls gets a name of its own."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        self._lines = ["def ask(subject, miss):"]
        self._names: dict[str, object] = {}

    def asked(self, function: Callable[[Subject], object]) -> str:
        """Return the expression that asks `function`: written out if it can be, else a call."""
        text = written_out(function, "subject", self._name)
        return text or f"{self._name(function)}(subject)"

    def _name(self, value: object) -> str:
        """Return a name by which the code knows `value`."""
        name = f"f{len(self._names)}"
        self._names[name] = value
        return name

    def line(self, text: str, depth: int) -> None:
        """Write one line."""
        self._lines.append("    " * depth + text)

    def given(self, condition: Given) -> str:
        """Return the line that asks a condition on `word`, which is not 0."""
        test = self.asked(condition.test) if condition.test else "True"
        return f"if word & {condition.mask:#x} and {test}:"

    def unconditional(self, indices: Sequence[int]) -> None:
        """Write the rules that are always asked."""
        self.line(f"asked = {_bits(indices):#x}", depth=1)
        self._rules_of(indices, depth=1)

    def group(self, condition: str, indices: Sequence[int], depth: int) -> None:
        """Write rules that are asked under one condition."""
        self.line(condition, depth)
        self.line(f"asked |= {_bits(indices):#x}", depth + 1)
        self._rules_of(indices, depth + 1)

    def _rules_of(self, indices: Sequence[int], depth: int) -> None:
        for index in indices:
            verdict = self.asked(self._rules[index].predicate)
            self.line(f"if not (verdict := {verdict}): miss(({index}, verdict))", depth)

    def finished(self) -> Ask:
        """Return the function."""
        self.line("return asked", depth=1)
        exec("\n".join(self._lines), self._names)
        return cast(Ask, self._names["ask"])


def _bits(indices: Sequence[int]) -> int:
    return sum(1 << index for index in indices)
