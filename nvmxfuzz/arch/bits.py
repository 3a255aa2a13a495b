# SPDX-License-Identifier: GPL-2.0-only
"""Integers that know their names: the stuff of which the tables of this package are made.

A `Named` is a number (an exit reason, an event type), a `Bit` is a mask within a word. Both are
plain ints to arithmetic: `word & Pin.NMI_EXITING` costs what an int costs and gives an int.
"""

from typing import Self


class Named(int):
    """A number with the name that the SDM gives it and, where there is one, the kernel's macro."""

    sdm_name: str
    macro: str | None

    def __new__(cls, value: int, sdm_name: str, macro: str | None = None) -> Self:
        """Make the number `value`; its name and macro play no part in arithmetic or equality."""
        self = super().__new__(cls, value)
        self.sdm_name = sdm_name
        self.macro = macro
        return self

    def __getnewargs__(self) -> tuple[int, str, str | None]:  # type: ignore[override]
        # int's own answer is the value alone, from which no copy could be made.
        return int(self), self.sdm_name, self.macro


class Bit(Named):
    """A mask within a word: one bit, or the bits of one field."""

    @property
    def position(self) -> int:
        """The number of the lowest bit of the mask."""
        return (self & -self).bit_length() - 1


def bit(position: int, sdm_name: str, macro: str | None = None) -> Bit:
    """Return the mask of the single bit `position`."""
    return Bit(1 << position, sdm_name, macro)


def mask(high: int, low: int, sdm_name: str, macro: str | None = None) -> Bit:
    """Return the mask of the bits `high`:`low`, both included."""
    return Bit((1 << (high + 1)) - (1 << low), sdm_name, macro)


def named_bits(table: type) -> dict[str, Bit]:
    """Return the masks of a table class by attribute name, lowest position first."""
    found = {name: value for name, value in vars(table).items() if isinstance(value, Bit)}
    return dict(sorted(found.items(), key=lambda item: (item[1].position, item[1])))


def named_numbers(table: type) -> dict[str, Named]:
    """Return the numbers (not the masks) of a table class by attribute name, smallest first."""
    found = {
        name: value
        for name, value in vars(table).items()
        if isinstance(value, Named) and not isinstance(value, Bit)
    }
    return dict(sorted(found.items(), key=lambda item: item[1]))
