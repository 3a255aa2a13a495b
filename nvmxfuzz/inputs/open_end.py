# SPDX-License-Identifier: GPL-2.0-only
"""An input to which records can be appended: so a neighbour of a case is made without decoding.

Each record that follows edits what is there by then, as `inputs.records` tells.
"""

from __future__ import annotations

from typing import Final

from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.codec import HEADER_BYTES, SPARSE, encode
from nvmxfuzz.inputs.layout import VERSION, layout
from nvmxfuzz.inputs.parts import kind_of
from nvmxfuzz.inputs.records import SET, whole_records

LONGEST: Final = 4096
"""Bytes of an input to which something is appended."""


def open_end(case: EntryCase, data: bytes, profiles: tuple[str, ...]) -> bytes | None:
    """Return an input of the same case to which records can be appended, None if there is none.

    It is `data`, of which the case was made, where that is not long and ends with a whole record.
    """
    if not _is_open(data):
        data = encode(case, profiles)
    return data if len(data) <= LONGEST and kind_of(data) == SPARSE else None


def _is_open(data: bytes) -> bool:
    if not HEADER_BYTES <= len(data) <= LONGEST or data[0] != VERSION or kind_of(data) != SPARSE:
        return False
    return whole_records(data[HEADER_BYTES:], layout("vm_entry"))


def record(number: int, size: int, value: int) -> bytes:
    """Return the record that gives the slot of that number, of `size` bytes, a value."""
    return (number | SET << 12).to_bytes(2, "little") + value.to_bytes(size, "little")
