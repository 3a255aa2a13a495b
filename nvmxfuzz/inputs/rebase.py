# SPDX-License-Identifier: GPL-2.0-only
"""A case told against another profile: the same differences, from the same base there."""

from __future__ import annotations

from collections.abc import Sequence

from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import ConfigCase, EntryCase, SlotCase
from nvmxfuzz.inputs.difference import apply, differences
from nvmxfuzz.machine.profile import load_profile


def rebase(case: SlotCase, profiles: Sequence[str]) -> SlotCase:
    """Return `case` on one of `profiles`: the one named after its own if there is, or the first.

    "kvm-6.12-haswell" is named after "haswell".
    """
    name = _successor(case.base if isinstance(case, ConfigCase) else case.profile.name, profiles)
    profile = load_profile(name)
    if isinstance(case, ConfigCase):
        return apply(ConfigCase(profile, name), differences(case))
    start = EntryCase(base(case.base, profile), case.base, case.note)
    return apply(start, differences(case))


def _successor(name: str, profiles: Sequence[str]) -> str:
    return next((each for each in profiles if each.endswith(f"-{name}")), profiles[0])
