# SPDX-License-Identifier: GPL-2.0-only
"""How big a case is: what the minimiser makes less of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TypeAlias

from nvmxfuzz.inputs.case import (
    Case,
    EntryCase,
    MigrationCase,
    RestoreCase,
    SessionCase,
    SlotCase,
    WorldCase,
)
from nvmxfuzz.inputs.difference import Change, Edit, differences, origin
from nvmxfuzz.inputs.layout import layout
from nvmxfuzz.inputs.step_codec import writes_of
from nvmxfuzz.inputs.text import dump_text
from nvmxfuzz.inputs.words import config_word, entry_word
from nvmxfuzz.machine.profile import DEFAULT_PROFILE

Size: TypeAlias = tuple[int, int, int, int]
"""Number of changes (a byte of memory is one), bits that differ, bits that are set, and how late in
the layout the changes are."""


def size_of(case: Case) -> tuple[int, ...]:
    """Return how big a case is; those of one kind compare."""
    if isinstance(case, WorldCase):
        return world_size(case)
    return changes_size(origin(case), differences(case))


def changes_size(start: SlotCase, changes: Iterable[Change]) -> Size:
    """Return how big a set of changes against a base is."""
    index = layout(start.harness).index
    count = differing = ones = places = 0
    for change in changes:
        if isinstance(change, Edit):
            count += 1
            differing += (change.value ^ word_of(start, change)).bit_count()
            ones += change.value.bit_count()
            places += index[change.slot]
            continue
        count += len(change.data)
        value = int.from_bytes(change.data, "little")
        differing += (value ^ memory_of(start, change.address, len(change.data))).bit_count()
        ones += value.bit_count()
    return count, differing, ones, places


def word_of(start: SlotCase, edit: Edit) -> int:
    """Return what a base has in the slot of an edit."""
    slot = layout(start.harness).by_name[edit.slot]
    if isinstance(start, EntryCase):
        if slot.area == "memory":
            return start.attempt.memory.read_int(slot.address, slot.size)
        return entry_word(start.attempt, slot)
    return config_word(start, slot)


def memory_of(start: SlotCase, address: int, size: int) -> int:
    """Return what is read from the memory of a base, little-endian."""
    assert isinstance(start, EntryCase)
    return start.attempt.memory.read_int(address, size)


def world_size(case: WorldCase) -> tuple[int, int, int]:
    """Return how big a case is, without its note.

    Worlds that are not on the usual profile, characters of the text, bits of values.
    """
    worlds = (case.source, case.destination) if isinstance(case, MigrationCase) else (case.world,)
    odd = sum(world.base != DEFAULT_PROFILE for world in worlds)
    bits = 0
    if isinstance(case, RestoreCase):
        for step in case.steps:
            for write in writes_of(step):
                value = write.value
                bits += sum(map(int.bit_count, (value.unset, value.ones, value.flip)))
    elif isinstance(case, SessionCase):
        bits = sum(number.bit_count() for step in case.steps for number in step.operands)
    return odd, len(dump_text(replace(case, note=""))), bits
