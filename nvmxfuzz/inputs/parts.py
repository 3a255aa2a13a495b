# SPDX-License-Identifier: GPL-2.0-only
"""A binary input taken apart, so that it can be changed by meaning and put together again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from nvmxfuzz.inputs.case import SlotKind
from nvmxfuzz.inputs.codec import BOTH, HEADER_BYTES, REPAIR, SPARSE, TEXT, XOR, base_words, split
from nvmxfuzz.inputs.difference import Edit
from nvmxfuzz.inputs.layout import VERSION, Layout, known_version, layout
from nvmxfuzz.inputs.memory_edit import MemoryEdit
from nvmxfuzz.inputs.order import PROFILES
from nvmxfuzz.inputs.records import CHANGE, MASKED, Record, pack_record
from nvmxfuzz.machine.profile import Profile

MOST_RECORDS: Final = 255
"""What the byte that counts records can count."""

_KIND: Final = 3
_MOST_PACKED: Final = 8192
"""Records whose bytes are kept: some 2 MiB."""


@dataclass(slots=True)
class Parts:
    """An input taken apart: header, records in their order, words in the order of the layout."""

    header: bytearray
    records: list[Record]
    words: bytearray
    table: Layout
    harness: SlotKind
    profiles: tuple[str, ...] = PROFILES

    def base(self) -> tuple[Profile, tuple[int, ...]]:
        """Return the profile of the header, and what its base has in each slot."""
        return base_words(self.header[2], self.header[3], self.harness, self.profiles)


def is_text(data: bytes) -> bool:
    """Return True if an input is a case as TOML."""
    return kind_of(data) == TEXT


def kind_of(data: bytes) -> int:
    """Return which of the kinds of `inputs.codec` an input is."""
    return data[1] & _KIND if len(data) > 1 else XOR


def take_apart(data: bytes, harness: SlotKind, profiles: tuple[str, ...] = PROFILES) -> Parts:
    """Return header, records and words of an input of the other kinds.

    Those of an older version become parts of the newest one, in which they mean the same.
    """
    header = bytearray(data[:HEADER_BYTES].ljust(HEADER_BYTES, b"\0"))
    records, words = split(data, layout(harness, known_version(header[0])))
    header[0] = VERSION
    return Parts(header, [*records], bytearray(words), layout(harness), harness, profiles)


def put_together(parts: Parts, max_size: int) -> bytes:
    """Return the bytes of `parts`: words without the zeros at their end, records that fit."""
    words = bytes(parts.words).rstrip(b"\0")
    room = max_size - HEADER_BYTES - 1
    records: list[bytes] = []
    for record in parts.records[:MOST_RECORDS]:
        packed = _pack(record, parts.table)
        if len(packed) > room:
            break
        room -= len(packed)
        records.append(packed)
    kind = XOR if not records else BOTH if words else SPARSE
    header = bytearray(parts.header)
    header[1] = header[1] & REPAIR | kind
    count = bytes([len(records)]) if kind == BOTH else b""
    return (bytes(header) + count + b"".join(records) + words)[:max_size]


@lru_cache(maxsize=_MOST_PACKED)
def _pack(record: Record, table: Layout) -> bytes:
    # Of the records of an input, a mutation changes one or two.
    if isinstance(record, MemoryEdit):
        return pack_record(record, table)
    slot, unset, ones, flip = record
    if unset == -1:
        return pack_record(Edit(slot.name, ones ^ flip), table)
    size = slot.size
    number = table.index[slot.name]
    if not unset and not ones:
        return (number | CHANGE << 12).to_bytes(2, "little") + flip.to_bytes(size, "little")
    head = (number | MASKED << 12).to_bytes(2, "little")
    return head + b"".join(word.to_bytes(size, "little") for word in (unset, ones, flip))
