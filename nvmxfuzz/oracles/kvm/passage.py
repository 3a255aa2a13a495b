# SPDX-License-Identifier: GPL-2.0-only
"""What is seen of a passage through the closed loop: how it ended, and what it changed."""

from __future__ import annotations

from nvmxfuzz.arch.controls import Secondary, VmExit
from nvmxfuzz.arch.fields import FIELDS
from nvmxfuzz.machine.outcome import Outcome
from nvmxfuzz.targets.passage import Passage


def is_fail(outcome: Outcome) -> bool:
    """Tell whether an outcome is VMfail."""
    return outcome.kind in ("fail-valid", "fail-invalid")


def ends_in_fail(passage: Passage) -> bool:
    """Tell whether L1 sees a VMfail."""
    return passage.outcome is not None and is_fail(passage.outcome)


def late_failure(passage: Passage) -> Outcome | None:
    """Return the VMfail by which the processor ended an entry that was to run L2, if it did."""
    last = passage.entries[-1].outcome if passage.entries else None
    return last if last is not None and is_fail(last) else None


def changed_fields(before: object, after: object) -> list[str]:
    """Return the names of the fields that two VMCSs differ in, by encoding."""
    one, other = before.__dict__, after.__dict__
    return [field.name for field in FIELDS if one[field.name] != other[field.name]]


def changed_pairs(
    one: tuple[tuple[object, int], ...], other: tuple[tuple[object, int], ...]
) -> list[str]:
    """Return the names whose values differ."""
    second = dict(other)
    return [str(name) for name, value in one if second.get(name) != value]


def has_efer_control(passage: Passage) -> bool:
    """Tell whether the processor below can load EFER at VM exit."""
    may = (each.attempt.profile.caps.exit_may for each in passage.asked)
    return all(controls & VmExit.LOAD_IA32_EFER for controls in may)


def l0_has_ept(passage: Passage) -> bool:
    """Tell whether KVM runs L1 with EPT."""
    before = passage.l0_before
    return before is None or before.vmcs01.secondary_vm_exec_control & Secondary.ENABLE_EPT != 0
