# SPDX-License-Identifier: GPL-2.0-only
"""Lines of a dump by example: `<name>` in a template stands for a number in hexadecimal.

A number has at least the digits of its VMCS field's width, or as many as `<name:4>` says: one
with fewer has been cut off. How much white space there is does not matter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from nvmxfuzz.arch.fields import FIELD_BY_NAME

_HOLE: Final = re.compile(r"<(?P<name>[\w.]+)(?::(?P<digits>\d+))?>")
_FACT: Final = "."
"""What the name of a number begins with that is no VMCS field."""
_BITS_PER_DIGIT: Final = 4


@dataclass(frozen=True, slots=True)
class Template:
    """One kind of line, and the names of its numbers in order."""

    pattern: re.Pattern[str]
    names: tuple[str, ...]

    def read(self, text: str) -> Mapping[str, int] | None:
        """Return the numbers of a line by name, None if it is of another kind."""
        matched = self.pattern.fullmatch(text)
        if matched is None:
            return None
        return {
            name: int(digits, 16) for name, digits in zip(self.names, matched.groups(), strict=True)
        }


def template(text: str) -> Template:
    """Return the template that `text` is."""
    names: list[str] = []
    pattern, at = "", 0
    for hole in _HOLE.finditer(text):
        pattern += _literal(text[at : hole.start()]) + _number(hole["name"], hole["digits"])
        names.append(hole["name"])
        at = hole.end()
    return Template(re.compile(pattern + _literal(text[at:])), tuple(names))


def is_fact(name: str) -> bool:
    """Whether the name of a number is that of a fact, not of a VMCS field."""
    return name.startswith(_FACT)


def _number(name: str, digits: str | None) -> str:
    least = int(digits) if digits else FIELD_BY_NAME[name].width // _BITS_PER_DIGIT
    return rf"(?:0x)?([0-9a-fA-F]{{{least},16}})"


def _literal(text: str) -> str:
    # White space may be lost at the end of a line, and doubled anywhere else.
    return r"\s*".join(map(re.escape, re.split(r"\s+", text)))
