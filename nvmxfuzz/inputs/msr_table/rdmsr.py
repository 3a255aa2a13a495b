# SPDX-License-Identifier: GPL-2.0-only
"""A transcript of `rdmsr` commands of msr-tools: each command, and below it what it printed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from nvmxfuzz.inputs.msr_table.found import ALL_PROCESSORS, Found, bad, hexadecimal, quote

COMMAND: Final = re.compile(
    r"(?:.*[\s#$>/])?rdmsr[ \t]+"
    r"(?P<arguments>(?:(?:--processor=[0-9]+|[^\s=:]+)[ \t]+)*(?:0[xX][0-9a-fA-F]+|[0-9]+))"
)
CANNOT_READ: Final = re.compile(r"(?:.*\s)?rdmsr: ?.*cannot read MSR (?P<index>0x[0-9a-fA-F]+)")

_BASES: Final = {"d": 10, "u": 10, "o": 8, "x": 16, "X": 16, "c": 16}
_LONG: Final = {"--decimal": 10, "--unsigned": 10, "--octal": 8}


class Rdmsr:
    """A command of a transcript, and the value that it has printed so far."""

    def __init__(self, number: int, arguments: str) -> None:
        self.number = number
        self.value: int | None = None
        self.base = 16
        self.processor = 0
        self.index = self._parse(arguments.split())

    def _parse(self, arguments: list[str]) -> int:
        indices = []
        rest = iter(arguments)
        for argument in rest:
            if not argument.startswith("-"):
                indices.append(argument)
                continue
            if argument.startswith(("-f", "--bitfield", "-r", "--raw")):
                bad(self.number, "rdmsr prints raw bytes or a part of the MSR with this option")
            if argument.startswith("--"):
                self._long(argument, rest)
            else:
                self._letters(argument[1:], rest)
        if len(indices) != 1 or not re.fullmatch(r"0[xX][0-9a-fA-F]{1,8}|[0-9]{1,10}", indices[0]):
            bad(self.number, f"rdmsr of {quote(' '.join(arguments))} names no single MSR")
        # strtoul() with base 0, as rdmsr has it; nobody writes octal here.
        return int(indices[0], 16 if indices[0][:2] in ("0x", "0X") else 10)

    def _long(self, argument: str, rest: Iterator[str]) -> None:
        name, equals, value = argument.partition("=")
        if name == "--processor":
            self._choose(value if equals else next(rest, ""))
        elif name == "--all":
            self.processor = ALL_PROCESSORS
        self.base = _LONG.get(name, self.base)

    def _letters(self, letters: str, rest: Iterator[str]) -> None:
        for at, letter in enumerate(letters):
            if letter == "p":
                self._choose(letters[at + 1 :] or next(rest, ""))
                return
            if letter == "a":
                self.processor = ALL_PROCESSORS
            self.base = _BASES.get(letter, self.base)

    def _choose(self, text: str) -> None:
        if not re.fullmatch("[0-9]{1,5}", text):
            bad(self.number, f"{quote(text)} is no number of a processor, which -p needs")
        self.processor = int(text)

    def printed(self, number: int, line: str) -> None:
        """Take a line of output: one value, the same for each processor."""
        value = self._number(number, line)
        if self.value is not None and value != self.value:
            bad(number, f"MSR {self.index:#x} differs between processors; give those of one")
        self.value = value

    def _number(self, number: int, line: str) -> int:
        if self.base == 16:
            return hexadecimal(number, line, 64)
        digits = r"-?[0-9]{1,20}" if self.base == 10 else "[0-7]{1,22}"
        if not re.fullmatch(digits, line):
            bad(number, f"{quote(line)} is no number as rdmsr prints it with these options")
        value = int(line, self.base)
        if not -(1 << 63) <= value < 1 << 64:
            bad(number, f"{quote(line)} has more than 64 bits")
        return value & (1 << 64) - 1


def cannot_read(number: int, index: int, command: Rdmsr | None, table: Found) -> None:
    """Note an MSR that does not exist, and leave the command that tried to read it."""
    if command and command.index != index:
        finish(command, table)
    table.add(number, index, None)


def finish(command: Rdmsr | None, table: Found) -> None:
    """Take what a command has printed, if there was a command."""
    if command is None:
        return
    if command.value is None:
        bad(command.number, f"the value is missing that rdmsr printed for {command.index:#x}")
    table.add(command.number, command.index, command.value, command.processor)
