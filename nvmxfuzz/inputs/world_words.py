# SPDX-License-Identifier: GPL-2.0-only
"""A world as slots: reading them, building a world from changed ones, and its differences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from nvmxfuzz.inputs.case import DEFAULT_KERNEL
from nvmxfuzz.inputs.difference import Edit
from nvmxfuzz.inputs.layout import Slot, layout, toggled
from nvmxfuzz.inputs.words import build_profile, natural, of_profile, profile_word
from nvmxfuzz.inputs.world import FEATURES, World, parameters_of, world_on


def world_word(world: World, slot: Slot) -> int:
    """Return what `world` holds in `slot`, one of the layout of worlds."""
    if of_profile(slot):
        return profile_word(world.profile, slot)
    if slot.area == "parameter":
        return world.parameter(slot.name)
    if slot.area == "cpuid":
        return int(_feature(slot) in world.toggled)
    value = getattr(world, slot.name)
    return slot.choices.index(value) if slot.choices else int(value)


def build_world(world: World, words: Mapping[Slot, int]) -> World:
    """Return `world` with `words` in their slots."""
    attributes: dict[str, Any] = {}
    parameters = dict(world.parameters)
    features = set(world.toggled)
    for slot, value in words.items():
        if slot.area == "parameter":
            parameters[slot.name] = value
        elif slot.area == "cpuid":
            (features.add if value else features.discard)(_feature(slot))
        elif not of_profile(slot):
            attributes[slot.name] = natural(slot, value)
    return replace(
        world,
        profile=build_profile(world.profile, words),
        parameters=parameters_of(parameters),
        toggled=frozenset(features),
        **attributes,
    )


def world_origin(world: World) -> World:
    """Return the plain world that `world` is told against."""
    return world_on(world.base, DEFAULT_KERNEL)


def world_differences(world: World) -> tuple[Edit, ...]:
    """Return what leads from the plain world to this one."""
    start = world_origin(world)
    return tuple(
        Edit(slot.name, value)
        for slot in layout("world").slots
        if (value := world_word(world, slot)) != world_word(start, slot)
        and not (slot.area == "msr" and slot.width == 64 and slot.address not in world.profile.msrs)
    )


def edited_world(world: World, edits: Iterable[Edit]) -> World:
    """Return `world` after `edits`; of two of one slot the later one wins."""
    by_name = layout("world").by_name
    return build_world(world, {by_name[edit.slot]: edit.value for edit in edits})


def _feature(slot: Slot) -> str:
    return _BY_SLOT[slot.name]


_BY_SLOT: Mapping[str, str] = {toggled(name): name for name in FEATURES}
