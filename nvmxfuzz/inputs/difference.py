# SPDX-License-Identifier: GPL-2.0-only
"""A case as the difference against its base: what the printer, codec and minimiser work on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import ConfigCase, EntryCase, SlotCase
from nvmxfuzz.inputs.layout import Layout, Slot, layout
from nvmxfuzz.inputs.memory_edit import MemoryEdit, cells, memory_edits
from nvmxfuzz.inputs.words import build_attempt, build_config, config_word, entry_word, unedited
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.memory import Memory
from nvmxfuzz.machine.profile import Profile, load_profile, profile_names


@dataclass(frozen=True, slots=True)
class Edit:
    """The slot `slot` of the layout holds `value` instead of what the base has there."""

    slot: str
    value: int


Change: TypeAlias = Edit | MemoryEdit


def origin(case: SlotCase) -> SlotCase:
    """Return the base of `case` as a case: what it is without any edit."""
    if isinstance(case, EntryCase):
        return EntryCase(base(case.base, case.profile), case.base, case.note)
    start = load_profile(case.base) if case.base in profile_names() else Profile.from_mapping({})
    return ConfigCase(unedited(case.profile, start), case.base, note=case.note)


def differences(case: SlotCase) -> tuple[Change, ...]:
    """Return what leads from the base to `case`: slots area by area, then other memory."""
    start = origin(case)
    if isinstance(case, EntryCase) and isinstance(start, EntryCase):
        return differences_between(start.attempt, case.attempt)
    if isinstance(case, ConfigCase) and isinstance(start, ConfigCase):
        return _config_differences(start, case)
    raise AssertionError("the base of a case is of the same kind")


def differences_between(old: Attempt, new: Attempt) -> tuple[Change, ...]:
    """Return what leads from `old` to `new`, two attempts on the same profile."""
    table = layout("vm_entry")
    before, after = old.vmcs.items(), new.vmcs.items()
    changes: list[Change] = [
        Edit(slot.name, after[slot.name])
        for slot in table.by_area["vmcs"]
        if before[slot.name] != after[slot.name]
    ]
    for slot in (*table.by_area["processor"], *table.by_area["case"]):
        value = entry_word(new, slot)
        if value != entry_word(old, slot):
            changes.append(Edit(slot.name, value))
    if old.memory != new.memory:
        changes += _memory_differences(old.memory, new.memory, table)
    return tuple(changes)


def apply(case: SlotCase, changes: Iterable[Change]) -> SlotCase:
    """Return `case` after `changes`: first those of slots, then those of memory by address.

    Of two changes of one slot or address, the later one wins.
    """
    if isinstance(case, ConfigCase):
        return build_config(case, _words(changes, layout(case.harness)))
    return EntryCase(apply_to(case.attempt, changes), case.base, case.note)


def apply_to(attempt: Attempt, changes: Iterable[Change]) -> Attempt:
    """Return `attempt` after `changes`, as `apply` does."""
    found = tuple(changes)
    memory = [change for change in found if isinstance(change, MemoryEdit)]
    return build_attempt(attempt, _words(found, layout("vm_entry")), memory)


def _words(changes: Iterable[Change], table: Layout) -> dict[Slot, int]:
    return {
        table.by_name[change.slot]: change.value for change in changes if isinstance(change, Edit)
    }


def _memory_differences(old: Memory, new: Memory, table: Layout) -> list[Change]:
    """Return named words where both memories have them, and ranges of bytes for the rest."""
    before, after = cells(old), cells(new)
    named: list[Change] = []
    told: set[int] = set()
    for slot in table.by_area["memory"]:
        places = range(slot.address, slot.address + slot.size)
        if all(at in before and at in after for at in places):
            told.update(places)
            value = new.read_int(slot.address, slot.size)
            if value != old.read_int(slot.address, slot.size):
                named.append(Edit(slot.name, value))
    return [*named, *memory_edits(old, new, told)]


def _config_differences(start: ConfigCase, case: ConfigCase) -> tuple[Change, ...]:
    return tuple(
        Edit(slot.name, value)
        for slot in layout(case.harness).slots
        if (value := config_word(case, slot)) != config_word(start, slot)
        and not (slot.area == "msr" and slot.width == 64 and slot.address not in case.profile.msrs)
    )
