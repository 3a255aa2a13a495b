# SPDX-License-Identifier: GPL-2.0-only
"""Loading MSRs: the list as a whole, and what is known of each MSR."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace

import pytest

from nvmxfuzz.arch import msr
from nvmxfuzz.cpu import msr_values
from nvmxfuzz.cpu.judgement import Judgement
from nvmxfuzz.cpu.msr_loading import SECTION
from nvmxfuzz.cpu.vm_entry import vm_entry
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.machine.memory import Memory
from nvmxfuzz.machine.outcome import ENTERED, exit_on_entry
from nvmxfuzz.machine.profile import load_profile, profile_names

AREA = 0x100000
STAR = (msr.MSR_STAR, 0)
NO_SUCH = (0x12345678, 0)
EXISTS = "msr-load.slot.exists"


def load(
    slots: Iterable[tuple[int, int]], count: int | None = None, profile: str = "skylake-x"
) -> Judgement:
    """Judge an entry that loads `slots` (index and reserved half as one number, value)."""
    attempt = base("guest-64", load_profile(profile))
    data = b"".join(low.to_bytes(8, "little") + value.to_bytes(8, "little") for low, value in slots)
    fields = {
        "vm_entry_msr_load_addr": AREA,
        "vm_entry_msr_load_count": len(data) // 16 if count is None else count,
    }
    memory = Memory.of({AREA: data}) if data else Memory()
    return vm_entry(replace(attempt, vmcs=attempt.vmcs.replace(fields), memory=memory))


def refused(index: int, value: int, profile: str = "everything") -> tuple[str, ...]:
    return load([(index, value)], profile=profile).broken_names


def test_a_list_of_the_recommended_length_is_known() -> None:
    judgement = load([STAR] * 512)
    assert judgement.unknown == ()
    assert judgement.permitted == (ENTERED,)


def test_a_longer_list_may_fail_behind_the_recommended_length() -> None:
    judgement = load([STAR] * 600)
    assert judgement.unknown_names == (EXISTS,)
    assert judgement.permitted == (ENTERED, exit_on_entry(34, 513))


def test_loading_ends_at_the_first_slot_that_fails() -> None:
    bad = (msr.MSR_FS_BASE, 0)
    judgement = load([STAR, bad, bad])
    assert judgement.broken_names == ("msr-load.slot.fs-base",)
    assert judgement.permitted == (exit_on_entry(34, 2),)


def test_slots_that_may_fail_come_with_their_numbers() -> None:
    judgement = load([NO_SUCH, STAR, NO_SUCH])
    assert judgement.broken == ()
    assert judgement.permitted == (ENTERED, exit_on_entry(34, 1), exit_on_entry(34, 3))


def test_slots_behind_one_that_fails_do_not_count() -> None:
    judgement = load([(msr.MSR_GS_BASE, 0), NO_SUCH])
    assert judgement.permitted == (exit_on_entry(34, 1),)


def test_a_huge_count_over_nothing_costs_little() -> None:
    start = time.process_time()
    judgement = load([], count=0xFFFF_FFFF)
    assert time.process_time() - start < 0.5
    assert "msr-load.slot.reserved" in judgement.broken_names


def test_the_x2apic_range_ends_where_it_should() -> None:
    rule = "msr-load.slot.x2apic"
    found = {index for index in range(0x700, 0xA00) if rule in refused(index, 0)}
    assert found == set(range(0x800, 0x900))


def test_no_capability_msr_can_be_written() -> None:
    for index, _ in msr.VMX_CAPABILITY_MSRS:
        assert refused(index, 0) == ("msr-load.slot.read-only",)


@pytest.mark.parametrize("index", sorted(msr_values.ADDRESSES))
def test_addresses_are_canonical(index: int) -> None:
    """57 linear-address bits; the low bits are 0, so that they stay out of it."""
    rule = "msr-load.address.canonical"
    assert rule in refused(index, 1 << 56)
    assert rule in refused(index, 0x7F << 57)
    assert refused(index, (1 << 56) - 0x1000) == ()
    assert refused(index, 0xFF << 56) == ()


@pytest.mark.parametrize(("index", "alignment"), sorted(msr_values.ALIGNMENT.items()))
def test_stack_pointers_are_aligned(index: int, alignment: int) -> None:
    legal = [value for value in range(alignment) if refused(index, value) == ()]
    assert legal == [0]


def test_what_a_profile_lacks_cannot_be_loaded() -> None:
    lacking = load_profile("yonah")
    for index, features in msr_values.BY_FEATURE.items():
        expected = not lacking.features.isdisjoint(features)
        assert msr_values.exists(index, lacking) is expected


def test_what_every_profile_has_can_be_loaded() -> None:
    for name in profile_names():
        profile = load_profile(name)
        assert all(msr_values.exists(index, profile) for index in msr_values.EVERYWHERE)


def test_no_msr_is_in_two_tables() -> None:
    tables = [
        set(msr_values.EVERYWHERE),
        set(msr_values.BY_FEATURE),
        set(msr_values.BY_CONTROL),
        set(msr_values.READ_ONLY),
        set(msr_values.X2APIC),
    ]
    assert sum(map(len, tables)) == len(set().union(*tables))


def test_every_known_value_is_of_an_msr_that_may_exist() -> None:
    existing = {*msr_values.EVERYWHERE, *msr_values.BY_FEATURE, *msr_values.BY_CONTROL}
    assert {*msr_values.ADDRESSES, *msr_values.ALIGNMENT} <= existing


def test_all_rules_look_at_slots() -> None:
    assert {rule.view for rule in SECTION.rules} == {"msr-load"}
