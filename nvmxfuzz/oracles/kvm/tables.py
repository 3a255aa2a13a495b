# SPDX-License-Identifier: GPL-2.0-only
"""A known difference of KVM, and the rules as KVM has them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from nvmxfuzz.cpu.entry import Entry
from nvmxfuzz.cpu.rule import Failure
from nvmxfuzz.cpu.vm_entry import CHAPTER
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.oracles.corrected import Corrected
from nvmxfuzz.oracles.known import KnownDifference, Where, always

Later: TypeAlias = Failure | Literal["hardware", "nobody"]


@dataclass(frozen=True, slots=True)
class KvmDifference(KnownDifference):
    """Checks that KVM's software does not make, or one that only KVM makes.

    `function` is the kernel's function that would make the check, or makes it. `later` says what
    becomes of an entry that breaks the rules in `unchecked`: the processor that runs the merged
    VMCS ends it as the rules permit, or nobody does, or it ends with that failure. One that
    `postpones` has no such rules: where it holds, nobody makes the checks either that are left to
    the processor. `harm` is what KVM does not get over: how each warning begins, and what it says
    where it gives up the VM or leaves L1 to user space. `kernels` are the versions the entry is
    about; all if there are none. `page` is the page of `docs/findings` on it, if it is a mistake
    of KVM's.
    """

    function: str = ""
    later: Later = "hardware"
    postpones: bool = False
    harm: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()
    page: str = ""
    of_models: bool = True


@dataclass(frozen=True, slots=True)
class KvmTables:
    """The rules as KVM of one version has them: its software alone, and what L1 sees in the end.

    `early` is the end where a dry run finds a VMfail: nothing postpones that. `fatal` are the
    entries that tell what KVM does not get over. `left` are the indices, in the chapter, of the
    rules that KVM leaves to the processor wherever they are broken.
    """

    software: Corrected
    end: Corrected
    early: Corrected
    fatal: tuple[KvmDifference, ...]
    left: frozenset[int]

    def fatal_names(self, attempt: Attempt, harm: Iterable[str]) -> tuple[str, ...]:
        """Return the entries by which an attempt does this harm; () if they do not say it all."""
        entry = Entry(attempt)
        found = [each for each in self.fatal if each.where(entry)]
        known = tuple(text for each in found for text in each.harm)
        if not all(one.startswith(known) for one in harm):
            return ()
        return tuple(each.name for each in found)


def tables_from(differences: Iterable[KvmDifference]) -> KvmTables:
    """Return the tables of these entries."""
    entries = tuple(differences)
    judged = tuple(entry for entry in entries if not entry.harm)
    software = tuple(entry for entry in judged if not entry.postpones)
    fatal = tuple(entry for entry in entries if entry.harm)
    left = frozenset(
        CHAPTER.index[name]
        for entry in software
        if entry.where is always and entry.later == "hardware" and entry.failure is None
        for name in entry.unchecked
    )
    end, early = Corrected(_in_the_end(judged)), Corrected(_in_the_end(software))
    return KvmTables(Corrected(software), end, early, fatal, left)


def _in_the_end(entries: tuple[KvmDifference, ...]) -> Iterator[KvmDifference]:
    """Yield what is different for L1: not that it was the processor that made a check."""
    postponing = tuple(entry for entry in entries if entry.postpones)
    for entry in entries:
        if entry.postpones:
            continue
        if entry.failure or entry.later == "nobody":
            yield entry
        elif isinstance(entry.later, Failure):
            yield replace(entry, failure=entry.later, where=_unless_any(entry.where, postponing))
        else:
            for other in postponing:
                where = _both(entry.where, other.where)
                yield replace(other, where=where, unchecked=entry.unchecked)


def _both(one: Where, other: Where) -> Where:
    return lambda subject: one(subject) and other(subject)


def _unless_any(where: Where, others: tuple[KvmDifference, ...]) -> Where:
    return lambda subject: where(subject) and not any(each.where(subject) for each in others)
