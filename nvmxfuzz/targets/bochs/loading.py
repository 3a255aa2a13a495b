# SPDX-License-Identifier: GPL-2.0-only
"""Loading a private copy of the wheel's shared object, and reaching into it.

The wheel asks for two functions that glibc has since 2.38 only. They are C23's names of functions
that every glibc has, and each of those names is the tail of the new one: in the copy the symbols
simply start further on. The copy lives in memory, so that nothing is left in any folder, and each
is an object of its own with its own CPU: Bochs has one of those per copy.
"""

from __future__ import annotations

import ctypes
import os
import struct
from functools import cache
from typing import Any, Final

from nvmxfuzz.errors import InputError
from nvmxfuzz.targets.bochs.elf import Elf
from nvmxfuzz.targets.bochs.wheel import Wheel

_C23_PREFIX: Final = "__isoc23_"
_ANCHOR: Final = "cpu_new"
"""Any function of the library: where it came to lie tells where the library did."""


class Library:
    """One loaded copy."""

    def __init__(self, wheel: Wheel) -> None:
        self.wheel = wheel
        self.elf = _elf(wheel.data)
        # Never closed: the loader takes two files of one path for the same library.
        descriptor = os.memfd_create("bochscpu")
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(renamed(wheel.data, self.elf))
        try:
            self._library = ctypes.CDLL(f"/proc/self/fd/{descriptor}")
        except OSError as problem:
            raise InputError(f"the target bochs cannot be loaded: {problem}") from None
        anchor = ctypes.cast(getattr(self._library, _ANCHOR), ctypes.c_void_p).value or 0
        self._base = anchor - self.elf.symbols[_ANCHOR].value

    def address(self, symbol: str) -> int:
        """Return where `symbol` lies in memory."""
        return self._base + self.elf.symbols[symbol].value

    def function(self, symbol: str, result: Any, *arguments: Any) -> Any:  # noqa: ANN401
        """Return a function of the library, with the ctypes of its result and arguments."""
        return ctypes.PYFUNCTYPE(result, *arguments)(self.address(symbol))

    def redirect(self, targets: dict[str, int]) -> None:
        """Let all calls of each named function go to an address instead.

        The library is built so that calls of exported functions, even its own, go through slots
        in memory that can be written.
        """
        for name, slot in self.elf.slots(targets).items():
            ctypes.c_uint64.from_address(self._base + slot).value = targets[name]


@cache
def _elf(data: bytes) -> Elf:
    return Elf(data)


def renamed(data: bytes, elf: Elf) -> bytes:
    """Return the file with C23's names of undefined functions turned into the older ones."""
    copy = bytearray(data)
    for name, symbol in elf.symbols.items():
        if name.startswith(_C23_PREFIX) and not symbol.defined:
            struct.pack_into("<I", copy, symbol.entry, symbol.name_offset + len(_C23_PREFIX))
    return bytes(copy)
