# SPDX-License-Identifier: GPL-2.0-only
"""One dump of a failed VM entry: the VMCS fields that it prints, and what else it tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from nvmxfuzz.errors import InputError

MOST_DUMPS: Final = 4096
"""More in one log, repeated ones included, are refused."""

Source = Literal["kvm", "qemu"]
"""dump_vmcs() of KVM, or the registers that QEMU prints."""


@dataclass(frozen=True, slots=True)
class Dump:
    """What one dump says. `line` is where it begins, from 1; `times` how often it is in the log.

    `fields` are VMCS fields by name. Of a dump of QEMU they are the guest's registers, which KVM
    may have altered for the VMCS: see `nvmxfuzz.triage.explain.hypotheses`. `facts` are other
    numbers by name: "efer" that the guest has in effect, "cpl", "smm", "halted", "shadow"
    (interrupts are inhibited for one instruction), "suberror", and "wide": 1 if QEMU has printed
    16 digits of each register, 0 if the upper halves are missing.
    """

    source: Source
    line: int
    fields: Mapping[str, int] = field(hash=False)
    facts: Mapping[str, int] = field(default_factory=dict, hash=False)
    entry_msrs: tuple[tuple[int, int], ...] = ()
    """(index, value) of the MSRs that VM entry loads, in order."""
    error: int | None = None
    """What QEMU calls the hardware error: the exit reason, or the VM-instruction error."""
    parts: tuple[str, ...] = ()
    """Of a dump of KVM, which of "guest", "host" and "control" it has lines of."""
    times: int = 1

    @property
    def content(self) -> tuple[object, ...]:
        """What two dumps of the same state agree in."""
        return (
            self.source,
            tuple(sorted(self.fields.items())),
            tuple(sorted(self.facts.items())),
            self.entry_msrs,
            self.error,
            self.parts,
        )

    def again(self) -> Dump:
        """Return the dump, seen once more."""
        return replace(self, times=self.times + 1)


class Dumps:
    """The dumps that a reader has found so far; InputError if there are too many."""

    def __init__(self) -> None:
        self.found: list[Dump] = []

    def add(self, dump: Dump) -> None:
        """Take one more."""
        if len(self.found) == MOST_DUMPS:
            raise InputError(
                f"more than {MOST_DUMPS} dumps are in it: cut out the part with the first"
            )
        self.found.append(dump)
