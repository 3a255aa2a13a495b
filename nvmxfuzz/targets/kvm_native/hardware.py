# SPDX-License-Identifier: GPL-2.0-only
"""What a processor like a profile looks like to the KVM that runs on it: MSRs, CPUID, registers."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from nvmxfuzz.arch.registers import Cr0, Cr4
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.targets.kvm_native.cpuid import Leaf, cpuid_of
from nvmxfuzz.targets.kvm_native.host_msrs import msrs_of
from nvmxfuzz.targets.kvm_native.library import Library

_CR0: Final = Cr0.PE | Cr0.MP | Cr0.ET | Cr0.NE | Cr0.WP | Cr0.AM | Cr0.PG
_CR3: Final = 0x1000
_CR4: Final = (
    Cr4.PSE | Cr4.PAE | Cr4.MCE | Cr4.PGE | Cr4.OSFXSR | Cr4.OSXMMEXCPT | Cr4.UMIP | Cr4.FSGSBASE
) | (Cr4.OSXSAVE | Cr4.SMEP | Cr4.SMAP | Cr4.PKE)
"""What a kernel uses of CR4 where the processor has it; KVM adds VMXE itself."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """One processor below KVM. `msrs` are (index, value) by index, `cpuid` the leaves ascending.

    CR0, CR3 and CR4 are those of the kernel that KVM is part of.
    """

    profile: Profile
    msrs: tuple[tuple[int, int], ...] = field(repr=False)
    cpuid: tuple[Leaf, ...] = field(repr=False)
    cr0: int
    cr3: int
    cr4: int

    def install(self, library: Library) -> None:
        """Make this the processor that the KVM of `library` finds; before the modules load."""
        library.set_msrs(self.msrs)
        library.set_cpuid(self.cpuid)
        for number, value in ((0, self.cr0), (3, self.cr3), (4, self.cr4)):
            library.functions.nvmx_set_cr(number, value)
        profile = self.profile
        library.call("nvmx_init_cpu", profile.family, profile.model, profile.stepping)


@lru_cache(maxsize=64)
def hardware_of(profile: Profile) -> Hardware:
    """Return a processor like `profile`; KVM may well refuse to load on it."""
    caps = profile.caps
    pcid = Cr4.PCIDE if "pcid" in profile.features else 0
    la57 = Cr4.LA57 if profile.linear_address_bits > 48 else 0
    return Hardware(
        profile=profile,
        msrs=msrs_of(profile),
        cpuid=cpuid_of(profile),
        cr0=_CR0,
        cr3=_CR3,
        cr4=(_CR4 | pcid | la57) & caps.cr4_fixed1,
    )
