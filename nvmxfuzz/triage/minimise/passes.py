# SPDX-License-Identifier: GPL-2.0-only
"""The passes of the minimiser, coarse ones first; each is told by its docstring."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, overload

from nvmxfuzz.inputs.case import Case, EntryCase, MigrationCase, SlotCase, WorldCase
from nvmxfuzz.inputs.difference import Change, Edit
from nvmxfuzz.inputs.layout import layout
from nvmxfuzz.inputs.memory_edit import MemoryEdit
from nvmxfuzz.triage.minimise.problem import Budget, Problem, plainer_starts
from nvmxfuzz.triage.minimise.worlds import minimise_in_world


@overload
def minimise(case: SlotCase, shows: Callable[[SlotCase], bool], budget: Budget) -> SlotCase: ...


@overload
def minimise(case: Case, shows: Callable[[Case], bool], budget: Budget) -> Case: ...


def minimise(case: Case, shows: Callable[[Any], bool], budget: Budget) -> Case:
    """Return the smallest case found that `shows` still accepts; it must accept `case`."""
    if isinstance(case, MigrationCase):
        return _minimise_migration(case, shows, budget)
    if isinstance(case, WorldCase):
        return minimise_in_world(case, shows, budget)
    problem = Problem(case, shows, budget)
    while not problem.exhausted:
        before = problem.start, problem.changes
        for reduce in _PASSES:
            reduce(problem)
        if (problem.start, problem.changes) == before:
            break
    return problem.case


def _minimise_migration(
    case: MigrationCase, shows: Callable[[Any], bool], budget: Budget
) -> MigrationCase:
    """The worlds and the fields of the VM entry first, then the bits of these fields."""
    half = replace(budget, runs=budget.runs // 2, seconds=budget.seconds / 2)
    small = minimise_in_world(case, shows, half)
    assert isinstance(small, MigrationCase)

    def still_shows(entry: SlotCase) -> bool:
        return isinstance(entry, EntryCase) and shows(replace(small, entry=entry))

    entry = minimise(small.entry, still_shows, half)
    assert isinstance(entry, EntryCase)
    return replace(small, entry=entry)


def isolate(problem: Problem) -> None:
    """Keep a single change: whatever else was edited, one field is mostly enough."""
    for change in problem.changes:
        if problem.propose((change,)):
            return


def plainer_start(problem: Problem) -> None:
    """Tell the case against the default profile, then against the default base."""
    for start in plainer_starts(problem.start):
        if problem.propose_start(start):
            plainer_start(problem)
            return


def drop_changes(problem: Problem) -> None:
    """Leave out changes: half of them, a quarter, down to each alone."""
    length = len(problem.changes)
    while length:
        at = 0
        while at < len(problem.changes):
            changes = problem.changes
            if not problem.propose(changes[:at] + changes[at + length :]):
                at += length
        length //= 2


def reset_bits(problem: Problem) -> None:
    """Give the bits of each edit the value they have in the base: many at once, then each."""
    for number in range(len(problem.changes)):
        edit = problem.changes[number]
        if isinstance(edit, Edit):
            _reset_bits(problem, number, problem.origin_of(edit))


def _reset_bits(problem: Problem, number: int, old: int) -> None:
    """Like `drop_changes`, on the differing bits of one edit."""
    differing = _bits(_edit(problem, number).value ^ old)
    length = len(differing) // 2
    while length:
        at = 0
        while at < len(differing):
            chunk = sum(differing[at : at + length])
            edit = _edit(problem, number)
            if problem.propose(_with(problem, number, replace(edit, value=edit.value ^ chunk))):
                del differing[at : at + length]
            else:
                at += length
        length //= 2


def single_bits(problem: Problem) -> None:
    """Replace each edit by one that changes a single bit of the base."""
    for number in range(len(problem.changes)):
        edit = problem.changes[number]
        if not isinstance(edit, Edit):
            continue
        old = problem.origin_of(edit)
        slot = layout(problem.start.harness).by_name[edit.slot]
        for position in range(slot.width):
            value = slot.fit(old ^ 1 << position)
            if problem.propose(_with(problem, number, replace(edit, value=value))):
                break


def shorten_memory(problem: Problem) -> None:
    """Leave out bytes at either end of a change of memory, then clear what is left."""
    for number in range(len(problem.changes)):
        for candidates in (_shorter, _cleared):
            proposed = True
            while proposed:
                change = problem.changes[number]
                if not isinstance(change, MemoryEdit):
                    break
                proposed = any(
                    problem.propose(_with(problem, number, smaller))
                    for smaller in candidates(change)
                )


def _shorter(edit: MemoryEdit) -> Iterator[MemoryEdit]:
    length = len(edit.data)
    cut = length // 2
    while cut:
        yield replace(edit, data=edit.data[: length - cut])
        yield replace(edit, address=edit.address + cut, data=edit.data[cut:])
        cut //= 2


def _cleared(edit: MemoryEdit) -> Iterator[MemoryEdit]:
    if edit.backed:
        for at, byte in enumerate(edit.data):
            if byte:
                yield replace(edit, data=edit.data[:at] + b"\0" + edit.data[at + 1 :])


def _edit(problem: Problem, number: int) -> Edit:
    edit = problem.changes[number]
    assert isinstance(edit, Edit)
    return edit


def _with(problem: Problem, number: int, change: Change) -> tuple[Change, ...]:
    changes = problem.changes
    return (*changes[:number], change, *changes[number + 1 :])


def _bits(mask: int) -> list[int]:
    return [1 << position for position in range(mask.bit_length()) if mask >> position & 1]


_PASSES = (
    isolate,
    drop_changes,
    plainer_start,
    reset_bits,
    single_bits,
    shorten_memory,
)
