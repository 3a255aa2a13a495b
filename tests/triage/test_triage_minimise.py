# SPDX-License-Identifier: GPL-2.0-only
"""The minimiser: a planted fault shrinks to the field and the bit that matter."""

from collections.abc import Callable
from random import Random

import pytest

from nvmxfuzz.arch.fields import FIELDS
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import ConfigCase, EntryCase, SlotCase
from nvmxfuzz.inputs.difference import Edit, apply, differences, origin
from nvmxfuzz.inputs.memory_edit import MemoryEdit
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.triage.minimise import Budget, minimise


def entry(profile: str = "skylake-x", name: str = "guest-64") -> EntryCase:
    return EntryCase(base(name, load_profile(profile)), name)


def scrambled(rng: Random, count: int, profile: str = "skylake-x") -> EntryCase:
    """Return a case with `count` random edits of VMCS fields."""
    fields = rng.sample(FIELDS, count)
    edits = [Edit(field.name, rng.getrandbits(field.width)) for field in fields]
    case = apply(entry(profile), edits)
    assert isinstance(case, EntryCase)
    return case


def vmcs_bit(field: str, bit: int) -> Callable[[SlotCase], bool]:
    """Return a fault that shows where one bit of one field differs from the base."""

    def shows(case: SlotCase) -> bool:
        start = origin(case)
        assert isinstance(case, EntryCase)
        assert isinstance(start, EntryCase)
        value = getattr(case.attempt.vmcs, field) ^ getattr(start.attempt.vmcs, field)
        return bool(value >> bit & 1)

    return shows


@pytest.mark.parametrize("seed", range(20))
def test_a_planted_fault_shrinks_to_one_field_and_one_bit(seed: int) -> None:
    rng = Random(seed)
    case = scrambled(rng, 60)
    edits = [edit for edit in differences(case) if isinstance(edit, Edit)]
    field = rng.choice(edits).slot
    start = origin(case)
    assert isinstance(start, EntryCase)
    differing = getattr(case.attempt.vmcs, field) ^ getattr(start.attempt.vmcs, field)
    bit = rng.choice([bit for bit in range(64) if differing >> bit & 1])
    smallest = minimise(case, vmcs_bit(field, bit), Budget())
    (edit,) = differences(smallest)
    assert isinstance(edit, Edit)
    assert edit.slot == field
    assert edit.value == getattr(start.attempt.vmcs, field) ^ 1 << bit


def test_two_fields_that_matter_together_both_stay() -> None:
    case = scrambled(Random(3), 100)
    edits = [edit for edit in differences(case) if isinstance(edit, Edit)]
    one, other = edits[10], edits[70]

    def shows(candidate: SlotCase) -> bool:
        return {one, other} <= set(differences(candidate))

    assert set(differences(minimise(case, shows, Budget()))) == {one, other}


def test_several_bits_that_no_subset_replaces_become_one() -> None:
    """Bits 3 and 4 were found, bit 9 alone does it as well."""
    case = apply(entry(), [Edit("guest_dr7", 0x400 ^ 0b11000)])

    def shows(candidate: SlotCase) -> bool:
        assert isinstance(candidate, EntryCase)
        changed = candidate.attempt.vmcs.guest_dr7 ^ 0x400
        return changed & 0b11000 == 0b11000 or changed == 1 << 9

    assert differences(minimise(case, shows, Budget())) == (Edit("guest_dr7", 0x600),)


def test_a_case_of_an_odd_processor_is_told_on_the_usual_one() -> None:
    case = scrambled(Random(1), 20, "penryn")
    smallest = minimise(case, lambda candidate: bool(differences(candidate)), Budget())
    assert isinstance(smallest, EntryCase)
    assert (smallest.profile.name, smallest.base) == ("skylake-x", "guest-64")
    assert len(differences(smallest)) == 1


def test_a_profile_that_matters_stays() -> None:
    case = scrambled(Random(1), 20, "penryn")
    smallest = minimise(
        case,
        lambda candidate: isinstance(candidate, EntryCase) and candidate.profile.name == "penryn",
        Budget(),
    )
    assert isinstance(smallest, EntryCase)
    assert smallest.profile.name == "penryn"
    assert differences(smallest) == ()


def test_memory_shrinks_to_the_byte_that_matters() -> None:
    case = apply(entry(), [MemoryEdit(0x90000, bytes(range(1, 40)))])

    def shows(candidate: SlotCase) -> bool:
        assert isinstance(candidate, EntryCase)
        return candidate.attempt.memory.read(0x90010, 1)[0] & 1 == 1

    # Memory that is not backed reads as ones, so that the byte is not needed at all.
    assert differences(minimise(case, shows, Budget())) == ()
    wanted = minimise(
        case, lambda candidate: shows(candidate) and differences(candidate) != (), Budget()
    )
    (edit,) = differences(wanted)
    assert isinstance(edit, MemoryEdit)
    assert len(edit.data) == 1


def test_a_capability_config_shrinks_too() -> None:
    profile = load_profile("haswell")
    start = origin(ConfigCase(profile, "haswell"))
    case = apply(
        start, [Edit("ia32_vmx_basic", 0x1234), Edit("ia32_vmx_misc", 0xFFFF), Edit("model", 9)]
    )

    def shows(candidate: SlotCase) -> bool:
        assert isinstance(candidate, ConfigCase)
        before = candidate.profile.msrs.get(0x485, 0) ^ load_profile(candidate.base).msrs[0x485]
        return before != 0

    smallest = minimise(case, shows, Budget())
    (edit,) = differences(smallest)
    assert isinstance(edit, Edit)
    assert edit.slot == "ia32_vmx_misc"
    assert (edit.value ^ load_profile(smallest.base).msrs[0x485]).bit_count() == 1


def test_a_budget_ends_it_with_a_case_that_still_shows() -> None:
    case = scrambled(Random(2), 40)
    runs: list[SlotCase] = []

    def counted(candidate: SlotCase) -> bool:
        runs.append(candidate)
        return len(differences(candidate)) > 5

    smallest = minimise(case, counted, Budget(runs=10))
    assert len(runs) == 10
    assert 5 < len(differences(smallest)) <= 40
    assert minimise(case, counted, Budget(stop=lambda: True)) == case
    assert len(runs) == 10


def test_minimising_is_deterministic() -> None:
    case = scrambled(Random(4), 40)
    first, second = (
        minimise(case, lambda candidate: len(differences(candidate)) > 3, Budget())
        for _ in range(2)
    )
    assert first == second
    assert len(differences(first)) == 4
