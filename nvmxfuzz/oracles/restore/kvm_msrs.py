# SPDX-License-Identifier: GPL-2.0-only
"""What must hold between the model of the capability MSRs and the real KVM, call by call.

On the same processor with the same parameters: the same outcome of loading, the same decisions
and lists. Then, after each step of a sequence, the same result and the same value of each MSR as
userspace reads it. The real KVM never warns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Final, Literal

from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.oracles.restore.witness import (
    WATCHED,
    Loaded,
    MsrWitness,
    MsrWorld,
    Sequence,
    WitnessStoppedError,
)

NAME: Final = "agreement.kvm-msrs"

Relation = Literal["agreed", "different", "stopped"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far the two agreed: after `calls` calls there was a difference, or none.

    `what` is the kind of difference, `where` the call or the MSR, both empty without one.
    """

    relation: Relation
    calls: int
    what: str = ""
    where: str = ""
    message: str = ""


def compare_loading(model: MsrWitness, real: MsrWitness, world: MsrWorld) -> Comparison:
    """Load KVM of both on a processor, and compare what they tell before there is a vCPU."""
    ours = model.load(world)
    try:
        theirs = real.load(world)
    except WitnessStoppedError as stopped:
        return Comparison("stopped", 0, "loading", "", str(stopped))
    return compare_loaded(ours, theirs)


def compare_loaded(ours: Loaded, theirs: Loaded) -> Comparison:
    """Compare what the model and the real KVM tell before there is a vCPU."""
    for name in _different_words(ours, theirs):
        said = f"{getattr(ours, name)} in the model, {getattr(theirs, name)} in the kernel"
        return Comparison("different", 1, "loading", name, said)
    return Comparison("agreed", 1)


def _different_words(ours: Loaded, theirs: Loaded) -> Iterator[str]:
    for field in fields(Loaded):
        left, right = getattr(ours, field.name), getattr(theirs, field.name)
        if field.name == "flags":
            # A parameter that the kernel does not show is -1.
            left = (
                tuple(pair for pair, shown in zip(left, right, strict=True) if shown[1] >= 0)
                if right
                else left
            )
            right = tuple(pair for pair in right if pair[1] >= 0)
        if left != right:
            yield field.name


def compare(model: MsrWitness, real: MsrWitness, sequence: Sequence) -> Comparison:
    """Let both live through a sequence on a new vCPU; stop at the first difference.

    Both have to be loaded on the same world.
    """
    model.renew()
    real.renew()
    calls = 0
    for step in sequence:
        calls += 1
        name = type(step).__name__
        ours = step.on(model)
        try:
            theirs = step.on(real)
            seen = real.read()
        except WitnessStoppedError as stopped:
            return Comparison("stopped", calls, "stopped", name, str(stopped))
        if ours != theirs:
            said = f"{ours} in the model, {theirs} in the kernel, of {step}"
            return Comparison("different", calls, "result", name, said)
        expected = model.read()
        if expected != seen:
            where, said = _different_values(expected, seen)
            return Comparison("different", calls, "value", f"{where} after {name}", said)
        if real.warnings():
            return Comparison("different", calls, "warned", name, f"the kernel warns at {step}")
    return Comparison("agreed", calls)


def _different_values(model: tuple[int, ...], real: tuple[int, ...]) -> tuple[str, str]:
    for index, ours, theirs in zip(WATCHED, model, real, strict=False):
        if ours != theirs:
            return f"{index:#x}", f"{ours:#x} in the model, {theirs:#x} in the kernel"
    return "which can be read", f"{len(model)} MSRs in the model, {len(real)} in the kernel"


def finding(kernel: str, found: Comparison) -> Finding | None:
    """Return a comparison as a finding; None if the two agreed."""
    if found.relation == "agreed":
        return None
    targets = f"model {kernel}", f"kvm-{kernel}"
    return Finding(NAME, (found.what,), targets, found.where, found.message)
