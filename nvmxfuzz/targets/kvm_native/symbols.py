# SPDX-License-Identifier: GPL-2.0-only
"""Places in the built object by name: function+0xoffset, the same in every process."""

from __future__ import annotations

import struct
from bisect import bisect_right
from functools import cached_property
from pathlib import Path
from typing import Final

UNKNOWN: Final = "?"

_CODE: Final = frozenset("tTwWi")
"""The letters by which nm tells code."""

_ELF: Final = struct.Struct("<32xQ14xHH")
"""e_phoff, e_phentsize, e_phnum."""

_SEGMENT: Final = struct.Struct("<II8xQ8xQQ")
"""p_type, p_flags, p_vaddr, p_filesz, p_memsz."""

_LOAD: Final = 1
_EXECUTE: Final = 1


class Symbols:
    """The functions of one object. The file is read when the first place is asked for."""

    def __init__(self, path: Path | None, code: range) -> None:
        """Take the output of nm for the object, or None; and which offsets are code."""
        self._path = path
        self._code = code

    def place(self, offset: int) -> str:
        """Return function+0xoffset of an offset from the start of the object, or "?".

        What is not code of the object, or lies before its first function, is unknown.
        """
        if offset not in self._code:
            return UNKNOWN
        starts, names = self._functions
        index = bisect_right(starts, offset) - 1
        return f"{names[index]}+{offset - starts[index]:#x}" if index >= 0 else UNKNOWN

    def address(self, name: str) -> int:
        """Return the offset of a function from the start of the object; KeyError if it has none."""
        starts, names = self._functions
        return dict(zip(names, starts, strict=True))[name]

    @cached_property
    def _functions(self) -> tuple[list[int], list[str]]:
        if self._path is None:
            return [], []
        found: dict[int, str] = {}
        for line in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
            # Address, perhaps size, type, name; undefined symbols have no address.
            words = line.split()
            if len(words) in (3, 4) and words[-2] in _CODE:
                found.setdefault(int(words[0], 16), words[-1])
        starts = sorted(found)
        return starts, [found[start] for start in starts]


def code_of(data: bytes) -> range:
    """Return the offsets in memory at which an ELF object has its code: one segment."""
    at, size, count = _ELF.unpack_from(data)
    for number in range(count):
        kind, flags, start, _, length = _SEGMENT.unpack_from(data, at + number * size)
        if kind == _LOAD and flags & _EXECUTE:
            return range(start, start + length)
    return range(0)
