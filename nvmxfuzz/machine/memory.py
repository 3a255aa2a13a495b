# SPDX-License-Identifier: GPL-2.0-only
"""Sparse physical memory: what a VM entry reads beside the VMCS."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

UNBACKED = 0xFF
"""What an address reads as that nothing stands behind, as on a bus without a responder."""


def runs(cells: Mapping[int, int]) -> tuple[tuple[int, bytes], ...]:
    """Return bytes by address as the longest ranges without gaps, ascending."""
    found: list[tuple[int, bytearray]] = []
    for address in sorted(cells):
        if found and found[-1][0] + len(found[-1][1]) == address:
            found[-1][1].append(cells[address])
        else:
            found.append((address, bytearray([cells[address]])))
    return tuple((address, bytes(data)) for address, data in found)


@dataclass(frozen=True, slots=True)
class Memory:
    """Regions of bytes by physical address, ascending, disjoint; the rest reads as all ones."""

    regions: tuple[tuple[int, bytes], ...] = ()

    @classmethod
    def of(cls, contents: Mapping[int, bytes]) -> Memory:
        """Return the memory with `contents` by address; where two overlap, the later one wins."""
        cells: dict[int, int] = {}
        for address, data in contents.items():
            cells.update(enumerate(data, address))
        return cls(runs(cells))

    def read(self, address: int, size: int) -> bytes:
        """Return `size` bytes from `address`."""
        first = bisect_left(self.regions, (address + 1, b"")) - 1
        if first >= 0:
            start, data = self.regions[first]
            offset = address - start
            if offset + size <= len(data):
                return data[offset : offset + size]
        return self._joined(max(first, 0), address, size)

    def _joined(self, first: int, address: int, size: int) -> bytes:
        """Return what lies in several regions, from number `first` on, and between them."""
        found = bytearray([UNBACKED]) * size
        end = address + size
        for number in range(first, len(self.regions)):
            start, data = self.regions[number]
            if start >= end:
                break
            low, high = max(start, address), min(start + len(data), end)
            if low < high:
                found[low - address : high - address] = data[low - start : high - start]
        return bytes(found)

    def read_int(self, address: int, size: int) -> int:
        """Return the little-endian unsigned integer of `size` bytes at `address`."""
        return int.from_bytes(self.read(address, size), "little")
