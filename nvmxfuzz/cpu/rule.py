# SPDX-License-Identifier: GPL-2.0-only
"""What a rule is, and the section of the SDM that gathers rules."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, TypeAlias, TypeVar

from nvmxfuzz.machine.outcome import Outcome

_DOCSTRINGS_ARE_OFF = sys.flags.optimize >= 2

UNKNOWN = None
"""A rule's answer where the SDM or the profile leaves open whether the processor checks."""

Verdict: TypeAlias = bool | None
Subject: TypeAlias = Any
"""What a rule's function takes: an `Entry`, or a part of it that `Section.views` names."""
Predicate: TypeAlias = Callable[[Subject], Verdict]
Condition: TypeAlias = Callable[[Subject], int]
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Given:
    """A condition on one word of the subject: a bit of `mask` is set in it, and `test` holds.

    A plain function is a condition as well; this one is asked faster, and not at all where the
    word is 0. `word` is an attribute, dotted as in "vmcs.guest_cr4"; `mask` of -1 means any bit.
    """

    word: str
    mask: int = -1
    test: Condition | None = None

    def __call__(self, subject: Subject) -> int:
        """Answer as a plain function would."""
        bits: int = attrgetter(self.word)(subject) & self.mask
        return bits if self.test is None or not bits else self.test(subject)


def within(word: str, mask: int = -1) -> Callable[[Condition], Given]:
    """Declare the decorated function as a condition that can hold only where `word` has a bit."""
    return lambda test: Given(word, mask, test)


@dataclass(frozen=True, slots=True)
class Failure:
    """What a broken rule leads to: the stage of VM entry that finds it, and the outcome there.

    The SDM fixes the order of the stages; within one stage the checks come in any order.
    """

    stage: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Rule:
    """One statement that holds on a legal entry.

    `predicate` answers True (held), False (broken) or UNKNOWN; it is asked only where `condition`
    is None or true, and is n/a elsewhere. `view` names the part of the entry both look at.
    """

    name: str
    section: str
    sentence: str
    predicate: Predicate
    condition: Condition | None
    failure: Failure
    view: str | None = None
    listed: bool = False
    """The view is a list, which may be empty."""

    @property
    def has_condition(self) -> bool:
        """True if the rule can be n/a: by its condition, or because its list is empty."""
        return self.condition is not None or self.listed


class Section:
    """The rules of one file under an SDM section title, in the order they are declared.

    `failure` is what a broken rule leads to if it does not say otherwise; `listed` says that the
    rules look at the entries of a list, which may be empty.
    """

    def __init__(self, title: str, failure: Failure, *, listed: bool = False) -> None:
        self.title = title
        self.failure = failure
        self.listed = listed
        self.rules: list[Rule] = []

    def rule(
        self,
        name: str,
        *,
        when: Condition | None = None,
        failure: Failure | None = None,
        view: str | None = None,
        **words: str,
    ) -> Callable[[F], F]:
        """Declare the decorated function as the rule `name`; its docstring is the sentence.

        `when` is the rule's condition, `failure` what a break leads to if not what the section
        says, `view` the part of the entry the function takes, and `words` what stands in the
        braces of a docstring that several rules share.
        """

        def declare(predicate: F) -> F:
            sentence = " ".join(inspect.cleandoc(predicate.__doc__ or "").split())
            if not sentence and not _DOCSTRINGS_ARE_OFF:
                raise ValueError(f"rule {name} has no sentence")
            self.rules.append(
                Rule(
                    name=name,
                    section=self.title,
                    sentence=sentence.format(**words) if words else sentence,
                    predicate=predicate,
                    condition=when,
                    failure=failure or self.failure,
                    view=view,
                    listed=self.listed,
                )
            )
            return predicate

        return declare
