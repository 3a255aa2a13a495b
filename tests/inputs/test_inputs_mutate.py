# SPDX-License-Identifier: GPL-2.0-only
"""The mutator: always some case, all of them within reach, the same from the same seed."""

from random import Random

import pytest

from nvmxfuzz.inputs import mutate
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import SLOT_KINDS, EntryCase, SlotKind
from nvmxfuzz.inputs.codec import TEXT, decode, encode
from nvmxfuzz.inputs.difference import differences
from nvmxfuzz.inputs.layout import VERSION, layout
from nvmxfuzz.inputs.memory_edit import MemoryEdit
from nvmxfuzz.inputs.order import PROFILES
from nvmxfuzz.inputs.words import word_of
from nvmxfuzz.machine.profile import load_profile

MAX_SIZE = 4096
START = bytes((VERSION, 0, 0, 0))


def no_mutation(data: bytes, max_size: int) -> bytes:
    """Stand in for the mutation of the engine, so that all that is seen is one by meaning."""
    return data[:max_size]


MUTATORS = {kind: mutate.mutator(kind, no_mutation) for kind in SLOT_KINDS}
CROSSOVERS = {kind: mutate.cross_over(kind) for kind in SLOT_KINDS}


def chains(harness: SlotKind, calls: int, links: int = 16) -> list[bytes]:
    found, data = [], START
    for seed in range(calls):
        data = MUTATORS[harness](data if seed % links else START, MAX_SIZE, seed)
        found.append(data)
    return found


@pytest.mark.parametrize("harness", SLOT_KINDS)
def test_mutation_depends_on_data_and_seed_alone(harness: SlotKind) -> None:
    for seed, data in enumerate(chains(harness, 100)):
        once = MUTATORS[harness](data, MAX_SIZE, seed)
        assert once == MUTATORS[harness](data, MAX_SIZE, seed)


@pytest.mark.parametrize("harness", SLOT_KINDS)
def test_mutation_keeps_to_the_size(harness: SlotKind) -> None:
    for seed, data in enumerate(chains(harness, 300)):
        size = seed % 70
        assert len(MUTATORS[harness](data, size, seed)) <= size
        assert len(CROSSOVERS[harness](data, data, size, seed)) <= size


@pytest.mark.parametrize("harness", SLOT_KINDS)
def test_any_bytes_can_be_mutated_and_crossed(harness: SlotKind) -> None:
    rng = Random(9)
    for seed in range(400):
        one, two = (rng.randbytes(rng.choice((0, 1, 3, 9, 200, 2500))) for _ in range(2))
        decode(MUTATORS[harness](one, MAX_SIZE, seed), harness)
        decode(CROSSOVERS[harness](one, two, MAX_SIZE, seed), harness)


@pytest.mark.parametrize(("harness", "calls"), [("vm_entry", 5000), ("capability_config", 12000)])
def test_every_bit_of_every_slot_is_reached(harness: SlotKind, calls: int) -> None:
    seen_1 = dict.fromkeys(layout(harness).slots, 0)
    seen_0 = dict.fromkeys(layout(harness).slots, 0)
    for data in chains(harness, calls):
        # Without repair, so that it is the mutator itself that reaches the bit.
        case = decode(bytes((data[0], data[1] & 0x7F)) + data[2:], harness)
        for slot in seen_1:
            value = word_of(case, slot)
            seen_1[slot] |= value
            seen_0[slot] |= ~value
    for slot in layout(harness).slots:
        greatest = len(slot.choices) - 1 if slot.choices else slot.mask
        reached = seen_1[slot] & seen_0[slot] & slot.mask
        assert reached == (1 << greatest.bit_length()) - 1, slot.name


def test_every_profile_base_and_memory_is_reached() -> None:
    cases = [decode(data, "vm_entry") for data in chains("vm_entry", 4000)]
    found = [case for case in cases if isinstance(case, EntryCase)]
    assert {case.profile.name for case in found} == set(PROFILES)
    assert {case.base for case in found} >= {"guest-64", "guest-32", "guest-pae", "guest-real"}
    assert {case.attempt.instruction for case in found} == {"vmlaunch", "vmresume"}
    edits = [edit for case in found for edit in differences(case) if isinstance(edit, MemoryEdit)]
    assert {edit.backed for edit in edits} == {False, True}


def test_some_inputs_ask_for_repair() -> None:
    flags = [data[1] & 0x80 for data in chains("vm_entry", 500)]
    assert 10 < sum(map(bool, flags)) < 400


def test_most_mutations_keep_an_input_small() -> None:
    plain = encode(EntryCase(base("guest-64", load_profile("skylake-x")), "guest-64"))
    sizes = [len(MUTATORS["vm_entry"](plain, MAX_SIZE, seed)) for seed in range(500)]
    assert sum(size < 100 for size in sizes) > 400


def test_changing_an_edit_can_revert_it() -> None:
    attempt = base("guest-64", load_profile("skylake-x"))
    edited = EntryCase(
        type(attempt)(attempt.profile, attempt.vmcs.replace({"guest_rip": 1}), attempt.processor),
        "guest-64",
    )
    data = encode(edited)
    counts = {
        len(differences(decode(MUTATORS["vm_entry"](data, MAX_SIZE, seed), "vm_entry")))
        for seed in range(200)
    }
    assert min(counts) < len(differences(edited)) < max(counts)


def test_mutator_mixes_in_the_own_mutation_of_the_engine() -> None:
    calls = []

    def own(data: bytes, max_size: int) -> bytes:
        calls.append(max_size)
        return data + b"!"

    mixed = mutate.mutator("vm_entry", own)
    for seed in range(1000):
        mixed(START, 64, seed)
    assert 250 < len(calls) < 350
    assert set(calls) == {64}


def test_text_is_left_to_the_engine() -> None:
    text = bytes((VERSION, TEXT, 0, 0)) + b"format = 1"
    mixed = mutate.mutator("vm_entry", lambda data, _: data + b"\n")
    assert all(mixed(text, 64, seed) == text + b"\n" for seed in range(20))
    assert CROSSOVERS["vm_entry"](text, b"", 64, 1) == text


def test_crossover_takes_edits_of_both() -> None:
    attempt = base("guest-64", load_profile("skylake-x"))
    one, two = (
        encode(EntryCase(type(attempt)(attempt.profile, attempt.vmcs.replace({name: 5})), "zero"))
        for name in ("guest_rip", "guest_rsp")
    )
    crossed = {CROSSOVERS["vm_entry"](one, two, MAX_SIZE, seed) for seed in range(60)}
    values = set()
    for data in crossed:
        case = decode(data, "vm_entry")
        assert isinstance(case, EntryCase)
        values.add((case.attempt.vmcs.guest_rip == 5, case.attempt.vmcs.guest_rsp == 5))
    assert (True, True) in values
    assert len(values) > 1
