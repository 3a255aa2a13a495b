# SPDX-License-Identifier: GPL-2.0-only
"""The targets by name. A target is imported only when it is asked for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Any, Final

from nvmxfuzz.errors import InputError
from nvmxfuzz.targets.base import Target
from nvmxfuzz.targets.isolated import SECONDS, Isolated, IsolatedKvm, IsolatedLoop

_KERNEL: Final = re.compile(r"kvm-([0-9.]+)(?:\+.*)?")


@dataclass(frozen=True, slots=True)
class Entry:
    """One target: its sentence, and where what makes it stands ("module:name")."""

    name: str
    sentence: str
    factory: str
    availability: str | None = None
    """What tells why the target is not usable, "" if it is; None where it always is."""

    arguments: tuple[str, ...] = ()
    """What both are called with."""

    @property
    def is_kvm(self) -> bool:
        """Whether it is KVM of some kernel: `nvmxfuzz.oracles.kvm.witness` says what that has."""
        return self.name.startswith("kvm-") and not self.is_loop

    @property
    def is_loop(self) -> bool:
        """Whether it is KVM on a processor: `nvmxfuzz.oracles.kvm.loop` says what that has."""
        return "+" in self.name

    @property
    def kernel(self) -> str:
        """The kernel whose KVM it is, as in 6.12; "" if it is none."""
        found = _KERNEL.fullmatch(self.name)
        return found[1] if found else ""

    def usable(self) -> str:
        """Return "" if the target is usable on this computer, else why not, as a sentence."""
        if self.availability is None:
            return ""
        reason: str = _named(self.availability)(*self.arguments)
        return reason

    def make(self) -> Target:
        """Return a new target in this process; InputError if it is not usable."""
        reason = self.usable()
        if reason:
            raise InputError(reason)
        factory: Callable[..., Target] = _named(self.factory)
        return factory(*self.arguments)

    def make_isolated(self, seconds: float = SECONDS) -> Target:
        """Return a new target in a process of its own; InputError if it is not usable."""
        reason = self.usable()
        if reason:
            raise InputError(reason)
        kind = IsolatedKvm if self.is_kvm else IsolatedLoop if self.is_loop else Isolated
        return kind(self.name, self.make, seconds)


_BOCHS: Final = "nvmxfuzz.targets.bochs"
_KVM: Final = "nvmxfuzz.targets.kvm_native.target"
_MODEL: Final = "nvmxfuzz.targets.kvm_model"
_LOOP: Final = "nvmxfuzz.targets.kvm_native.loop"

TARGETS: Final[Mapping[str, Entry]] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            Entry(
                "python-model",
                "The rules of the SDM as this project states them: all that is permitted.",
                "nvmxfuzz.targets.python_model:PythonModel",
            ),
            Entry(
                "bochs",
                "The Bochs CPU: its VMLAUNCH called as a function, without guest code.",
                f"{_BOCHS}.target:Bochs",
                f"{_BOCHS}.wheel:usable",
            ),
            Entry(
                "bochs-complete",
                "The Bochs CPU: guest code executes VMXON, VMPTRLD, VMWRITE and VMLAUNCH.",
                f"{_BOCHS}.target:BochsComplete",
                f"{_BOCHS}.wheel:usable",
            ),
            Entry(
                "kvm-6.1",
                "The KVM of Linux 6.1 itself: what its software makes of L1's VM entry.",
                f"{_KVM}:KVM_6_1",
                f"{_KVM}:HAS_6_1",
            ),
            Entry(
                "kvm-6.12",
                "The KVM of Linux 6.12 itself: what its software makes of L1's VM entry.",
                f"{_KVM}:KVM_6_12",
                f"{_KVM}:HAS_6_12",
            ),
            Entry(
                "kvm-6.1+rules",
                "What L1 sees of Linux 6.1's KVM on a processor that keeps to the rules.",
                f"{_LOOP}:RULES_6_1",
                f"{_KVM}:HAS_6_1",
            ),
            Entry(
                "kvm-6.1+bochs",
                "What L1 sees of Linux 6.1's KVM on the Bochs CPU.",
                f"{_LOOP}:BOCHS_6_1",
                f"{_LOOP}:HAS_BOCHS_6_1",
            ),
            Entry(
                "kvm-6.12+rules",
                "What L1 sees of Linux 6.12's KVM on a processor that keeps to the rules.",
                f"{_LOOP}:RULES_6_12",
                f"{_KVM}:HAS_6_12",
            ),
            Entry(
                "kvm-6.12+bochs",
                "What L1 sees of Linux 6.12's KVM on the Bochs CPU.",
                f"{_LOOP}:BOCHS_6_12",
                f"{_LOOP}:HAS_BOCHS_6_12",
            ),
            *(
                Entry(
                    f"kvm-model-{kernel}",
                    f"The model of Linux {kernel}'s KVM: nothing needs to be built for it.",
                    f"{_MODEL}:KvmModel",
                    arguments=(kernel,),
                )
                for kernel in ("4.20", "5.18", "6.1", "6.12", "6.19")
            ),
        )
    }
)


def all_targets() -> dict[str, Entry]:
    """Return the targets that there always are, and those of all other kernels that are built."""
    from nvmxfuzz.targets.kvm_native.build.objects import built_kernels

    others = (kernel for kernel in built_kernels() if f"kvm-{kernel}" not in TARGETS)
    return {**TARGETS, **{entry.name: entry for kernel in others for entry in _of_kernel(kernel)}}


def target_named(name: str) -> Entry:
    """Return the entry of a target; InputError tells which names there are."""
    entry = TARGETS.get(name)
    if entry is None:
        every = all_targets()
        entry = every.get(name)
        if entry is None:
            raise InputError(
                f"no target is named {name[:64]!r}; the targets are {', '.join(every)}"
            )
    return entry


def _of_kernel(kernel: str) -> tuple[Entry, ...]:
    """Return the targets of a kernel that this version was not made for."""
    return (
        Entry(
            f"kvm-{kernel}",
            f"The KVM of Linux {kernel} itself: what its software makes of L1's VM entry.",
            f"{_KVM}:KvmTarget",
            f"{_KVM}:available",
            (kernel,),
        ),
        Entry(
            f"kvm-{kernel}+rules",
            f"What L1 sees of Linux {kernel}'s KVM on a processor that keeps to the rules.",
            f"{_LOOP}:on_rules",
            f"{_KVM}:available",
            (kernel,),
        ),
        Entry(
            f"kvm-{kernel}+bochs",
            f"What L1 sees of Linux {kernel}'s KVM on the Bochs CPU.",
            f"{_LOOP}:on_bochs",
            f"{_LOOP}:available_on_bochs",
            (kernel,),
        ),
    )


def _named(place: str) -> Callable[..., Any]:
    module, name = place.split(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found
