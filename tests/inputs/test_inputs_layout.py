# SPDX-License-Identifier: GPL-2.0-only
"""The layout says everything, and what old bytes mean never changes."""

from dataclasses import fields
from zlib import crc32

import pytest

from nvmxfuzz.arch.fields import FIELDS
from nvmxfuzz.inputs.bases import ALL_BASES
from nvmxfuzz.inputs.case import SLOT_KINDS, SlotKind
from nvmxfuzz.inputs.layout import (
    CONFIG_LAYOUT,
    ENTRY_LAYOUT,
    VERSION,
    Layout,
    Slot,
    known_version,
    layout,
)
from nvmxfuzz.inputs.order import BASES, PROFILES
from nvmxfuzz.machine.processor import Processor
from nvmxfuzz.machine.profile import DEFAULT_PROFILE, profile_names

# The slots of version 1, in their order: their number, and a checksum.
VERSION_1 = {"vm_entry": (254, 0xE580DC7B), "capability_config": (48, 0x3FE67743)}


def test_every_vmcs_field_has_a_slot_of_its_width() -> None:
    slots = {slot.name: slot.width for slot in ENTRY_LAYOUT if slot.area == "vmcs"}
    assert slots == {field.name: field.width for field in FIELDS}


def test_every_attribute_of_the_processor_has_a_slot() -> None:
    slots = {slot.name for slot in ENTRY_LAYOUT if slot.area == "processor"}
    assert slots == {field.name for field in fields(Processor)}


def test_every_capability_msr_has_two_slots() -> None:
    msrs = [slot for slot in CONFIG_LAYOUT if slot.area == "msr"]
    assert sorted({slot.address for slot in msrs}) == list(range(0x480, 0x494))
    assert [slot.width for slot in msrs] == [64, 1] * 20


@pytest.mark.parametrize("harness", SLOT_KINDS)
def test_the_slots_of_version_1_do_not_move(harness: SlotKind) -> None:
    shape = [(slot.name, slot.width, slot.choices[:3]) for slot in layout(harness, 1).slots]
    assert (len(shape), crc32(repr(shape).encode())) == VERSION_1[harness]


@pytest.mark.parametrize("harness", SLOT_KINDS)
def test_a_later_slot_stands_behind_the_earlier_ones(harness: SlotKind) -> None:
    versions = [slot.since for slot in layout(harness).slots]
    assert versions == sorted(versions)


def test_the_version_is_that_of_the_newest_slot() -> None:
    assert max(slot.since for slot in (*ENTRY_LAYOUT, *CONFIG_LAYOUT)) == VERSION
    assert [known_version(number) for number in (0, 1, VERSION, VERSION + 1)] == [1, 1, VERSION, 1]


def test_every_profile_and_base_has_a_number_that_does_not_move() -> None:
    assert set(profile_names()) == set(PROFILES)
    assert PROFILES[0] == DEFAULT_PROFILE
    assert BASES == ALL_BASES
    assert crc32(repr(PROFILES[:24]).encode()) == 0x2E314F60


def test_a_slot_shows_a_value_as_a_reader_expects_it() -> None:
    assert Slot("a", "vmcs", 16, "").show(0x1F) == "0x001f"
    assert Slot("a", "case", 1, "").show(1) == "true"
    assert Slot("a", "case", 1, "", choices=("x", "y")).show(1) == "y"


@pytest.mark.parametrize(("width", "size"), [(1, 1), (8, 1), (9, 2), (16, 2), (32, 4), (64, 8)])
def test_a_slot_takes_the_bytes_that_its_width_needs(width: int, size: int) -> None:
    assert Slot("a", "case", width, "").size == size


def test_two_slots_cannot_share_a_name() -> None:
    slot = Slot("a", "case", 1, "")
    with pytest.raises(ValueError, match="same name"):
        Layout("vm_entry", (slot, slot))
