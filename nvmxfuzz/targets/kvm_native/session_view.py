# SPDX-License-Identifier: GPL-2.0-only
"""What userspace reads of a vCPU, from KVM's structures to sorted names and numbers."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator
from operator import itemgetter
from struct import Struct, calcsize
from typing import Any, Final, TypeAlias

from nvmxfuzz.inputs.session_steps import MSRS
from nvmxfuzz.oracles.session.witness import VcpuView
from nvmxfuzz.targets.kvm_native import structures as s
from nvmxfuzz.targets.kvm_native.session_vcpu import MsrTable, SessionVcpu
from nvmxfuzz.targets.kvm_native.vmcs12 import LAUNCH_STATE, Vmcs12Layout

Pairs: TypeAlias = tuple[tuple[str, int], ...]
_Cell: TypeAlias = tuple[str, int, str]

_CODES: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}
_FIELD_CODES: Final = {16: "H", 32: "I", 64: "Q"}
_IGNORED: Final = ("padding", "padding1", "pad", "reserved")
_MOST_KEPT: Final = 4096
_SORTED_MSRS: Final = tuple(sorted(MSRS.items()))
_ALL_MSRS: Final = tuple(MSRS.values())


class _Flat:
    """Makes sorted pairs of the bytes of a structure; the same bytes give the same object."""

    def __init__(self, cells: Iterable[_Cell], *, zeroes: bool = True) -> None:
        placed = sorted(cells, key=itemgetter(1))
        self._struct = Struct(_layout(placed))
        self.size = self._struct.size
        names = [name for name, _, _ in placed]
        order = sorted(range(len(names)), key=names.__getitem__)
        self._names = tuple(names[number] for number in order)
        self._pick = itemgetter(*order)
        self._zeroes = zeroes
        self._kept: dict[bytes, Pairs] = {}

    def pairs(self, data: bytes) -> Pairs:
        """Return the names and values in `size` bytes."""
        found = self._kept.get(data)
        if found is None:
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            both = zip(self._names, self._pick(self._struct.unpack(data)), strict=True)
            found = tuple(both) if self._zeroes else tuple(pair for pair in both if pair[1])
            self._kept[data] = found
        return found


def _layout(cells: list[_Cell]) -> str:
    layout, end = "<", 0
    for _, offset, code in cells:
        layout += f"{offset - end}x{code}"
        end = offset + calcsize(f"<{code}")
    return layout


def _cells(kind: Any, prefix: str = "", start: int = 0) -> Iterator[_Cell]:  # noqa: ANN401 # a ctypes type
    for name, part in kind._fields_:
        if name in _IGNORED:
            continue
        offset = start + getattr(kind, name).offset
        if issubclass(part, ctypes.Structure):
            yield from _cells(part, f"{prefix}{name}.", offset)
        elif issubclass(part, ctypes.Array):
            size = ctypes.sizeof(part._type_)
            for number in range(part._length_):
                each = f"{prefix}{name.removesuffix('s')}{number}"
                yield each, offset + number * size, _CODES[size]
        else:
            yield f"{prefix}{name}", offset, _CODES[ctypes.sizeof(part)]


def _header() -> Iterator[_Cell]:
    return (cell for cell in _cells(s.NestedState) if cell[1] < s.NestedState.reserved.offset)


def _vmcs12(layout: Vmcs12Layout) -> Iterator[_Cell]:
    yield "revision_id", 0, "I"
    yield "launch_state", LAUNCH_STATE, "I"
    for field in layout.fields:
        yield field.name, layout.offsets[field.name], _FIELD_CODES[field.width]


class Viewer:
    """Reads vCPUs of one kernel."""

    def __init__(self, layout: Vmcs12Layout) -> None:
        self._regs = _Flat(_cells(s.Regs))
        self._sregs = _Flat(_cells(s.Sregs2))
        self._events = _Flat(_cells(s.VcpuEvents))
        self._nested = _Flat(_header())
        self._vmcs12 = _Flat(_vmcs12(layout), zeroes=False)

    def view(self, vcpu: SessionVcpu) -> VcpuView:
        """Return what can be read; KVM accepts an INIT or SIPI while the MP state is read."""
        mp_state = vcpu.get_mp_state()
        nested = bytes(vcpu.get_nested())
        size = vcpu.nested.size
        first = s.NESTED_HEADER_SIZE
        second = first + s.VMCS_SIZE
        return VcpuView(
            regs=_of(self._regs, vcpu.get_regs()),
            sregs=_of(self._sregs, vcpu.get_sregs2()),
            events=_of(self._events, vcpu.get_events()),
            mp_state=mp_state,
            msrs=_msrs(vcpu.get_msrs(_ALL_MSRS)),
            nested=self._nested.pairs(nested[: self._nested.size]),
            vmcs12=self._image(nested, first) if size >= second else (),
            shadow_vmcs12=self._image(nested, second) if size >= second + s.VMCS_SIZE else (),
        )

    def _image(self, nested: bytes, start: int) -> Pairs:
        return self._vmcs12.pairs(nested[start : start + self._vmcs12.size])


def _of(flat: _Flat, structure: ctypes.Structure) -> Pairs:
    return flat.pairs(ctypes.string_at(ctypes.addressof(structure), flat.size))


def _msrs(table: MsrTable) -> Pairs:
    values = dict(zip(table.indices, table.values(), strict=True))
    return tuple([(name, values[index]) for name, index in _SORTED_MSRS if index in values])
