# SPDX-License-Identifier: GPL-2.0-only
"""The controls that a Bochs CPU allows: they can be taken away from, and RDMSR follows."""

from __future__ import annotations

import struct
from typing import Final

from nvmxfuzz.arch.controls import Primary
from nvmxfuzz.arch.msr import VMX_CAPABILITY_MSRS
from nvmxfuzz.arch.vmx_msr import EptVpidCap
from nvmxfuzz.machine.capabilities import derive_capabilities
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.targets.bochs.cpu import MAXPHYADDR, Cpu
from nvmxfuzz.targets.bochs.models import differences

ALLOWED: Final = struct.Struct("<IIIxxxxQIIIxxxxQQ")
"""Pin, primary, secondary, tertiary, exit, second exit and entry controls that can be 1 but need
not, IA32_VMX_EPT_VPID_CAP and IA32_VMX_VMFUNC."""

_MONITOR_TRAP_FLAG: Final = 1 << 5
_EPT_ACCESSED_DIRTY: Final = 1 << 17
"""Extensions that checks look up: of injected MTF exits, and of EPTPs."""


def restrict(cpu: Cpu, profile: Profile, model: str) -> str:
    """Let `cpu`, a `model` after reset, allow what `profile` does and no more.

    Return "", or why it cannot be done. The CPU keeps what it was given until its state is
    restored.
    """
    caps = profile.caps
    wanted = (
        caps.pin_may,
        caps.primary_may,
        caps.secondary_may,
        caps.tertiary_may,
        caps.exit_may,
        caps.exit2_may,
        caps.entry_may,
        caps.ept_vpid_cap,
        caps.vmfunc_may,
    )
    place = cpu.offsets.capabilities
    allowed = ALLOWED.unpack(cpu.read_bytes(place, ALLOWED.size))
    left = (has & wants for has, wants in zip(allowed, wanted, strict=True))
    cpu.write_bytes(place, ALLOWED.pack(*left))
    cpu.write(cpu.offsets.cr4_allowed, 4, caps.cr4_fixed1 & 0xFFFF_FFFF)
    _restrict_extensions(cpu, profile)
    got = derive_capabilities(reported(cpu), MAXPHYADDR)
    return next(differences(caps, got, model, shrink=False), "")


def _restrict_extensions(cpu: Cpu, profile: Profile) -> None:
    """Take away the extensions that the profile lacks."""
    caps = profile.caps
    extensions = cpu.read(cpu.offsets.extensions, 4)
    if not caps.primary_may & Primary.MONITOR_TRAP_FLAG:
        extensions &= ~_MONITOR_TRAP_FLAG
    if not caps.ept_vpid_cap & EptVpidCap.ACCESSED_DIRTY:
        extensions &= ~_EPT_ACCESSED_DIRTY
    cpu.write(cpu.offsets.extensions, 4, extensions)


def reported(cpu: Cpu) -> dict[int, int]:
    """Return the VMX capability MSRs as RDMSR reads them now."""
    values = {index: cpu.rdmsr(index) for index, _ in VMX_CAPABILITY_MSRS}
    return {index: value for index, value in values.items() if value is not None}
