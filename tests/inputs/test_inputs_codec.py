# SPDX-License-Identifier: GPL-2.0-only
"""Every byte string is some case, and every case comes back from its bytes."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import SLOT_KINDS, ConfigCase, EntryCase, SlotCase, SlotKind
from nvmxfuzz.inputs.codec import BOTH, REPAIR, SPARSE, TEXT, XOR, decode, encode
from nvmxfuzz.inputs.difference import Change, Edit, differences
from nvmxfuzz.inputs.layout import layout
from nvmxfuzz.inputs.memory_edit import MemoryEdit
from nvmxfuzz.machine.profile import Profile, load_profile

SKYLAKE = load_profile("skylake-x")
ENTRY = layout("vm_entry")


def header(kind: int, profile: int = 0, number: int = 0) -> bytes:
    return bytes((1, kind, profile, number))


def xor(name: str, word: int) -> bytes:
    """Return XOR words that change one slot."""
    words = [0] * len(ENTRY.slots)
    words[ENTRY.index[name]] = word
    return ENTRY.words.pack(*words)


def record(operation: int, name: str, *words: int) -> bytes:
    """Return a record of one slot."""
    size = ENTRY.by_name[name].size
    head = ENTRY.index[name] | operation << 12
    return head.to_bytes(2, "little") + b"".join(word.to_bytes(size, "little") for word in words)


def edits(data: bytes) -> tuple[Change, ...]:
    return differences(decode(data, "vm_entry"))


@settings.get_profile("repeatable")
@given(st.data())
def test_a_case_comes_back_from_its_bytes(
    cases: st.SearchStrategy[SlotCase], data: st.DataObject
) -> None:
    case = data.draw(cases)
    assert decode(encode(case), case.harness) == case


@settings(settings.get_profile("repeatable"), max_examples=200)
@given(st.binary(max_size=600), st.sampled_from(SLOT_KINDS), st.sampled_from([XOR, SPARSE, BOTH]))
def test_any_bytes_are_a_case(data: bytes, harness: SlotKind, kind: int) -> None:
    for some in (data, header(kind) + data, header(kind, 3, 77) + data):
        case = decode(some, harness)
        assert case.harness == harness
        assert decode(encode(case), harness) == case
        assert decode(some, harness) == case


@pytest.mark.parametrize("harness", SLOT_KINDS)
def test_no_bytes_are_the_first_base(harness: SlotKind) -> None:
    case = decode(b"", harness)
    assert differences(case) == ()
    assert case.profile == SKYLAKE
    assert case.base == ("guest-64" if harness == "vm_entry" else "skylake-x")


def test_words_are_xored_onto_the_base() -> None:
    assert edits(header(XOR) + xor("guest_rflags", 8)) == (Edit("guest_rflags", 0xA),)
    assert edits(header(XOR) + xor("cpl", 0xFE)) == (Edit("cpl", 2),)
    assert edits(header(XOR) + xor("instruction", 3)) == (Edit("instruction", 1),)
    assert edits(header(XOR) + xor("vtpr", 5)) == (Edit("vtpr", 5),)


def test_words_may_end_anywhere() -> None:
    words = xor("pin_based_vm_exec_control", 0x100)
    assert edits(header(XOR) + words[:2]) == edits(header(XOR) + words)


def test_records_set_flip_and_mask() -> None:
    assert edits(header(SPARSE) + record(0, "guest_rflags", 0x12)) == (Edit("guest_rflags", 0x12),)
    assert edits(header(SPARSE) + record(1, "guest_rflags", 0x12)) == (Edit("guest_rflags", 0x10),)
    masked = record(2, "guest_rflags", 0x2, 0x30, 0x10)
    assert edits(header(SPARSE) + masked) == (Edit("guest_rflags", 0x20),)


def test_records_of_one_slot_build_on_each_other() -> None:
    twice = record(1, "guest_rflags", 0x10) + record(1, "guest_rflags", 0x20)
    assert edits(header(SPARSE) + twice) == (Edit("guest_rflags", 0x32),)


def test_both_forms_go_together_records_last() -> None:
    body = b"\x01" + record(0, "guest_rflags", 0x12) + xor("guest_rflags", 8)
    assert edits(header(BOTH) + body) == (Edit("guest_rflags", 0x12),)


def test_records_write_memory_and_take_it_away() -> None:
    body = (3 << 12).to_bytes(2, "little") + b"\x02" + (0x99000).to_bytes(8, "little") + b"ab"
    assert edits(header(SPARSE) + body) == (MemoryEdit(0x99000, b"ab"),)
    body = (4 << 12).to_bytes(2, "little") + b"\x03" + (0x24000).to_bytes(8, "little")
    assert edits(header(SPARSE) + body) == (MemoryEdit(0x24000, b"\xff" * 3, backed=False),)


def test_a_great_number_is_a_base_that_the_profile_can_run() -> None:
    for number in range(6, 256):
        assert decode(header(XOR, 6, number), "vm_entry").base in (
            "guest-32",
            "guest-pae",
            "guest-v86",
        )


def test_a_profile_of_its_own_is_stored_as_text() -> None:
    profile = Profile.from_mapping({"msrs": {"0x480": 1}, "maxphyaddr": 44})
    entry = EntryCase(replace(base("guest-64", SKYLAKE), profile=profile), "guest-64")
    config = ConfigCase(profile, kernel="5.18", has_sgx=True)
    for case in (entry, config):
        assert encode(case)[1] == TEXT
        assert decode(encode(case), case.harness) == case


@pytest.mark.parametrize("body", [b"", b"\xff", b"format = 9", b'harness = "capability_config"'])
def test_text_that_is_no_case_of_the_harness_is_the_base(body: bytes) -> None:
    assert decode(header(TEXT) + body, "vm_entry") == decode(b"", "vm_entry")


def test_the_repair_bit_repairs_after_the_words_and_before_the_records() -> None:
    broken = xor("guest_rflags", 8)
    assert edits(header(XOR) + broken) != ()
    assert Edit("guest_rflags", 0xA) not in edits(header(XOR | REPAIR) + broken)
    both = b"\x01" + record(0, "guest_rflags", 0x8) + broken
    assert Edit("guest_rflags", 0x8) in edits(header(BOTH | REPAIR) + both)
