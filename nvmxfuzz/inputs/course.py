# SPDX-License-Identifier: GPL-2.0-only
"""What a session has probably come to: enough to say what makes sense next, and no more.

It takes each step to succeed that is meant to, and knows nothing of what KVM checks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from nvmxfuzz.inputs.session_steps import VCPUS, SessionStep

Phase: TypeAlias = Literal["off", "root", "current", "ready", "l2", "smm"]
"""Out of VMX operation; in it without a VMCS, with one, with a valid one; in L2; in SMM."""

REGIONS: Final = ("vmcs-0", "vmcs-1", "vmcs-2")
"""Where a VMCS may be."""

REFLECTED: Final = frozenset(
    {
        *("vmcall", "cpuid", "triple-fault", "vmlaunch", "vmread", "invept", "task-switch"),
        *("failed-entry-33", "failed-entry-34", "vmfail"),
    }
)
"""Exits after which L1 runs, whatever it asked for."""


@dataclass(slots=True)
class Course:
    """Where one vCPU is. The VMCSs are by their regions, "" where none is."""

    in_vmx: bool = False
    current: str = ""
    in_l2: bool = False
    in_smm: bool = False
    prepared: set[str] = field(default_factory=set)
    launched: set[str] = field(default_factory=set)

    @property
    def phase(self) -> Phase:
        """What makes sense now."""
        if self.in_smm:
            return "smm"
        if self.in_l2:
            return "l2"
        if not self.in_vmx:
            return "off"
        if not self.current:
            return "root"
        return "ready" if self.current in self.prepared else "current"

    def take(self, step: SessionStep) -> None:
        """Go on by a step."""
        if step.kind in ("smi", "rsm"):
            self.in_smm = step.kind == "smi"
        elif step.kind == "l2-exit" and step.chosen("exit") in REFLECTED:
            self.in_l2 = False
        elif not self.in_l2 and not self.in_smm:
            self._take_instruction(step)

    def _take_instruction(self, step: SessionStep) -> None:
        match step.kind:
            case "vmxon":
                self.in_vmx = True
            case "vmxoff":
                self.in_vmx, self.current = False, ""
            case "vmclear":
                self._clear(step.chosen("region"))
            case "vmptrld" if self.in_vmx and step.chosen("region") in REGIONS:
                self.current = step.chosen("region")
            case "prepare" if self.current:
                self.prepared.add(self.current)
            case "vmlaunch" | "vmresume" if self.current in self.prepared:
                wanted = step.kind == "vmresume"
                self.in_l2 = (self.current in self.launched) == wanted
                self.launched.add(self.current)

    def _clear(self, region: str) -> None:
        self.launched.discard(region)
        if region == self.current:
            self.current = ""


def courses(steps: Iterable[SessionStep]) -> tuple[Course, ...]:
    """Return where the vCPUs are after `steps`."""
    found = tuple(Course() for _ in range(VCPUS))
    for step in steps:
        found[step.vcpu].take(step)
    return found
