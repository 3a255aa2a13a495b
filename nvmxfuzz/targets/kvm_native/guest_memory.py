# SPDX-License-Identifier: GPL-2.0-only
"""The memory of a guest: where its physical addresses lie in this process."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Slot:
    """A range of guest-physical addresses and where it lies; KVM_SET_USER_MEMORY_REGION."""

    number: int
    guest_address: int
    size: int
    host_address: int


class GuestMemory:
    """Guest-physical memory by its slots. An access must lie in one slot: else IndexError."""

    def __init__(self) -> None:
        self._slots: dict[int, Slot] = {}

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The slots by number."""
        return tuple(slot for _, slot in sorted(self._slots.items()))

    def add(self, slot: Slot) -> None:
        """Know a slot, in place of the one of its number."""
        self._slots[slot.number] = slot

    def remove(self, number: int) -> None:
        """Forget a slot."""
        self._slots.pop(number, None)

    def read(self, address: int, size: int) -> bytes:
        """Return `size` bytes from guest-physical `address`."""
        return ctypes.string_at(self.host_address(address, size), size)

    def write(self, address: int, data: bytes) -> None:
        """Put bytes at guest-physical `address`."""
        ctypes.memmove(self.host_address(address, len(data)), data, len(data))

    def read_int(self, address: int, size: int = 8) -> int:
        """Return the little-endian unsigned integer of `size` bytes at `address`."""
        return int.from_bytes(self.read(address, size), "little")

    def write_int(self, address: int, value: int, size: int = 8) -> None:
        """Put a little-endian unsigned integer of `size` bytes at `address`."""
        self.write(address, value.to_bytes(size, "little"))

    def host_address(self, address: int, size: int) -> int:
        """Return where `size` bytes from guest-physical `address` lie in this process."""
        for slot in self._slots.values():
            offset = address - slot.guest_address
            if offset >= 0 and offset + size <= slot.size:
                return slot.host_address + offset
        raise IndexError(f"the guest has no {size} bytes of memory at {address:#x}")
