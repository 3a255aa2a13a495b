# SPDX-License-Identifier: GPL-2.0-only
"""Records of the binary format: one edit of a slot, or of a range of memory.

A record starts with 16 bits, little-endian: the number of a slot in bits 11:0, the operation in
bits 15:12. What follows, in as many bytes as the slot has:

0 SET     the value;
1 XOR     the bits that change;
2 MASKED  three words: `new = (old & ~unset | set) ^ flip`;
3 WRITE   a byte that counts bytes, a physical address of 8 bytes, and the bytes;
4 UNBACK  the same without the bytes: nothing stands behind these addresses any more.

Other operations mean one of the first three, and a record that ends early goes on with zeros.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from nvmxfuzz.inputs.difference import Change
from nvmxfuzz.inputs.layout import Layout, Slot
from nvmxfuzz.inputs.memory_edit import ADDRESS_BITS, MemoryEdit
from nvmxfuzz.machine.memory import UNBACKED

SET: Final = 0
CHANGE: Final = 1
MASKED: Final = 2
WRITE: Final = 3
UNBACK: Final = 4

SlotEdit: TypeAlias = tuple[Slot, int, int, int]
"""A slot, and what is unset, then set, then flipped in it."""
Record: TypeAlias = SlotEdit | MemoryEdit

_MAX_RANGE: Final = 255
_RANGE_HEAD: Final = 9
_ZEROES: Final = bytes(26)
"""A record of a slot has no more bytes."""


def read_records(body: bytes, count: int, table: Layout) -> tuple[list[Record], bytes]:
    """Return at most `count` records at the start of `body`, and what follows them."""
    slots, has_memory = table.slots, bool(table.by_area["memory"])
    found: list[Record] = []
    at, end = 0, len(body)
    body += _ZEROES
    while at < end and len(found) < count:
        head = body[at] | body[at + 1] << 8
        at += 2
        operation = head >> 12
        if has_memory and operation in (WRITE, UNBACK):
            edit = _range(body[:end], at, operation == WRITE)
            at += _RANGE_HEAD + (len(edit.data) if edit.backed else 0)
            found.append(edit)
            continue
        slot = slots[(head & 0xFFF) % len(slots)]
        size = slot.size
        word = int.from_bytes(body[at : at + size], "little")
        operation %= 3
        if operation == SET:
            found.append((slot, -1, word, 0))
        elif operation == CHANGE:
            found.append((slot, 0, 0, word))
        else:
            ones = int.from_bytes(body[at + size : at + 2 * size], "little")
            flip = int.from_bytes(body[at + 2 * size : at + 3 * size], "little")
            found.append((slot, word, ones, flip))
            at += 2 * size
        at += size
    return found, body[at:end]


def whole_records(body: bytes, table: Layout) -> bool:
    """Tell whether a body is records of an entry and nothing else, none of which ends early."""
    slots = table.slots
    at, end = 0, len(body)
    while at < end:
        head = int.from_bytes(body[at : at + 2], "little")
        operation = head >> 12
        if operation == WRITE:
            at += 2 + _RANGE_HEAD + (body[at + 2] if at + 2 < end else 0)
        elif operation == UNBACK:
            at += 2 + _RANGE_HEAD
        else:
            size = slots[(head & 0xFFF) % len(slots)].size
            at += 2 + (3 * size if operation % 3 == MASKED else size)
    return at == end


def pack_record(change: Change, table: Layout) -> bytes:
    """Return the records of one change."""
    if isinstance(change, MemoryEdit):
        return b"".join(
            _pack_range(change.address + at, change.data[at : at + _MAX_RANGE], change.backed)
            for at in range(0, len(change.data), _MAX_RANGE)
        )
    number = table.index[change.slot] | SET << 12
    size = table.slots[table.index[change.slot]].size
    return number.to_bytes(2, "little") + change.value.to_bytes(size, "little")


def _range(body: bytes, at: int, backed: bool) -> MemoryEdit:
    head = body[at : at + _RANGE_HEAD].ljust(_RANGE_HEAD, b"\0")
    size = head[0]
    address = int.from_bytes(head[1:], "little") & (1 << ADDRESS_BITS) - 1
    size = min(size, (1 << ADDRESS_BITS) - address)
    if not backed:
        return MemoryEdit(address, bytes([UNBACKED]) * size, backed=False)
    start = at + _RANGE_HEAD
    return MemoryEdit(address, body[start : start + size])


def _pack_range(address: int, data: bytes, backed: bool) -> bytes:
    head = (WRITE if backed else UNBACK) << 12
    start = head.to_bytes(2, "little") + bytes([len(data)]) + address.to_bytes(8, "little")
    return start + data if backed else start
