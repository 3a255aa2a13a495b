# SPDX-License-Identifier: GPL-2.0-only
"""What a known difference is: a place where a target is known to differ from the rules, and why.

An entry covers exactly its condition: what it covers the target does differently each time, and
beside it the target does as the rules say. `bochs.known` and `kvm.known` have the entries,
`corpus/known` has for each a case that still shows it, and `corrected` judges with them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from nvmxfuzz.cpu.rule import Failure, Subject
from nvmxfuzz.machine.attempt import Attempt

Where: TypeAlias = Callable[[Subject], bool]


def always(_subject: Subject) -> bool:
    """The target never makes the check."""
    return True


@dataclass(frozen=True, slots=True)
class KnownDifference:
    """Checks that the target does not make, or one that only the target makes.

    `where` takes what the rules concerned look at: an `Entry`, or what `view` names. Where it
    holds, the target does not check the rules in `unchecked`, and ends the entry with `failure`,
    if there is one; it then says one of `messages` (templates), if it tells its reasons.
    `reference` is a section of the SDM.
    """

    name: str
    reason: str
    reference: str
    where: Where
    unchecked: tuple[str, ...] = ()
    failure: Failure | None = None
    messages: tuple[str, ...] = ()
    view: str | None = None


@dataclass(frozen=True, slots=True)
class KnownMistake:
    """An attempt that the target takes for another, with which it then does as the rules say.

    `taken_for` returns that other attempt, or the very same one where there is no mistake.
    """

    name: str
    reason: str
    reference: str
    taken_for: Callable[[Attempt], Attempt]
