# SPDX-License-Identifier: GPL-2.0-only
"""Values from outside: read as numbers, and shown in a sentence about what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Final

_MOST_DIGITS: Final = 80
_MOST_SHOWN: Final = 60
_NUMBER: Final = re.compile("-?(?:0|[1-9][0-9]*|0[xX][0-9a-fA-F]+)")


def nearest(word: str, words: Iterable[str]) -> str:
    """Return ' (did you mean ...?)' with the word of `words` that is most like `word`, or ''."""
    found = get_close_matches(word[:64], list(words), n=1, cutoff=0.6)
    return f" (did you mean {found[0]!r}?)" if found else ""


def whole_number(value: object) -> int | None:
    """Return an integer, given as one or as a text such as "0x8000" or "12", else None."""
    if isinstance(value, str):
        fits = len(value) <= _MOST_DIGITS and _NUMBER.fullmatch(value)
        return int(value, 0) if fits else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def printable(text: str) -> str:
    """Return `text` with what a terminal would obey, control characters and the like, escaped."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def show(value: object) -> str:
    """Return `value` as TOML or JSON has it, bounded: 0x1f, 'text', true, null, a list."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            # Python refuses to write very long numbers in decimal, and no one would read them.
            bits = value.bit_length()
            return hex(value) if bits <= 128 else f"a number of {bits} bits"
        case str():
            return repr(value[:_MOST_SHOWN])
        case list():
            return "a list"
        case Mapping():
            return "a table"
        case _:
            return str(value)[:_MOST_SHOWN]
