# SPDX-License-Identifier: GPL-2.0-only
"""A table of capability MSRs as JSON or TOML: a profile, or MSRs alone."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.document import toml_table, without_comments
from nvmxfuzz.inputs.msr_table.found import EXAMPLE, bad, quote
from nvmxfuzz.machine import profile_check
from nvmxfuzz.machine.profile import Profile, load_profile


def from_json(text: str, name: str) -> Profile:
    """Return what a JSON document describes."""
    try:
        data = json.loads(text, object_pairs_hook=lambda pairs: _unique(text, pairs))
    except json.JSONDecodeError as error:
        bad(error.lineno, f"this is not JSON ({error.msg}); correct it or {EXAMPLE}")
    except (ValueError, RecursionError):
        raise InputError("the JSON is nested too deeply or has too long a number") from None
    if "profile" in data and "msrs" in data:
        raise InputError('both "profile" and "msrs" are given; leave one of them out')
    profile = data.get("profile", data)
    if isinstance(profile, str):
        return load_profile(profile)
    if not isinstance(profile, dict):
        raise InputError('"profile" is neither a name nor a table: give {"msrs": {...}} there')
    if "msrs" not in profile and all(key[:1].isdigit() for key in profile):
        profile = {"msrs": profile}
    return _from_table(text, profile, name)


def _unique(text: str, pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            bad(_line_of(text, key, 2), f"{quote(key)} is given twice; give it once")
        found[key] = value
    return found


def from_toml(text: str, name: str) -> Profile:
    """Return what a TOML document describes."""
    return _from_table(without_comments(text), toml_table(text), name)


def _from_table(text: str, table: Mapping[str, object], name: str) -> Profile:
    msrs = table.get("msrs", {})
    keys: dict[int, str] = {}
    for key, value in msrs.items() if isinstance(msrs, Mapping) else ():
        try:
            (index,) = profile_check.msrs({key: value})
        except InputError as error:
            bad(_line_of(text, key, 1), str(error))
        # The same MSR by another spelling: the document itself sees to the rest.
        if index in keys:
            first = _line_of(text, keys[index], 1)
            said = f"MSR {index:#x} was already given on line {first}; give it once"
            bad(_line_of(text, key, 1), said)
        keys[index] = key
    return Profile.from_mapping(table, name)


def _line_of(text: str, key: str, occurrence: int) -> int:
    """Return the line that gives `key` for the n-th time, 1 where it is written otherwise."""
    at = 0
    given = re.compile(rf"(?:^|[{{,.])[ \t]*[\"']?({re.escape(key)})[\"']?[ \t]*[:=]", re.MULTILINE)
    for _ in range(occurrence):
        found = given.search(text, at)
        if found is None:
            break
        at = found.start(1)
    return text.count("\n", 0, at) + 1
