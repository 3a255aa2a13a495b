# SPDX-License-Identifier: GPL-2.0-only
"""A file with a case, whichever form it has."""

from __future__ import annotations

from codecs import BOM_UTF8

from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import Case
from nvmxfuzz.inputs.expectation import Vector
from nvmxfuzz.inputs.raw_json import load_raw
from nvmxfuzz.inputs.text import load_text


def load_vector(data: bytes, origin: str) -> Vector:
    """Return the case in `data`, raw JSON or TOML, with what it expects.

    `origin` names the file in the InputError that anything else leads to. TOML never starts with
    a brace, an object of JSON always does; other JSON is told by the name, to say that it is no
    case. An empty file would be the plain base, and is more likely a mistake.
    """
    content = data.removeprefix(BOM_UTF8).strip()
    if not content:
        raise InputError(f"{origin}: the file is empty; a case is a file of TOML or JSON")
    if content.startswith((b"{", b"[{")) or origin.endswith(".json"):
        return Vector(load_raw(data, origin))
    return load_text(data, origin)


def load_case(data: bytes, origin: str) -> Case:
    """Return the case in `data` alone, whatever is expected of it."""
    return load_vector(data, origin).case
