# SPDX-License-Identifier: GPL-2.0-only
"""Reading numbers from bytes that may end anywhere."""

from __future__ import annotations


class Reader:
    """Bytes from first to last, and zeros behind them."""

    def __init__(self, data: bytes) -> None:
        """Begin with the first of `data`."""
        self._data = data
        self._at = 0

    @property
    def ended(self) -> bool:
        """Whether nothing is left."""
        return self._at >= len(self._data)

    def number(self, size: int = 1) -> int:
        """Return what `size` bytes say, the lowest first."""
        found = int.from_bytes(self._data[self._at : self._at + size], "little")
        self._at += size
        return found
