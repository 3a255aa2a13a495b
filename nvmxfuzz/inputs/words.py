# SPDX-License-Identifier: GPL-2.0-only
"""Reading the slots of a case as integers, and building a case from changed ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from nvmxfuzz.inputs.case import ConfigCase, EntryCase, SlotCase
from nvmxfuzz.inputs.layout import Slot
from nvmxfuzz.inputs.memory_edit import MemoryEdit, edited
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.profile import Profile

_CONFIG_ATTRIBUTES = {"error_on_inconsistent_vmcs_config": "error_on_inconsistent"}
_NONE: Mapping[str, int] = MappingProxyType({})
PROFILE_ATTRIBUTES = ("family", "model", "stepping")
"""What a config case may edit of its profile beside the MSRs."""


def word_of(case: SlotCase, slot: Slot) -> int:
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
    if of_profile(slot):
        return profile_word(case.profile, slot)
    value = getattr(case, _CONFIG_ATTRIBUTES.get(slot.name, slot.name))
    return slot.choices.index(value) if slot.choices else int(value)


def of_profile(slot: Slot) -> bool:
    """Whether a slot is one of what a case may edit of its profile."""
    return slot.area == "msr" or slot.name in PROFILE_ATTRIBUTES


def profile_word(profile: Profile, slot: Slot) -> int:
    """Return what `profile` holds in a slot that is `of_profile`."""
    if slot.area == "msr":
        value = profile.msrs.get(slot.address)
        return (value or 0) if slot.width == 64 else int(value is not None)
    return int(getattr(profile, slot.name))


def build_attempt(
    attempt: Attempt,
    words: Mapping[Slot, int],
    memory: Sequence[MemoryEdit],
    fields: Mapping[str, int] = _NONE,
) -> Attempt:
    """Return `attempt` with `words` in their slots and then `memory`; other memory is kept.

    `fields` are words of VMCS fields, by name: a short way.
    """
    vmcs: dict[str, int] = {**fields}
    writes: list[MemoryEdit] = []
    processor: dict[str, Any] = {}
    parts: dict[str, Any] = {}
    for slot, value in words.items():
        if slot.area == "vmcs":
            vmcs[slot.name] = value
        elif slot.area == "processor":
            processor[slot.name] = natural(slot, value)
        elif slot.area == "memory":
            writes.append(MemoryEdit(slot.address, value.to_bytes(slot.size, "little")))
        else:
            parts[slot.name] = natural(slot, value)
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
    attributes = {
        _CONFIG_ATTRIBUTES.get(slot.name, slot.name): natural(slot, value)
        for slot, value in words.items()
        if not of_profile(slot)
    }
    return replace(case, profile=build_profile(case.profile, words), **attributes)


def build_profile(profile: Profile, words: Mapping[Slot, int]) -> Profile:
    """Return `profile` with those of `words` that are of it."""
    facts: dict[str, Any] = {}
    msrs = dict(profile.msrs)
    exists: dict[int, int] = {}
    for slot, value in words.items():
        if slot.area == "msr" and slot.width == 64:
            msrs[slot.address] = value
            exists.setdefault(slot.address, slot.address in profile.msrs)
        elif slot.area == "msr":
            exists[slot.address] = value
            msrs.setdefault(slot.address, 0)
        elif slot.name in PROFILE_ATTRIBUTES:
            facts[slot.name] = value
    if exists:
        facts["msrs"] = {at: msrs[at] for at in sorted(msrs) if exists.get(at, True)}
    return replace(profile, **facts) if facts else profile


def unedited(profile: Profile, origin: Profile) -> Profile:
    """Return `profile` with all that a config case may edit as `origin` has it."""
    facts: dict[str, Any] = {name: getattr(origin, name) for name in PROFILE_ATTRIBUTES}
    return replace(profile, msrs=origin.msrs, **facts)


def natural(slot: Slot, value: int) -> Any:  # noqa: ANN401 # an attribute of whatever type
    """Return the integer of a slot as the attribute that it stands for."""
    if slot.choices:
        return slot.choices[value]
    return bool(value) if slot.boolean else value
