# SPDX-License-Identifier: GPL-2.0-only
"""Operands of a session's steps at random: mostly good ones, and numbers near what KVM checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Final

from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.course import REGIONS, Course
from nvmxfuzz.inputs.interesting import interesting
from nvmxfuzz.inputs.layout import layout
from nvmxfuzz.inputs.session_steps import (
    PLACES,
    SEGMENT_PARTS,
    STEP_BY_NAME,
    Operand,
    SessionStep,
)
from nvmxfuzz.machine.profile import DEFAULT_PROFILE, load_profile

_WORD: Final = (1 << 64) - 1
_NON_CANONICAL: Final = 1 << 63
_USUAL: Final[Mapping[str, float]] = {"operand": 0.95, "mode": 0.94, "base": 0.8}
"""How often the first choice of an operand is made."""
_BY_PART: Final[Mapping[str, tuple[int, ...]]] = {
    "selector": (0, 3, 4, 8, 0xB, 0xFFF8),
    "limit": (0, 0xFFF, 0xFFFF, 0xF_FFFF, 0x10_0000, 0xFFFF_FFFF),
    "base": (0, 0x1000, 1 << 32, 1 << 47, _NON_CANONICAL),
    "dpl": (0, 1, 2, 3),
}
"""Values of parts of a segment; of the others each has a few bits."""
_EVENTS: Final = (0, 1, 2, 3, 4, 8, 14, 31, 0xFF)
_REGISTERS: Final = (0, 2, 0x202, 0x102, 0x2_0002, 0x1000, 1 << 47, _NON_CANONICAL, _WORD)
_MEMORY: Final = (0, 1, 2, 3, 0xFFFF_FFFF, 1 << 31, 1 << 63, _WORD)
_LAUNCH_STATE: Final = 8
"""Offset in KVM's VMCS; before it stand revision identifier and abort indicator."""


def random_choice(rng: Random, kind: str, operand: Operand, course: Course) -> int:
    """Return the number of a choice."""
    if operand.name == "region":
        return operand.choices.index(_region(rng, kind, course))
    if rng.random() < _USUAL.get(operand.name, 0.0):
        return 0
    return rng.randrange(len(operand.choices))


def _region(rng: Random, kind: str, course: Course) -> str:
    chance = rng.random()
    if chance < 0.07:
        return rng.choice(PLACES)
    if kind == "vmxon":
        return PLACES[0]
    if kind == "memory-write" and course.current:
        return course.current
    return REGIONS[0] if chance < 0.75 else rng.choice(REGIONS)


def random_number(rng: Random, kind: str, operand: Operand, before: tuple[int, ...]) -> int:
    """Return a number for an operand; `before` are those that stand before it."""
    if rng.random() < 0.06:
        return rng.getrandbits(operand.bits)
    make = _NUMBERS.get((kind, operand.name)) or _NUMBERS.get(("", operand.name))
    if make is None:
        return _few_bits(rng, operand)
    step = SessionStep(kind, 0, (*before, *(0,) * (_length(kind) - len(before))))
    return operand.fit(make(rng, step))


def _length(kind: str) -> int:
    return len(STEP_BY_NAME[kind].operands)


def _few_bits(rng: Random, operand: Operand) -> int:
    """Return one bit mostly, and rather a low one: most registers end below their 32nd."""
    bits = operand.bits if rng.random() < 0.2 else min(operand.bits, 32)
    found = 1 << rng.randrange(bits)
    return found | 1 << rng.randrange(bits) if rng.random() < 0.2 else found


def _field_value(rng: Random, step: SessionStep) -> int:
    """Return a value for a VMCS field: that of a valid VMCS but for a bit, or one at an edge."""
    slot = layout("vm_entry").by_name[step.chosen("field")]
    profile = load_profile(DEFAULT_PROFILE)
    if rng.random() < 0.6:
        valid: int = getattr(base("guest-64", profile).vmcs, slot.name)
        return valid ^ 1 << rng.randrange(slot.width)
    return rng.choice(interesting(slot, profile))


def _segment_part(rng: Random, step: SessionStep) -> int:
    part = step.chosen("part")
    if part in _BY_PART:
        return rng.choice(_BY_PART[part])
    return rng.randrange(16 if part == SEGMENT_PARTS[3] else 2)


def _one_of(*values: int) -> Callable[[Random, SessionStep], int]:
    return lambda rng, _: rng.choice(values)


_NUMBERS: Final[Mapping[tuple[str, str], Callable[[Random, SessionStep], int]]] = {
    ("vmwrite", "value"): _field_value,
    ("set-segment", "value"): _segment_part,
    ("set-regs", "value"): _one_of(*_REGISTERS),
    ("set-events", "value"): _one_of(*_EVENTS),
    ("memory-write", "value"): _one_of(*_MEMORY),
    ("memory-write", "offset"): _one_of(0, 0, 4, _LAUNCH_STATE, 12, 0x20, 0x100, 0x3F8, 0xFFC),
    ("invept", "type"): _one_of(1, 1, 2, 2, 0, 3, 1 << 32),
    ("invept", "eptp"): _one_of(0, 0x1E, 0x201E, 0x5E, _WORD),
    ("invvpid", "type"): _one_of(0, 1, 2, 3, 4, 1 << 32),
    ("invvpid", "vpid"): _one_of(0, 1, 1, 2, 0xFFFF),
    ("invvpid", "address"): _one_of(0, 0x1000, 1 << 47, _NON_CANONICAL),
    ("l2-exit", "qualification"): _one_of(0, 0, 1, 3, 4, 8, 0x30, 0x181, _WORD),
    ("set-nested-state", "place"): lambda rng, _: rng.randrange(1024),
    ("", "unset"): _one_of(0, 0, 0, 1, 0x20, 1 << 31, 0xFFFF_FFFF, _WORD),
}
"""By kind and operand, or by the operand of any kind; without one a few bits are set."""
