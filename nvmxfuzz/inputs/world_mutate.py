# SPDX-License-Identifier: GPL-2.0-only
"""Mutator and crossover of cases in worlds: they change the case, not its bytes.

A list of steps changes as `step_mutate` tells; a world is edited; the VM entry of a migration goes
through the mutator of its own kind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Final, TypeAlias

from nvmxfuzz.inputs.case import (
    DEFAULT_KERNEL,
    ORDERS,
    MigrationCase,
    RestoreCase,
    SessionCase,
    WorldKind,
)
from nvmxfuzz.inputs.codec import decode, encode
from nvmxfuzz.inputs.random_session import SESSION, toggle_parameter
from nvmxfuzz.inputs.random_steps import (
    edit_world,
    random_profile,
    random_step,
    random_steps,
    random_value,
    random_write,
)
from nvmxfuzz.inputs.step_mutate import Steps
from nvmxfuzz.inputs.steps import (
    MOST_STEPS,
    MOST_WRITES,
    RestoreMsr,
    SetMsrs,
    Step,
    Write,
    Wrmsr,
)
from nvmxfuzz.inputs.world import World, world_on
from nvmxfuzz.inputs.world_codec import decode_in_world, encode_in_world
from nvmxfuzz.inputs.world_words import edited_world, world_differences

Mutator: TypeAlias = Callable[[bytes, int, int], bytes]

_MOST: Final = 4
_MAX_ENTRY: Final = 2048
"""Bytes of a VM entry."""
_SOME: Final = 8
"""Steps that are made anew at once."""


def mutated_in_world(data: bytes, harness: WorldKind, entry: Mutator, rng: Random) -> bytes:
    """Return `data` after a few mutations; `entry` mutates the bytes of a VM entry."""
    case = decode_in_world(data, harness)
    mutations = 1
    while mutations < _MOST and rng.getrandbits(1):
        mutations += 1
    for _ in range(mutations):
        if isinstance(case, MigrationCase):
            case = _mutated_migration(case, rng, entry)
        else:
            case = _mutated_steps(case, rng)
    return encode_in_world(case)


def crossed_in_world(data: bytes, other: bytes, harness: WorldKind, rng: Random) -> bytes:
    """Return the world of one input with the first steps of one and the last of the other.

    Of migrations: source, destination and entry, each of one or the other.
    """
    one, two = (decode_in_world(each, harness) for each in (data, other))
    if rng.getrandbits(1):
        one, two = two, one
    if isinstance(one, RestoreCase) and isinstance(two, RestoreCase):
        return encode_in_world(replace(one, steps=_RESTORE.crossed(one.steps, two.steps, rng)))
    if isinstance(one, SessionCase) and isinstance(two, SessionCase):
        return encode_in_world(replace(one, steps=SESSION.crossed(one.steps, two.steps, rng)))
    assert isinstance(one, MigrationCase)
    assert isinstance(two, MigrationCase)
    parts = ("source", "destination", "entry", "order")
    taken = {name: getattr(two, name) for name in parts if rng.getrandbits(1)}
    return encode_in_world(replace(one, **taken))


def _mutated_steps(case: RestoreCase | SessionCase, rng: Random) -> RestoreCase | SessionCase:
    chance = rng.random()
    if isinstance(case, SessionCase):
        # A world costs more than many steps in it.
        if chance < 0.03:
            return replace(case, world=toggle_parameter(rng, case.world))
        if chance < 0.97:
            return replace(case, steps=SESSION.mutated(case.steps, rng))
    elif chance < 0.86:
        return replace(case, steps=_RESTORE.mutated(case.steps, rng))
    edited = _moved(case.world, rng) if rng.random() < 0.33 else edit_world(rng, case.world)
    return replace(case, world=edited)


# ---------------------------------------------------------------------- restores


def _edited_step(step: Step, rng: Random) -> Step:
    if isinstance(step, SetMsrs):
        return SetMsrs(_edited_writes(list(step.writes), rng))
    if isinstance(step, RestoreMsr):
        return RestoreMsr(_edited_write(step.write, rng))
    if isinstance(step, Wrmsr):
        return Wrmsr(_edited_write(step.write, rng))
    return random_step(rng)


def _edited_writes(writes: list[Write], rng: Random) -> tuple[Write, ...]:
    at = rng.randrange(len(writes))
    chance = rng.random()
    if chance < 0.5:
        writes[at] = _edited_write(writes[at], rng)
    elif chance < 0.65 and len(writes) < MOST_WRITES:
        writes.insert(at, random_write(rng))
    elif chance < 0.8 and len(writes) > 1:
        del writes[at]
    else:
        to = rng.randrange(len(writes))
        writes[at], writes[to] = writes[to], writes[at]
    return tuple(writes)


def _edited_write(write: Write, rng: Random) -> Write:
    chance = rng.random()
    if chance < 0.4:
        flip = write.value.flip ^ 1 << rng.randrange(64)
        return Write(write.index, replace(write.value, flip=flip))
    if chance < 0.8:
        return Write(write.index, random_value(rng, write.index))
    moved = random_write(rng)
    return Write(moved.index, write.value) if rng.getrandbits(1) else moved


_RESTORE: Final[Steps[Step]] = Steps(
    MOST_STEPS,
    lambda rng, _: random_step(rng),
    _edited_step,
    lambda rng: random_steps(rng, _SOME),
)


def _moved(world: World, rng: Random) -> World:
    """Return the world on another profile, or without some of its edits."""
    name = random_profile(rng) if rng.getrandbits(1) else world.base
    kept = [edit for edit in world_differences(world) if rng.random() < 0.6]
    return edited_world(world_on(name, DEFAULT_KERNEL), kept)


# ---------------------------------------------------------------------- migrations


def _mutated_migration(case: MigrationCase, rng: Random, entry: Mutator) -> MigrationCase:
    chance = rng.random()
    if chance < 0.25:
        return replace(case, source=edit_world(rng, case.source))
    if chance < 0.5:
        return replace(case, destination=edit_world(rng, case.destination))
    if chance < 0.6:
        there = replace(case.source, kernel=case.destination.kernel)
        return replace(case, destination=there)
    if chance < 0.7:
        return replace(case, source=_moved(case.source, rng))
    if chance < 0.75:
        return replace(case, destination=_moved(case.destination, rng))
    if chance < 0.8:
        return replace(case, order=rng.choice(ORDERS))
    data = entry(encode(case.entry), _MAX_ENTRY, rng.getrandbits(32))
    return replace(case, entry=decode(data, "vm_entry"))
