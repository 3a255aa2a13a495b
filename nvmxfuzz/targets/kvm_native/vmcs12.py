# SPDX-License-Identifier: GPL-2.0-only
"""struct vmcs12 of one kernel: the VMCS that L1 made, as KVM keeps it in memory.

Where each field lies KVM itself says (get_vmcs12_field_offset). The three words before the fields
are fixed for good: the structure is migrated between kernels.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Iterable, Mapping
from operator import itemgetter
from typing import Any, Final

from nvmxfuzz.arch.fields import FIELD_BY_NAME, FIELDS, Field
from nvmxfuzz.machine.vmcs import Vmcs
from nvmxfuzz.targets.kvm_native.library import Library

REVISION: Final = 0x11E5_7ED0
"""VMCS12_REVISION: bits 30:0 of the first word."""

SHADOW: Final = 1 << 31
"""Bit 31 of the first word: the VMCS is a shadow VMCS."""

LAUNCH_STATE: Final = 8
"""Byte offset of the 32-bit launch state: 0 clear, 1 launched."""

_HEADER: Final = (("I", 0), ("I", LAUNCH_STATE))
_CODES: Final = {16: "H", 32: "I", 64: "Q"}
_CELLS: Final = {16: ctypes.c_uint16, 32: ctypes.c_uint32, 64: ctypes.c_uint64}


class Vmcs12Layout:
    """Packs a VMCS into the image of `size` bytes that the kernel of a library reads.

    `fields` are those that vmcs12 has, by place; `missing` are those that it lacks: L1 cannot write
    them, and KVM cannot be shown a VMCS in which one of them is set.
    """

    def __init__(self, library: Library) -> None:
        functions = library.functions
        self.size: int = functions.nvmx_vmcs12_size()
        offsets: dict[Field, int] = {
            field: functions.nvmx_vmcs12_offset(field.encoding) for field in FIELDS
        }
        self.missing = tuple([field for field in FIELDS if offsets[field] < 0])
        known = [field for field in FIELDS if offsets[field] >= 0]
        self.fields = tuple(sorted(known, key=lambda field: offsets[field]))
        self.offsets: Mapping[str, int] = {field.name: offsets[field] for field in self.fields}
        places = [(_CODES[field.width], offsets[field]) for field in self.fields]
        self._struct = _structure([*_HEADER, *places], self.size)
        self._values = itemgetter(*[field.name for field in self.fields])
        self._cells = {
            field.name: (struct.Struct(f"<{_CODES[field.width]}"), offsets[field])
            for field in self.fields
        }
        self._zeroes = {field.name: 0 for field in self.missing}

    def pack(self, vmcs: Vmcs, launched: bool = False, shadow: bool = False) -> bytes:
        """Return the image of a VMCS; what vmcs12 lacks is left out (see `lost`)."""
        values: Mapping[str, Any] = vmcs.__dict__
        first = REVISION | SHADOW if shadow else REVISION
        return self._struct.pack(first, launched, *self._values(values))

    def pack_into(self, buffer: bytearray, index: int, vmcs: Vmcs, launched: bool = False) -> None:
        """Make a VMCS the image number `index` of a buffer of images."""
        values: Mapping[str, Any] = vmcs.__dict__
        self._struct.pack_into(buffer, index * self.size, REVISION, launched, *self._values(values))

    def write(self, buffer: bytearray, index: int, name: str, value: int) -> None:
        """Set one field in the image number `index` of a buffer of images."""
        cell, offset = self._cells[name]
        cell.pack_into(buffer, index * self.size + offset, value)

    def unpack(self, image: bytes) -> Vmcs:
        """Return the VMCS of an image; a field that vmcs12 lacks is 0."""
        _, _, *values = self._struct.unpack(image)
        return Vmcs({field.name: value for field, value in zip(self.fields, values, strict=True)})

    def reader(self, names: Iterable[str]) -> Callable[[int], tuple[int, ...]]:
        """Return a function that reads these fields in the vmcs12 at an address."""
        cells = [(_CELLS[FIELD_BY_NAME[name].width], self.offsets[name]) for name in names]
        return lambda address: tuple([cell.from_address(address + at).value for cell, at in cells])

    def writable(self, vmcs: Vmcs) -> Vmcs:
        """Return the VMCS that L1 comes to if it writes this one: what vmcs12 lacks is 0."""
        return vmcs.replace(self._zeroes)

    def lost(self, vmcs: Vmcs) -> tuple[str, ...]:
        """Return the names of the fields that are not 0 and that vmcs12 lacks."""
        values: Mapping[str, Any] = vmcs.__dict__
        return tuple([name for name in self._zeroes if values[name]])


def _structure(places: list[tuple[str, int]], size: int) -> struct.Struct:
    """Return the layout of values at ascending offsets, with zeroes between and behind them."""
    layout = "<"
    end = 0
    for code, offset in places:
        layout += f"{offset - end}x{code}"
        end = offset + struct.calcsize(f"<{code}")
    return struct.Struct(f"{layout}{size - end}x")
