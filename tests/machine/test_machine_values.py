# SPDX-License-Identifier: GPL-2.0-only
"""The values a machine is made of: VMCS, memory, outcome."""

import time
from random import Random

import pytest

from nvmxfuzz.machine.memory import Memory
from nvmxfuzz.machine.outcome import (
    ENTERED,
    FAIL_INVALID,
    Outcome,
    exit_on_entry,
    fail_valid,
    fault,
)
from nvmxfuzz.machine.vmcs import Vmcs


def test_an_absent_field_is_zero() -> None:
    assert Vmcs().guest_rflags == 0
    assert Vmcs({"guest_rflags": 2}).guest_rflags == 2


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(TypeError, match="guest_rflag"):
        Vmcs({"guest_rflag": 2})


def test_a_vmcs_does_not_change() -> None:
    vmcs = Vmcs()
    with pytest.raises(AttributeError, match="frozen"):
        vmcs.guest_rflags = 2
    assert vmcs.replace({"guest_rflags": 2}).guest_rflags == 2
    assert vmcs.guest_rflags == 0


def test_equal_fields_make_equal_values() -> None:
    assert Vmcs({"guest_rip": 1}) == Vmcs().replace({"guest_rip": 1})
    assert hash(Vmcs({"guest_rip": 1})) == hash(Vmcs().replace({"guest_rip": 1}))
    assert Vmcs({"guest_rip": 1}) != Vmcs()


def test_unbacked_memory_reads_as_ones() -> None:
    memory = Memory.of({0x1000: b"\x01\x02"})
    assert memory.read(0xFFF, 4) == b"\xff\x01\x02\xff"
    assert memory.read_int(0x1000, 2) == 0x201


def test_memory_joins_what_touches_and_the_later_write_wins() -> None:
    memory = Memory.of({0x10: b"ab", 0x12: b"cd", 0x11: b"X"})
    assert memory.regions == ((0x10, b"aXcd"),)


def test_memory_reads_byte_by_byte_across_regions_and_gaps() -> None:
    rng = Random(7)
    for _ in range(200):
        cells = {rng.randrange(60): rng.randrange(256) for _ in range(rng.randrange(40))}
        memory = Memory.of({at: bytes([byte]) for at, byte in cells.items()})
        for address in range(62):
            size = rng.randrange(12)
            wanted = bytes(cells.get(at, 0xFF) for at in range(address, address + size))
            assert memory.read(address, size) == wanted


def test_memory_of_many_regions_is_read_soon() -> None:
    memory = Memory(tuple((at, b"x") for at in range(0, 200_000, 2)))
    start = time.process_time()
    for address in range(0, 200_000, 10):
        assert memory.read(address, 4) == b"x\xffx\xff"
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("outcome", "text", "reply"),
    [
        (ENTERED, "entered", {"kind": "entered"}),
        (FAIL_INVALID, "fail-invalid", {"kind": "fail-invalid"}),
        (fail_valid(7), "fail-valid 7", {"kind": "fail-valid", "error": 7}),
        (
            exit_on_entry(34, 2),
            "exit 34 qualification 2",
            {"kind": "exit", "reason": 34, "qualification": 2},
        ),
        (fault(13), "fault 13", {"kind": "fault", "vector": 13}),
    ],
)
def test_an_outcome_reads_the_same_everywhere(
    outcome: Outcome, text: str, reply: dict[str, str | int]
) -> None:
    assert str(outcome) == text
    assert outcome.to_json() == reply
