# SPDX-License-Identifier: GPL-2.0-only
"""The targets by name. A target is imported only when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Any, Final

from nvmxfuzz.errors import InputError
from nvmxfuzz.targets.base import Target
from nvmxfuzz.targets.isolated import SECONDS, Isolated, IsolatedKvm


@dataclass(frozen=True, slots=True)
class Entry:
    """One target: its sentence, and where what makes it stands ("module:name")."""

    name: str
    sentence: str
    factory: str
    availability: str | None = None
    """What tells why the target is not usable, "" if it is; None where it always is."""

    @property
    def is_kvm(self) -> bool:
        """Whether it is KVM of some kernel: `nvmxfuzz.oracles.kvm_witness` says what that has."""
        return self.name.startswith("kvm-")

    def usable(self) -> str:
        """Return "" if the target is usable on this computer, else why not, as a sentence."""
        reason: str = "" if self.availability is None else _named(self.availability)()
        return reason

    def make(self) -> Target:
        """Return a new target in this process; InputError if it is not usable."""
        reason = self.usable()
        if reason:
            raise InputError(reason)
        factory: Callable[[], Target] = _named(self.factory)
        return factory()

    def make_isolated(self, seconds: float = SECONDS) -> Target:
        """Return a new target in a process of its own; InputError if it is not usable."""
        reason = self.usable()
        if reason:
            raise InputError(reason)
        kind = IsolatedKvm if self.is_kvm else Isolated
        return kind(self.name, self.make, seconds)


_BOCHS: Final = "nvmxfuzz.targets.bochs"
_KVM: Final = "nvmxfuzz.targets.kvm_native.target"

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
        )
    }
)


def target_named(name: str) -> Entry:
    """Return the entry of a target; InputError tells which names there are."""
    entry = TARGETS.get(name)
    if entry is None:
        raise InputError(f"no target is named {name[:64]!r}; the targets are {', '.join(TARGETS)}")
    return entry


def _named(place: str) -> Callable[..., Any]:
    module, name = place.split(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found
