# SPDX-License-Identifier: GPL-2.0-only
"""L1's physical memory as KVM reaches it: through memslots, outside of which an access fails."""

from __future__ import annotations

from nvmxfuzz.machine.memory import Memory

PAGE_SIZE = 4096
DEFAULT_SLOTS = ((0, 4 << 20),)
"""4 MiB of RAM from address 0, as the targets have it."""


class GuestMemory:
    """The memslots of one VM with their contents; writes stay in this object.

    `slots` are pairs of first address and size, multiples of the page size. Where `memory` says
    nothing about an address of a slot, every byte is `unwritten`: 0 in fresh memory of a process.
    """

    __slots__ = ("memory", "slots", "unwritten", "written")

    def __init__(
        self,
        memory: Memory,
        slots: tuple[tuple[int, int], ...] = DEFAULT_SLOTS,
        unwritten: int = 0,
    ) -> None:
        self.memory = memory
        self.slots = slots
        self.unwritten = unwritten
        self.written: dict[int, bytes] = {}

    def is_backed(self, gpa: int) -> bool:
        """Whether a memslot holds the page of `gpa` (kvm_vcpu_map() succeeds)."""
        return any(start <= gpa < start + size for start, size in self.slots)

    def read(self, gpa: int, size: int) -> bytes | None:
        """Return `size` bytes, or None where one of the pages is in no slot."""
        end = gpa + size
        for page in range(gpa & -PAGE_SIZE, end, PAGE_SIZE):
            if not self.is_backed(page):
                return None
        found = bytearray([self.unwritten]) * size
        for start, data in (*self.memory.regions, *self.written.items()):
            low, high = max(start, gpa), min(start + len(data), end)
            if low < high:
                found[low - gpa : high - gpa] = data[low - start : high - start]
        return bytes(found)

    def read_int(self, gpa: int, size: int) -> int | None:
        """Return the little-endian unsigned integer of `size` bytes, or None."""
        data = self.read(gpa, size)
        return None if data is None else int.from_bytes(data, "little")

    def write(self, gpa: int, data: bytes) -> bool:
        """Store `data`; False, with nothing stored, where a page is in no slot."""
        for page in range(gpa & -PAGE_SIZE, gpa + len(data), PAGE_SIZE):
            if not self.is_backed(page):
                return False
        self.written.pop(gpa, None)
        self.written[gpa] = data
        return True


class PagedMemory(GuestMemory):
    """The same for many writes, one over the other: whole pages, of which reading costs little."""

    __slots__ = ("_pages",)

    def __init__(
        self,
        memory: Memory,
        slots: tuple[tuple[int, int], ...] = DEFAULT_SLOTS,
        unwritten: int = 0,
    ) -> None:
        super().__init__(memory, slots, unwritten)
        self._pages: dict[int, bytearray] = {}

    def read(self, gpa: int, size: int) -> bytes | None:
        """Return `size` bytes, or None where one of the pages is in no slot."""
        inside = gpa % PAGE_SIZE
        page = self._page(gpa - inside)
        if page is None:
            return None
        if inside + size <= PAGE_SIZE:
            return bytes(page[inside : inside + size])
        rest = self.read(gpa - inside + PAGE_SIZE, inside + size - PAGE_SIZE)
        return None if rest is None else bytes(page[inside:]) + rest

    def write(self, gpa: int, data: bytes) -> bool:
        """Store `data`; False, with nothing stored, where a page is in no slot."""
        first = gpa & -PAGE_SIZE
        pages = [self._page(at) for at in range(first, gpa + len(data), PAGE_SIZE)]
        if None in pages:
            return False
        done, inside = 0, gpa - first
        for number, page in enumerate(pages):
            assert page is not None
            count = min(len(data) - done, PAGE_SIZE - inside)
            page[inside : inside + count] = data[done : done + count]
            self.written[first + number * PAGE_SIZE] = bytes(page)
            done, inside = done + count, 0
        return True

    def _page(self, start: int) -> bytearray | None:
        page = self._pages.get(start)
        if page is None:
            found = super().read(start, PAGE_SIZE)
            if found is None:
                return None
            page = self._pages[start] = bytearray(found)
        return page
