# SPDX-License-Identifier: GPL-2.0-only
"""Faults planted in VM entries: bits of fields, of the mode, of memory, and their dependents."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from random import Random
from typing import Final

from nvmxfuzz.arch.controls import Primary, Secondary
from nvmxfuzz.arch.fields import FIELDS
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.difference import Change, Edit, apply
from nvmxfuzz.inputs.layout import layout
from nvmxfuzz.inputs.memory_edit import MemoryEdit
from nvmxfuzz.machine.profile import DEFAULT_PROFILE, load_profile
from tests.quality.fault import Planted, Shows, noise


def plain_entry() -> EntryCase:
    """Return the base that every minimum of a VM entry is told against."""
    return EntryCase(base("guest-64", load_profile(DEFAULT_PROFILE)), "guest-64")


def _noise(rng: Random) -> EntryCase:
    case = noise(rng, "vm_entry")
    assert isinstance(case, EntryCase)
    return case


def _entry(kind: str, rng: Random, minimum: Iterable[Change], shows: Shows) -> Planted:
    """Hide the changes of a minimum in a noisy case: their bits are there, and others too."""
    least = tuple(minimum)
    small = apply(plain_entry(), least)
    for _ in range(100):
        case = apply(_noise(rng), [_hidden(rng, change) for change in least])
        if shows(case):
            return Planted(kind, case, shows, small)
    case = apply(_noise(rng), least)
    assert shows(case), kind
    return Planted(kind, case, shows, small)


def _hidden(rng: Random, change: Change) -> Change:
    """Return a change with noise around it."""
    if isinstance(change, MemoryEdit):
        around = bytes(rng.getrandbits(8) for _ in range(24))
        return MemoryEdit(change.address - 8, around[:8] + change.data + around[8:])
    slot = layout("vm_entry").by_name[change.slot]
    start = word(plain_entry(), change.slot)
    wanted = change.value ^ start
    noisy = rng.getrandbits(slot.width) & ~wanted
    return replace(change, value=slot.fit(change.value ^ (0 if slot.choices else noisy)))


def word(case: EntryCase, name: str) -> int:
    if hasattr(case.attempt.vmcs, name):
        found: int = getattr(case.attempt.vmcs, name)
        return found
    slot = layout("vm_entry").by_name[name]
    if slot.area == "memory":
        return case.attempt.memory.read_int(slot.address, slot.size)
    if name in ("instruction", "launch_state"):
        return slot.choices.index(getattr(case.attempt, name))
    return int(getattr(case.attempt.processor, name))


def _has(needed: Iterable[tuple[str, int]]) -> Shows:
    """Return a fault that shows where bits of words are not as in the plain base."""
    wanted = [(name, mask, ~word(plain_entry(), name) & mask) for name, mask in needed]

    def shows(case: EntryCase) -> bool:
        return all(word(case, name) & mask == value for name, mask, value in wanted)

    return shows


def _flipped(name: str, mask: int) -> Edit:
    return Edit(name, word(plain_entry(), name) ^ mask)


def _bits(kind: str, rng: Random, names: Iterable[tuple[str, int]]) -> Planted:
    needed = list(names)
    return _entry(kind, rng, [_flipped(name, mask) for name, mask in needed], _has(needed))


def any_bit(rng: Random) -> tuple[str, int]:
    field = rng.choice(FIELDS)
    return field.name, 1 << rng.randrange(field.width)


def _one_bit(rng: Random) -> Planted:
    return _bits("a bit of a field", rng, [any_bit(rng)])


def _two_fields(rng: Random) -> Planted:
    one, other = (rng.choice(FIELDS[at::2]) for at in (0, 1))
    pair = [(field.name, 1 << rng.randrange(field.width)) for field in (one, other)]
    return _bits("bits of two fields", rng, pair)


def _three_fields(rng: Random) -> Planted:
    chosen = [rng.choice(FIELDS[at::3]) for at in range(3)]
    bits = [(field.name, 1 << rng.randrange(field.width)) for field in chosen]
    return _bits("bits of three fields", rng, bits)


_DEPENDENTS: Final = (
    (Secondary.ENABLE_EPT, "ept_pointer", 0x80),
    (Secondary.ENABLE_VPID, "virtual_processor_id", 0x4),
    (Secondary.ENABLE_PML, "pml_address", 0x8),
    (Secondary.VIRTUALIZE_APIC_ACCESSES, "apic_access_addr", 0x10),
    (Secondary.VMCS_SHADOWING, "vmread_bitmap", 0x20),
    (Secondary.USE_TSC_SCALING, "tsc_multiplier", 0x40),
)


def _control_and_dependent(rng: Random) -> Planted:
    control, field, mask = rng.choice(_DEPENDENTS)
    needed = [
        (name, bit)
        for name, bit in (
            ("cpu_based_vm_exec_control", int(Primary.ACTIVATE_SECONDARY_CONTROLS)),
            ("secondary_vm_exec_control", int(control)),
            (field, mask),
        )
        if not word(plain_entry(), name) & bit
    ]
    return _bits("a control and what depends on it", rng, needed)


def _processor(rng: Random) -> Planted:
    names = ("cpl", "cr0", "cr4", "efer", "rflags", "instruction", "launch_state", "in_smm")
    name = rng.choice(names)
    slot = layout("vm_entry").by_name[name]
    return _bits("the processor's mode", rng, [(name, 1 << rng.randrange(slot.width))])


def _memory_byte(rng: Random) -> Planted:
    regions = plain_entry().attempt.memory.regions
    start, data = rng.choice(regions) if rng.getrandbits(1) and regions else (0x90000, bytes(64))
    at = start + rng.randrange(len(data))
    old = plain_entry().attempt.memory.read(at, 1)[0]
    bit = 1 << rng.randrange(8)

    def shows(case: EntryCase) -> bool:
        return case.attempt.memory.read(at, 1)[0] & bit != old & bit

    return _entry("a byte of memory", rng, [MemoryEdit(at, bytes([old ^ bit]))], shows)


def _list_entry(rng: Random) -> Planted:
    index, bit = 0xC000_0080 + rng.randrange(8), 1 << rng.randrange(64)
    first = word(plain_entry(), "msr_load0_index"), word(plain_entry(), "msr_load0_value")

    def shows(case: EntryCase) -> bool:
        count = min(word(case, "vm_entry_msr_load_count"), 8)
        return any(
            word(case, f"msr_load{at}_index") == index
            and (word(case, f"msr_load{at}_value") ^ first[1]) & bit != 0
            for at in range(count)
        )

    place = rng.randrange(8)
    noisy = first[1] ^ (rng.getrandbits(64) | bit)
    edits = [
        Edit("vm_entry_msr_load_count", rng.randint(place + 1, 8)),
        Edit(f"msr_load{place}_index", index),
        Edit(f"msr_load{place}_value", noisy),
    ]
    least = [
        Edit("vm_entry_msr_load_count", 1),
        Edit("msr_load0_index", index),
        Edit("msr_load0_value", first[1] ^ bit),
    ]
    case = apply(_noise(rng), edits)
    return Planted("an entry of the MSR list", case, shows, apply(plain_entry(), least))


def _limit(rng: Random) -> Planted:
    name, most = rng.choice((("cr3_target_count", 4), ("tpr_threshold", 15), ("ple_gap", 100)))
    bit = 1 << most.bit_length()

    def shows(case: EntryCase) -> bool:
        return word(case, name) > most

    # The least power of two above the limit: one bit.
    least = [Edit(name, bit >> 1 if bit >> 1 > most else bit)]
    return _entry("a number beyond a limit", rng, least, shows)


def _exact(rng: Random) -> Planted:
    field = rng.choice([each for each in FIELDS if each.width >= 32])
    value = rng.getrandbits(16) | 1 << rng.randrange(16, 32)

    def shows(case: EntryCase) -> bool:
        return word(case, field.name) == value

    case = apply(_noise(rng), [Edit(field.name, value)])
    small = apply(plain_entry(), [Edit(field.name, value)])
    return Planted("a field of one value", case, shows, small)


def _unlike(rng: Random) -> Planted:
    one, other = rng.sample(("guest_cs_selector", "guest_ss_selector", "guest_ds_selector"), 2)

    def shows(case: EntryCase) -> bool:
        return (word(case, one) ^ word(case, other)) & 3 != 0

    agree = (word(plain_entry(), one) ^ word(plain_entry(), other)) & 3 == 0
    assert agree
    return _entry("two fields that differ", rng, [_flipped(one, 1)], shows)


def _alike(rng: Random) -> Planted:
    one, other = rng.sample(("io_bitmap_a", "io_bitmap_b", "msr_bitmap", "pml_address"), 2)
    bit = 1 << rng.randrange(24, 40)

    def shows(case: EntryCase) -> bool:
        return word(case, one) == word(case, other) and word(case, one) & bit != 0

    value = rng.getrandbits(40) | bit
    case = apply(_noise(rng), [Edit(one, value), Edit(other, value)])
    least = [Edit(name, word(plain_entry(), one) | bit) for name in (one, other)]
    return Planted("two fields that are alike", case, shows, apply(plain_entry(), least))


def _profile_too(rng: Random) -> Planted:
    """A fault of one processor: the profile has to stay, all else goes."""
    name, mask = any_bit(rng)
    profile = load_profile(rng.choice(("penryn", "haswell", "tiger-lake")))
    start = EntryCase(base("guest-64", profile), "guest-64")
    value = word(start, name) ^ mask

    def shows(case: EntryCase) -> bool:
        return case.profile.name == profile.name and word(case, name) & mask == value & mask

    noisy = _noise(rng)
    case = apply(
        EntryCase(replace(noisy.attempt, profile=profile), "guest-64"),
        [Edit(name, value)],
    )
    return Planted("a bit on one processor", case, shows, apply(start, [Edit(name, value)]))


ENTRIES: Final = (
    *(_one_bit, _two_fields, _three_fields, _control_and_dependent, _processor),
    *(_memory_byte, _list_entry, _limit, _exact, _unlike, _alike, _profile_too),
)
