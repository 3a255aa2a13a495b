# SPDX-License-Identifier: GPL-2.0-only
"""The rules on guest segment registers over whole tables, which vectors only sample."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nvmxfuzz.cpu.guest_segments import CODE_AND_DATA, DATA, SECTION, SYSTEM
from nvmxfuzz.cpu.vm_entry import vm_entry
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.machine.profile import load_profile

TYPES = range(16)
UNUSABLE = 1 << 16


def broken(start: str, profile: str = "skylake-x", /, **fields: int) -> set[str]:
    attempt = base(start, load_profile(profile))
    return set(vm_entry(replace(attempt, vmcs=attempt.vmcs.replace(fields))).broken_names)


def legal_types(start: str, segment: str, rights: int) -> set[int]:
    field = f"guest_{segment}_ar_bytes"
    return {kind for kind in TYPES if not broken(start, **{field: rights | kind})}


def test_every_register_has_rules() -> None:
    subjects = {rule.name.split(".")[1] for rule in SECTION.rules}
    assert subjects == {*CODE_AND_DATA, *SYSTEM}


def test_every_sentence_names_its_register() -> None:
    assert not [rule.name for rule in SECTION.rules if "{" in rule.sentence]


def test_types_of_cs() -> None:
    assert legal_types("guest-64", "cs", 0xA090) == {9, 11, 13, 15}
    assert legal_types("guest-real", "cs", 0x90) == {3, 9, 11, 13, 15}


def test_types_of_ss() -> None:
    assert legal_types("guest-64", "ss", 0xC090) == {3, 7}
    assert legal_types("guest-64", "ss", 0xC090 | UNUSABLE) == set(TYPES)


@pytest.mark.parametrize("segment", DATA)
def test_types_of_data_segments(segment: str) -> None:
    assert legal_types("guest-64", segment, 0xC090) == {1, 3, 5, 7, 11, 15}
    assert legal_types("guest-64", segment, 0xC090 | UNUSABLE) == set(TYPES)


def test_types_of_system_segments() -> None:
    assert legal_types("guest-64", "tr", 0x80) == {11}
    assert legal_types("guest-32", "tr", 0x80) == {3, 11}
    assert legal_types("guest-64", "ldtr", 0x80) == {2}
    assert legal_types("guest-64", "ldtr", 0x80 | UNUSABLE) == set(TYPES)


@pytest.mark.parametrize("conforming", [False, True])
def test_privilege_of_cs_and_ss(conforming: bool) -> None:
    """CPL is the DPL of SS: SS has it as RPL too, and so has CS, whose DPL fits its type."""
    for number in range(256):
        cs_dpl, ss_dpl, cs_rpl, ss_rpl = (number >> shift & 3 for shift in (0, 2, 4, 6))
        names = broken(
            "guest-64",
            guest_cs_selector=0x10 | cs_rpl,
            guest_ss_selector=0x18 | ss_rpl,
            guest_cs_ar_bytes=0xA09B | conforming << 2 | cs_dpl << 5,
            guest_ss_ar_bytes=0xC093 | ss_dpl << 5,
        )
        fits = cs_dpl <= ss_dpl if conforming else cs_dpl == ss_dpl
        aspect = "conforming" if conforming else "non-conforming"
        expected = {
            *([] if cs_rpl == ss_rpl else ["guest.ss.rpl"]),
            *([] if ss_dpl == ss_rpl else ["guest.ss.dpl-rpl"]),
            *([] if fits else [f"guest.cs.dpl-{aspect}"]),
        }
        assert names == expected


@pytest.mark.parametrize("segment", DATA)
def test_privilege_of_data_segments(segment: str) -> None:
    for kind in (1, 3, 5, 7, 11, 15):
        for dpl, rpl in ((dpl, rpl) for dpl in range(4) for rpl in range(4)):
            names = broken(
                "guest-64",
                **{
                    f"guest_{segment}_selector": 0x18 | rpl,
                    f"guest_{segment}_ar_bytes": 0xC090 | kind | dpl << 5,
                },
            )
            assert names == (set() if kind == 15 or dpl >= rpl else {f"guest.{segment}.dpl"})


@pytest.mark.parametrize(
    ("limit", "byte", "page"),
    [
        (0, True, False),
        (0xFFE, True, False),
        (0xFFF, True, True),
        (0x1000, True, False),
        (0xFFFFF, True, True),
        (0x100000, False, False),
        (0x100FFF, False, True),
        (0xFFFFFFFF, False, True),
    ],
)
@pytest.mark.parametrize("segment", [*CODE_AND_DATA, *SYSTEM])
def test_granularity_fits_the_limit(segment: str, limit: int, byte: bool, page: bool) -> None:
    rights = {"cs": 0x209B, "tr": 0x8B, "ldtr": 0x82}.get(segment, 0x4093)
    for granular, legal in ((0, byte), (0x8000, page)):
        fields = {f"guest_{segment}_limit": limit, f"guest_{segment}_ar_bytes": rights | granular}
        expected = f"guest.{segment}.g-{'clear' if granular else 'set'}"
        assert broken("guest-64", **fields) == (set() if legal else {expected})


@pytest.mark.parametrize("segment", ["ss", *DATA, "ldtr"])
def test_nothing_but_dpl_and_address_counts_when_unusable(segment: str) -> None:
    fields = {
        f"guest_{segment}_selector": 4,
        f"guest_{segment}_limit": 0x100000,
        f"guest_{segment}_ar_bytes": 0xFFFFFF9F,
    }
    assert broken("guest-64", **fields) == set()


@pytest.mark.parametrize("segment", CODE_AND_DATA)
def test_each_bit_of_the_rights_counts_in_virtual_8086_mode(segment: str) -> None:
    for bit in range(32):
        names = broken("guest-v86", **{f"guest_{segment}_ar_bytes": 0xF3 ^ 1 << bit})
        assert names == {f"guest.{segment}.v8086-access-rights"}
