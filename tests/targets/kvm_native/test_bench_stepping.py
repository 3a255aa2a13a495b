# SPDX-License-Identifier: GPL-2.0-only
"""Counting instructions: code whose instructions are known, and the tree of its calls."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable, Iterator

import pytest

from nvmxfuzz.errors import InputError
from nvmxfuzz.targets.kvm_native.bench.calls import ENTRY, tree
from nvmxfuzz.targets.kvm_native.bench.stepping import Step, trace

Code = Callable[[bytes], tuple[Callable[[], int], int]]

COUNTDOWN = b"\xb9\x05\x00\x00\x00\xff\xc9\x75\xfc\xc3"
"""mov ecx, 5; 1: dec ecx; jnz 1b; ret"""
FILL = b"\x48\x8d\x7c\x24\x80\xb9\x40\x00\x00\x00\xf3\xaa\xc3"
"""lea rdi, [rsp-128]; mov ecx, 64; rep stosb; ret"""


@pytest.fixture
def code() -> Iterator[Code]:
    """Return a function that makes machine code callable: the function, and its address."""
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    held = [ctypes.c_char.from_buffer(page)]

    def make(instructions: bytes) -> tuple[Callable[[], int], int]:
        page[: len(instructions)] = instructions
        address = ctypes.addressof(held[0])
        return ctypes.CFUNCTYPE(ctypes.c_int)(address), address

    yield make
    held.clear()
    page.close()


@pytest.mark.parametrize(("instructions", "count"), [(COUNTDOWN, 12), (FILL, 4)])
def test_each_instruction_is_counted_once(code: Code, instructions: bytes, count: int) -> None:
    function, address = code(instructions)
    steps = trace(function, address)
    assert len(steps) == count
    assert [step.pc - address for step in steps][:2] == [0, 5]


def test_the_trace_is_that_of_a_child(code: Code) -> None:
    function, address = code(COUNTDOWN)
    seen: list[int] = []
    before = os.getpid()
    trace(lambda: seen.append(function()), address)
    assert (seen, os.getpid()) == ([], before)


def test_any_call_of_several_can_be_counted(code: Code) -> None:
    function, address = code(COUNTDOWN)
    first, third = (
        trace(lambda: [function() for _ in range(3)], address, number) for number in (1, 3)
    )
    assert [step.pc for step in first] == [step.pc for step in third]
    with pytest.raises(InputError, match="not made"):
        trace(lambda: [function() for _ in range(3)], address, 4)


def test_a_call_that_does_not_return_cannot_be_counted() -> None:
    exit_ = ctypes.CDLL(None)._exit
    start = ctypes.cast(exit_, ctypes.c_void_p).value or 0
    with pytest.raises(InputError, match="does not return"):
        trace(lambda: exit_(0), start)


PLACES = {
    100: "run+0x0", 101: "run+0x1", 102: "run+0x2",
    200: "check+0x0", 201: "check+0x1",
    300: "shim_vmread+0x0", 301: "shim_vmread+0x1", 302: "shim_step+0x0",
    400: "?",
    500: f"{ENTRY}+0x0",
}  # fmt: skip


def steps(*pairs: tuple[int, int]) -> list[Step]:
    return [Step(pc, sp) for pc, sp in pairs]


def test_calls_make_a_tree() -> None:
    root = tree(
        steps((100, 80), (200, 72), (201, 72), (101, 80), (200, 72), (102, 80)),
        PLACES.__getitem__,
    )
    (run,) = root.calls
    assert (run.name, run.own, run.instructions, run.count("check")) == ("run", 3, 6, 2)
    assert [each.instructions for each in run.all_named("check")] == [2, 1]


def test_a_function_that_begins_with_a_loop_is_called_once() -> None:
    root = tree(steps((200, 72), (201, 72), (200, 72), (201, 72)), PLACES.__getitem__)
    assert [(each.name, each.own) for each in root.calls] == [("check", 4)]


def test_what_stands_below_kvm_or_outside_of_it_does_not_count() -> None:
    below = ((300, 72), (302, 64), (400, 56), (301, 72))
    root = tree(
        steps((100, 80), *below, (101, 80), (400, 72), (500, 72), (200, 64), (102, 80)),
        PLACES.__getitem__,
    )
    (run,) = root.calls
    assert run.instructions == 3
    assert (run.count("shim_vmread"), run.count(ENTRY), run.count("check")) == (1, 1, 0)
