# SPDX-License-Identifier: GPL-2.0-only
"""One VM entry of L1's on its way through KVM and the processor below: who saw what, and when."""

from __future__ import annotations

from dataclasses import dataclass

from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import Outcome
from nvmxfuzz.machine.vmcs import Vmcs
from nvmxfuzz.targets.base import Observation


@dataclass(frozen=True, slots=True)
class L1View:
    """What a hypervisor in L1 can find out: its registers, its MSRs, its VMCS by VMREAD.

    `registers` and `msrs` are by name and by index, in a fixed order. MSRs that count time are
    left out. A field that vmcs12 lacks is 0.
    """

    registers: tuple[tuple[str, int], ...]
    msrs: tuple[tuple[int, int], ...]
    vmcs: Vmcs
    launched: bool

    def to_json(self) -> dict[str, object]:
        """Return the form that the commands print with `--json`; fields that are 0 are left out."""
        return {
            "registers": {name: f"{value:#x}" for name, value in self.registers},
            "msrs": {f"{index:#x}": f"{value:#x}" for index, value in self.msrs},
            "vmcs": {name: f"{value:#x}" for name, value in self.vmcs.items().items() if value},
            "launched": self.launched,
        }


@dataclass(frozen=True, slots=True)
class Asked:
    """One VM entry by vmcs02 that KVM asked of the processor, and what came about.

    `attempt` is on the host's profile. `dry_run`: before nested_vmx_run() had returned.
    """

    attempt: Attempt
    observation: Observation
    outcome: Outcome
    dry_run: bool


@dataclass(frozen=True, slots=True)
class L0State:
    """What KVM has to leave as it was: the processor's own registers, and the VMCS of L1.

    `registers` are by name. `loaded` names the VMCS that is current: "vmcs01", "vmcs02", "other".
    """

    registers: tuple[tuple[str, int], ...]
    loaded: str
    vmcs01: Vmcs


@dataclass(frozen=True, slots=True)
class Passage:
    """What L1 sees in the end, the VM entries that the processor was asked for, and both ends.

    There are no ends where KVM was not shown the attempt, or did not get over it.
    """

    observation: Observation
    asked: tuple[Asked, ...] = ()
    l1_before: L1View | None = None
    l1_after: L1View | None = None
    l0_before: L0State | None = None
    l0_after: L0State | None = None

    @property
    def outcome(self) -> Outcome | None:
        """The one outcome that L1 sees, None if there is none."""
        return self.observation.outcome

    @property
    def dry_runs(self) -> tuple[Asked, ...]:
        """The entries that were only to show whether there is a VMfail."""
        return tuple(each for each in self.asked if each.dry_run)

    @property
    def entries(self) -> tuple[Asked, ...]:
        """The entries that were to run L2."""
        return tuple(each for each in self.asked if not each.dry_run)
