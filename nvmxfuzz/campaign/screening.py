# SPDX-License-Identifier: GPL-2.0-only
"""Which inputs the rules judge where KVM, being cheaper, has run each of them already.

In a campaign that KVM's own coverage steers, the rules would take half of the time, mostly to agree
once more that a VM entry fails. So KVM goes first, and what it does decides:

- It enters: the rules judge each attempt. This is where a missed check shows. One in three inputs
  is an attempt that was judged before, in other bytes, and of which they would say the same.
- It does not get over it (a warning, a BUG, an exit to user space): they judge, each time. So they
  do what comes as a text, whose processor has only its name in common with others.
- It refuses and names no check, as it does for an MSR that it cannot load: likewise each attempt,
  since one such refusal looks as another one.
- It refuses by a check: they judge if KVM has not refused so before (its outcome and the checks
  that failed, on one processor), and else one in `JUDGED_OF`, chosen by a checksum as the sample
  for all oracles is. A refusal that the rules do not share is found later.
- No L1 can bring the attempt before it: one in `JUDGED_OF`, since KVM has done nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from zlib import crc32

from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.parts import is_text
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import ENTERED
from nvmxfuzz.oracles.kvm.entry import harm, kind_of
from nvmxfuzz.targets.base import Observation

JUDGED_OF: Final = 8
"""Of the refusals that are not new, the rules judge one in so many. A power of two that divides
`harness.SAMPLE_OF`: what all oracles look at is judged."""

_MOST_KNOWN: Final = 1 << 16
"""Kinds of refusals that are told apart; there are some hundreds."""

_MOST_JUDGED: Final = 1 << 13
"""Attempts that are kept to be known again: some 20 MiB."""


class Screening:
    """What KVM has done so far; ask `is_due` about each input in turn."""

    def __init__(self, run: Callable[[Attempt], Observation]) -> None:
        """`run` is KVM; it is to remember its last attempt, which the oracles ask about as well."""
        self._run = run
        self._known: set[object] = set()
        self._judged: set[object] = set()

    def is_due(self, case: EntryCase, data: bytes) -> bool:
        """Run KVM on the case of an input; return whether the rules are to judge it."""
        seen = self._run(case.attempt)
        # An input that is a text may describe a processor of its own, whatever its name.
        if harm(seen) or is_text(data):
            return True
        if seen.outcome is None:
            return is_chosen(data)
        if seen.outcome == ENTERED or not seen.messages:
            return self._is_another(case.attempt) or is_chosen(data)
        kind = (case.profile.name, kind_of(seen.outcome), seen.messages)
        if kind not in self._known and len(self._known) < _MOST_KNOWN:
            self._known.add(kind)
            return True
        return is_chosen(data)

    def _is_another(self, attempt: Attempt) -> bool:
        """Tell whether an attempt is none of those that were judged lately; it is from now on."""
        # By value, since hashes of fields collide: that of all ones is that of 7.
        fields = tuple(attempt.vmcs.__dict__.values())
        key = (
            fields,
            attempt.processor,
            attempt.memory.regions,
            attempt.instruction,
            attempt.launch_state,
            attempt.profile.name,
        )
        if key in self._judged:
            return False
        if len(self._judged) == _MOST_JUDGED:
            self._judged.clear()
        self._judged.add(key)
        return True


def is_chosen(data: bytes) -> bool:
    """Tell whether the rules judge an input that shows nothing new."""
    return crc32(data) & JUDGED_OF - 1 == 0
