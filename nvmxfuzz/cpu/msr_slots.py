# SPDX-License-Identifier: GPL-2.0-only
"""The entries of the VM-entry MSR-load area, as the rules on loading MSRs look at them."""

from __future__ import annotations

from collections.abc import Sequence

from nvmxfuzz.cpu.entry import Entry

SLOT_SIZE = 16
LONGEST_LIST = 4096
"""The most entries that IA32_VMX_MISC can allow; no list is read further."""
_LOW = 0xFFFF_FFFF
NO_MSR = -1
"""Index of the slot that stands for what is beyond the list."""


class MsrSlot:
    """One entry: `index` of the MSR (bits 31:0), `reserved` (63:32) and `value` (127:64)."""

    __slots__ = ("entry", "index", "reserved", "value")

    def __init__(self, entry: Entry, index: int, reserved: int, value: int) -> None:
        self.entry = entry
        self.index = index
        self.reserved = reserved
        self.value = value


def load_slots(entry: Entry) -> Sequence[MsrSlot]:
    """Return the slots of the VM-entry MSR-load area in their order.

    The list ends early behind a slot whose reserved half is not 0, since loading ends there. That
    keeps a huge count over memory with nothing in it cheap. What a processor makes of entries
    beyond the number it is specified for is undefined: one slot stands for them all, which names
    no MSR, so that nobody knows whether it loads.
    """
    count = entry.vmcs.vm_entry_msr_load_count
    limit = min(entry.caps.max_msr_list, LONGEST_LIST)
    first = entry.vmcs.vm_entry_msr_load_addr
    slots: list[MsrSlot] = []
    for number in range(min(count, limit)):
        raw = entry.memory.read_int(first + number * SLOT_SIZE, SLOT_SIZE)
        slots.append(MsrSlot(entry, raw & _LOW, raw >> 32 & _LOW, raw >> 64))
        if slots[-1].reserved:
            return slots
    if count > limit:
        slots.append(MsrSlot(entry, NO_MSR, 0, 0))
    return slots
