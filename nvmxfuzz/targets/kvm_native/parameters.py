# SPDX-License-Identifier: GPL-2.0-only
"""The module parameters of kvm and kvm_intel, by name: the kernel's own variables."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from typing import Any, Final

from nvmxfuzz.errors import InputError

_BOOL: Final = 1
_CELLS: Final[Mapping[int, Any]] = {_BOOL: ctypes.c_uint8, 2: ctypes.c_int32, 3: ctypes.c_uint32}
_LEAST: Final = {_BOOL: 0, 2: -(1 << 31), 3: 0}
_GREATEST: Final = {_BOOL: 1, 2: (1 << 31) - 1, 3: (1 << 32) - 1}


class Parameter:
    """One parameter. KVM reads it at insmod, or each time; and may change it itself."""

    __slots__ = ("_cell", "_kind", "name")

    def __init__(self, name: str, address: int, kind: int) -> None:
        """Take the kind as nvmx_parameter() of shim/nvmx.h tells it."""
        self.name = name
        self._kind = kind
        self._cell = _CELLS[kind].from_address(address) if kind in _CELLS else None

    @property
    def settable(self) -> bool:
        """Whether it is a bool or an int: others cannot be reached."""
        return self._cell is not None

    @property
    def is_bool(self) -> bool:
        """Whether the kernel declares it as a bool."""
        return self._kind == _BOOL

    @property
    def value(self) -> int:
        """The present value; 0 or 1 of a bool."""
        return int(self._reached().value)

    @value.setter
    def value(self, value: int) -> None:
        cell = self._reached()
        least, greatest = _LEAST[self._kind], _GREATEST[self._kind]
        if not least <= value <= greatest:
            raise InputError(
                f"parameter {self.name} cannot be {value}: it is between {least} and {greatest}"
            )
        cell.value = value

    def _reached(self) -> Any:  # noqa: ANN401 # one of three ctypes
        if self._cell is None:
            raise InputError(f"parameter {self.name} is neither a bool nor an int: leave it alone")
        return self._cell


class Parameters(Mapping[str, Parameter]):
    """All parameters of one library, in the order of the object; a number can be assigned.

    InputError tells of a bad name or value.
    """

    def __init__(self, parameters: Mapping[str, Parameter]) -> None:
        self._parameters = dict(parameters)

    def __getitem__(self, name: str) -> Parameter:
        parameter = self._parameters.get(name)
        if parameter is None:
            raise InputError(
                f"KVM of this kernel has no parameter {name[:60]!r}: "
                f"choose among {', '.join(sorted(self._parameters))}"
            )
        return parameter

    def __setitem__(self, name: str, value: int) -> None:
        self[name].value = value

    def __contains__(self, name: object) -> bool:
        return name in self._parameters

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)
