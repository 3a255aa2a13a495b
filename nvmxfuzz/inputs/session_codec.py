# SPDX-License-Identifier: GPL-2.0-only
"""Steps of a session as bytes, one after the other: any bytes are some steps.

A step is the number of its kind, flags (bit 0 the number of the vCPU, bit n that its n-th operand
follows) and the operands that follow: a word by its number in 1 byte, a VMCS field in 2, a number
in as many as it has. Numbers beyond what there is wrap around, what does not follow is 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from nvmxfuzz.inputs.reader import Reader
from nvmxfuzz.inputs.session_steps import (
    MOST_STEPS,
    STEP_BY_NAME,
    STEP_KINDS,
    VCPUS,
    Operand,
    SessionStep,
)

_MOST_WORDS: Final = 128
"""Choices of an operand whose number has one byte."""

_NUMBER_OF: Final = {kind.name: number for number, kind in enumerate(STEP_KINDS)}


def size_of(operand: Operand) -> int:
    """Return how many bytes an operand has."""
    if operand.choices:
        return 1 if len(operand.choices) <= _MOST_WORDS else 2
    return (operand.bits + 7) // 8


_SIZES: Final = {kind.name: tuple(map(size_of, kind.operands)) for kind in STEP_KINDS}


def read_session(data: bytes) -> tuple[SessionStep, ...]:
    """Return the steps that `data` is; what lies behind the last that a session may have is not."""
    reader = Reader(data)
    steps: list[SessionStep] = []
    while not reader.ended and len(steps) < MOST_STEPS:
        steps.append(_read_step(reader))
    return tuple(steps)


def pack_session(steps: Iterable[SessionStep]) -> bytes:
    """Return the bytes of steps."""
    return b"".join(map(_pack_step, steps))


def _read_step(reader: Reader) -> SessionStep:
    kind = STEP_KINDS[reader.number() % len(STEP_KINDS)]
    flags = reader.number()
    operands = tuple(
        operand.fit(reader.number(size)) if flags >> place & 1 else 0
        for place, (operand, size) in enumerate(
            zip(kind.operands, _SIZES[kind.name], strict=True), 1
        )
    )
    return SessionStep(kind.name, flags & 1, operands)


def _pack_step(step: SessionStep) -> bytes:
    flags, words = step.vcpu % VCPUS, b""
    known = STEP_BY_NAME[step.kind].operands
    for place, (operand, number) in enumerate(zip(known, step.operands, strict=True), 1):
        if number := operand.fit(number):
            flags |= 1 << place
            words += number.to_bytes(_SIZES[step.kind][place - 1], "little")
    return bytes([_NUMBER_OF[step.kind], flags]) + words
