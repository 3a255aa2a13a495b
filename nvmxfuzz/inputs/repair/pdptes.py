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
_SIZE: Final = 32
_NEXT_PAGE: Final = 0x1000


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
    """Make the entries of the table legal; move it if another structure spoils it every time."""
    vmcs = draft.vmcs
    if draft.number_of_pass and _legal_table(draft, reserved) is not None:
        vmcs.guest_cr3 ^= _NEXT_PAGE
    legal = _legal_table(draft, reserved)
    if legal is not None:
        draft.write(vmcs.guest_cr3 & _TABLE, legal)


def _legal_table(draft: Draft, reserved: int) -> bytes | None:
    """Return what the table should hold, None if it is legal as it is."""
    data = draft.read(draft.vmcs.guest_cr3 & _TABLE, _SIZE)
    entries = [int.from_bytes(data[at : at + 8], "little") for at in range(0, _SIZE, 8)]
    if not any(entry & Pdpte.P and entry & reserved for entry in entries):
        return None
    legal = (entry & ~reserved if entry & Pdpte.P else entry for entry in entries)
    return b"".join(entry.to_bytes(8, "little") for entry in legal)
