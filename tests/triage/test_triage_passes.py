# SPDX-License-Identifier: GPL-2.0-only
"""Each pass of the minimiser alone: what it proposes, in which order, and what it leaves alone."""

from collections.abc import Callable

from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import EntryCase, SlotCase
from nvmxfuzz.inputs.difference import Change, Edit, apply, differences
from nvmxfuzz.inputs.memory_edit import MemoryEdit
from nvmxfuzz.machine.memory import UNBACKED
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.triage.minimise import Budget, minimise, passes
from nvmxfuzz.triage.minimise.problem import Problem

PLAIN = EntryCase(base("guest-64", load_profile("skylake-x")), "guest-64")
FIELDS = tuple(f"guest_{name}_selector" for name in ("es", "cs", "ss", "ds", "fs", "gs", "ldtr"))


def attempted(
    changes: tuple[Change, ...], shows: Callable[[SlotCase], bool]
) -> tuple[Problem, list[SlotCase]]:
    """Return a problem, and the list that every case it tries will be in."""
    tried: list[SlotCase] = []

    def remember(case: SlotCase) -> bool:
        tried.append(case)
        return shows(case)

    return Problem(apply(PLAIN, changes), remember, Budget()), tried


def test_dropping_halves_what_it_drops_down_to_one_change() -> None:
    edits = tuple(Edit(name, 0xFFF0) for name in FIELDS[:4])
    wanted = {edits[0], edits[3]}
    problem, tried = attempted(edits, lambda case: wanted <= set(differences(case)))
    passes.drop_changes(problem)
    assert set(problem.changes) == wanted
    # All four, either half, then one by one; what is left of both is not tried once more.
    assert [len(differences(case)) for case in tried] == [0, 2, 2, 3, 3, 2, 1]


def test_resetting_bits_begins_with_half_of_those_that_differ() -> None:
    origin = PLAIN.attempt.vmcs.guest_es_selector
    edit = Edit("guest_es_selector", origin ^ 0b1111_0000)
    problem, tried = attempted((edit,), lambda case: _selector(case) & 0x80 != origin & 0x80)
    passes.reset_bits(problem)
    assert problem.changes == (Edit("guest_es_selector", origin ^ 0x80),)
    # The lower half, the upper half, then one by one; what was tried is not tried once more.
    assert [_selector(case) ^ origin for case in tried] == [0b1100_0000, 0, 0b1000_0000]


def _selector(case: SlotCase) -> int:
    assert isinstance(case, EntryCase)
    return int(case.attempt.vmcs.guest_es_selector)


def test_changes_that_are_needed_stay_while_another_gets_smaller() -> None:
    edits = tuple(Edit(name, 0xFFF0) for name in FIELDS)

    def shows(case: SlotCase) -> bool:
        return {getattr(each, "slot", "") for each in differences(case)} == set(FIELDS)

    smallest = differences(minimise(apply(PLAIN, edits), shows, Budget()))
    assert len(smallest) == len(FIELDS)
    for edit in smallest:
        assert isinstance(edit, Edit)
        before = getattr(PLAIN.attempt.vmcs, edit.slot)
        assert (edit.value ^ before).bit_count() == 1


def test_bytes_between_those_that_matter_go() -> None:
    def shows(case: SlotCase) -> bool:
        assert isinstance(case, EntryCase)
        first, *_, last = case.attempt.memory.read(0x90000, 4)
        return (first, last) == (1, 4)

    case = apply(PLAIN, [MemoryEdit(0x90000, b"\1\2\3\4")])
    left = MemoryEdit(0x90000, b"\1"), MemoryEdit(0x90003, b"\4")
    assert differences(minimise(case, shows, Budget())) == left


def test_a_byte_keeps_the_bit_that_matters() -> None:
    (at, _), *_ = PLAIN.attempt.memory.regions
    old = PLAIN.attempt.memory.read(at, 1)[0]

    def shows(case: SlotCase) -> bool:
        assert isinstance(case, EntryCase)
        return case.attempt.memory.read(at, 1)[0] & 0x10 != old & 0x10

    case = apply(PLAIN, [MemoryEdit(at, bytes([old ^ 0xFF]) * 8)])
    smallest = minimise(case, shows, Budget())
    assert isinstance(smallest, EntryCase)
    assert smallest.attempt.memory.read(at, 8)[0] == old ^ 0x10
    assert len(differences(smallest)) == 1


def test_an_entry_of_the_list_becomes_the_first() -> None:
    edits = Edit("vm_entry_msr_load_count", 7), Edit("msr_load5_index", 0x1D9)

    def shows(case: SlotCase) -> bool:
        assert isinstance(case, EntryCase)
        vmcs, memory = case.attempt.vmcs, case.attempt.memory
        places = range(min(vmcs.vm_entry_msr_load_count, 8))
        at = vmcs.vm_entry_msr_load_addr
        return any(memory.read_int(at + 16 * place, 4) == 0x1D9 for place in places)

    left = Edit("vm_entry_msr_load_count", 1), Edit("msr_load0_index", 0x1D9)
    assert differences(minimise(apply(PLAIN, edits), shows, Budget())) == left


def test_fields_that_have_to_be_alike_lose_their_bits_together() -> None:
    alike = Edit("io_bitmap_a", 0xABCD_1234_5000), Edit("msr_bitmap", 0xABCD_1234_5000)

    def shows(case: SlotCase) -> bool:
        assert isinstance(case, EntryCase)
        vmcs = case.attempt.vmcs
        return vmcs.io_bitmap_a == vmcs.msr_bitmap and vmcs.msr_bitmap >> 40 & 1 == 1

    smallest = minimise(apply(PLAIN, alike), shows, Budget())
    one, other = differences(smallest)
    assert isinstance(one, Edit)
    assert isinstance(other, Edit)
    assert one.value == other.value
    assert one.value.bit_count() <= 4


def test_bytes_that_nothing_stands_behind_are_not_cleared() -> None:
    (at, data), *_ = PLAIN.attempt.memory.regions
    gone = MemoryEdit(at, bytes([UNBACKED]) * min(4, len(data)), backed=False)
    problem, tried = attempted((gone,), lambda case: gone in differences(case))
    assert problem.changes == (gone,)
    passes.shorten_memory(problem)
    assert problem.changes == (gone,)
    # Only shorter ones are tried: two at either end, then one.
    assert len(tried) == 4
