# SPDX-License-Identifier: GPL-2.0-only
"""A planted fault: it shows where certain bits are so, and is hidden in a heavily mutated case.

Each has a minimum, the case in which nothing is but what the fault needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final, TypeAlias

from nvmxfuzz.inputs.case import Case, CaseKind
from nvmxfuzz.inputs.codec import decode
from nvmxfuzz.inputs.mutate import mutator
from nvmxfuzz.triage.minimise import size_of

Shows: TypeAlias = Callable[[Any], bool]

ROUNDS: Final = 300
"""Mutations of the case that a fault is hidden in."""

LONGEST: Final = 3000


@dataclass(frozen=True, slots=True)
class Planted:
    """A fault in a case, and the smallest case that has it."""

    kind: str
    case: Case
    shows: Shows
    minimum: Case

    def is_minimum(self, found: Case) -> bool:
        """Tell whether a case is that, or another one that is as small and shows the fault."""
        wanted = self.minimum
        return (
            (found.profile.name, found.base) == (wanted.profile.name, wanted.base)
            and size_of(found) <= size_of(wanted)
            and self.shows(found)
        )


def noise(rng: Random, kind: CaseKind) -> Case:
    """Return a case that was mutated many times."""
    mutate, data = mutator(kind, lambda given, _: given), b""
    for _ in range(ROUNDS):
        data = mutate(data, LONGEST, rng.getrandbits(31)) or data
    return decode(data, kind)
