# SPDX-License-Identifier: GPL-2.0-only
"""VMREAD and VMWRITE that cause no VM exit: the processor executes them on the shadow VMCS."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping
from typing import Final

from nvmxfuzz.arch.controls import Secondary
from nvmxfuzz.arch.fields import FIELD_BY_NAME, FIELDS, Field
from nvmxfuzz.targets.kvm_native.library import Library

_PAGE: Final = 0x1000
_NO_LINK: Final = (1 << 64) - 1
_WIDEST: Final = 64


class ShadowVmcs:
    """Of one vCPU: which fields L1 reads and writes without KVM."""

    def __init__(self, library: Library, vcpu: int) -> None:
        """Take the struct kvm_vcpu of a vCPU."""
        self._functions = library.functions
        self._vcpu = vcpu
        self._free: Mapping[str, frozenset[str]] = {
            kind: self._fields(f"{kind}_bitmap") for kind in ("vmread", "vmwrite")
        }

    def takes(self, kind: str, name: str) -> bool:
        """Tell whether the processor executes VMREAD or VMWRITE of a field itself, in L1."""
        return name in self._free[kind] and self._address() != 0

    def taken(self, kind: str) -> frozenset[str]:
        """Return the fields that the processor executes VMREAD or VMWRITE of itself, in L1."""
        return self._free[kind] if self._address() else frozenset()

    def read(self, name: str) -> int:
        """Return a field of the shadow VMCS."""
        encoding = FIELD_BY_NAME[name].encoding
        return int(self._functions.nvmx_vmcs_read(self._address(), encoding))

    def write(self, name: str, value: int) -> None:
        """Set a field of the shadow VMCS."""
        self.write_all(((name, value),))

    def write_all(self, values: Iterable[tuple[str, int]]) -> None:
        """Set fields of the shadow VMCS."""
        address = self._address()
        for name, value in values:
            field = FIELD_BY_NAME[name]
            self._functions.nvmx_vmcs_write(address, field.encoding, value & _mask(field))

    def _address(self) -> int:
        """Return the shadow VMCS, 0 if L1 has none current."""
        if self._functions.nvmx_is_guest_mode(self._vcpu):
            return 0
        if not self._vmcs01("secondary_vm_exec_control") & Secondary.VMCS_SHADOWING:
            return 0
        link = self._vmcs01("vmcs_link_pointer")
        return 0 if link == _NO_LINK else int(self._functions.nvmx_physical(link, _PAGE))

    def _vmcs01(self, name: str) -> int:
        vmcs = self._functions.nvmx_vmcs(self._vcpu, 1)
        return int(self._functions.nvmx_vmcs_read(vmcs, FIELD_BY_NAME[name].encoding))

    def _fields(self, bitmap: str) -> frozenset[str]:
        """Return the fields whose bits are clear; none without a bitmap."""
        place = self._functions.nvmx_physical(self._vmcs01(bitmap), _PAGE)
        if not self._vmcs01(bitmap) or not place:
            return frozenset()
        bits = ctypes.string_at(place, _PAGE)
        return frozenset(
            field.name
            for field in FIELDS
            if not bits[field.encoding >> 3] >> (field.encoding & 7) & 1
        )


def _mask(field: Field) -> int:
    return (1 << (field.width if isinstance(field.width, int) else _WIDEST)) - 1
