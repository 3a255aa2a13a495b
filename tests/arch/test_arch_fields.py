# SPDX-License-Identifier: GPL-2.0-only
"""What an encoding implies, and that the table keeps to it."""

import pytest

from nvmxfuzz.arch import fields
from nvmxfuzz.arch.fields import FIELD_BY_ENCODING, FIELD_BY_NAME, FIELDS


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("virtual_processor_id", (0x0000, 16, False, "control", 0)),
        ("guest_pml_index", (0x0812, 16, False, "guest", 9)),
        ("host_tr_selector", (0x0C0C, 16, False, "host", 6)),
        ("tsc_multiplier", (0x2032, 64, False, "control", 0x19)),
        ("guest_physical_address", (0x2400, 64, False, "exit-info", 0)),
        ("host_ia32_fred_ssp3", (0x2C16, 64, False, "host", 0xB)),
        ("vm_entry_controls", (0x4012, 32, False, "control", 9)),
        ("idt_vectoring_error_code", (0x440A, 32, False, "exit-info", 5)),
        ("guest_rflags", (0x6820, 64, True, "guest", 0x10)),
        ("host_rip", (0x6C16, 64, True, "host", 0xB)),
    ],
)
def test_width_type_and_index_follow_from_the_encoding(
    name: str, expected: tuple[int, int, bool, str, int]
) -> None:
    field = FIELD_BY_NAME[name]
    found = (field.encoding, field.width, field.natural, field.type, field.index)
    assert found == expected
    assert field.max_value == (1 << field.width) - 1


def test_only_64_bit_fields_have_high_access() -> None:
    assert FIELD_BY_NAME["ept_pointer"].has_high
    assert not FIELD_BY_NAME["guest_rip"].has_high
    assert not FIELD_BY_NAME["vm_exit_controls"].has_high
    assert not FIELD_BY_NAME["posted_intr_nv"].has_high


def test_a_high_encoding_leads_back_to_its_field() -> None:
    assert fields.is_high(0x201B)
    assert not fields.is_high(0x201A)
    assert fields.full_encoding(0x201B) == 0x201A == fields.full_encoding(0x201A)


@pytest.mark.parametrize(
    "encoding", [0x1000, 0x8000, 0x1_0000, 0x8000_0000, 0x0801, 0x4001, 0x6801]
)
def test_reserved_bits_and_high_access_to_narrow_fields_are_malformed(encoding: int) -> None:
    assert not fields.is_well_formed(encoding)


def test_every_encoding_of_the_table_is_full_and_well_formed() -> None:
    for field in FIELDS:
        assert fields.is_well_formed(field.encoding), field
        assert not fields.is_high(field.encoding), field
        assert not field.has_high or fields.is_well_formed(field.encoding + 1), field


def test_the_table_is_in_the_order_of_the_encodings_and_names_no_field_twice() -> None:
    encodings = [field.encoding for field in FIELDS]
    assert encodings == sorted(set(encodings))
    assert len(FIELD_BY_NAME) == len(FIELD_BY_ENCODING) == len(FIELDS)
    assert len({field.sdm_name for field in FIELDS}) == len(FIELDS)


def test_a_field_is_named_as_its_macro() -> None:
    for field in FIELDS:
        assert field.macro is None or field.macro.lower() == field.name


def test_the_table_has_as_many_fields_of_each_kind_as_the_sdm_lists() -> None:
    # "Field Encoding in VMCS", edition of February 2026, where high access is not counted; in
    # addition the ENCLV-exiting bitmap of earlier editions, the three fields of APIC-timer
    # virtualization and the two that IA32_SPEC_CTRL is loaded from.
    listed = {
        (16, False, "control"): 5 + 1,
        (16, False, "guest"): 11,
        (16, False, "host"): 7,
        (64, False, "control"): 37 + 2,
        (64, False, "exit-info"): 3,
        (64, False, "guest"): 21 + 2,
        (64, False, "host"): 12 + 1,
        (32, False, "control"): 20,
        (32, False, "exit-info"): 8,
        (32, False, "guest"): 23,
        (32, False, "host"): 1,
        (64, True, "control"): 8,
        (64, True, "exit-info"): 6,
        (64, True, "guest"): 23,
        (64, True, "host"): 15,
    }
    counted: dict[tuple[int, bool, str], int] = {}
    for field in FIELDS:
        kind = (field.width, field.natural, field.type)
        counted[kind] = counted.get(kind, 0) + 1
    assert counted == listed
