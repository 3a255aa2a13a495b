# SPDX-License-Identifier: GPL-2.0-only
"""Bytes from outside as a TOML or JSON table, in bounded time and memory, or one sentence."""

from __future__ import annotations

import json
import tomllib
from typing import Any, Final, NoReturn

from nvmxfuzz.errors import InputError

MAX_BYTES: Final = 1 << 20
"""No case is larger than this."""

_MAX_DOTS = 500


def parse_toml(data: bytes) -> dict[str, Any]:
    """Return the table in `data`; raises InputError where it is no TOML."""
    text = _decoded(data)
    # The parser's time grows with the square of the parts of a dotted key.
    if any(line.count(".") > _MAX_DOTS for line in text.splitlines()):
        raise InputError(f"a line has more than {_MAX_DOTS} dots; no case needs so many")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise InputError("this TOML is nested too deeply; a case has two levels") from None
    except ValueError as problem:
        raise InputError(f"this is no TOML: {_reason(problem)}") from None


def parse_json(data: bytes) -> dict[str, Any]:
    """Return the object in `data`; raises InputError where it is not one JSON object.

    A key that comes twice, a number with a fraction or exponent, NaN and Infinity are refused.
    """
    text = _decoded(data)
    try:
        found = json.loads(
            text,
            object_pairs_hook=_without_duplicates,
            parse_float=_no_float,
            parse_constant=_no_float,
        )
    except RecursionError:
        raise InputError("this JSON is nested too deeply; a case has three levels") from None
    except ValueError as problem:
        raise InputError(f"this is no JSON document: {_reason(problem)}") from None
    if not isinstance(found, dict):
        raise InputError("this JSON is no object; a case is an object with the key 'vmcs'")
    return found


def _decoded(data: bytes) -> str:
    if len(data) > MAX_BYTES:
        raise InputError(f"the file has more than {MAX_BYTES} bytes; no case is so large")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise InputError(
            f"byte {problem.start} is no UTF-8; a case is a text file of TOML or JSON"
        ) from None


def _reason(problem: ValueError) -> str:
    """Return what the parser says, on one line of bounded length."""
    words = " ".join(str(problem).split())
    return words if len(words) <= 200 else words[:197] + "..."


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        for text in (key, value):
            if isinstance(text, str):
                # JSON can spell half a surrogate pair, which is no character.
                text.encode("utf-8")
        if key in found:
            raise InputError(f"the key {key[:60]!r} is there twice; give it once")
        found[key] = value
    return found


def _no_float(text: str) -> NoReturn:
    raise InputError(f"{text[:40]} is no whole number; give an integer, or a text such as '0x8000'")
