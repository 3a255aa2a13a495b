# SPDX-License-Identifier: GPL-2.0-only
"""Bytes from outside as a TOML or JSON table, in bounded time and memory, or one sentence."""

from __future__ import annotations

import codecs
import json
import re
import tomllib
from typing import Any, Final, NoReturn

from nvmxfuzz.errors import InputError

MAX_BYTES: Final = 1 << 20
"""No case is larger than this."""

_MAX_KEY_DOTS: Final = 8
_MAX_DOTS: Final = 10_000

_STRING_OR_COMMENT: Final = re.compile(
    r"""
    "{3} (?: \\. | [^"\\] | "{1,2}(?!") )*+ (?: "{3,5}+ | \\?\Z )
    | '{3} (?: [^'] | '{1,2}(?!') )*+ (?: '{3,5}+ | \Z )
    | " (?: \\. | [^"\\\n] )*+ "?
    | ' [^'\n]*+ '?
    | \# [^\n]*+
    """,
    re.VERBOSE | re.DOTALL,
)
"""What may hold any character; without its end where that is missing, for the parser to refuse."""


def parse_toml(data: bytes) -> dict[str, Any]:
    """Return the table in `data`; raises InputError where it is no TOML."""
    return toml_table(_decoded(data))


def toml_table(text: str) -> dict[str, Any]:
    """Return the table in `text`; raises InputError where it is no TOML."""
    _few_dots(text)
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise InputError("this TOML is nested too deeply; a case has two levels") from None
    except ValueError as problem:
        raise InputError(f"this is no TOML: {_reason(problem)}") from None


def without_comments(text: str) -> str:
    """Return TOML without its comments, on the same lines."""
    return _STRING_OR_COMMENT.sub(lambda found: "" if found[0][0] == "#" else found[0], text)


def _few_dots(text: str) -> None:
    """Refuse long dotted keys: the parser's time grows with the square of their parts."""
    bare = _STRING_OR_COMMENT.sub("", text)
    if any(key.count(".") > _MAX_KEY_DOTS for key in re.split(r"[\n,={}]", bare)):
        raise InputError(f"a key has more than {_MAX_KEY_DOTS} dots; those of a case have two")
    if bare.count(".") > _MAX_DOTS:
        raise InputError(f"there are more than {_MAX_DOTS} dots in keys; no case needs so many")


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
        return data.removeprefix(codecs.BOM_UTF8).decode("utf-8")
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
