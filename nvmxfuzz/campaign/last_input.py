# SPDX-License-Identifier: GPL-2.0-only
"""The input a worker is executing, in memory that outlives the worker.

A file mapped by both sides: what was written before a SIGKILL is still there for the runner.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from pathlib import Path

LAST_INPUT = "last-input"
"""The name of the file."""

_HEADER = struct.Struct("<QIQ")
_BEATS = struct.Struct("<Q")
_SIZE_AT = 8
"""Where the size of the input stands in the header."""
MAX_INPUT = 1 << 16
"""Longer inputs are cut here; no engine makes one."""


class LastInput:
    """The number of the current input, counted from 1, and its bytes.

    Beats show that it is still moving where one input is run several times.
    """

    def __init__(self, path: Path) -> None:
        """Map the file, making it if need be; OSError if there is no room for it."""
        size = _HEADER.size + MAX_INPUT
        with path.open("a+b") as file:
            # A file with holes would be SIGBUS to whoever writes into one on a full disk.
            os.posix_fallocate(file.fileno(), 0, size)
            self._map = mmap.mmap(file.fileno(), size)
        self._beats = 0
        self._address = 0

    def write(self, number: int, data: bytes) -> None:
        """Keep `data` as input `number`."""
        data = data[:MAX_INPUT]
        end = _HEADER.size + len(data)
        self._map[_HEADER.size : end] = data
        _HEADER.pack_into(self._map, 0, number, len(data), self._beats)

    def open_end(self, data: bytes) -> tuple[int, int]:
        """Begin what is executed with `data`; return where it stands, and its size of 32 bits.

        Both are addresses: whoever executes inputs in C keeps them here, as long as this is open.
        """
        self._map[_HEADER.size : _HEADER.size + len(data)] = data
        if not self._address:
            self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        return self._address + _HEADER.size, self._address + _SIZE_AT

    def beat(self) -> None:
        """Show that it is moving."""
        self._beats += 1
        _BEATS.pack_into(self._map, _HEADER.size - _BEATS.size, self._beats)

    @property
    def position(self) -> tuple[int, int]:
        """What changes as long as a worker moves."""
        number, _, beats = _HEADER.unpack_from(self._map)
        return number, beats

    @property
    def number(self) -> int:
        """The number of the current input, 0 before the first: it moves while a worker does."""
        return int(_HEADER.unpack_from(self._map)[0])

    def read(self) -> bytes:
        """Return the current input."""
        length = _HEADER.unpack_from(self._map)[1]
        return self._map[_HEADER.size : _HEADER.size + length]

    def close(self) -> None:
        """Unmap the file."""
        self._map.close()


def read_last_input(path: Path) -> bytes | None:
    """Return the input in a file that nobody writes any more, None if there is none."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    if len(content) < _HEADER.size:
        return None
    number, length, _ = _HEADER.unpack_from(content)
    return content[_HEADER.size : _HEADER.size + length] if number else None
