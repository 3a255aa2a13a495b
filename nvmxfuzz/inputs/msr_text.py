# SPDX-License-Identifier: GPL-2.0-only
"""The table `msrs` of a case in TOML: capability MSRs by name or index, or that one is absent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs import toml_writer, values
from nvmxfuzz.inputs.difference import Edit
from nvmxfuzz.inputs.layout import Layout, Slot, present
from nvmxfuzz.machine.outside import nearest, show
from nvmxfuzz.machine.profile import Profile

_ABSENT: Final = "absent"


def read_msrs(table: Mapping[str, Any], known: Layout) -> list[Edit]:
    """Return what the table changes; `known` has the slots of MSRs."""
    slots = {slot.name: slot for slot in known.slots if slot.area == "msr" and slot.width == 64}
    by_index = {slot.address: slot for slot in slots.values()}
    changes: dict[str, list[Edit]] = {}
    for key, value in table.items():
        index = values.number(key, "an MSR") if key[:1].isdigit() else None
        slot = slots.get(key.lower()) if index is None else by_index.get(index)
        if slot is None:
            near = nearest(key.lower(), slots)
            raise InputError(f"{show(key)} is no VMX capability MSR{near}")
        if slot.name in changes:
            raise InputError(f"{slot.name} is given twice; give it once")
        changes[slot.name] = _read_msr(slot, value)
    return [change for pair in changes.values() for change in pair]


def _read_msr(slot: Slot, value: object) -> list[Edit]:
    if value == _ABSENT:
        return [Edit(present(slot.name), 0)]
    return [Edit(slot.name, values.slot_value(slot, value)), Edit(present(slot.name), 1)]


def msr_literal(slot: Slot, profile: Profile) -> tuple[str, str]:
    """Return key and literal of the MSR that a slot belongs to."""
    value = profile.msrs.get(slot.address)
    name = slot.name if slot.width == 64 else slot.name.removesuffix(present(""))
    shown = toml_writer.quoted(_ABSENT) if value is None else f"0x{value:016x}"
    return name.upper(), shown
