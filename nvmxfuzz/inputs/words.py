# SPDX-License-Identifier: GPL-2.0-only
"""Reading the slots of a case as integers, and building a case from changed ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from nvmxfuzz.inputs.case import Case, ConfigCase, EntryCase
from nvmxfuzz.inputs.layout import Slot
from nvmxfuzz.inputs.memory_edit import MemoryEdit, edited
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.profile import Profile

_CONFIG_ATTRIBUTES = {"error_on_inconsistent_vmcs_config": "error_on_inconsistent"}
PROFILE_ATTRIBUTES = ("family", "model", "stepping")
"""What a config case may edit of its profile beside the MSRs."""


def word_of(case: Case, slot: Slot) -> int:
    """Return what `case` holds in `slot`, one of its layout."""
    if isinstance(case, EntryCase):
        return entry_word(case.attempt, slot)
    return config_word(case, slot)


def entry_word(attempt: Attempt, slot: Slot) -> int:
    """Return what `attempt` holds in `slot`."""
    match slot.area:
        case "vmcs":
            return int(getattr(attempt.vmcs, slot.name))
        case "processor":
            return int(getattr(attempt.processor, slot.name))
        case "memory":
            return attempt.memory.read_int(slot.address, slot.size)
        case _:
            return slot.choices.index(getattr(attempt, slot.name))


def config_word(case: ConfigCase, slot: Slot) -> int:
    """Return what `case` holds in `slot`; an MSR that does not exist is 0."""
    if slot.area == "msr":
        value = case.profile.msrs.get(slot.address)
        return (value or 0) if slot.width == 64 else int(value is not None)
    if slot.name in PROFILE_ATTRIBUTES:
        return int(getattr(case.profile, slot.name))
    value = getattr(case, _CONFIG_ATTRIBUTES.get(slot.name, slot.name))
    return slot.choices.index(value) if slot.choices else int(value)


def build_attempt(
    attempt: Attempt, words: Mapping[Slot, int], memory: Sequence[MemoryEdit]
) -> Attempt:
    """Return `attempt` with `words` in their slots and then `memory`; other memory is kept."""
    vmcs: dict[str, int] = {}
    writes: list[MemoryEdit] = []
    processor: dict[str, Any] = {}
    parts: dict[str, Any] = {}
    for slot, value in words.items():
        if slot.area == "vmcs":
            vmcs[slot.name] = value
        elif slot.area == "processor":
            processor[slot.name] = _natural(slot, value)
        elif slot.area == "memory":
            writes.append(MemoryEdit(slot.address, value.to_bytes(slot.size, "little")))
        else:
            parts[slot.name] = _natural(slot, value)
    writes += memory
    # By hand, because dataclasses.replace costs as much as all of the rest.
    return Attempt(
        attempt.profile,
        attempt.vmcs.replace(vmcs) if vmcs else attempt.vmcs,
        replace(attempt.processor, **processor) if processor else attempt.processor,
        edited(attempt.memory, writes) if writes else attempt.memory,
        parts.get("instruction", attempt.instruction),
        parts.get("launch_state", attempt.launch_state),
    )


def build_config(case: ConfigCase, words: Mapping[Slot, int]) -> ConfigCase:
    """Return `case` with `words` in their slots; an MSR that does not exist loses its value."""
    attributes: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    msrs = dict(case.profile.msrs)
    exists: dict[int, int] = {}
    for slot, value in words.items():
        if slot.area == "msr" and slot.width == 64:
            msrs[slot.address] = value
            exists.setdefault(slot.address, slot.address in case.profile.msrs)
        elif slot.area == "msr":
            exists[slot.address] = value
            msrs.setdefault(slot.address, 0)
        elif slot.name in PROFILE_ATTRIBUTES:
            facts[slot.name] = value
        else:
            name = _CONFIG_ATTRIBUTES.get(slot.name, slot.name)
            attributes[name] = _natural(slot, value)
    if exists:
        facts["msrs"] = {at: msrs[at] for at in sorted(msrs) if exists.get(at, True)}
    profile = replace(case.profile, **facts) if facts else case.profile
    return replace(case, profile=profile, **attributes)


def unedited(profile: Profile, origin: Profile) -> Profile:
    """Return `profile` with all that a config case may edit as `origin` has it."""
    facts: dict[str, Any] = {name: getattr(origin, name) for name in PROFILE_ATTRIBUTES}
    return replace(profile, msrs=origin.msrs, **facts)


def _natural(slot: Slot, value: int) -> int | str:
    if slot.choices:
        return slot.choices[value]
    return bool(value) if slot.boolean else value
