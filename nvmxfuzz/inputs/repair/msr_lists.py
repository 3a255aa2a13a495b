# SPDX-License-Identifier: GPL-2.0-only
"""The three MSR lists: their addresses and counts, and what the one for VM entry holds.

SDM: "VM-Exit Control Fields" and "VM-Entry Control Fields" of the checks on VMX controls, and
"Loading MSRs".
"""

from __future__ import annotations

from typing import Final

from nvmxfuzz.inputs.repair.draft import Draft
from nvmxfuzz.inputs.repair.loadable import loadable
from nvmxfuzz.inputs.repair.overlay import backed_bytes

_ENTRY: Final = 16
_WRITTEN: Final = 4
"""How many entries a repair puts where there is no memory: few, since each is work to judge."""


def settle_msr_lists(draft: Draft) -> None:
    """Lists that lie within the physical address space, and an entry list that loads.

    VM entry does not look at the length of a list for VM exit, but with one that is longer than
    the processor recommends the next VM exit is undefined: it is cut.
    """
    vmcs = draft.vmcs
    most = draft.caps.max_msr_list
    if vmcs.vm_exit_msr_store_count:
        vmcs.vm_exit_msr_store_count = count = min(vmcs.vm_exit_msr_store_count, most)
        vmcs.vm_exit_msr_store_addr = _area(draft, vmcs.vm_exit_msr_store_addr, count)
    if vmcs.vm_exit_msr_load_count:
        vmcs.vm_exit_msr_load_count = count = min(vmcs.vm_exit_msr_load_count, most)
        vmcs.vm_exit_msr_load_addr = _area(draft, vmcs.vm_exit_msr_load_addr, count)
    if vmcs.vm_entry_msr_load_count:
        _entry_list(draft)


def _area(draft: Draft, address: int, count: int) -> int:
    """Return an address at which `count` entries fit below the physical-address width."""
    reserved = draft.caps.physical_reserved
    address &= ~(reserved | _ENTRY - 1)
    if (address + count * _ENTRY - 1) & reserved:
        address -= count * _ENTRY
    return address


def _entry_list(draft: Draft) -> None:
    vmcs = draft.vmcs
    count = min(vmcs.vm_entry_msr_load_count, draft.caps.max_msr_list)
    address = _area(draft, vmcs.vm_entry_msr_load_addr, count)
    backed = backed_bytes(draft.memory, address) // _ENTRY
    if count > backed:
        asked = vmcs.vm_entry_msr_load_count
        count = backed or (asked if asked <= _WRITTEN else asked & _WRITTEN - 1)
    if count:
        data = draft.read(address, count * _ENTRY)
        legal = _entries(draft, data)
        if legal == data or not draft.number_of_pass:
            draft.write(address, legal)
        else:
            # Another structure lies in the list, and spoilt it since the first pass.
            count = 0
    vmcs.vm_entry_msr_load_addr = address
    vmcs.vm_entry_msr_load_count = count


def _entries(draft: Draft, data: bytes) -> bytes:
    known = loadable(draft)
    choices = tuple(known)
    entries = bytearray()
    for at in range(0, len(data), _ENTRY):
        number = int.from_bytes(data[at : at + 4], "little")
        value = int.from_bytes(data[at + 8 : at + _ENTRY], "little")
        legal = known.get(number)
        if legal is None:
            number = choices[number % len(choices)]
            legal = known[number]
        value = legal(draft, value)
        entries += (number | value << 64).to_bytes(_ENTRY, "little")
    return bytes(entries)
