# SPDX-License-Identifier: GPL-2.0-only
"""Edits of sparse memory: what a few and many of them come to, byte by byte."""

from __future__ import annotations

from random import Random

import pytest

from nvmxfuzz.inputs.memory_edit import MemoryEdit, edited
from nvmxfuzz.machine.memory import Memory, runs


def byte_by_byte(edits: list[MemoryEdit]) -> tuple[tuple[int, bytes], ...]:
    cells: dict[int, int] = {}
    for edit in edits:
        for at, value in enumerate(edit.data, edit.address):
            if edit.backed:
                cells[at] = value
            else:
                cells.pop(at, None)
    return runs(cells)


def random_edit(rng: Random, reach: int) -> MemoryEdit:
    backed = rng.random() < 0.7
    return MemoryEdit(rng.randrange(reach), rng.randbytes(rng.randrange(9)), backed)


@pytest.mark.parametrize(("most", "reach", "rounds"), [(8, 40, 400), (120, 400, 40)])
def test_edits_come_to_what_they_do_byte_by_byte(most: int, reach: int, rounds: int) -> None:
    rng = Random(most)
    for _ in range(rounds):
        edits = [random_edit(rng, reach) for _ in range(rng.randrange(most))]
        assert edited(Memory(), edits).regions == byte_by_byte(edits)


def test_neighbours_become_one_region_and_absence_parts_them() -> None:
    memory = edited(Memory(), [MemoryEdit(4, b"ab"), MemoryEdit(8, b"ef"), MemoryEdit(6, b"cd")])
    assert memory.regions == ((4, b"abcdef"),)
    assert edited(memory, [MemoryEdit(6, b"??", backed=False)]).regions == ((4, b"ab"), (8, b"ef"))
