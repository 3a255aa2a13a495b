# SPDX-License-Identifier: GPL-2.0-only
"""Whether the model of KVM and KVM itself do the same in a session, step by step.

After each step everything that userspace reads of the vCPU must be the same, but for what follows
the clock. Where the model says that it does not know what comes, the comparison ends.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from nvmxfuzz.inputs.session_steps import VCPUS, SessionStep
from nvmxfuzz.kvm.traced_checks import check_names
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.oracles.restore.witness import WitnessStoppedError
from nvmxfuzz.oracles.session.witness import SessionWitness, StepResult, VcpuView

AGREEMENT: Final = "agreement.kvm-session"

_CLOCKED: Final = frozenset({"IA32_TSC"})
_PARTS: Final = ("regs", "sregs", "events", "msrs", "nested", "vmcs12", "shadow_vmcs12")
_MOST_TOLD: Final = 6


@dataclass(frozen=True, slots=True)
class Compared:
    """How far a session was compared: `steps` were the same, then came `ended` or `finding`."""

    steps: int
    ended: str = ""
    finding: Finding | None = None


def compare_session(
    steps: Sequence[SessionStep], model: SessionWitness, real: SessionWitness
) -> Compared:
    """Carry the steps out on both, each as its `load` left it, up to the first difference."""
    model.renew()
    real.renew()
    for number, step in enumerate(steps):
        expected = model.do(step)
        if expected.stopped:
            return Compared(number, expected.stopped)
        seen = real.do(step)
        different = list(_results(expected, seen))
        over = seen.stopped or seen.errno == -errno.EIO
        if not over:
            vcpu = step.vcpu % VCPUS
            try:
                view = model.read(vcpu)
            except WitnessStoppedError as stopped:
                return Compared(number, str(stopped))
            different += _views(view, real.read(vcpu))
        if different:
            return Compared(number, finding=_finding(real.kernel, step, different))
        if over:
            return Compared(number + 1, "KVM has declared the VM broken")
    return Compared(len(steps))


def _results(expected: StepResult, seen: StepResult) -> Iterator[tuple[str, str]]:
    if seen.stopped:
        yield "stopped", f"KVM does not return: {seen.stopped}"
        return
    for name in ("errno", "outcome", "left"):
        one, other = getattr(expected, name), getattr(seen, name)
        if one != other:
            yield name, f"{name} is {other!r}, to the model {one!r}"
    yield from _checks(expected.checks, seen.checks)
    if bool(expected.warnings) != bool(seen.warnings):
        told = ", ".join(seen.warnings or expected.warnings)
        yield "warnings", f"only {'KVM' if seen.warnings else 'the model'} warns: {told}"


def _checks(expected: tuple[str, ...], seen: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Tell of checks that only one of them has failed; the model has names for what KVM traces."""
    if not expected and not seen:
        return
    traced = [_names(check) for check in seen]
    told = {name for names in traced for name in names}
    if missing := [name for name in expected if name not in told]:
        yield "checks", f"only the model finds {', '.join(missing)}"
    if extra := [names[0] for names in traced if names and not set(names) & set(expected)]:
        yield "checks", f"only KVM finds {', '.join(extra)}"


def _names(check: str) -> tuple[str, ...]:
    """Return the checks that "CONDITION in FUNCTION" can mean; a name of the model is one."""
    text, found, function = check.rpartition(" in ")
    return check_names(function, text) if found else (check,)


def _views(expected: VcpuView, seen: VcpuView) -> Iterator[tuple[str, str]]:
    if expected.mp_state != seen.mp_state:
        yield "mp_state", f"mp_state is {seen.mp_state}, to the model {expected.mp_state}"
    for part in _PARTS:
        one, other = getattr(expected, part), getattr(seen, part)
        if part == "msrs":
            other = tuple(pair for pair in other if pair[0] not in _CLOCKED)
        if one != other:
            yield from _pairs(part, dict(one), dict(other))


def _pairs(part: str, one: dict[str, int], other: dict[str, int]) -> Iterator[tuple[str, str]]:
    for name in sorted(one.keys() | other.keys()):
        if one.get(name) != other.get(name):
            said, told = one.get(name), other.get(name)
            yield f"{part}.{name}", f"{part}.{name} is {_hex(told)}, to the model {_hex(said)}"


def _hex(value: int | None) -> str:
    return "not there" if value is None else f"{value:#x}"


def _finding(kernel: str, step: SessionStep, different: list[tuple[str, str]]) -> Finding:
    site = f"{step.kind}: {different[0][0]}"
    message = "; ".join(text for _, text in different[:_MOST_TOLD])
    targets = (f"kvm-model-{kernel}", f"kvm-{kernel}")
    return Finding(AGREEMENT, (AGREEMENT,), targets, site, message)
