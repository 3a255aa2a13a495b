# SPDX-License-Identifier: GPL-2.0-only
"""What an input does, measured by running the harness on it: all its behaviours, not only new ones.

Behaviours are the verdicts on the points of the harness, which of them was broken alone, and on a
target for VM entries the reasons that it gives.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Final, Self

from nvmxfuzz.campaign.behaviour import Behaviour as Masks
from nvmxfuzz.campaign.harness import WITNESS_ERRORS, Harness
from nvmxfuzz.campaign.memory import memory_bound
from nvmxfuzz.campaign.plan import DEFAULT_MEMORY
from nvmxfuzz.campaign.store.values import Behaviour, Verdict
from nvmxfuzz.inputs.case import Case, EntryCase
from nvmxfuzz.targets.registry import target_named

SECONDS: Final = 10
"""How long one input may take."""

_VERDICTS: Final[tuple[Verdict, ...]] = ("n/a", "held", "broken", "unknown", "sole")


class NotMeasuredError(Exception):
    """What an input does is not known: the reason, as it goes on after "the input"."""


class _TooLongError(Exception):
    """An input has taken too long."""


class Measure:
    """Measures inputs of one harness; use it in a `with` statement, for it may have a target."""

    def __init__(self, harness: Harness, target: str = "") -> None:
        """`harness` is what `with_target` makes of one for that target."""
        self.harness = harness
        self._points = len(harness.points)
        self._fired: dict[str, int] = {}
        self._open = ExitStack()
        self._target = None
        if target and harness.kind == "vm_entry":
            self._target = self._open.enter_context(target_named(target).make_isolated())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def of(self, data: bytes) -> int:
        """Return the behaviours of an input, one bit each; NotMeasuredError if it has none."""
        try:
            with _time_limit(SECONDS), memory_bound(DEFAULT_MEMORY):
                case, found = self._verdicts(data)
            return found | self._conditions(case)
        except _TooLongError:
            reason = f"takes longer than {SECONDS} seconds"
        except WITNESS_ERRORS as error:
            reason = f"leads to an error ({type(error).__name__}: {str(error)[:200]})"
        raise NotMeasuredError(reason)

    def named(self, behaviours: int) -> Iterator[Behaviour]:
        """Yield the behaviours that bits stand for."""
        points = self.harness.points
        for number, verdict in enumerate(_VERDICTS):
            mask = behaviours >> number * self._points
            for index, point in enumerate(points):
                if mask >> index & 1:
                    yield Behaviour(point, verdict)
        for condition, bit in self._fired.items():
            if behaviours >> bit & 1:
                yield Behaviour(condition, "fired")

    def _verdicts(self, data: bytes) -> tuple[Case, int]:
        case = self.harness.decode(data)
        _, verdicts = self.harness.judge(case)
        one = Masks(self._points)
        one.note(verdicts)
        found = 0
        for mask in (one.sole, one.unknown, one.broken, one.held, one.na):
            found = found << self._points | mask
        return case, found

    def _conditions(self, case: Case) -> int:
        """Return what fired in the target, which is in a process with limits of its own."""
        found = 0
        if self._target is not None and isinstance(case, EntryCase):
            for message in self._target.run(case.attempt).messages:
                found |= 1 << self._bit(message.template)
        return found

    def _bit(self, condition: str) -> int:
        return self._fired.setdefault(condition, len(_VERDICTS) * self._points + len(self._fired))


@contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    def too_long(*_: object) -> None:
        raise _TooLongError

    previous = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
