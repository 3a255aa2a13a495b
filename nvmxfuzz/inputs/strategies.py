# SPDX-License-Identifier: GPL-2.0-only
"""Hypothesis strategies over the layout: a base, and a few edits.

A case is drawn as a deviation of a few slots from a named base, not slot by slot: that is what
makes drawing fast, and what lets an example shrink to the plain base on the usual profile.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from random import Random
from typing import Final

from hypothesis import strategies as st

from nvmxfuzz.inputs.bases import base, base_names
from nvmxfuzz.inputs.case import (
    ORDERS,
    SESSION_KERNELS,
    ConfigCase,
    EntryCase,
    MigrationCase,
    RestoreCase,
    SessionCase,
    SlotCase,
    SlotKind,
)
from nvmxfuzz.inputs.difference import Edit, apply, apply_to
from nvmxfuzz.inputs.interesting import interesting
from nvmxfuzz.inputs.layout import KERNELS, Slot, layout
from nvmxfuzz.inputs.order import PROFILES
from nvmxfuzz.inputs.random_session import following_step, toggle_parameter
from nvmxfuzz.inputs.random_steps import edit_world, random_step
from nvmxfuzz.inputs.repair import repair
from nvmxfuzz.inputs.session_steps import SessionStep
from nvmxfuzz.inputs.words import word_of
from nvmxfuzz.inputs.world import World, world_on
from nvmxfuzz.machine.profile import load_profile

MOST_EDITS: Final = 4

_EDGES: Final = 0.25
"""How many of the values of a scattered state are edges."""

_FLIP_BIT: Final = 0
_AT_EDGE: Final = 1
_KINDS: Final = 3
"""A bit flipped, a value at an edge, any value."""

_PLAIN: Final = 1 << 16
"""Numbers up to this one are no seed: the base stays as it is in half of the cases."""
_SEEDS: Final = st.integers(0, 2 * _PLAIN)

_NUMBERS: Final = st.lists(st.integers(0, 2**32), max_size=MOST_EDITS)
"""Each makes an edit or a step, so that one draw does."""
_STEPS: Final = st.lists(
    st.integers(0, 2**32).map(lambda number: random_step(Random(number))), max_size=12
).map(tuple)


def entry_cases(profiles: Sequence[str] = PROFILES) -> st.SearchStrategy[EntryCase]:
    """Return cases of the VM-entry harness on the profiles of these names, the simplest first.

    In some of them the state is scattered at random and repaired before the edits are made, so
    that they are edits of a legal state far from the base.
    """
    return _entry_cases(tuple(profiles))


def config_cases(profiles: Sequence[str] = PROFILES) -> st.SearchStrategy[ConfigCase]:
    """Return cases of the capability-config harness: tables of real processors, a few edited."""
    return _config_cases(tuple(profiles))


def restore_cases(profiles: Sequence[str] = PROFILES) -> st.SearchStrategy[RestoreCase]:
    """Return cases of the harness `capability_restore`: a world with few edits, a few steps."""
    return st.builds(RestoreCase, worlds(profiles), _STEPS)


def migration_cases(profiles: Sequence[str] = PROFILES) -> st.SearchStrategy[MigrationCase]:
    """Return cases of the harness `migration`."""
    places = worlds(profiles)
    return st.builds(MigrationCase, places, places, entry_cases(profiles), st.sampled_from(ORDERS))


def session_cases(profiles: Sequence[str] = PROFILES) -> st.SearchStrategy[SessionCase]:
    """Return cases of the harness `session`: a world, mostly a plain one, and some twenty steps.

    Each number that is drawn makes the step that may follow those before it.
    """
    return st.builds(SessionCase, session_worlds(profiles), _SESSIONS)


def session_worlds(profiles: Sequence[str] = PROFILES) -> st.SearchStrategy[World]:
    """Return worlds of sessions: mostly plain ones."""
    plain = st.builds(world_on, st.sampled_from(tuple(profiles)), st.sampled_from(SESSION_KERNELS))
    return st.builds(_toggled, plain, st.integers(0, 7))


def _toggled(world: World, number: int) -> World:
    return toggle_parameter(Random(number), world) if number > _PLAIN_WORLDS else world


def _session(numbers: list[int]) -> tuple[SessionStep, ...]:
    steps: tuple[SessionStep, ...] = ()
    for number in numbers:
        steps = (*steps, following_step(Random(number), steps))
    return steps


_SESSIONS: Final = st.lists(st.integers(0, 2**32), max_size=30).map(_session)
_PLAIN_WORLDS: Final = 5
"""Of eight numbers those up to this one leave a world as it is."""


def worlds(profiles: Sequence[str] = PROFILES) -> st.SearchStrategy[World]:
    """Return worlds on the profiles of these names, the simplest first."""
    return st.builds(_world, st.sampled_from(tuple(profiles)), st.sampled_from(KERNELS), _NUMBERS)


def _world(name: str, kernel: str, numbers: list[int]) -> World:
    world = world_on(name, kernel)
    for number in numbers:
        world = edit_world(Random(number), world)
    return world


@st.composite
def _entry_cases(draw: st.DrawFn, profiles: tuple[str, ...]) -> EntryCase:
    profile, name = draw(_origins(profiles))
    case = EntryCase(base(name, load_profile(profile)), name)
    seed = draw(_SEEDS) - _PLAIN
    if seed > 0:
        case = EntryCase(repair(scatter(case, seed).attempt), name)
    return EntryCase(apply_to(case.attempt, _drawn_edits(draw, case)), name)


@st.composite
def _config_cases(draw: st.DrawFn, profiles: tuple[str, ...]) -> ConfigCase:
    name = draw(st.sampled_from(profiles))
    case = ConfigCase(load_profile(name), name)
    edited = apply(case, _drawn_edits(draw, case))
    return edited if isinstance(edited, ConfigCase) else case


def scatter(case: EntryCase, seed: int) -> EntryCase:
    """Return `case` with slots changed at random: all, half, a fifth or a twentieth of them.

    The result depends on `seed` alone, and is seldom legal: it is made to be repaired.
    """
    rng = Random(seed)
    share = (1.0, 0.5, 0.2, 0.05)[seed & 3]
    edits = [
        Edit(slot.name, _scattered(slot, case, rng))
        for slot in _slots("vm_entry")
        if rng.random() < share
    ]
    return EntryCase(apply_to(case.attempt, edits), case.base)


def _scattered(slot: Slot, case: EntryCase, rng: Random) -> int:
    if rng.random() < _EDGES:
        return rng.choice(interesting(slot, case.profile))
    return slot.fit(rng.getrandbits(slot.width))


@cache
def _origins(profiles: tuple[str, ...]) -> st.SearchStrategy[tuple[str, str]]:
    """Return pairs of a profile and a base that enters the guest on it."""
    return st.sampled_from(
        [(name, kind) for name in profiles for kind in base_names(load_profile(name))]
    )


@cache
def _slots(harness: SlotKind) -> tuple[Slot, ...]:
    return layout(harness).slots


@cache
def _codes(harness: SlotKind) -> st.SearchStrategy[list[int]]:
    """Return lists of edits, each one number: a single draw is what makes drawing fast."""
    greatest = (len(_slots(harness)) * _KINDS << 64) - 1
    return st.lists(st.integers(0, greatest), max_size=MOST_EDITS)


def _drawn_edits(draw: st.DrawFn, case: SlotCase) -> list[Edit]:
    """Draw a few edits of `case`; the smaller its number, the simpler an edit."""
    slots = _slots(case.harness)
    values: dict[Slot, int] = {}
    for code in draw(_codes(case.harness)):
        rest, position = divmod(code, len(slots))
        number, kind = divmod(rest, _KINDS)
        slot = slots[position]
        if kind == _FLIP_BIT:
            old = values[slot] if slot in values else word_of(case, slot)
            values[slot] = slot.fit(old ^ 1 << number % slot.width)
        elif kind == _AT_EDGE:
            edges = interesting(slot, case.profile)
            values[slot] = edges[number % len(edges)]
        else:
            values[slot] = slot.fit(number)
    return [Edit(slot.name, value) for slot, value in values.items()]
