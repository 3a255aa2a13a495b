# SPDX-License-Identifier: GPL-2.0-only
"""What may happen to a vCPU whose capability MSRs are restored: the steps of a `RestoreCase`.

A value that is written is told relative to what a KVM hands out, so that it keeps its meaning
where the processor or the kernel is another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

MOST_STEPS: Final = 24
"""What a case has at most."""

MOST_WRITES: Final = 24
"""What one call of KVM_SET_MSRS has at most."""

WORD: Final = (1 << 64) - 1

PmuVersion: TypeAlias = int | Literal["supported", "absent"]


@dataclass(frozen=True, slots=True)
class Offer:
    """What KVM offers to vCPUs: of a version, on the plain processor of a profile.

    "" means the version, or the processor and the parameters, of the case's own world.
    """

    kernel: str = ""
    profile: str = ""


OWN: Final = Offer()


@dataclass(frozen=True, slots=True)
class Value:
    """The value of an MSR: (old & ~unset | ones) ^ flip, 64 bits.

    `old` is what `offer` has for that MSR, 0 if it has none or without an offer.
    """

    offer: Offer | None = None
    unset: int = 0
    ones: int = 0
    flip: int = 0

    def of(self, old: int) -> int:
        """Return the value where the offer has `old`."""
        return (old & ~self.unset | self.ones) ^ self.flip


def absolute(value: int) -> Value:
    """Return a value that depends on no offer, the way such a value is always told."""
    return Value(flip=value)


@dataclass(frozen=True, slots=True)
class Write:
    """An MSR by its index, one of `step_codec.MSRS`, and what it is given."""

    index: int
    value: Value


@dataclass(frozen=True, slots=True)
class SetMsrs:
    """KVM_SET_MSRS with one MSR or several, at most `MOST_WRITES`, in that order."""

    writes: tuple[Write, ...]


@dataclass(frozen=True, slots=True)
class RestoreMsr:
    """vmx_set_vmx_msr() by itself, the function behind writing a capability MSR."""

    write: Write


@dataclass(frozen=True, slots=True)
class SetCpuid:
    """KVM_SET_CPUID2 with the CPUID that KVM supports, but for the `toggled` features.

    `hyperv` adds the leaves of Hyper-V, `evmcs_perf_global_ctrl` in these the feature that the
    enlightened VMCS holds IA32_PERF_GLOBAL_CTRL.
    """

    toggled: frozenset[str] = field(default_factory=frozenset)
    pmu_version: PmuVersion = "supported"
    hyperv: bool = False
    evmcs_perf_global_ctrl: bool = False


@dataclass(frozen=True, slots=True)
class Vmxon:
    """L1 is in VMX operation from now on: KVM_SET_NESTED_STATE with a VMXON region."""


@dataclass(frozen=True, slots=True)
class Vmxoff:
    """L1 is not in VMX operation: KVM_SET_NESTED_STATE without a VMXON region."""


@dataclass(frozen=True, slots=True)
class EnableEvmcs:
    """KVM_ENABLE_CAP: L1 is offered the enlightened VMCS."""


@dataclass(frozen=True, slots=True)
class Rdmsr:
    """The vCPU runs, and L1 reads an MSR."""

    index: int


@dataclass(frozen=True, slots=True)
class Wrmsr:
    """The vCPU runs, and L1 writes an MSR."""

    write: Write


@dataclass(frozen=True, slots=True)
class Smi:
    """KVM_SMI, and the vCPU runs: it is in SMM from now on."""


@dataclass(frozen=True, slots=True)
class Rsm:
    """The vCPU runs, and leaves SMM with RSM."""


Step: TypeAlias = (
    SetMsrs | RestoreMsr | SetCpuid | Vmxon | Vmxoff | EnableEvmcs | Rdmsr | Wrmsr | Smi | Rsm
)
STEPS: Final[tuple[type[Step], ...]] = (
    SetMsrs,
    RestoreMsr,
    SetCpuid,
    Vmxon,
    Vmxoff,
    EnableEvmcs,
    Rdmsr,
    Wrmsr,
    Smi,
    Rsm,
)
"""The kinds of steps, by the number that the binary format has for them: a new one goes last."""

PLAIN: Final[Mapping[type[Step], Step]] = MappingProxyType(
    {kind: kind() for kind in (Vmxon, Vmxoff, EnableEvmcs, Smi, Rsm)}
)
"""The steps of the kinds that have nothing to say."""
