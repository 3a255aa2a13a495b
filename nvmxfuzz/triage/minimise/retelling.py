# SPDX-License-Identifier: GPL-2.0-only
"""Telling a case against a base that a reader knows better.

A case can be told against another base in two ways: the same changes from there, which is another
state, or what changes it takes to get to the same state.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from nvmxfuzz.inputs.bases import base, base_names, default_base
from nvmxfuzz.inputs.case import ConfigCase, EntryCase, SlotCase
from nvmxfuzz.inputs.layout import layout
from nvmxfuzz.inputs.words import build_config, config_word
from nvmxfuzz.machine.profile import DEFAULT_PROFILE, load_profile


def plainer_starts(start: SlotCase) -> Iterator[SlotCase]:
    """Yield bases that a reader knows better: of the default profile, and of the usual guest."""
    if isinstance(start, ConfigCase):
        if not _is_usual(start):
            yield _usual_config(start)
        return
    usual = load_profile(DEFAULT_PROFILE)
    for profile, name in ((usual, start.base), (start.profile, default_base(start.profile))):
        known = name in base_names(profile)
        if known and (profile.name, name) != (start.profile.name, start.base):
            yield EntryCase(base(name, profile), name, start.note)


def same_state(case: SlotCase) -> Iterator[SlotCase]:
    """Yield the same state on the usual profile, then on its own; each against the usual base."""
    if isinstance(case, ConfigCase):
        if not _is_usual(case):
            words = {slot: config_word(case, slot) for slot in layout(case.harness).slots}
            yield build_config(_usual_config(case), words)
        return
    usual = load_profile(DEFAULT_PROFILE)
    for profile in (usual, case.profile):
        name = default_base(profile)
        if (profile.name, name) != (case.profile.name, case.base):
            yield EntryCase(replace(case.attempt, profile=profile), name, case.note)


def _is_usual(case: ConfigCase) -> bool:
    return (case.base, case.profile.name) == (DEFAULT_PROFILE, DEFAULT_PROFILE)


def _usual_config(case: ConfigCase) -> ConfigCase:
    return ConfigCase(load_profile(DEFAULT_PROFILE), DEFAULT_PROFILE, note=case.note)
