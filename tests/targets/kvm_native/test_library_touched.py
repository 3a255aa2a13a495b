# SPDX-License-Identifier: GPL-2.0-only
"""Restoring only what was written: nothing that was written stays, however it was written."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.targets.kvm_native.hardware import hardware_of
from nvmxfuzz.targets.kvm_native.library import Library

ROOT = Path(__file__).parents[3]
PAGE = 4096
RAM = 4 << 20
HEAP = 64 << 10
HARDWARE = hardware_of(load_profile("skylake-x"))


def scribble(start: int, size: int, rng: Random) -> None:
    """Write to some pages, as a port does."""
    for _ in range(rng.randrange(40)):
        at = rng.randrange(0, size, 8)
        ctypes.memmove(start + at, rng.randbytes(8), 8)


def content(ranges: list[tuple[int, int]]) -> list[bytes]:
    return [ctypes.string_at(start, size) for start, size in ranges]


def blocks(library: Library) -> list[tuple[int, int]]:
    HARDWARE.install(library)
    return [(library.call("nvmx_guest_ram", size), size) for size in (RAM, HEAP, 3 * PAGE)]


def is_watched(start: int, size: int) -> bool:
    """Tell whether a page there is read-only, so that its first write is noticed."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        place, rights, *_ = line.split()
        low, high = (int(word, 16) for word in place.split("-"))
        if rights.startswith("r--") and low < start + size and start < high:
            return True
    return False


def test_whatever_was_written_is_undone_each_time(library: Library) -> None:
    rng = Random(1)
    ranges = blocks(library)
    for start, size in ranges:
        scribble(start, size, rng)
    number = library.snapshot()
    before = content(ranges)
    # Many times as many restores as it takes to look at all pages anew.
    for turn in range(1500):
        for start, size in ranges:
            scribble(start, size, rng)
        used = library.heap_used()
        if turn % 3 == 0:
            library.call("nvmx_guest_ram", PAGE << rng.randrange(4))
            assert library.heap_used() > used
        library.restore(number)
        assert library.heap_used() == used
        if turn % 16 == 0:
            assert content(ranges) == before
    assert content(ranges) == before
    assert is_watched(*ranges[0])


def test_what_comes_behind_the_snapshot_is_zero_again(library: Library) -> None:
    HARDWARE.install(library)
    number = library.snapshot()
    for _ in range(4):
        library.restore(number)
        start = library.call("nvmx_guest_ram", HEAP)
        assert ctypes.string_at(start, HEAP) == bytes(HEAP)
        ctypes.memset(start, 0xEE, HEAP)


def test_snapshots_that_are_alike_keep_what_differs(library: Library) -> None:
    rng = Random(2)
    ranges = blocks(library)
    kept = {}
    for _ in range(3):
        for start, size in ranges:
            scribble(start, size, rng)
        kept[library.snapshot()] = content(ranges)
    # One of another shape is among them.
    more = (library.call("nvmx_guest_ram", HEAP), HEAP)
    other = library.snapshot()
    for turn in range(600):
        number = rng.choice([*kept, *kept, other])
        library.restore(number)
        if number in kept and turn % 8 == 0:
            assert content(ranges) == kept[number]
        for start, size in ranges:
            scribble(start, size, rng)
        if number == other:
            scribble(*more, rng)
    gone, *rest = kept
    library.discard(gone)
    for number in rest * 3:
        library.restore(number)
        assert content(ranges) == kept[number]


def test_memory_of_one_size_that_is_cut_otherwise_is_not_alike(library: Library) -> None:
    kept = {}
    for number, sizes in enumerate(((40, 50, 60), (50, 40, 60), (40, 60, 50)), 1):
        library.restore()
        HARDWARE.install(library)
        ranges = [(library.call("nvmx_guest_ram", n * PAGE), n * PAGE) for n in sizes]
        for start, size in ranges:
            ctypes.memset(start, number, size)
        kept[library.snapshot()] = (number, ranges)
    # The first one is watched, then each follows each.
    for number in (*list(kept)[:1] * 3, *kept, *reversed(kept), *kept):
        library.restore(number)
        value, ranges = kept[number]
        assert content(ranges) == [bytes([value]) * size for _, size in ranges]
        for start, size in ranges:
            ctypes.memset(start, 0xEE, size)


def test_two_instances_do_not_take_each_others_faults(library_path: Path) -> None:
    rng = Random(3)
    made = []
    for _ in range(3):
        library = Library(library_path)
        ranges = blocks(library)
        made.append((library, ranges, library.snapshot()))
    before = [content(ranges) for _, ranges, _ in made]
    for _ in range(200):
        for library, ranges, number in made:
            for start, size in ranges:
                scribble(start, size, rng)
            library.restore(number)
    assert all(is_watched(*ranges[0]) for _, ranges, _ in made)
    assert [content(ranges) for _, ranges, _ in made] == before


LATE = """
import ctypes, faulthandler, sys
from pathlib import Path
from nvmxfuzz.targets.kvm_native.library import Library

library = Library(Path(sys.argv[1]))
start = library.call("nvmx_open_kvm") and 0 or library.call("nvmx_guest_ram", 1 << 20)
number = library.snapshot()
for turn in range(8):
    library.restore(number)
    if turn == 4:
        faulthandler.enable()
    start = library.call("nvmx_guest_ram", 1 << 16)
    ctypes.memset(start, 1, 1 << 16)
print("alive")
"""


EARLY = """
import faulthandler, sys
from pathlib import Path

faulthandler.enable()
from nvmxfuzz.targets.kvm_native.library import Library

library = Library(Path(sys.argv[1]))
number = library.snapshot()
for _ in range(3):
    library.restore(number)
# As the interpreter does at its end: the handlers are those that were there before.
faulthandler.disable()
print("alive")
"""

CROWDED = """
import ctypes, mmap, sys
from pathlib import Path
from nvmxfuzz.targets.kvm_native.library import Library

SIZE = 4 << 20
library = Library(Path(sys.argv[1]))
start = library.call("nvmx_guest_ram", SIZE)
ctypes.memset(start, 7, SIZE)
before = ctypes.string_at(start, SIZE)
number = library.snapshot()
for _ in range(3):
    library.restore(number)
# As many mappings as a process may have: every second page of a large one is another.
most = int(Path("/proc/sys/vm/max_map_count").read_text()) + 1
libc = ctypes.CDLL(None, use_errno=True)
room = mmap.mmap(-1, most * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)
first = ctypes.addressof(ctypes.c_char.from_buffer(room))
for page in range(0, most, 2):
    if libc.mprotect(ctypes.c_void_p(first + page * mmap.PAGESIZE), mmap.PAGESIZE, mmap.PROT_READ):
        break
else:
    sys.exit("there was room")
for _ in range(3):
    for at in range(0, SIZE, 3 * mmap.PAGESIZE):
        ctypes.memset(start + at, 1, 1)
    library.restore(number)
    assert libc.memcmp(ctypes.c_void_p(start), before, SIZE) == 0
print("alive")
"""


@pytest.mark.parametrize("program", [LATE, EARLY, CROWDED])
def test_a_process_goes_on_and_ends_as_any(library_path: Path, program: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", program, library_path],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "alive\n", "")
