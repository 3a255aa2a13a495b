# SPDX-License-Identifier: GPL-2.0-only
"""A processor with KVM on it, and a vCPU as user space configures one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from nvmxfuzz.machine.profile import Profile


class CpuidEdit(NamedTuple):
    """Bits of one register of a leaf of L1's CPUID: those outside `keep` go, `add` comes.

    The register is "eax" to "edx"; masks are 32 bits wide.
    """

    leaf: int
    subleaf: int
    register: str
    keep: int
    add: int = 0


@dataclass(frozen=True, slots=True)
class Configuration:
    """What is settled before L1 runs. `parameters` are those of the modules, by name.

    `msrs` are VMX capability MSRs that user space changes, with the bits that it leaves (64 bits);
    what KVM does not take stays as it is.
    """

    host: Profile
    parameters: tuple[tuple[str, int], ...] = ()
    cpuid: tuple[CpuidEdit, ...] = ()
    msrs: tuple[tuple[int, int], ...] = ()
    irqchip: bool = True
    evmcs: bool = False
    """User space says that the hypervisor is Hyper-V, and offers L1 the enlightened VMCS."""
