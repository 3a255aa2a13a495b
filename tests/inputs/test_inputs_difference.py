# SPDX-License-Identifier: GPL-2.0-only
"""A case is its base and its differences."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import ConfigCase, EntryCase, SlotCase
from nvmxfuzz.inputs.difference import (
    Edit,
    apply,
    apply_to,
    differences,
    differences_between,
    origin,
)
from nvmxfuzz.inputs.memory_edit import MemoryEdit, edited
from nvmxfuzz.machine.memory import Memory
from nvmxfuzz.machine.profile import load_profile

SKYLAKE = load_profile("skylake-x")
GUEST = EntryCase(base("guest-64", SKYLAKE), "guest-64")
CONFIG = ConfigCase(SKYLAKE, "skylake-x")


@settings.get_profile("repeatable")
@given(st.data())
def test_a_case_is_its_base_and_its_differences(
    cases: st.SearchStrategy[SlotCase], data: st.DataObject
) -> None:
    case = data.draw(cases)
    assert apply(origin(case), differences(case)) == case
    assert differences(origin(case)) == ()


@settings.get_profile("repeatable")
@given(st.data())
def test_two_attempts_are_as_far_apart_as_their_differences(
    entry_cases: st.SearchStrategy[EntryCase], data: st.DataObject
) -> None:
    attempt = replace(data.draw(entry_cases).attempt, profile=SKYLAKE)
    assert apply_to(GUEST.attempt, differences_between(GUEST.attempt, attempt)) == attempt


def test_memory_is_named_where_it_has_a_name() -> None:
    case = apply(GUEST, [MemoryEdit(0x24008, b"\x02" + b"\0" * 7), MemoryEdit(0x24020, b"\x01")])
    assert differences(case) == (Edit("pdpte1", 2), MemoryEdit(0x24020, b"\x01"))


def test_an_absent_msr_is_one_difference() -> None:
    case = apply(CONFIG, [Edit("ia32_vmx_vmfunc_exists", 0), Edit("ia32_vmx_vmfunc", 7)])
    assert differences(case) == (Edit("ia32_vmx_vmfunc_exists", 0),)
    assert 0x491 not in case.profile.msrs


def test_an_msr_that_does_not_exist_has_no_value_alone() -> None:
    assert apply(CONFIG, [Edit("ia32_vmx_exit_ctls2", 7)]) == CONFIG


def test_no_edits_change_nothing() -> None:
    assert apply(GUEST, []) == GUEST
    assert apply(CONFIG, []) == CONFIG


def test_memory_edits_join_and_split_regions() -> None:
    memory = edited(Memory(), [MemoryEdit(0x10, b"ab"), MemoryEdit(0x12, b"cd")])
    assert memory.regions == ((0x10, b"abcd"),)
    memory = edited(memory, [MemoryEdit(0x11, b"\xff", backed=False)])
    assert memory.regions == ((0x10, b"a"), (0x12, b"cd"))
    many = [MemoryEdit(0x12 + at % 2, bytes([at])) for at in range(100)]
    assert edited(memory, many).regions == ((0x10, b"a"), (0x12, bytes([98, 99])))
