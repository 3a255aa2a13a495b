# SPDX-License-Identifier: GPL-2.0-only
"""The values in a row of somebody's database: each is what it should be, or the row is damaged."""

from __future__ import annotations

import json
from math import isfinite
from typing import TypeVar

_Word = TypeVar("_Word", bound=str)


def text(value: object) -> str:
    """Return a text; TypeError if it is none."""
    if not isinstance(value, str):
        raise TypeError("no text where a text belongs")
    return value


def optional_text(value: object) -> str | None:
    """Return a text or None."""
    return None if value is None else text(value)


def whole(value: object) -> int:
    """Return a whole number; TypeError if it is none."""
    if not isinstance(value, int):
        raise TypeError("no number where a number belongs")
    return value


def optional_whole(value: object) -> int | None:
    """Return a whole number or None."""
    return None if value is None else whole(value)


def real(value: object) -> float:
    """Return a number; TypeError if it is none."""
    if not isinstance(value, int | float) or not isfinite(value):
        raise TypeError("no number where a number belongs")
    return float(value)


def optional_real(value: object) -> float | None:
    """Return a number or None."""
    return None if value is None else real(value)


def blob(value: object) -> bytes:
    """Return bytes; TypeError if they are none."""
    if not isinstance(value, bytes):
        raise TypeError("no bytes where an input belongs")
    return value


def names(value: object) -> tuple[str, ...]:
    """Return the names in a JSON list; TypeError or ValueError if it is something else."""
    found = json.loads(text(value))
    if not isinstance(found, list):
        raise TypeError("no list where a list of names belongs")
    return tuple(map(text, found))


def choice(value: object, words: tuple[_Word, ...]) -> _Word:
    """Return the one of `words` that a value is; ValueError if it is none of them."""
    for word in words:
        if word == value:
            return word
    raise ValueError(f"{str(value)[:40]!r} is none of {', '.join(words)}")
