# SPDX-License-Identifier: GPL-2.0-only
"""Profiles in cases: by the name of one that comes with the project, or described in full."""

from __future__ import annotations

from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import EntryCase, SlotCase
from nvmxfuzz.inputs.words import unedited
from nvmxfuzz.machine.outside import show
from nvmxfuzz.machine.profile import Profile, load_profile, profile_names


def named_profile(case: SlotCase) -> str | None:
    """Return the name of the profile that `case` is told against, None if it has to be described.

    Of a config case, MSRs, family, model and stepping are told as a difference; the rest must
    agree.
    """
    if isinstance(case, EntryCase):
        name = case.profile.name
        return name if name in profile_names() and load_profile(name) == case.profile else None
    if case.base not in profile_names():
        return None
    named = load_profile(case.base)
    return case.base if unedited(case.profile, named) == named else None


def read_profile(value: object) -> Profile:
    """Return the profile that a name or a table stands for."""
    if isinstance(value, str):
        return load_profile(value)
    if isinstance(value, dict):
        return Profile.from_mapping(value)
    raise InputError(f"profile is {show(value)}; give a name or a table")
