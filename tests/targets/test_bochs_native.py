# SPDX-License-Identifier: GPL-2.0-only
"""The machine code: trampolines and stubs, tried on functions of the C library."""

from __future__ import annotations

import ctypes

import pytest

from nvmxfuzz.targets.bochs.native import RETURNED, Native, address_of, private

_LIBC = ctypes.CDLL(None)


def libc(name: str) -> int:
    address = ctypes.cast(getattr(_LIBC, name), ctypes.c_void_p).value
    assert address
    return address


@pytest.fixture
def native() -> Native:
    return Native()


def text(value: bytes) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(value)


def test_a_call_returns_what_the_function_does(native: Native) -> None:
    word = text(b"seventeen letters")
    assert native.call(libc("strlen"), ctypes.addressof(word)) == 17
    assert native.end().kind == RETURNED


def test_stubs_that_return(native: Native) -> None:
    assert native.call(native.returning(1)) == 1
    assert native.call(native.returning(0)) == 0
    native.call(native.returning(None))
    assert native.end().kind == RETURNED


def test_leaving_keeps_kind_and_arguments(native: Native) -> None:
    native.call(native.leaving(5), 11, 1 << 63)
    end = native.end()
    assert (end.kind, end.first, end.second) == (5, 11, 1 << 63)


def test_leaving_from_within_a_function(native: Native) -> None:
    # twalk() calls its second argument with the node of a tree, here one without children.
    node = ctypes.create_string_buffer(64)
    leaving = native.leaving(3)
    for _ in range(1000):
        native.call(libc("twalk"), ctypes.addressof(node), leaving)
        assert (native.end().kind, native.end().first) == (3, ctypes.addressof(node))


def test_leaving_if_a_flag_is_set(native: Native) -> None:
    flag = private(4096)
    stub = native.leaving_if(address_of(flag), 9, native.returning(7))
    assert native.call(stub) == 7
    assert native.end().kind == RETURNED
    flag[0] = 1
    native.call(stub)
    assert native.end().kind == 9


def test_deciding_notes_the_first_time_only(native: Native) -> None:
    logging = native.logging(1)
    assert native.call(native.deciding(native.returning(7))) == 7
    end = native.end()
    assert (end.is_decided, end.decided, end.logged) == (True, 0, 0)
    native.call(native.deciding(native.deciding(logging)), 0, 0x1234)
    end = native.end()
    assert (end.is_decided, end.decided, end.logged) == (True, 0, 1)
    native.call(logging, 0, 0x1234)
    end = native.end()
    assert (end.is_decided, end.decided, end.logged) == (False, 1, 1)


def test_logging_keeps_format_and_level(native: Native) -> None:
    native.call(native.logging(2), 0xAAAA, 0x1234)
    ((level, form, *arguments),) = native.log(native.end().logged)
    assert (level, form, len(arguments)) == (2, 0x1234, 4)


def test_a_missing_page_is_inserted_and_noted(native: Native) -> None:
    stub = native.missing_page(0x7000, native.leaving(4))
    native.call(stub, 0x1234_5678_9ABC)
    end = native.end()
    assert (end.kind, end.first, end.second) == (4, 0x1234_5678_9000, 0x7000)
    assert native.take_voids() == (0x1234_5678_9000,)
    assert native.take_voids() == ()


def test_no_more_missing_pages_are_noted_than_there_is_room_for(native: Native) -> None:
    stub = native.missing_page(0x7000, native.returning(None))
    for number in range(300):
        native.call(stub, number << 12)
    assert native.take_voids() == tuple(number << 12 for number in range(256))


def test_an_entry_copies_both_and_calls(native: Native) -> None:
    memory = private(4096)
    state, region = address_of(memory), address_of(memory) + 64
    entry = ctypes.PYFUNCTYPE(None, *[ctypes.c_uint64] * 3)(
        native.entry((state, 16), (region, 8), native.leaving(6))
    )
    source = text(b"0123456789abcdefXX")
    image = text(b"ABCDEFGHYY")
    entry(ctypes.addressof(source), ctypes.addressof(image), 77)
    assert (native.end().kind, native.end().first) == (6, 77)
    assert memory[:20] == b"0123456789abcdef" + bytes(4)
    assert memory[64:76] == b"ABCDEFGH" + bytes(4)
