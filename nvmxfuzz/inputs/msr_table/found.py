# SPDX-License-Identifier: GPL-2.0-only
"""The MSRs that were found in a table so far, and the sentence about a line that is bad."""

from __future__ import annotations

import re
from typing import Final, NoReturn

from nvmxfuzz.arch.msr import VMX_CAPABILITY_MSRS
from nvmxfuzz.errors import InputError

MAX_LINE: Final = 1024
EXAMPLE: Final = "give lines such as '0x480 = 0xda040000000004'"

# Names of old VirtualBox versions, and of QEMU's vmxcap, beside those of the SDM.
_ALIASES: Final = {
    "IA32_VMX_BASIC_INFO": 0x480,
    "IA32_VMX_EPT_VPID_CAPS": 0x48C,
    "IA32_VMX_MISC_CTLS": 0x485,
}
INDICES: Final = frozenset(index for index, _ in VMX_CAPABILITY_MSRS)
INDEX_BY_NAME: Final = {name: index for index, name in VMX_CAPABILITY_MSRS} | _ALIASES

_HEX: Final = re.compile(r"(?:0[xX])?[0-9a-fA-F]+(?:[_`][0-9a-fA-F]+)*")

ALL_PROCESSORS: Final = -1


class Found:
    """MSRs by index, each with the line and the processor that it is of."""

    def __init__(self) -> None:
        self.msrs: dict[int, int] = {}
        self._lines: dict[tuple[int, int], int] = {}
        self._values: dict[int, tuple[int, int | None]] = {}

    def add(self, number: int, index: int, value: int | None, processor: int = 0) -> None:
        """Take an MSR, or None where it does not exist: once for each processor, all the same."""
        first = self._lines.setdefault((index, processor), number)
        if first != number:
            bad(number, f"MSR {index:#x} was already given on line {first}; give it once")
        line, known = self._values.setdefault(index, (number, value))
        if known != value:
            bad(
                number,
                f"MSR {index:#x} differs between processors, see line {line}; give those of one",
            )
        if value is not None and index in INDICES:
            self.msrs[index] = value


def bad(number: int, problem: str) -> NoReturn:
    """Refuse a line."""
    raise InputError(f"line {number}: {problem}")


def quote(text: str) -> str:
    """Return a piece of a line for a sentence: short, in ASCII."""
    return ascii(text if len(text) <= 60 else text[:57] + "...")


def hexadecimal(number: int, text: str, width: int = 64) -> int:
    """Return a number of at most `width` bits, with 0x or without."""
    if not _HEX.fullmatch(text):
        bad(number, f"{quote(text)} is no hexadecimal number; {EXAMPLE}")
    value = int(text.replace("_", "").replace("`", ""), 16)
    if value >> width:
        bad(number, f"{quote(text)} has more than {width} bits; {EXAMPLE}")
    return value


def split(text: str) -> list[str]:
    """Return the lines that editors count: str.splitlines() knows further ends of lines."""
    return re.split(r"\r\n?|\n", text)
