# SPDX-License-Identifier: GPL-2.0-only
"""Random sessions that get somewhere: often L1 enters L2 first, and operands are mostly good."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from types import MappingProxyType
from typing import Final

from nvmxfuzz.inputs.session_steps import STEP_BY_NAME, Operand, SessionStep

_WEIGHTS: Final[Mapping[str, float]] = MappingProxyType(
    {
        "vmxon": 1,
        "vmxoff": 0.3,
        "vmclear": 1.5,
        "vmptrld": 2,
        "vmptrst": 0.7,
        "vmread": 2,
        "vmwrite": 2,
        "prepare": 1.5,
        "vmlaunch": 3,
        "vmresume": 3,
        "invept": 1,
        "invvpid": 1,
        "run": 2,
        "l2-exit": 3,
        "run-immediate": 0.5,
        "smi": 1.5,
        "smram-write": 1,
        "rsm": 2.5,
        "memory-write": 1,
        "set-regs": 1,
        "set-sregs": 1,
        "set-segment": 1.5,
        "set-msr": 1,
        "set-cpuid": 1,
        "set-events": 0.7,
        "set-mp-state": 0.1,
        "nmi": 0.7,
        "init": 0.5,
        "sipi": 0.4,
        "save": 0.7,
        "restore": 0.9,
        "set-nested-state": 1.5,
    }
)
"""How often each kind of step comes; what the model knows nothing of does not."""

_START: Final = ("vmxon", "vmclear", "vmptrld", "prepare", "vmlaunch")
_STARTS: Final = (0, 1, 3, 4, 5, 5, 5)
_FIRST_VMCS: Final = 1
_REGIONS: Final = (0, 1, 1, 1, 2)
_EXITS: Final = (
    *("vmcall", "cpuid", "vmlaunch", "invept", "hlt", "failed-entry-33", "vmfail"),
    *("triple-fault", "vmread", "exception-ud", "task-switch"),
)
_VALUES: Final = (0, 1, 2, 3, 0x1000, 0x2000, 0x1E)
_USUAL: Final[Mapping[str, float]] = MappingProxyType(
    {"mode": 0.95, "operand": 0.92, "base": 0.6, "state": 1.0}
)
"""How often an operand is its first choice."""


def random_session(source: Random, most: int = 46) -> tuple[SessionStep, ...]:
    """Return some steps, up to `most` behind those that L1 begins with."""
    kinds, weights = list(_WEIGHTS), list(_WEIGHTS.values())
    start = [_start(kind) for kind in _START[: source.choice(_STARTS)]]
    count = source.randrange(5, most)
    chosen = source.choices(kinds, weights, k=count)
    return (*start, *(_step(source, kind) for kind in chosen))


def _start(kind: str) -> SessionStep:
    region = _FIRST_VMCS if kind in ("vmclear", "vmptrld") else 0
    operands = STEP_BY_NAME[kind].operands
    return SessionStep(kind, 0, tuple(region if each.name == "region" else 0 for each in operands))


def _step(source: Random, kind: str) -> SessionStep:
    operands = tuple(_operand(source, each) for each in STEP_BY_NAME[kind].operands)
    if kind in ("invept", "invvpid"):
        operands = source.randrange(5), *operands[1:]
    return SessionStep(kind, 0 if source.random() < 0.95 else 1, operands)


def _operand(source: Random, operand: Operand) -> int:
    if not operand.choices:
        return _number(source, operand)
    if operand.name == "region" and source.random() < 0.6:
        return source.choice(_REGIONS)
    if operand.name == "exit" and source.random() < 0.9:
        return operand.choices.index(source.choice(_EXITS))
    if source.random() < _USUAL.get(operand.name, 0):
        return 0
    return source.randrange(len(operand.choices))


def _number(source: Random, operand: Operand) -> int:
    kind = source.random()
    if operand.name == "unset" and kind < 0.7:
        return 0
    if operand.name == "flip" and kind < 0.85:
        return 1 << source.randrange(operand.bits)
    if kind < 0.35:
        return source.choice(_VALUES) & (1 << operand.bits) - 1
    if kind < 0.6:
        return 1 << source.randrange(operand.bits)
    return source.getrandbits(source.randrange(1, operand.bits + 1))
