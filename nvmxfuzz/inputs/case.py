# SPDX-License-Identifier: GPL-2.0-only
"""A case: one input of a harness, as a value, with the name of the state it is told against."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.profile import Profile

CaseKind = Literal["vm_entry", "capability_config"]
"""What a case is a case of; a file says it under the key `harness`."""

CASE_KINDS: Final[tuple[CaseKind, ...]] = ("vm_entry", "capability_config")

ZERO: Final = "zero"
"""The base that supposes nothing: an empty VMCS, no memory, and for a config no MSR at all."""

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
    def harness(self) -> CaseKind:
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
    def harness(self) -> CaseKind:
        """The kind of the case."""
        return "capability_config"


Case: TypeAlias = EntryCase | ConfigCase
