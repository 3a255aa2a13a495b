# SPDX-License-Identifier: GPL-2.0-only
"""Which VM entries all oracles look at for a value that none before had, though all else is known.

Verdicts tell refusals apart. A VM entry that gets past the controls and the host state looks like
any other one to them, and what KVM merges, loads and puts back depends on each value that L1 wrote.
So every field, and every register of L1's, is brought before the oracles with some values: once in
entries that succeed, and once in entries that fail later. That is bounded: it is over in the
first seconds of a campaign.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from operator import attrgetter, itemgetter
from typing import Any, Final, TypeAlias

from nvmxfuzz.campaign.harness import Verdicts
from nvmxfuzz.cpu.failures import GUEST_STATE
from nvmxfuzz.cpu.vm_entry import CHAPTER
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.processor import Processor
from nvmxfuzz.machine.vmcs import Vmcs

VALUES: Final = 8
"""Of a field so many values are looked at, in either kind of entry."""

_LATE: Final = frozenset(
    number for number, rule in enumerate(CHAPTER.rules) if rule.failure.stage >= GUEST_STATE.stage
)
_FIELDS: Final = tuple(Vmcs().__dict__)
_REGISTERS: Final = tuple(field.name for field in fields(Processor))

Reader: TypeAlias = Callable[[Any], tuple[int, ...]]
"""Returns some values of a VMCS' fields or of a processor."""


class Variety:
    """The values that were looked at so far; ask `is_new` about each VM entry in turn."""

    def __init__(self) -> None:
        self._succeed, self._fail = _Entries(), _Entries()

    def is_new(self, case: EntryCase, verdicts: Verdicts) -> bool:
        """Tell whether an entry that breaks at most late rules has a value to look at; note it."""
        broken = verdicts.broken
        if not broken:
            return self._succeed.take(case.attempt)
        return _LATE.issuperset(broken) and self._fail.take(case.attempt)


class _Entries:
    """The values of one kind of entry."""

    def __init__(self) -> None:
        self._fields = _Values(_FIELDS, itemgetter)
        self._registers = _Values(_REGISTERS, attrgetter)

    def take(self, attempt: Attempt) -> bool:
        new_field = self._fields.take(attempt.vmcs.__dict__)
        return self._registers.take(attempt.processor) or new_field


class _Values:
    """The values by name, but of names that have all of theirs."""

    def __init__(self, names: Sequence[str], reader: Callable[..., Reader]) -> None:
        self._names, self._reader = tuple(names), reader
        self._seen = tuple(set[int]() for _ in names)
        self._read = reader(*names)

    def take(self, of: object) -> bool:
        """Tell whether a value is new; note them."""
        # At each input of a campaign: 170 values in a few microseconds.
        values = zip(self._seen, self._read(of), strict=True)
        new = [
            (seen, value)
            for seen, value in values
            # The two that are never dropped may have all of theirs.
            if value not in seen and len(seen) < VALUES
        ]
        for seen, value in new:
            seen.add(value)
        if any(len(seen) == VALUES for seen, _ in new):
            self._drop()
        return bool(new)

    def _drop(self) -> None:
        """Forget names that have all values, but for two: a reader of one returns no tuple."""
        pairs = zip(self._names, self._seen, strict=True)
        kept = sorted(pairs, key=lambda pair: len(pair[1]))
        size = max(2, sum(len(seen) < VALUES for _, seen in kept))
        self._names, self._seen = zip(*kept[:size], strict=True)
        self._read = self._reader(*self._names)
