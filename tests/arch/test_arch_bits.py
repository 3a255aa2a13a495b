# SPDX-License-Identifier: GPL-2.0-only
"""The integers of the vocabulary: plain in arithmetic, named to whoever asks."""

import copy

from nvmxfuzz.arch.bits import Bit, Named, bit, mask, named_bits, named_numbers


class Table:
    """A table such as those of the vocabulary, small."""

    HIGH = mask(10, 8, "three bits")
    LOW = bit(3, "one bit", "MACRO_LOW")
    TWO = Named(2, "two")
    ONE = Named(1, "one")
    PLAIN = 7


def test_a_bit_is_the_mask_of_its_position() -> None:
    assert Table.LOW == 8
    assert Table.LOW.position == 3
    assert Table.LOW.sdm_name == "one bit"
    assert Table.LOW.macro == "MACRO_LOW"


def test_a_mask_covers_both_its_ends() -> None:
    assert Table.HIGH == 0x700
    assert Table.HIGH.position == 8
    assert Table.HIGH.macro is None
    assert mask(63, 0, "all") == 0xFFFF_FFFF_FFFF_FFFF


def test_the_position_of_scattered_bits_is_the_lowest() -> None:
    assert Bit(0xA0, "scattered").position == 5


def test_arithmetic_gives_plain_integers() -> None:
    for result in (Table.LOW & 0xF, 0xF & Table.LOW, Table.LOW | Table.HIGH, ~Table.LOW):
        assert type(result) is int


def test_a_bit_formats_and_hashes_as_its_number() -> None:
    assert f"{Table.HIGH:#x} {Table.LOW}" == "0x700 8"
    assert {8: "eight"}[Table.LOW] == "eight"


def test_named_bits_come_in_the_order_of_their_positions() -> None:
    assert list(named_bits(Table)) == ["LOW", "HIGH"]


def test_named_numbers_come_in_their_order_and_leave_out_masks() -> None:
    assert list(named_numbers(Table)) == ["ONE", "TWO"]


def test_a_copy_keeps_the_name() -> None:
    twin = copy.deepcopy(Table.LOW)
    assert (type(twin), twin, twin.sdm_name, twin.macro) == (Bit, 8, "one bit", "MACRO_LOW")
