# SPDX-License-Identifier: GPL-2.0-only
"""A case: one input of a harness, as a value, with the name of the state it is told against."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from nvmxfuzz.inputs.session_steps import SessionStep
from nvmxfuzz.inputs.steps import Step
from nvmxfuzz.inputs.world import World
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.profile import Profile

CaseKind = Literal["vm_entry", "capability_config", "capability_restore", "migration", "session"]
"""What a case is a case of; a file says it under the key `harness`."""

SlotKind = Literal["vm_entry", "capability_config"]
"""The kinds of `SlotCase`."""

WorldKind = Literal["capability_restore", "migration", "session"]
"""The kinds of cases that have worlds."""

SLOT_KINDS: Final[tuple[SlotKind, ...]] = ("vm_entry", "capability_config")

CASE_KINDS: Final[tuple[CaseKind, ...]] = (
    "vm_entry",
    "capability_config",
    "capability_restore",
    "migration",
    "session",
)

Order = Literal["listed", "ascending", "descending"]
ORDERS: Final[tuple[Order, ...]] = ("listed", "ascending", "descending")
"""By the number that the binary format has for them."""

ZERO: Final = "zero"
"""The base that supposes nothing: an empty VMCS, no memory, and for a config no MSR at all."""

SESSION_KERNELS: Final = ("6.12", "6.1")
"""Kernels that sessions are run on, the usual one first."""

DEFAULT_KERNEL: Final = "6.12"
"""The kernel version of a config case that names none."""


@dataclass(frozen=True, slots=True)
class EntryCase:
    """A VM entry to judge: an attempt, and the base (`inputs.bases`) it is a difference against.

    `attempt.memory` has the canonical regions that `Memory.of` makes. A note says nothing of what
    is judged, so that it plays no part in equality.
    """

    attempt: Attempt
    base: str = ZERO
    note: str = field(default="", compare=False)

    @property
    def harness(self) -> SlotKind:
        """The kind of the case."""
        return "vm_entry"

    @property
    def profile(self) -> Profile:
        """The processor that the attempt runs on."""
        return self.attempt.profile


@dataclass(frozen=True, slots=True)
class ConfigCase:
    """Capability MSRs as a kernel finds them when its VMX module loads.

    `profile` holds the MSRs, family, model and stepping as edited, `base` names the profile they
    are told against. `kernel` is a version that the KVM witness knows. `error_on_inconsistent`
    (`error_on_inconsistent_vmcs_config`) and `enlightened_vmcs` are module parameters. `has_sgx`
    says that CPUID reports SGX, `evmcs` that the kernel runs on a Hyper-V that offers enlightened
    VMCSs.
    """

    profile: Profile
    base: str = ZERO
    kernel: str = DEFAULT_KERNEL
    error_on_inconsistent: bool = True
    enlightened_vmcs: bool = True
    has_sgx: bool = False
    evmcs: bool = False
    note: str = field(default="", compare=False)

    @property
    def harness(self) -> SlotKind:
        """The kind of the case."""
        return "capability_config"


class _InOneWorld:
    """What a case has of its only world."""

    __slots__ = ()
    world: World

    @property
    def profile(self) -> Profile:
        """The processor of the world."""
        return self.world.profile

    @property
    def base(self) -> str:
        """The profile that the world is told against."""
        return self.world.base


@dataclass(frozen=True, slots=True)
class RestoreCase(_InOneWorld):
    """A vCPU without CPUID in a world, and what happens to it: at most `steps.MOST_STEPS`."""

    world: World
    steps: tuple[Step, ...] = ()
    note: str = field(default="", compare=False)

    @property
    def harness(self) -> WorldKind:
        """The kind of the case."""
        return "capability_restore"


@dataclass(frozen=True, slots=True)
class MigrationCase:
    """A VM that is carried from the world `source` to `destination`.

    `entry` is a VM entry of L1, tried before and after. `order` is the one in which userspace
    writes the capability MSRs: by index, or as KVM_GET_MSR_INDEX_LIST has them.
    """

    source: World
    destination: World
    entry: EntryCase
    order: Order = "listed"
    note: str = field(default="", compare=False)

    @property
    def harness(self) -> WorldKind:
        """The kind of the case."""
        return "migration"

    @property
    def profile(self) -> Profile:
        """The processor of the source."""
        return self.source.profile

    @property
    def base(self) -> str:
        """The profile that the source is told against."""
        return self.source.base


@dataclass(frozen=True, slots=True)
class SessionCase(_InOneWorld):
    """The vCPUs of a VM in a world, and what happens to them: at most `session_steps.MOST_STEPS`.

    All are plain at first: the processor in 64-bit mode at CPL 0, CPUID as the world has it, the
    regions of `session_steps.PLACES` in memory, VMX enabled by IA32_FEATURE_CONTROL and CR4, and
    not in VMX operation.
    """

    world: World
    steps: tuple[SessionStep, ...] = ()
    note: str = field(default="", compare=False)

    @property
    def harness(self) -> WorldKind:
        """The kind of the case."""
        return "session"


SlotCase: TypeAlias = EntryCase | ConfigCase
"""A case that is a list of slots (`inputs.layout`) and nothing else."""
WorldCase: TypeAlias = RestoreCase | MigrationCase | SessionCase
"""A case that has worlds."""
Case: TypeAlias = SlotCase | WorldCase
