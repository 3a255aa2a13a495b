# SPDX-License-Identifier: GPL-2.0-only
"""Mutations of lists of steps: one is put in, left out, made again, moved, edited; some are copied.

What a step is, `Steps` says; the lists themselves are all alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Generic, TypeAlias, TypeVar

S = TypeVar("S")
_List: TypeAlias = tuple[S, ...]


@dataclass(frozen=True, slots=True)
class Steps(Generic[S]):
    """What there is to know of the steps of a case: `most` of them in each.

    `following` makes one to follow others, `edited` changes one, `anew` makes a list.
    """

    most: int
    following: Callable[[Random, _List[S]], S]
    edited: Callable[[S, Random], S]
    anew: Callable[[Random], _List[S]]

    def mutated(self, steps: _List[S], rng: Random) -> _List[S]:
        """Return `steps` after one mutation."""
        if not steps:
            return self.anew(rng)
        chance = rng.random()
        if chance < 0.28:
            changed = self._insert(steps, rng)
        elif chance < 0.55:
            changed = self._edit(steps, rng)
        elif chance < 0.7:
            changed = _drop(steps, rng)
        elif chance < 0.8:
            changed = _repeat(steps, rng)
        elif chance < 0.9:
            changed = _swap(steps, rng)
        else:
            changed = _splice(steps, rng) if chance < 0.95 else self.anew(rng)
        return changed[: self.most]

    def crossed(self, one: _List[S], two: _List[S], rng: Random) -> _List[S]:
        """Return the first steps of one list and the last of the other."""
        at, of = rng.randint(0, len(one)), rng.randint(0, len(two))
        return (one[:at] + two[of:])[: self.most]

    def _insert(self, steps: _List[S], rng: Random) -> _List[S]:
        at = rng.randint(0, len(steps))
        return (*steps[:at], self.following(rng, steps[:at]), *steps[at:])

    def _edit(self, steps: _List[S], rng: Random) -> _List[S]:
        at = rng.randrange(len(steps))
        return (*steps[:at], self.edited(steps[at], rng), *steps[at + 1 :])


def _drop(steps: _List[S], rng: Random) -> _List[S]:
    at = rng.randrange(len(steps))
    return steps[:at] + steps[at + 1 :]


def _repeat(steps: _List[S], rng: Random) -> _List[S]:
    """Make a step again, at once or later."""
    at = rng.randrange(len(steps))
    to = rng.randint(at, len(steps))
    return (*steps[:to], steps[at], *steps[to:])


def _swap(steps: _List[S], rng: Random) -> _List[S]:
    """Let two steps change places."""
    changed = list(steps)
    at, to = (rng.randrange(len(steps)) for _ in range(2))
    changed[at], changed[to] = changed[to], changed[at]
    return tuple(changed)


def _splice(steps: _List[S], rng: Random) -> _List[S]:
    """Make a stretch of steps again, somewhere."""
    first, last = sorted(rng.randint(0, len(steps)) for _ in range(2))
    to = rng.randint(0, len(steps))
    return (*steps[:to], *steps[first:last], *steps[to:])
