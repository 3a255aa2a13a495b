# SPDX-License-Identifier: GPL-2.0-only
"""The passes of the minimiser, coarse ones first; each is told by its docstring."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final, overload

from nvmxfuzz.inputs.case import Case, EntryCase, MigrationCase, SlotCase, WorldCase
from nvmxfuzz.inputs.difference import Change, Edit
from nvmxfuzz.inputs.layout import layout
from nvmxfuzz.inputs.memory_edit import MemoryEdit
from nvmxfuzz.inputs.places import MSR_LOAD_ENTRIES
from nvmxfuzz.triage.minimise.problem import Budget, Problem
from nvmxfuzz.triage.minimise.retelling import plainer_starts, same_state
from nvmxfuzz.triage.minimise.worlds import minimise_in_world

_FEW: Final = 8
"""So many changes more a base that everyone knows is worth."""

_MOST_BYTES: Final = 64
"""Bytes of memory that are looked at one by one."""


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
    plain = _told_plainly(problem, case)
    if plain is None:
        return _reduced(problem).case
    if len(_reduced(plain).changes) <= _FEW:
        return plain.case
    own = _reduced(problem)
    return own.case if len(own.changes) + _FEW < len(plain.changes) else plain.case


def _told_plainly(problem: Problem, case: SlotCase) -> Problem | None:
    """Return the problem against a base that a reader knows better, if that shows the finding."""
    for plainer in same_state(case):
        told = problem.told_as(plainer)
        if told is not None:
            return told
    return None


def _reduced(problem: Problem) -> Problem:
    """Make a problem as small as the passes can."""
    while not problem.exhausted:
        before = problem.start, problem.changes
        for reduce in _PASSES:
            reduce(problem)
        if (problem.start, problem.changes) == before:
            break
    return problem


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
    """Give the bits of each change the value they have in the base: many at once, then each."""
    for number, change in enumerate(problem.changes):
        if isinstance(change, Edit) or (change.backed and len(change.data) == 1):
            _reset_bits(problem, (number,), _value(change) ^ problem.origin_of(change))


def reset_alike(problem: Problem) -> None:
    """Clear the same bits in all edits that have the same value: they may have to be alike."""
    values = [change.value for change in problem.changes if isinstance(change, Edit)]
    for value in dict.fromkeys(values):
        alike = tuple(
            number
            for number, change in enumerate(problem.changes)
            if isinstance(change, Edit) and change.value == value
        )
        for number in alike if len(alike) > 1 else ():
            origin = problem.origin_of(problem.changes[number])
            _reset_bits(problem, alike, value ^ origin)
            value = _value(problem.changes[number])


def _reset_bits(problem: Problem, numbers: tuple[int, ...], differing: int) -> None:
    """Like `drop_changes`, on the differing bits of one change, or of several that are alike."""
    bits = _bits(differing)
    length = len(bits) if len(numbers) > 1 else len(bits) // 2
    while length:
        at = 0
        while at < len(bits):
            chunk = sum(bits[at : at + length])
            changes = list(problem.changes)
            for number in numbers:
                changes[number] = _flipped(changes[number], chunk)
            if problem.propose(changes):
                del bits[at : at + length]
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


def first_of_list(problem: Problem) -> None:
    """Make the entry of the MSR-load list that matters the first one, and the only one."""
    for place in range(MSR_LOAD_ENTRIES - 1, 0, -1):
        for to in range(place):
            moved = tuple(_moved(change, place, to) for change in problem.changes)
            slots = [change.slot for change in moved if isinstance(change, Edit)]
            if not _uses(problem, place) or len(set(slots)) < len(slots):
                continue
            if problem.propose_move(moved):
                break


def _uses(problem: Problem, place: int) -> bool:
    """Tell whether an entry of the list is edited."""
    prefix = f"msr_load{place}_"
    return any(
        isinstance(change, Edit) and change.slot.startswith(prefix) for change in problem.changes
    )


def _moved(change: Change, place: int, to: int) -> Change:
    """Return a change as it is where an entry of the list is another one, which ends the list."""
    if not isinstance(change, Edit):
        return change
    if change.slot == "vm_entry_msr_load_count":
        return replace(change, value=to + 1)
    name = change.slot.replace(f"msr_load{place}_", f"msr_load{to}_")
    return replace(change, slot=name)


def shorten_memory(problem: Problem) -> None:
    """Leave out bytes at either end of a change of memory."""
    for number in range(len(problem.changes)):
        proposed = True
        while proposed:
            change = problem.changes[number]
            if not isinstance(change, MemoryEdit):
                break
            proposed = any(
                problem.propose(_with(problem, number, smaller)) for smaller in _shorter(change)
            )


def split_memory(problem: Problem) -> None:
    """Tell bytes of memory one by one, so that each can go, or get its bits back."""
    told = [change for change in problem.changes if isinstance(change, MemoryEdit)]
    sizes = [len(change.data) for change in told]
    if len(sizes) < sum(sizes) <= _MOST_BYTES:
        problem.split()


def _shorter(edit: MemoryEdit) -> Iterator[MemoryEdit]:
    length = len(edit.data)
    cut = length // 2
    while cut:
        yield replace(edit, data=edit.data[: length - cut])
        yield replace(edit, address=edit.address + cut, data=edit.data[cut:])
        cut //= 2


def _value(change: Change) -> int:
    return change.value if isinstance(change, Edit) else int.from_bytes(change.data, "little")


def _flipped(change: Change, bits: int) -> Change:
    if isinstance(change, Edit):
        return replace(change, value=change.value ^ bits)
    return replace(change, data=(_value(change) ^ bits).to_bytes(len(change.data), "little"))


def _with(problem: Problem, number: int, change: Change) -> tuple[Change, ...]:
    changes = problem.changes
    return (*changes[:number], change, *changes[number + 1 :])


def _bits(mask: int) -> list[int]:
    return [1 << position for position in range(mask.bit_length()) if mask >> position & 1]


_PASSES: Final = (
    isolate,
    drop_changes,
    plainer_start,
    shorten_memory,
    split_memory,
    first_of_list,
    reset_bits,
    reset_alike,
    single_bits,
)
