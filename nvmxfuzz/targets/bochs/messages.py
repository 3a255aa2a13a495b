# SPDX-License-Identifier: GPL-2.0-only
"""Bochs' log lines as messages. The wheel drops the lines, but the calls that make them remain.

A call names its format and its arguments, which are put together here as printf does.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from typing import Final, TypeAlias

from nvmxfuzz.targets.base import Message

ERROR: Final = 1
PANIC: Final = 2
"""Levels of lines. Bochs goes on after a panic, in a state that it does not model."""

LogLines: TypeAlias = Sequence[tuple[int, ...]]
"""Each is (level, address of the format, four arguments)."""

_CONVERSION: Final = re.compile(r"%(#?[0-9]*)(l*)([a-z%])")
_AFTERTHOUGHTS: Final = frozenset(
    {"VMEXIT: Guest State Checks Failed", "VMEXIT: Error when loading guest MSR number %d"}
)
"""Lines that name no check: the line before them does."""


class Messages:
    """Makes messages of log lines; formats are read from the library's memory once."""

    def __init__(self) -> None:
        self._formats: dict[int, str] = {}
        self._plain: dict[int, Message] = {}

    def read(self, lines: LogLines, level: int) -> tuple[Message, ...]:
        """Return the lines of `level`."""
        found = []
        for line in lines:
            if line[0] == level:
                message = self._plain.get(line[1]) or self._message(line)
                if message.template not in _AFTERTHOUGHTS:
                    found.append(message)
        return tuple(found)

    def _message(self, line: tuple[int, ...]) -> Message:
        address = line[1]
        template = self._formats.get(address)
        if template is None:
            template = self._formats[address] = ctypes.string_at(address).decode("latin-1")
        if "%" in template:
            return Message(template, formatted(template, line[2:]))
        return self._plain.setdefault(address, Message(template, template))


def formatted(template: str, arguments: Sequence[int]) -> str:
    """Return `template` with integer, character and string arguments as printf writes them."""
    rest = iter(arguments)

    def write(match: re.Match[str]) -> str:
        width, long, conversion = match.groups()
        if conversion == "%":
            return "%"
        value = next(rest, 0)
        if conversion == "s":
            return ctypes.string_at(value).decode("latin-1") if value else "(null)"
        if conversion == "c":
            return chr(value & 0xFF)
        bits = 64 if long else 32
        value &= (1 << bits) - 1
        if conversion == "d" and value >> bits - 1:
            value -= 1 << bits
        return format(value, f"{width}{'d' if conversion == 'u' else conversion}")

    return _CONVERSION.sub(write, template)
