# SPDX-License-Identifier: GPL-2.0-only
"""The physical memory that a Bochs CPU sees: pages of this process's memory.

Where there is no page Bochs asks for one; it is given one that reads as all ones, which is taken
away again after the attempt.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from nvmxfuzz.machine.memory import Memory
from nvmxfuzz.targets.bochs.loading import Library
from nvmxfuzz.targets.bochs.native import Native, address_of, private

PAGE: Final = 4096
_OFFSET: Final = PAGE - 1
_ONES: Final = b"\xff" * PAGE
_HIGHEST: Final = 1 << 40
"""Bochs reads no address beyond MAXPHYADDR."""

_INSERT: Final = "bochscpu_mem_page_insert"
_REMOVE: Final = "bochscpu_mem_page_remove"


class GuestMemory:
    """The pages of one CPU: those of the attempt, and those that a harness keeps for itself."""

    def __init__(self, library: Library, native: Native) -> None:
        self._native = native
        self._void = _Page()
        self._void.memory[:] = _ONES
        u64 = ctypes.c_uint64
        self._insert = library.function(_INSERT, None, u64, u64)
        self._remove = library.function(_REMOVE, None, u64)
        self._pages: dict[int, _Page] = {}
        self._spare: list[_Page] = []
        self._shown = Memory()
        self.stamp = ctypes.c_uint64()
        """Another number whenever other memory is shown."""
        missing = native.missing_page(self._void.host, library.address(_INSERT))
        library.function("bochscpu_mem_missing_page", None, u64)(missing)

    def keep(self, address: int, size: int) -> mmap.mmap:
        """Put memory at `address` that stays there; return it, all zero."""
        memory = private(size)
        host = address_of(memory)
        for offset in range(0, size, PAGE):
            self._insert(address + offset, host + offset)
        return memory

    @contextmanager
    def borrowed(self, address: int, page: mmap.mmap) -> Iterator[None]:
        """Let the CPU see `page` at `address` for a while, where it sees nothing else."""
        self._insert(address, address_of(page))
        yield
        self._remove(address)

    def show(self, memory: Memory) -> None:
        """Let the CPU see `memory`, and nothing else that was shown before."""
        if memory is self._shown or memory == self._shown:
            self._shown = memory
            return
        self.hide()
        for start, data in memory.regions:
            self._write(start, data)
        self._shown = memory

    def hide(self) -> None:
        """Let the CPU see only what is kept."""
        self.stamp.value += 1
        for address, page in self._pages.items():
            self._remove(address)
            self._spare.append(page)
        self._pages.clear()
        self._shown = Memory()

    def forget_missing(self) -> None:
        """Take away the pages that were made up for missing ones, and what was written there."""
        missing = self._native.take_voids()
        for address in missing:
            self._remove(address)
        if missing:
            self._void.memory[:] = _ONES

    def _write(self, start: int, data: bytes) -> None:
        end = min(start + len(data), _HIGHEST)
        address = start
        while address < end:
            stop = min(end, (address | _OFFSET) + 1)
            offset = address & _OFFSET
            page = self._page(address - offset).memory
            page[offset : offset + stop - address] = data[address - start : stop - start]
            address = stop

    def _page(self, address: int) -> _Page:
        """Return the page at `address`; a new one is all ones."""
        page = self._pages.get(address)
        if page is None:
            page = self._pages[address] = self._spare.pop() if self._spare else _Page()
            page.memory[:] = _ONES
            self._insert(address, page.host)
        return page


class _Page:
    """A page of this process's memory, and where it lies."""

    def __init__(self) -> None:
        self.memory = private(PAGE)
        self.host = address_of(self.memory)
