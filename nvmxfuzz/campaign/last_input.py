# SPDX-License-Identifier: GPL-2.0-only
"""The input a worker is executing, in memory that outlives the worker.

A file mapped by both sides: what was written before a SIGKILL is still there for the runner.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

_HEADER = struct.Struct("<QI")
MAX_INPUT = 1 << 16
"""Longer inputs are cut here; no engine makes one."""


class LastInput:
    """The number of the current input, counted from 1, and its bytes."""

    def __init__(self, path: Path) -> None:
        """Map the file, making it if need be; OSError if there is no room for it."""
        size = _HEADER.size + MAX_INPUT
        with path.open("a+b") as file:
            # A file with holes would be SIGBUS to whoever writes into one on a full disk.
            os.posix_fallocate(file.fileno(), 0, size)
            self._map = mmap.mmap(file.fileno(), size)

    def write(self, number: int, data: bytes) -> None:
        """Keep `data` as input `number`."""
        data = data[:MAX_INPUT]
        end = _HEADER.size + len(data)
        self._map[_HEADER.size : end] = data
        _HEADER.pack_into(self._map, 0, number, len(data))

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
