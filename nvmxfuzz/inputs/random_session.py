# SPDX-License-Identifier: GPL-2.0-only
"""Sessions at random: mostly the way that a hypervisor goes, with disorder here and there.

What comes of it depends on the generator that is passed in alone. Mutator and strategies draw from
here; every step can be reached without.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Final

from nvmxfuzz.inputs.course import Course, Phase, courses
from nvmxfuzz.inputs.difference import Edit
from nvmxfuzz.inputs.random_operands import random_choice, random_number
from nvmxfuzz.inputs.session_steps import (
    MOST_STEPS,
    STEP_BY_NAME,
    STEP_KINDS,
    Operand,
    SessionStep,
)
from nvmxfuzz.inputs.step_mutate import Steps
from nvmxfuzz.inputs.world import World
from nvmxfuzz.inputs.world_words import edited_world

_DISORDER: Final = 0.12
"""How many steps are any step."""
_OTHER_VCPU: Final = 0.06
_LEAST: Final = 6
_USUAL: Final = 20
"""Steps of a session that is made anew."""

_IOCTLS: Final = {
    "set-sregs": 4,
    "set-segment": 4,
    "set-regs": 2,
    "set-msr": 2,
    "set-events": 3,
    "set-mp-state": 1,
    "set-cpuid": 1,
    "save": 2,
    "restore": 2,
    "set-nested-state": 2,
    "run-immediate": 2,
    "memory-write": 2,
    "nmi": 1,
    "init": 1,
    "sipi": 1,
}
_NEXT: Final[Mapping[Phase, Mapping[str, int]]] = {
    "off": {**_IOCTLS, "vmxon": 120, "smi": 4},
    "root": {**_IOCTLS, "vmclear": 40, "vmptrld": 90, "vmptrst": 2, "vmxoff": 2, "smi": 4},
    "current": {**_IOCTLS, "prepare": 150, "vmwrite": 10, "vmread": 4, "vmptrst": 2, "vmclear": 4},
    "ready": {
        **_IOCTLS,
        "vmlaunch": 60,
        "vmresume": 30,
        "vmwrite": 30,
        "vmread": 6,
        "invept": 3,
        "invvpid": 3,
        "vmclear": 3,
        "vmptrld": 3,
        "vmptrst": 1,
        "smi": 8,
        "vmxoff": 2,
        "run": 2,
        "vmxon": 1,
    },
    "l2": {**_IOCTLS, "l2-exit": 40, "smi": 14, "run": 8, "set-segment": 12, "set-sregs": 10},
    "smm": {
        **_IOCTLS,
        "smram-write": 30,
        "rsm": 40,
        "run": 3,
        "vmxon": 1,
        "vmlaunch": 1,
        "vmxoff": 1,
    },
}
"""How often a kind of step follows in a phase."""
_WEIGHTS: Final = {phase: (tuple(kinds), tuple(kinds.values())) for phase, kinds in _NEXT.items()}


_SELDOM: Final = (
    *("l2-other-exit", "vmread-memory", "vmwrite-memory", "interrupt", "set-lapic", "no-memory"),
    *("enlighten", "assist-page", "prepare-enlightened"),
)
"""Kinds at which the model of KVM ends: so most sessions have none of them."""
_SELDOM_SHARE: Final = 0.1
_OFTEN: Final = tuple(kind.name for kind in STEP_KINDS if kind.name not in _SELDOM)


def following_step(rng: Random, steps: tuple[SessionStep, ...]) -> SessionStep:
    """Return a step that makes sense after `steps`, or now and then any step."""
    vcpu = int(rng.random() < _OTHER_VCPU)
    return _following(rng, vcpu, courses(steps)[vcpu])


def _following(rng: Random, vcpu: int, course: Course) -> SessionStep:
    if rng.random() < _DISORDER:
        name = _any_kind(rng)
    else:
        kinds, weights = _WEIGHTS[course.phase]
        name = rng.choices(kinds, weights)[0]
        if name in ("vmlaunch", "vmresume") and rng.random() < 0.9:
            name = "vmresume" if course.current in course.launched else "vmlaunch"
    return random_step_of(rng, name, vcpu, course)


def _any_kind(rng: Random) -> str:
    """Return any kind, seldom one that only KVM itself knows what to do with."""
    return rng.choice(_SELDOM if rng.random() < _SELDOM_SHARE else _OFTEN)


def random_step_of(rng: Random, name: str, vcpu: int, course: Course) -> SessionStep:
    """Return a step of that kind, with operands that mostly make sense."""
    numbers: list[int] = []
    for operand in STEP_BY_NAME[name].operands:
        if operand.choices:
            number = random_choice(rng, name, operand, course)
        else:
            number = random_number(rng, name, operand, tuple(numbers))
        numbers.append(number)
    return SessionStep(name, vcpu, tuple(numbers))


def random_session(rng: Random, most: int = _USUAL) -> tuple[SessionStep, ...]:
    """Return up to `most` steps; in one of six sessions both vCPUs have some."""
    found: list[SessionStep] = []
    where = courses(())
    share = 0.3 if rng.random() < 0.17 else 0.0
    for _ in range(rng.randint(min(_LEAST, most), most)):
        vcpu = int(rng.random() < share)
        step = _following(rng, vcpu, where[vcpu])
        where[vcpu].take(step)
        found.append(step)
    return tuple(found)


def edited_step(step: SessionStep, rng: Random) -> SessionStep:
    """Return a step with one operand otherwise, on the other vCPU, or in place of it any step."""
    chance = rng.random()
    if chance < 0.04:
        return SessionStep(step.kind, 1 - step.vcpu, step.operands)
    if not step.operands or chance < 0.1:
        return random_step_of(rng, _any_kind(rng), step.vcpu, Course())
    at = rng.randrange(len(step.operands))
    operand = STEP_BY_NAME[step.kind].operands[at]
    number = _edited(rng, step, operand, at)
    return SessionStep(
        step.kind, step.vcpu, (*step.operands[:at], operand.fit(number), *step.operands[at + 1 :])
    )


def _edited(rng: Random, step: SessionStep, operand: Operand, at: int) -> int:
    if operand.choices:
        return rng.randrange(len(operand.choices))
    if rng.random() < 0.5:
        return step.operands[at] ^ 1 << rng.randrange(operand.bits)
    return random_number(rng, step.kind, operand, step.operands[:at])


_TOGGLED: Final = ("unrestricted_guest", "unrestricted_guest", "ept", "enable_shadow_vmcs", "vpid")
"""Module parameters that decide what KVM does in a session."""


def toggle_parameter(rng: Random, world: World) -> World:
    """Return the world without unrestricted guests, EPT or the like, or with them again."""
    name = rng.choice(_TOGGLED)
    return edited_world(world, [Edit(name, 1 - world.parameter(name))])


SESSION: Final[Steps[SessionStep]] = Steps(MOST_STEPS, following_step, edited_step, random_session)
"""The steps of a session, for the mutator."""
