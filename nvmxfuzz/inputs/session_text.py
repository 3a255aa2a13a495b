# SPDX-License-Identifier: GPL-2.0-only
"""Steps of a session in TOML, a table each, and as lines of a script.

Under `do` stands what happens; vCPU and operands stand by name where they are not 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs import values
from nvmxfuzz.inputs.session_steps import (
    MOST_STEPS,
    STEP_BY_NAME,
    VCPUS,
    Operand,
    SessionStep,
    StepKind,
)
from nvmxfuzz.inputs.step_text import parse_tables
from nvmxfuzz.inputs.toml_writer import quoted
from nvmxfuzz.machine.outside import nearest, show

_COMMON: Final = ("do", "vcpu")


def step_literals(step: SessionStep) -> dict[str, str]:
    """Return a step as the table that TOML has of it: values as TOML writes them."""
    literals = {"do": quoted(step.kind)}
    if step.vcpu:
        literals["vcpu"] = str(step.vcpu)
    for operand, number in _operands(step):
        if number:
            shown = _shown(operand, number)
            literals[operand.name] = quoted(shown) if operand.choices else shown
    return literals


def step_script(step: SessionStep) -> tuple[str, str]:
    """Return what happens and the operands, for a reader: the first, and those that are not 0."""
    shown = [
        _shown(operand, number) if operand.choices else f"{operand.name} {_shown(operand, number)}"
        for place, (operand, number) in enumerate(_operands(step))
        if number or not place
    ]
    vcpu = f"vcpu {step.vcpu} " if step.vcpu else ""
    return vcpu + step.kind, " ".join(shown)


def _operands(step: SessionStep) -> Iterator[tuple[Operand, int]]:
    return zip(STEP_BY_NAME[step.kind].operands, step.operands, strict=True)


def _shown(operand: Operand, number: int) -> str:
    fitting = operand.fit(number)
    return operand.choices[fitting] if operand.choices else f"{fitting:#x}"


# ---------------------------------------------------------------------- reading


def parse_session_steps(found: object) -> tuple[SessionStep, ...]:
    """Return the steps that the list `steps` of a session states."""
    return parse_tables(found, MOST_STEPS, _parse_step)


def _parse_step(table: Mapping[str, Any]) -> SessionStep:
    kind = _parse_kind(table.get("do"))
    keys = tuple(operand.name for operand in kind.operands)
    values.only_keys(table, (*_COMMON, *keys), kind.name)
    operands = tuple(_parse_operand(operand, table) for operand in kind.operands)
    return SessionStep(kind.name, _parse_vcpu(table.get("vcpu", 0)), operands)


def _parse_kind(found: object) -> StepKind:
    kind = STEP_BY_NAME.get(found) if isinstance(found, str) else None
    if kind is None:
        raise InputError(f"do is {show(found)}; give one of {', '.join(STEP_BY_NAME)}")
    return kind


def _parse_vcpu(found: object) -> int:
    number = values.number(found, "vcpu")
    if not 0 <= number < VCPUS:
        raise InputError(f"vcpu is {show(found)}; a session has the vCPUs 0 to {VCPUS - 1}")
    return number


def _parse_operand(operand: Operand, table: Mapping[str, Any]) -> int:
    if operand.name not in table:
        return 0
    found = table[operand.name]
    if not operand.choices:
        return values.fitting(values.number(found, operand.name), operand.bits, operand.name)
    if found not in operand.choices:
        near = nearest(found, operand.choices) if isinstance(found, str) else ""
        some = operand.choices if len(operand.choices) <= _MOST_SHOWN else ("guest_cr0", "...")
        raise InputError(f"{operand.name} is {show(found)}{near}; give one of {', '.join(some)}")
    return operand.choices.index(str(found))


_MOST_SHOWN: Final = 64
