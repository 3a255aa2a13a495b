# SPDX-License-Identifier: GPL-2.0-only
"""What KVM's own checks of a VM entry cost, those it leaves to the processor, and the dry run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from nvmxfuzz.arch.controls import Pin, Primary, Secondary, VmEntry, VmExit
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.targets.kvm_native.bench.calls import ENTRY, Call
from nvmxfuzz.targets.kvm_native.bench.session import Session
from nvmxfuzz.targets.kvm_native.build.objects import BuiltObject

STATES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "plain": "the controls that must be 1, and a 64-bit guest",
        "usual": "EPT, VPID, unrestricted guest, TPR shadow, MSR bitmap, TSC scaling, PAT and EFER",
    }
)
"""What stands in vmcs12."""
INSTRUCTIONS: Final = ("vmlaunch", "vmresume")

_PIN: Final = Pin.EXTERNAL_INTERRUPT_EXITING | Pin.NMI_EXITING | Pin.VIRTUAL_NMIS
_PRIMARY: Final = (
    Primary.ACTIVATE_SECONDARY_CONTROLS
    | Primary.USE_TPR_SHADOW
    | Primary.USE_MSR_BITMAPS
    | Primary.USE_TSC_OFFSETTING
    | Primary.HLT_EXITING
    | Primary.UNCONDITIONAL_IO_EXITING
)
_CR3_EXITING: Final = Primary.CR3_LOAD_EXITING | Primary.CR3_STORE_EXITING
_SECONDARY: Final = (
    Secondary.ENABLE_EPT
    | Secondary.ENABLE_VPID
    | Secondary.UNRESTRICTED_GUEST
    | Secondary.ENABLE_RDTSCP
    | Secondary.ENABLE_INVPCID
    | Secondary.ENABLE_XSAVES_XRSTORS
    | Secondary.USE_TSC_SCALING
)
_EXIT: Final = (
    VmExit.ACKNOWLEDGE_INTERRUPT_ON_EXIT
    | VmExit.SAVE_IA32_PAT
    | VmExit.LOAD_IA32_PAT
    | VmExit.SAVE_IA32_EFER
    | VmExit.LOAD_IA32_EFER
)
_ENTRY: Final = VmEntry.LOAD_IA32_PAT | VmEntry.LOAD_IA32_EFER


@dataclass(frozen=True, slots=True)
class Cost:
    """Instructions of KVM's; VMREADs, VMWRITEs and VM entries among them are told apart."""

    instructions: int
    vmreads: int
    vmwrites: int
    entries: int

    def __sub__(self, other: Cost) -> Cost:
        return Cost(
            self.instructions - other.instructions,
            self.vmreads - other.vmreads,
            self.vmwrites - other.vmwrites,
            self.entries - other.entries,
        )

    def to_mapping(self) -> dict[str, int]:
        """Return the numbers by name."""
        return {
            "instructions": self.instructions,
            "vmreads": self.vmreads,
            "vmwrites": self.vmwrites,
            "entries": self.entries,
        }


@dataclass(frozen=True, slots=True)
class EntryCosts:
    """What one VM entry of L1 costs, in instructions.

    `controls`, `address_space_size`, `host_state` and `guest_state` are KVM's nested_vmx_check_...;
    `missing` are the checks before VMfail that it leaves to the processor, written in C. `run` is
    nested_vmx_run() without the dry run, and `dry_run` what that adds to it.
    """

    kernel: str
    state: str
    instruction: str
    controls: int
    address_space_size: int
    host_state: int
    guest_state: int
    missing: int
    run: Cost
    dry_run: Cost

    @property
    def vmfail(self) -> int:
        """KVM's checks that end in VMfail."""
        return self.controls + self.address_space_size + self.host_state

    @property
    def checks(self) -> int:
        """All of KVM's checks."""
        return self.vmfail + self.guest_state

    def share(self, instructions: int) -> float:
        """Return what part of nested_vmx_run() some instructions are, in percent."""
        return 100 * instructions / self.run.instructions


def measure(built: BuiltObject) -> tuple[EntryCosts, ...]:
    """Return the costs of each state and instruction on one kernel."""
    session = Session(built)
    return tuple(cost for state in STATES for cost in _costs(session, built.kernel, state))


def attempt_of(state: str, profile: Profile) -> Attempt:
    """Return the VM entry that a state names, on the processor that L1 has."""
    attempt = base("guest-64", profile)
    if state == "plain":
        return attempt
    vmcs, caps = attempt.vmcs, profile.caps
    primary = vmcs.cpu_based_vm_exec_control | _PRIMARY
    if caps.primary_must & _CR3_EXITING == 0:
        primary &= ~_CR3_EXITING
    edits = {
        "pin_based_vm_exec_control": vmcs.pin_based_vm_exec_control | _PIN,
        "cpu_based_vm_exec_control": primary,
        "secondary_vm_exec_control": _SECONDARY & caps.secondary_may,
        "vm_exit_controls": vmcs.vm_exit_controls | _EXIT,
        "vm_entry_controls": vmcs.vm_entry_controls | _ENTRY,
    }
    return replace(attempt, vmcs=vmcs.replace(edits))


def _costs(session: Session, kernel: str, state: str) -> list[EntryCosts]:
    attempt = attempt_of(state, session.virtual)
    without, with_dry_run = session.runs(attempt, False), session.runs(attempt, True)
    space, missing = session.address_space_size(attempt), session.missing(attempt)
    return [
        EntryCosts(
            kernel,
            state,
            instruction,
            _check(run, "controls"),
            space,
            _check(run, "host_state"),
            _check(run, "guest_state"),
            missing,
            _cost(run),
            _cost(dry) - _cost(run),
        )
        for instruction, run, dry in zip(INSTRUCTIONS, without, with_dry_run, strict=True)
    ]


def _check(run: Call, name: str) -> int:
    return sum(call.instructions for call in run.all_named(f"nested_vmx_check_{name}"))


def _cost(call: Call) -> Cost:
    return Cost(
        call.instructions, call.count("shim_vmread"), call.count("shim_vmwrite"), call.count(ENTRY)
    )
