# SPDX-License-Identifier: GPL-2.0-only
"""Hypothesis strategies of cases, made of arbitrary edits of arbitrary bases."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st

from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import ConfigCase, EntryCase, SlotCase, SlotKind
from nvmxfuzz.inputs.difference import Edit, apply, apply_to
from nvmxfuzz.inputs.layout import Slot, layout
from nvmxfuzz.inputs.memory_edit import MemoryEdit
from nvmxfuzz.inputs.order import BASES, PROFILES
from nvmxfuzz.machine.profile import load_profile

# The same examples in each run: a test that fails now and then helps nobody.
settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)


def _edit(slot: Slot) -> st.SearchStrategy[Edit]:
    greatest = len(slot.choices) - 1 if slot.choices else slot.mask
    return st.builds(Edit, st.just(slot.name), st.integers(0, greatest))


def _edits(harness: SlotKind) -> st.SearchStrategy[Edit]:
    return st.sampled_from(layout(harness).slots).flatmap(_edit)


def _range(start: int) -> st.SearchStrategy[MemoryEdit]:
    written = st.builds(MemoryEdit, st.just(start), st.binary(min_size=1, max_size=300))
    gone = st.integers(1, 40).map(lambda size: MemoryEdit(start, b"\xff" * size, backed=False))
    return st.one_of(written, gone)


_PLACES = st.one_of(st.integers(0x22FF0, 0x24040), st.integers(0, (1 << 52) - 300))


@st.composite
def _entry_cases(draw: st.DrawFn) -> EntryCase:
    name = draw(st.sampled_from(BASES))
    start = EntryCase(base(name, load_profile(draw(st.sampled_from(PROFILES)))), name)
    changes = st.lists(st.one_of(_edits("vm_entry"), _PLACES.flatmap(_range)), max_size=6)
    return EntryCase(apply_to(start.attempt, draw(changes)), name)


@st.composite
def _config_cases(draw: st.DrawFn) -> SlotCase:
    name = draw(st.sampled_from(PROFILES))
    changes = st.lists(_edits("capability_config"), max_size=6)
    return apply(ConfigCase(load_profile(name), name), draw(changes))


@pytest.fixture(scope="session")
def entry_cases() -> st.SearchStrategy[EntryCase]:
    """Return the strategy of VM entries."""
    return _entry_cases()


@pytest.fixture(scope="session")
def config_cases() -> st.SearchStrategy[SlotCase]:
    """Return the strategy of configs."""
    return _config_cases()


@pytest.fixture(scope="session")
def cases(
    entry_cases: st.SearchStrategy[EntryCase], config_cases: st.SearchStrategy[SlotCase]
) -> st.SearchStrategy[SlotCase]:
    """Return the strategy of cases of either kind."""
    return st.one_of(entry_cases, config_cases)
