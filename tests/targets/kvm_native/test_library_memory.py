# SPDX-License-Identifier: GPL-2.0-only
"""The memory of an instance: its limits, and the pages around guest memory that fault."""

from __future__ import annotations

import pytest

from nvmxfuzz.errors import InputError
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.targets.kvm_native import native
from nvmxfuzz.targets.kvm_native.hardware import hardware_of
from nvmxfuzz.targets.kvm_native.library import Library
from nvmxfuzz.targets.kvm_native.results import Stopped

PAGE = 4096
SIZES = (4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10, 128 << 10, 4 << 20)
FAULT_ADDRESS = native.Result.fault_address.offset // 4
HARDWARE = hardware_of(load_profile("skylake-x"))


def write_at(library: Library, address: int) -> None:
    """Write to `address`, guarded."""
    library.call("nvmx_setup_vmcs_config", address)


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_guest_memory_is_between_pages_that_fault(
    library: Library, size: int, *, before: bool
) -> None:
    HARDWARE.install(library)
    # The first of its size in an instance, and one that follows another.
    for _ in range(2):
        start = library.call("nvmx_guest_ram", size)
        write_at(library, start)
        write_at(library, start + size - PAGE)
    outside = start - 1 if before else start + size
    with pytest.raises(Stopped) as caught:
        write_at(library, outside)
    assert caught.value.result.status == "signal"
    low, high = library.reader.words[FAULT_ADDRESS : FAULT_ADDRESS + 2]
    assert (low | high << 32) // PAGE == outside // PAGE


@pytest.mark.parametrize("size", SIZES)
def test_the_first_guest_memory_of_all_has_a_guard_before_it(library: Library, size: int) -> None:
    HARDWARE.install(library)
    start = library.call("nvmx_guest_ram", size)
    with pytest.raises(Stopped) as caught:
        write_at(library, start - 1)
    assert caught.value.result.status == "signal"


@pytest.mark.parametrize("size", [2**64 - 1, 2**64 - PAGE, 2**63, 1 << 40, 1 << 30])
def test_more_memory_than_there_is_ends_the_call(library: Library, size: int) -> None:
    with pytest.raises(Stopped, match=f"out of memory: no memory for a block of {size} bytes"):
        library.call("nvmx_guest_ram", size)


def test_one_snapshot_too_many_is_told_as_that(library: Library) -> None:
    taken: list[int] = []

    def take() -> None:
        while len(taken) < 100:
            taken.append(library.snapshot())

    with pytest.raises(InputError, match="there are 64 snapshots, which is the most: discard some"):
        take()
    for number in taken:
        library.discard(number)
    library.discard(library.snapshot())
