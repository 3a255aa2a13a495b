# SPDX-License-Identifier: GPL-2.0-only
"""Making a case in worlds small: fewer steps, fewer writes, plainer values and worlds.

A proposal is taken if the finding still shows and its text is shorter, or as long with fewer bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from time import monotonic
from typing import TypeVar

from nvmxfuzz.inputs.case import EntryCase, MigrationCase, RestoreCase, SessionCase, WorldCase
from nvmxfuzz.inputs.difference import apply, differences, origin
from nvmxfuzz.inputs.session_steps import STEP_BY_NAME, VCPUS, SessionStep, session_step
from nvmxfuzz.inputs.steps import (
    OWN,
    RestoreMsr,
    SetCpuid,
    SetMsrs,
    Step,
    Value,
    Write,
    Wrmsr,
    absolute,
)
from nvmxfuzz.inputs.text import dump_text
from nvmxfuzz.inputs.world import World, world_on
from nvmxfuzz.inputs.world_words import edited_world, world_differences, world_origin
from nvmxfuzz.machine.profile import DEFAULT_PROFILE
from nvmxfuzz.triage.minimise.problem import Budget
from nvmxfuzz.triage.minimise.sizes import world_size

_T = TypeVar("_T")


def minimise_in_world(
    case: WorldCase, shows: Callable[[WorldCase], bool], budget: Budget
) -> WorldCase:
    """Return the smallest case found that `shows` still accepts; it must accept `case`."""
    deadline, runs, tried = monotonic() + budget.seconds, 0, set()
    smaller = True
    while smaller:
        smaller = False
        for proposal in smaller_cases(case):
            if runs >= budget.runs or monotonic() >= deadline or budget.stop():
                return case
            text = dump_text(proposal)
            if text in tried or world_size(proposal) >= world_size(case):
                continue
            tried.add(text)
            runs += 1
            if shows(proposal):
                case, smaller = proposal, True
                break
    return case


def smaller_cases(case: WorldCase) -> Iterator[WorldCase]:
    """Yield cases that may be smaller, those that leave out most first."""
    if isinstance(case, RestoreCase):
        for steps in _fewer(case.steps):
            yield replace(case, steps=steps)
        for world in plainer_worlds(case.world):
            yield replace(case, world=world)
        for at, step in enumerate(case.steps):
            for plainer in plainer_steps(step):
                yield replace(case, steps=(*case.steps[:at], plainer, *case.steps[at + 1 :]))
    elif isinstance(case, SessionCase):
        yield from _smaller_sessions(case)
    else:
        yield from _smaller_migrations(case)


def _smaller_sessions(case: SessionCase) -> Iterator[SessionCase]:
    """Yield sessions with fewer steps, then plainer ones, then plainer operands, then worlds."""
    for steps in _fewer(case.steps):
        yield replace(case, steps=steps)
    for make in (_plain_steps, _plainer_operands):
        for at, step in enumerate(case.steps):
            for plainer in make(step):
                yield replace(case, steps=(*case.steps[:at], plainer, *case.steps[at + 1 :]))
    for vcpu in range(VCPUS - 1):
        yield replace(case, steps=tuple(replace(step, vcpu=vcpu) for step in case.steps))
    for world in plainer_worlds(case.world):
        yield replace(case, world=world)


def _plain_steps(step: SessionStep) -> Iterator[SessionStep]:
    yield session_step(step.kind)
    yield session_step(step.kind, step.vcpu)
    yield replace(step, vcpu=0)


def _plainer_operands(step: SessionStep) -> Iterator[SessionStep]:
    for at, operand in enumerate(STEP_BY_NAME[step.kind].operands):
        number = operand.fit(step.operands[at])
        fewer = iter((0,)) if operand.choices else _fewer_bits(number)
        for plainer in fewer:
            numbers = (*step.operands[:at], plainer, *step.operands[at + 1 :])
            yield replace(step, operands=numbers)


def _smaller_migrations(case: MigrationCase) -> Iterator[MigrationCase]:
    for world in plainer_worlds(case.source):
        yield replace(case, source=world)
    for world in plainer_worlds(case.destination):
        yield replace(case, destination=world)
    yield replace(case, order="listed")
    start = origin(case.entry)
    for changes in _fewer(differences(case.entry)):
        entry = apply(start, changes)
        assert isinstance(entry, EntryCase)
        yield replace(case, entry=entry)


def plainer_worlds(world: World) -> Iterator[World]:
    """Yield worlds with fewer differences, and on the default profile."""
    edits = world_differences(world)
    start = world_origin(world)
    if world.base != DEFAULT_PROFILE:
        yield edited_world(world_on(DEFAULT_PROFILE, start.kernel), edits)
    for fewer in _fewer(edits):
        yield edited_world(start, fewer)


def plainer_steps(step: Step) -> Iterator[Step]:
    """Yield steps of the same kind that say less."""
    if isinstance(step, SetMsrs):
        for writes in _fewer(step.writes):
            if writes:
                yield SetMsrs(writes)
        for at, write in enumerate(step.writes):
            for value in plainer_values(write.value):
                changed = Write(write.index, value)
                yield SetMsrs((*step.writes[:at], changed, *step.writes[at + 1 :]))
    elif isinstance(step, SetCpuid):
        yield SetCpuid()
        for features in _fewer(tuple(sorted(step.toggled))):
            yield replace(step, toggled=frozenset(features))
        yield replace(step, pmu_version="supported")
        yield replace(step, hyperv=False, evmcs_perf_global_ctrl=False)
    elif isinstance(step, RestoreMsr | Wrmsr):
        for value in plainer_values(step.write.value):
            yield replace(step, write=Write(step.write.index, value))


def plainer_values(value: Value) -> Iterator[Value]:
    """Yield values from a plainer offer, with less or fewer bits edited."""
    if value.offer is not None:
        yield Value(OWN)
        yield Value(value.offer)
        yield replace(value, offer=OWN)
    else:
        yield Value(OWN)
        yield absolute(0)
    for unset in _fewer_bits(value.unset):
        yield replace(value, unset=unset)
    for ones in _fewer_bits(value.ones):
        yield replace(value, ones=ones)
    for flip in _fewer_bits(value.flip):
        yield replace(value, flip=flip)


def _fewer_bits(word: int) -> Iterator[int]:
    bits = tuple(1 << position for position in range(64) if word >> position & 1)
    return map(sum, _fewer(bits))


def _fewer(items: tuple[_T, ...]) -> Iterator[tuple[_T, ...]]:
    """Yield `items` without half of them, a quarter, and so on down to each alone."""
    length = len(items)
    while length:
        for at in range(0, len(items), length):
            yield items[:at] + items[at + length :]
        length //= 2
