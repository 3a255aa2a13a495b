# SPDX-License-Identifier: GPL-2.0-only
"""Changes of sparse memory: bytes written, and bytes that nothing stands behind any more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from nvmxfuzz.machine.memory import UNBACKED, Memory, runs

ADDRESS_BITS: Final = 52
"""Physical addresses have no more bits than this on any processor."""

_Region: TypeAlias = tuple[int, bytes]

# With more edits, going through all bytes once is cheaper than through all regions for each.
_MANY: Final = 64


@dataclass(frozen=True, slots=True)
class MemoryEdit:
    """`data` is what is read from `address` on; without `backed` it is all ones, by absence."""

    address: int
    data: bytes
    backed: bool = True


def edited(memory: Memory, edits: Sequence[MemoryEdit]) -> Memory:
    """Return `memory` after `edits`, in their order."""
    if len(edits) > _MANY:
        return _rebuilt(memory, edits)
    regions = list(memory.regions)
    for edit in edits:
        if not (edit.backed and _overwrite(regions, edit)):
            regions = _spliced(regions, edit)
    return Memory(tuple(regions))


def memory_edits(before: Memory, after: Memory, skip: Iterable[int] = ()) -> list[MemoryEdit]:
    """Return the edits that lead from `before` to `after`, leaving out the addresses `skip`."""
    old, new = cells(before), cells(after)
    differing = {at: value for at, value in new.items() if old.get(at) != value}
    missing = {at: UNBACKED for at in old if at not in new}
    for at in skip:
        differing.pop(at, None)
    found = [MemoryEdit(at, data) for at, data in runs(differing)]
    found += [MemoryEdit(at, data, backed=False) for at, data in runs(missing)]
    return sorted(found, key=lambda edit: edit.address)


def cells(memory: Memory) -> dict[int, int]:
    """Return every backed byte by address."""
    found: dict[int, int] = {}
    for start, data in memory.regions:
        found.update(enumerate(data, start))
    return found


def _overwrite(regions: list[_Region], edit: MemoryEdit) -> bool:
    """Write within one region; tell whether one holds all of the range."""
    size = len(edit.data)
    for number, (start, data) in enumerate(regions):
        offset = edit.address - start
        if offset >= 0 and offset + size <= len(data):
            regions[number] = (start, data[:offset] + edit.data + data[offset + size :])
            return True
    return False


def _spliced(regions: list[_Region], edit: MemoryEdit) -> list[_Region]:
    """Return the regions with the range of the edit in place of what was there.

    What touches or overlaps it becomes one region with it, if there is something behind it.
    """
    low, high = edit.address, edit.address + len(edit.data)
    if low == high:
        return regions
    below: list[_Region] = []
    above: list[_Region] = []
    first, head, tail = low, b"", b""
    for region in regions:
        start, data = region
        end = start + len(data)
        if end < low:
            below.append(region)
        elif start > high:
            above.append(region)
        else:
            if start < low:
                first, head = start, data[: low - start]
            if end > high:
                tail = data[high - start :]
    if edit.backed:
        return [*below, (first, head + edit.data + tail), *above]
    rest = ((first, head), (high, tail))
    return [*below, *(region for region in rest if region[1]), *above]


def _rebuilt(memory: Memory, edits: Sequence[MemoryEdit]) -> Memory:
    found = cells(memory)
    for edit in edits:
        if edit.backed:
            found.update(enumerate(edit.data, edit.address))
        else:
            for at in range(edit.address, edit.address + len(edit.data)):
                found.pop(at, None)
    return Memory(runs(found))
