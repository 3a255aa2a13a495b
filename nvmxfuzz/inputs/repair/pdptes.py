# SPDX-License-Identifier: GPL-2.0-only
"""Page-directory-pointer-table entries of a guest that uses PAE paging.

SDM: "Checks on Guest Page-Directory-Pointer-Table Entries".
"""

from __future__ import annotations

from typing import Final

from nvmxfuzz.arch.paging import Pdpte
from nvmxfuzz.arch.registers import Cr0, Cr4
from nvmxfuzz.inputs.repair.draft import ALL_ONES, Draft

_FIELDS: Final = ("guest_pdptr0", "guest_pdptr1", "guest_pdptr2", "guest_pdptr3")
_TABLE: Final = 0xFFFF_FFE0


def settle_pdptes(draft: Draft) -> None:
    """No reserved bit in a present entry: of the fields with EPT, of memory without."""
    vmcs = draft.vmcs
    if draft.ia32e or not vmcs.guest_cr0 & Cr0.PG or not vmcs.guest_cr4 & Cr4.PAE:
        return
    reserved = Pdpte.RESERVED | ALL_ONES & -(1 << draft.profile.maxphyaddr)
    if not draft.ept:
        _in_memory(draft, reserved)
        return
    fields = vmcs.__dict__
    for name in _FIELDS:
        if fields[name] & Pdpte.P:
            fields[name] &= ~reserved


def _in_memory(draft: Draft, reserved: int) -> None:
    table = draft.vmcs.guest_cr3 & _TABLE
    data = draft.memory.read(table, 32)
    entries = (int.from_bytes(data[at : at + 8], "little") for at in range(0, 32, 8))
    legal = (entry & ~reserved if entry & Pdpte.P else entry for entry in entries)
    draft.write(table, b"".join(entry.to_bytes(8, "little") for entry in legal))
