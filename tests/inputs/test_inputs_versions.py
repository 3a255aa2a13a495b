# SPDX-License-Identifier: GPL-2.0-only
"""A later version of the binary format: more slots, of any area, and old bytes mean what they did.

There is no later version yet, so these tests make one: a version 1 that lacks some of today's
slots, and a version 2 that has them behind the others.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from random import Random

import pytest

from nvmxfuzz.inputs import codec, difference, parts
from nvmxfuzz.inputs import layout as layout_module
from nvmxfuzz.inputs.case import SLOT_KINDS, SlotKind
from nvmxfuzz.inputs.codec import BOTH, SPARSE, XOR, decode, encode
from nvmxfuzz.inputs.layout import CONFIG_LAYOUT, ENTRY_LAYOUT, Layout, Slot
from nvmxfuzz.inputs.parts import put_together, take_apart
from nvmxfuzz.inputs.words import word_of

SLOTS = {"vm_entry": ENTRY_LAYOUT, "capability_config": CONFIG_LAYOUT}
ADDED = ("guest_uinv", "rtit_ctl", "vtpr", "stepping", "ia32_vmx_vmcs_enum")


@cache
def slots_of_version_2(harness: SlotKind) -> tuple[Slot, ...]:
    kept = [slot for slot in SLOTS[harness] if slot.name not in ADDED]
    added = [replace(slot, since=2) for slot in SLOTS[harness] if slot.name in ADDED]
    return (*kept, *added)


@contextmanager
def newest(newest_version: int) -> Iterator[None]:
    """Have `newest_version` as the newest version of the format for a while."""

    @cache
    def layout(harness: SlotKind, version: int = newest_version) -> Layout:
        slots = slots_of_version_2(harness)
        return Layout(harness, tuple(slot for slot in slots if slot.since <= version))

    caches = (codec._start, codec._numbered_start, codec._before_records)
    with pytest.MonkeyPatch.context() as patch:
        for module in (codec, difference, parts):
            patch.setattr(module, "layout", layout)
        for module in (codec, parts, layout_module):
            patch.setattr(module, "VERSION", newest_version)
        for cached in caches:
            cached.cache_clear()
        yield
    for cached in caches:
        cached.cache_clear()


def inputs_of_version_1(count: int) -> Iterator[bytes]:
    rng = Random(count)
    for number in range(count):
        # Words for all slots, or no more records than a mutation keeps.
        kind, most = ((XOR, 2500), (SPARSE, 400), (BOTH, 2500))[number % 3]
        header = bytes((1, kind, rng.randrange(20), rng.randrange(9), rng.randrange(4)))
        yield header + rng.randbytes(rng.choice((0, 9, 90, most)))


@pytest.mark.parametrize("harness", SLOT_KINDS)
def test_old_bytes_are_the_same_case(harness: SlotKind) -> None:
    inputs = list(inputs_of_version_1(300))
    with newest(1):
        before = [decode(data, harness) for data in inputs]
        stored = [encode(case) for case in before]
    with newest(2):
        assert [decode(data, harness) for data in inputs] == before
        assert [decode(data, harness) for data in stored] == before
    assert len(set(stored)) > 250


@pytest.mark.parametrize("harness", SLOT_KINDS)
def test_old_bytes_are_mutated_as_what_they_are(harness: SlotKind) -> None:
    for data in inputs_of_version_1(300):
        with newest(2):
            rewritten = put_together(take_apart(data, harness), 1 << 16)
            assert rewritten[0] == 2
            assert decode(rewritten, harness) == decode(data, harness)


@pytest.mark.parametrize("harness", SLOT_KINDS)
def test_new_bytes_reach_the_new_slots(harness: SlotKind) -> None:
    with newest(2):
        plain = decode(b"", harness)
        table = take_apart(b"", harness).table
        added = [slot for slot in table.slots if slot.since == 2]
        assert added[-1] is table.slots[-1]
        for slot in added:
            words = [int(each is slot) for each in table.slots]
            case = decode(bytes((2, XOR, 0, 0)) + table.words.pack(*words), harness)
            assert word_of(case, slot) == word_of(plain, slot) ^ 1
            assert encode(case)[0] == 2
            assert decode(encode(case), harness) == case
