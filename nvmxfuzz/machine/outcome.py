# SPDX-License-Identifier: GPL-2.0-only
"""What a VMLAUNCH or VMRESUME came to, in one shape for every witness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["entered", "fail-invalid", "fail-valid", "exit", "fault"]
"""Guest entered; VMfailInvalid; VMfailValid; VM exit during entry; exception in the hypervisor."""


@dataclass(frozen=True, slots=True, order=True)
class Outcome:
    """One outcome. `number` is the VM-instruction error, exit reason or vector, by `kind`.

    `qualification` is the exit qualification (64 bits), and for a failed MSR load the number of
    the list entry, counted from 1. Both are 0 where the kind has none.
    """

    kind: Kind
    number: int = 0
    qualification: int = 0

    def __str__(self) -> str:
        match self.kind:
            case "fail-valid" | "fault":
                return f"{self.kind} {self.number}"
            case "exit":
                return f"exit {self.number} qualification {self.qualification}"
            case _:
                return self.kind

    def to_json(self) -> dict[str, str | int]:
        """Return the form that `check --json` prints."""
        match self.kind:
            case "fail-valid":
                return {"kind": self.kind, "error": self.number}
            case "fault":
                return {"kind": self.kind, "vector": self.number}
            case "exit":
                return {
                    "kind": self.kind,
                    "reason": self.number,
                    "qualification": self.qualification,
                }
            case _:
                return {"kind": self.kind}


ENTERED = Outcome("entered")
FAIL_INVALID = Outcome("fail-invalid")


def fail_valid(error: int) -> Outcome:
    """Return VMfailValid with a VM-instruction error number."""
    return Outcome("fail-valid", error)


def exit_on_entry(reason: int, qualification: int = 0) -> Outcome:
    """Return a VM exit during entry; `reason` is the basic exit reason (33 or 34)."""
    return Outcome("exit", reason, qualification)


def fault(vector: int) -> Outcome:
    """Return an exception that VMLAUNCH or VMRESUME itself raises."""
    return Outcome("fault", vector)
