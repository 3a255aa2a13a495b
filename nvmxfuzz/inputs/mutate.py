# SPDX-License-Identifier: GPL-2.0-only
"""Mutator and crossover that know the binary format, for Atheris.

An input is taken apart into header, records and words (`inputs.codec`); a mutation changes one of
these parts by meaning: one more edit, one less, another value at an edge of the slot, another
profile or base. libFuzzer's own mutation is passed in, so that Atheris is not imported here; it
makes three mutations of ten. What is done depends on the input and the seed alone.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import shake_128
from random import Random
from typing import Final, TypeAlias

from nvmxfuzz.inputs.bases import base_names
from nvmxfuzz.inputs.case import CaseKind, WorldKind
from nvmxfuzz.inputs.codec import REPAIR
from nvmxfuzz.inputs.interesting import interesting
from nvmxfuzz.inputs.layout import Slot
from nvmxfuzz.inputs.memory_edit import ADDRESS_BITS, MemoryEdit
from nvmxfuzz.inputs.order import BASES, PROFILES
from nvmxfuzz.inputs.parts import MOST_RECORDS, Parts, is_text, put_together, take_apart
from nvmxfuzz.inputs.quick_random import QuickRandom
from nvmxfuzz.inputs.records import SlotEdit
from nvmxfuzz.inputs.world_mutate import crossed_in_world, mutated_in_world

Own: TypeAlias = Callable[[bytes, int], bytes]
"""libFuzzer's mutation, as `atheris.Mutate(data, max_size)`."""
Mutator: TypeAlias = Callable[[bytes, int, int], bytes]
"""(data, max_size, seed) -> data, what `atheris.Setup` takes as `custom_mutator`."""
CrossOver: TypeAlias = Callable[[bytes, bytes, int, int], bytes]
"""(data, other, max_size, seed) -> data, what it takes as `custom_crossover`."""

OWN_SHARE: Final = 0.3
OWN_SHARE_IN_WORLD: Final = 0.1
"""Less where one byte more or less gives all steps behind it another meaning."""
_MOST_STEPS: Final = 4
_HALF: Final = 32
_HIGHEST: Final = (1 << ADDRESS_BITS) - 1
_LONGEST: Final = 0xFF
"""The most bytes that a record writes."""


def mutator(harness: CaseKind, own: Own, profiles: tuple[str, ...] = PROFILES) -> Mutator:
    """Return the custom mutator of `harness`: three of ten inputs are given to `own`.

    `profiles` are those that the inputs have numbers for.
    """
    if harness != "vm_entry" and harness != "capability_config":  # narrows
        return _mutator_in_world(harness, own)
    rng = QuickRandom()

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        rng.begin(seed)
        if rng.random() < OWN_SHARE or is_text(data):
            return own(data, max_size)
        return put_together(_mutated(take_apart(data, harness, profiles), rng), max_size)

    return mutate


def cross_over(harness: CaseKind, profiles: tuple[str, ...] = PROFILES) -> CrossOver:
    """Return the custom crossover of `harness`: edits of both inputs on the base of one."""
    if harness != "vm_entry" and harness != "capability_config":  # narrows
        return _cross_over_in_world(harness)
    rng = QuickRandom()

    def cross(data: bytes, other: bytes, max_size: int, seed: int) -> bytes:
        if is_text(data) or is_text(other):
            return data[:max_size]
        rng.begin(seed)
        one, two = (take_apart(parent, harness, profiles) for parent in (data, other))
        if rng.getrandbits(1):
            one, two = two, one
        chosen = [record for record in (*one.records, *two.records) if rng.getrandbits(1)]
        one.records = chosen or one.records or two.records
        one.words = _crossed_words(one, two, rng)
        return put_together(one, max_size)

    return cross


def _mutator_in_world(harness: WorldKind, own: Own) -> Mutator:
    rng, entry = QuickRandom(), mutator("vm_entry", own)

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        rng.begin(seed)
        if rng.random() < OWN_SHARE_IN_WORLD:
            return own(data, max_size)
        return mutated_in_world(data, harness, entry, rng)[:max_size]

    return mutate


def _cross_over_in_world(harness: WorldKind) -> CrossOver:
    rng = QuickRandom()

    def cross(data: bytes, other: bytes, max_size: int, seed: int) -> bytes:
        rng.begin(seed)
        return crossed_in_world(data, other, harness, rng)[:max_size]

    return cross


def _mutated(parts: Parts, rng: Random) -> Parts:
    for _ in range(_steps(rng)):
        rng.choice(_STEPS)(parts, rng)
    return parts


def _steps(rng: Random) -> int:
    """Return how many mutations to stack: one mostly, each further one half as often."""
    steps = 1
    while steps < _MOST_STEPS and rng.getrandbits(1):
        steps += 1
    return steps


def _add_edit(parts: Parts, rng: Random) -> None:
    """Edit one more slot, at a place among the records that is as good as any other."""
    if len(parts.records) >= MOST_RECORDS:
        parts.records.pop(rng.randrange(len(parts.records)))
    parts.records.insert(rng.randint(0, len(parts.records)), _edit(parts, rng, _slot(parts, rng)))


def _drop_edit(parts: Parts, rng: Random) -> None:
    """Take one edit back."""
    if parts.records:
        parts.records.pop(rng.randrange(len(parts.records)))
    elif parts.words:
        _clear_word(parts, rng)


def _change_edit(parts: Parts, rng: Random) -> None:
    """Give one edit another value, or another slot."""
    if not parts.records:
        return _add_edit(parts, rng)
    at = rng.randrange(len(parts.records))
    record = parts.records[at]
    if isinstance(record, MemoryEdit):
        parts.records[at] = _changed_range(record, rng)
    elif rng.random() < 0.25:
        other = _slot(parts, rng)
        _, unset, ones, flip = record
        kept = unset if unset < 0 else unset & other.mask
        parts.records[at] = (other, kept, ones & other.mask, flip & other.mask)
    else:
        parts.records[at] = _changed_value(parts, rng, record)
    return None


def _changed_value(parts: Parts, rng: Random, record: SlotEdit) -> SlotEdit:
    slot, unset, ones, flip = record
    if rng.getrandbits(1):
        return _edit(parts, rng, slot)
    return slot, unset, ones, flip ^ _few_bits(slot, rng)


def _write_memory(parts: Parts, rng: Random) -> None:
    """Put bytes where the base has memory or a slot points to, or take the memory there away."""
    places = parts.table.by_area["memory"]
    if not places:
        return _add_edit(parts, rng)
    _, words = parts.base()
    start = rng.choice(places).address if rng.getrandbits(1) else rng.choice(words)
    address = start + rng.choice((0, 0, 0x80, 8 * rng.randrange(64), 0x1000)) & _HIGHEST
    data = rng.randbytes(rng.choice((1, 4, 8, 16, 32)))
    backed = rng.random() < 0.8
    parts.records.append(MemoryEdit(address, data if backed else b"\xff" * len(data), backed))
    del parts.records[:-MOST_RECORDS]
    return None


def _changed_range(record: MemoryEdit, rng: Random) -> MemoryEdit:
    if record.data and record.backed and rng.random() < 0.75:
        data = bytearray(record.data)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return MemoryEdit(record.address, bytes(data))
    moved = (record.address ^ 1 << rng.randrange(ADDRESS_BITS)) & _HIGHEST - _LONGEST
    return MemoryEdit(moved, record.data, record.backed)


def _change_word(parts: Parts, rng: Random) -> None:
    """Flip few bits of one word, where the input has words at all."""
    if not parts.words:
        return _add_edit(parts, rng)
    at = rng.randrange(len(parts.words))
    parts.words[at] ^= 1 << rng.randrange(8)
    return None


def _clear_word(parts: Parts, rng: Random) -> None:
    """Take back what the words change in one slot."""
    dirty = [at for at, byte in enumerate(parts.words) if byte]
    if not dirty:
        return _drop_edit(parts, rng) if parts.records else _add_edit(parts, rng)
    at = rng.choice(dirty)
    start = 0
    for slot in parts.table.slots:
        if start <= at < start + slot.size:
            parts.words[start : start + slot.size] = bytes(slot.size)[: len(parts.words) - start]
            break
        start += slot.size
    return None


def _change_profile(parts: Parts, rng: Random) -> None:
    """Another processor; of the bases one that it can run."""
    parts.header[2] = rng.randrange(len(parts.profiles))
    if parts.harness == "vm_entry" and rng.random() < 0.75:
        _change_base(parts, rng)


def _change_base(parts: Parts, rng: Random) -> None:
    """Another base: the 32-bit hypervisor's or the empty one only seldom."""
    if parts.harness != "vm_entry":
        return _change_profile(parts, rng)
    profile, _ = parts.base()
    names = base_names(profile) if rng.random() < 0.9 else BASES
    parts.header[3] = BASES.index(rng.choice(names))
    return None


def _toggle_repair(parts: Parts, rng: Random) -> None:
    """Make the words legal before the records are applied, or no longer do so."""
    if parts.harness != "vm_entry":
        return _add_edit(parts, rng)
    parts.header[1] ^= REPAIR
    if parts.header[1] & REPAIR and not parts.words:
        _scatter_words(parts, rng)
    return None


def _scatter_words(parts: Parts, rng: Random) -> None:
    """Change the words at random, some slots or all: what repair makes another legal state of."""
    slots, size = parts.table.slots, parts.table.words.size
    share = rng.choice((256, 128, 26))
    noise = shake_128(rng.randbytes(8)).digest(size + len(slots))
    words = bytearray(noise[:size])
    at = 0
    for slot, chance in zip(slots, noise[size:], strict=True):
        if chance >= share:
            words[at : at + slot.size] = bytes(slot.size)
        at += slot.size
    parts.words = words
    parts.header[1] |= REPAIR


def _slot(parts: Parts, rng: Random) -> Slot:
    return rng.choice(parts.table.slots)


def _edit(parts: Parts, rng: Random, slot: Slot) -> SlotEdit:
    """Return an edit of `slot`: few bits, a value at an edge, another slot's, or any value."""
    choice = rng.random()
    if choice < 0.4:
        return slot, 0, 0, _few_bits(slot, rng)
    if choice < 0.7:
        profile, _ = parts.base()
        return slot, -1, slot.fit(rng.choice(interesting(slot, profile))), 0
    if choice < 0.8:
        _, words = parts.base()
        return slot, -1, slot.fit(rng.choice(words)), 0
    if choice < 0.9:
        bit = 1 << rng.randrange(slot.width)
        return (slot, bit, 0, 0) if rng.getrandbits(1) else (slot, 0, bit, 0)
    return slot, -1, slot.fit(rng.getrandbits(slot.width)), 0


def _few_bits(slot: Slot, rng: Random) -> int:
    """Return one bit mostly, else two; of a capability MSR the two that belong to one control."""
    bits = 1 << rng.randrange(slot.width)
    if rng.random() < 0.3:
        if slot.area == "msr" and slot.width > _HALF:
            low = 1 << rng.randrange(_HALF)
            return low | low << _HALF
        bits |= 1 << rng.randrange(slot.width)
    return bits


def _crossed_words(one: Parts, two: Parts, rng: Random) -> bytearray:
    """Return the words of `one` up to a slot, those of `two` from there on."""
    if not two.words or not rng.getrandbits(1):
        return one.words
    cut = 0
    for slot in one.table.slots[: rng.randrange(len(one.table.slots))]:
        cut += slot.size
    return one.words[:cut].ljust(cut, b"\0") + two.words[cut:]


_STEPS: Final[tuple[Callable[[Parts, Random], None], ...]] = (
    *(_add_edit,) * 8,
    *(_change_edit,) * 5,
    *(_drop_edit,) * 4,
    *(_change_word,) * 2,
    *(_clear_word,) * 2,
    _write_memory,
    _change_profile,
    _change_base,
    _toggle_repair,
)
