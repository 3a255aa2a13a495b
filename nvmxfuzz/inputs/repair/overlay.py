# SPDX-License-Identifier: GPL-2.0-only
"""Sparse memory, written in time that depends on the regions and not on their bytes."""

from __future__ import annotations

from nvmxfuzz.machine.memory import Memory


def overlay(memory: Memory, address: int, data: bytes) -> Memory:
    """Return `memory` with `data` at `address`; the regions stay what `Memory.of` makes of them.

    Regions that `data` overlaps or touches become one with it.
    """
    if not data:
        return memory
    start, end = address, address + len(data)
    merged = data
    before: list[tuple[int, bytes]] = []
    after: list[tuple[int, bytes]] = []
    for region in memory.regions:
        at, content = region
        if at + len(content) < start:
            before.append(region)
        elif at > end:
            after.append(region)
        else:
            head = content[: max(start - at, 0)]
            tail = content[end - at :] if at + len(content) > end else b""
            merged = head + merged + tail
            address = min(address, at)
    return Memory((*before, (address, merged), *after))


def backed_bytes(memory: Memory, address: int) -> int:
    """Return how many bytes from `address` on have memory behind them without a gap."""
    for at, content in memory.regions:
        if at <= address < at + len(content):
            return at + len(content) - address
    return 0
