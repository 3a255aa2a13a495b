# SPDX-License-Identifier: GPL-2.0-only
"""Guest RIP, RFLAGS and SSP.

SDM: "Checks on Guest RIP, RFLAGS, and SSP".
"""

from __future__ import annotations

from nvmxfuzz.arch.controls import VmEntry
from nvmxfuzz.arch.registers import Cr4, Rflags
from nvmxfuzz.arch.segments import AccessRights
from nvmxfuzz.inputs.repair.draft import ALL_ONES, LOW_HALF, Draft


def settle_guest_flow(draft: Draft) -> None:
    """RIP and SSP within the mode's width, RFLAGS without reserved bits."""
    vmcs = draft.vmcs
    wide = draft.ia32e and vmcs.guest_cs_ar_bytes & AccessRights.L
    vmcs.guest_rip = _pointer(draft, vmcs.guest_rip, wide)
    if draft.vm_entry & VmEntry.LOAD_CET_STATE:
        # "Loading Guest RIP, RSP, RFLAGS, and SSP" wants no bits 63:32 outside 64-bit mode, the
        # list of checks does not say so: 0 is right either way.
        vmcs.guest_ssp = _pointer(draft, vmcs.guest_ssp & ~3, wide)
    flags = vmcs.guest_rflags & ~Rflags.RESERVED | Rflags.FIXED1
    if vmcs.guest_cr4 & Cr4.FRED and vmcs.guest_ss_ar_bytes & AccessRights.DPL:
        flags &= ~Rflags.IOPL
    vmcs.guest_rflags = flags


def _pointer(draft: Draft, value: int, wide: int) -> int:
    """Return a pointer whose bits beyond the linear-address width are all alike.

    Bit 63 gives their value. It need not be that of the highest bit of the address: VM entry
    accepts a RIP just past the canonical range.
    """
    if not wide:
        return value & LOW_HALF
    beyond = ALL_ONES & -(1 << draft.profile.linear_address_bits)
    return value | beyond if value >> 63 else value & ~beyond
