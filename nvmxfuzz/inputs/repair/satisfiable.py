# SPDX-License-Identifier: GPL-2.0-only
"""Whether a profile lets any state enter."""

from __future__ import annotations

from nvmxfuzz.arch.controls import Pin, Primary
from nvmxfuzz.arch.registers import Cr0, Cr4
from nvmxfuzz.inputs.repair import dependencies as table
from nvmxfuzz.inputs.repair.controls import demanded, supported
from nvmxfuzz.machine.profile import Profile


def satisfiable(profile: Profile) -> bool:
    """Return False if the capabilities of `profile` contradict one another.

    Seen are controls that must be 1 and cannot be, or need or exclude others that capabilities
    deny or demand, and fixed bits of CR0 and CR4. True is no proof: repair may still fail.
    """
    caps = profile.caps
    must, may = demanded(caps), supported(caps)
    # Posted interrupts need a secondary control.
    if not (
        caps.primary_must & Primary.ACTIVATE_SECONDARY_CONTROLS
        or caps.pin_must & Pin.PROCESS_POSTED_INTERRUPTS
    ):
        must &= ~table.SECONDARY_WORD
    if "long-mode" not in profile.features:
        may &= ~(table.HOST_SIZE | table.IA32E_GUEST)
    needed = Cr0.PE | Cr0.PG | caps.cr0_fixed0
    return not (
        table.unmet(must, may & ~table.SMM_CONTROLS)
        or needed & ~caps.cr0_fixed1
        or (caps.cr4_fixed0 | Cr4.VMXE) & ~caps.cr4_fixed1
    )
