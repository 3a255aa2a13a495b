# SPDX-License-Identifier: GPL-2.0-only
"""Mutator and crossover of cases in worlds: they change the case, not its bytes.

A step is put in, left out, made twice, moved or edited; a world is edited; the VM entry of a
migration goes through the mutator of its own kind.
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
    WorldKind,
)
from nvmxfuzz.inputs.codec import decode, encode
from nvmxfuzz.inputs.random_steps import (
    edit_world,
    random_profile,
    random_step,
    random_steps,
    random_value,
    random_write,
)
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
        if isinstance(case, RestoreCase):
            case = rng.choice(_RESTORE)(case, rng)
        else:
            case = _mutated_migration(case, rng, entry)
    return encode_in_world(case)


def crossed_in_world(data: bytes, other: bytes, harness: WorldKind, rng: Random) -> bytes:
    """Return the world of one input with the first steps of one and the last of the other.

    Of migrations: source, destination and entry, each of one or the other.
    """
    one, two = (decode_in_world(each, harness) for each in (data, other))
    if rng.getrandbits(1):
        one, two = two, one
    if isinstance(one, RestoreCase) and isinstance(two, RestoreCase):
        at, of = rng.randint(0, len(one.steps)), rng.randint(0, len(two.steps))
        return encode_in_world(_with(one, one.steps[:at] + two.steps[of:]))
    assert isinstance(one, MigrationCase)
    assert isinstance(two, MigrationCase)
    parts = ("source", "destination", "entry", "order")
    taken = {name: getattr(two, name) for name in parts if rng.getrandbits(1)}
    return encode_in_world(replace(one, **taken))


def _with(case: RestoreCase, steps: tuple[Step, ...]) -> RestoreCase:
    return replace(case, steps=steps[:MOST_STEPS])


# ---------------------------------------------------------------------- restores


def _insert(case: RestoreCase, rng: Random) -> RestoreCase:
    at = rng.randint(0, len(case.steps))
    return _with(case, (*case.steps[:at], random_step(rng), *case.steps[at:]))


def _drop(case: RestoreCase, rng: Random) -> RestoreCase:
    if not case.steps:
        return _anew(case, rng)
    at = rng.randrange(len(case.steps))
    return _with(case, case.steps[:at] + case.steps[at + 1 :])


def _repeat(case: RestoreCase, rng: Random) -> RestoreCase:
    """Make a step again, at once or later."""
    if not case.steps:
        return _anew(case, rng)
    at = rng.randrange(len(case.steps))
    to = rng.randint(at, len(case.steps))
    return _with(case, (*case.steps[:to], case.steps[at], *case.steps[to:]))


def _swap(case: RestoreCase, rng: Random) -> RestoreCase:
    """Let two steps change places."""
    if len(case.steps) < 2:
        return _insert(case, rng)
    steps = list(case.steps)
    at, to = rng.sample(range(len(steps)), 2)
    steps[at], steps[to] = steps[to], steps[at]
    return _with(case, tuple(steps))


def _edit(case: RestoreCase, rng: Random) -> RestoreCase:
    if not case.steps:
        return _anew(case, rng)
    at = rng.randrange(len(case.steps))
    edited = _edited_step(case.steps[at], rng)
    return _with(case, (*case.steps[:at], edited, *case.steps[at + 1 :]))


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


def _anew(case: RestoreCase, rng: Random) -> RestoreCase:
    return _with(case, random_steps(rng, _SOME))


def _edit_restore_world(case: RestoreCase, rng: Random) -> RestoreCase:
    return replace(case, world=edit_world(rng, case.world))


def _plainer_restore_world(case: RestoreCase, rng: Random) -> RestoreCase:
    return replace(case, world=_moved(case.world, rng))


_RESTORE: Final[tuple[Callable[[RestoreCase, Random], RestoreCase], ...]] = (
    *(_insert,) * 5,
    *(_edit,) * 5,
    *(_drop,) * 3,
    *(_repeat,) * 2,
    *(_swap,) * 2,
    *(_edit_restore_world,) * 2,
    _anew,
    _plainer_restore_world,
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
