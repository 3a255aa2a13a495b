# SPDX-License-Identifier: GPL-2.0-only
"""A VMCS as Bochs keeps it in its region: an image of the fields that the model has.

Where each field lies Bochs says itself. Access rights are kept rotated left by 8.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import Any, Final

from nvmxfuzz.arch.fields import FIELDS, Field
from nvmxfuzz.machine.attempt import LaunchState
from nvmxfuzz.machine.vmcs import Vmcs
from nvmxfuzz.targets.at_hand import Place
from nvmxfuzz.targets.bochs.cpu import Cpu

_CODES: Final = {16: "H", 32: "I", 64: "Q"}
_LAUNCH_STATES: Final[Mapping[LaunchState, int]] = {"clear": 0, "launched": 1}
_LOW: Final = 0xFFFF_FFFF
_ROTATED: Final = 8
"""By how many bits access rights are, to the left."""

_INSTRUCTION_ERROR: Final = 0x4400


def own_fields(cpu: Cpu) -> dict[Field, int]:
    """Return the fields that the model of `cpu` has, with their offsets in the region."""
    offsets = {field: cpu.field_offset(field.encoding) for field in FIELDS}
    return {field: offset for field, offset in offsets.items() if offset is not None}


class ImageFormat:
    """Packs the VMCS of an attempt. Exit-information fields are 0: VM entry reads none."""

    def __init__(self, cpu: Cpu) -> None:
        fields = own_fields(cpu)
        written = [field for field in fields if field.type != "exit-info"]
        rights = [field for field in written if field.name.endswith("_ar_bytes")]
        others = [field for field in written if field not in rights]
        self.launch_state = cpu.launch_state_offset()
        self.places = tuple(
            Place(field.encoding, fields[field], field.width // 8, _ROTATED * (field in rights))
            for field in written
        )
        """Where each field lies."""
        size = max(fields.values()) + 8 & -8
        self.size = size
        self.instruction_error = cpu.field_offset(_INSTRUCTION_ERROR) or 0
        self._pack = _packing((("I", self.launch_state), *_places(others, fields)), size).pack
        self._values = itemgetter(*(field.name for field in _ascending(others, fields)))
        self._first_right = min(fields[field] for field in rights)
        self._pack_rights = _packing(
            ((code, at - self._first_right) for code, at in _places(rights, fields)), 0
        ).pack_into
        self._rights = itemgetter(*(field.name for field in _ascending(rights, fields)))

    def image(self, vmcs: Vmcs, launch_state: LaunchState) -> bytes:
        """Return the first `size` bytes of the region."""
        values: Mapping[str, Any] = vmcs.__dict__
        image = bytearray(self._pack(_LAUNCH_STATES[launch_state], *self._values(values)))
        rotated = [
            right << _ROTATED & _LOW | right >> 32 - _ROTATED for right in self._rights(values)
        ]
        self._pack_rights(image, self._first_right, *rotated)
        return bytes(image)


def _ascending(fields: Iterable[Field], offsets: Mapping[Field, int]) -> list[Field]:
    return sorted(fields, key=lambda field: offsets[field])


def _places(fields: Iterable[Field], offsets: Mapping[Field, int]) -> tuple[tuple[str, int], ...]:
    """Return (code of the width, offset) of each field, ascending."""
    return tuple((_CODES[field.width], offsets[field]) for field in _ascending(fields, offsets))


def _packing(places: Iterable[tuple[str, int]], size: int) -> struct.Struct:
    """Return the layout of values at offsets, with what lies between them and up to `size` 0."""
    layout = "<"
    end = 0
    for code, offset in places:
        layout += f"{offset - end}x{code}"
        end = offset + struct.calcsize(f"<{code}")
    return struct.Struct(f"{layout}{max(size - end, 0)}x")
