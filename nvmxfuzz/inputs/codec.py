# SPDX-License-Identifier: GPL-2.0-only
"""A case as bytes for the fuzzing engines: every byte string is some case, every case has bytes.

What follows is about cases that are slots and nothing else; `inputs.world_codec` has the others.

Four bytes lead: version, flags, profile, base. The numbers of profiles are those of
`inputs.order`, unless whoever reads and writes agrees on other ones. What follows depends on the
kind in bits 1:0 of the flags:

0 XOR     one word for each slot of the layout, exclusive-ored onto the base; missing ones are 0;
1 SPARSE  records, one for each edited slot or range of memory (`inputs.records`);
2 BOTH    a byte that counts the records, the records, then the words;
3 TEXT    the case as TOML: for what has no number, such as a profile of its own.

Bit 7 of the flags repairs the state to a legal one after the words and before the records. The
header without a body is the base itself, no bytes at all are the first base on the first profile.

The version says which slots there are; a later one adds slots behind those of the earlier ones, and
a number that is no version means 1. Numbers of profiles, bases and choices beyond what there is
wrap around, so that a mutation always means something. What `encode` writes has neither such a
number nor bit 7, and keeps its meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from itertools import compress
from typing import Final, Literal, overload

from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.bases import base, base_names
from nvmxfuzz.inputs.case import (
    Case,
    CaseKind,
    ConfigCase,
    EntryCase,
    SlotCase,
    SlotKind,
    WorldCase,
)
from nvmxfuzz.inputs.difference import differences
from nvmxfuzz.inputs.document import MAX_BYTES
from nvmxfuzz.inputs.layout import VERSION, Layout, Slot, known_version, layout
from nvmxfuzz.inputs.memory_edit import MemoryEdit
from nvmxfuzz.inputs.order import BASES, PROFILES
from nvmxfuzz.inputs.profile_name import named_profile
from nvmxfuzz.inputs.records import Record, pack_record, read_records
from nvmxfuzz.inputs.text import dump_text, load_text
from nvmxfuzz.inputs.words import build_attempt, build_config, config_word, entry_word, word_of
from nvmxfuzz.inputs.world_codec import decode_in_world, encode_in_world
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.profile import Profile, load_profile, profile_names

XOR: Final = 0
SPARSE: Final = 1
BOTH: Final = 2
TEXT: Final = 3
REPAIR: Final = 0x80

HEADER_BYTES: Final = 4
_KIND = 3
_MOST_BEFORE: Final = 256
"""So many states before the records are kept: some 3 MiB."""
_MOST_SPLIT: Final = 2048
"""Of so many inputs the records are kept: some 4 MiB."""


@dataclass(frozen=True, slots=True, eq=False)
class _Start:
    """A base ready to be edited: the case, its layout, and its words in layout order.

    The first `fields` slots are the VMCS fields of version 1, which fill their words.
    """

    case: SlotCase
    table: Layout
    words: tuple[int, ...]
    names: tuple[str, ...]
    fields: int


@overload
def decode(
    data: bytes, harness: Literal["vm_entry"], profiles: tuple[str, ...] = PROFILES
) -> EntryCase: ...


@overload
def decode(data: bytes, harness: SlotKind, profiles: tuple[str, ...] = PROFILES) -> SlotCase: ...


@overload
def decode(data: bytes, harness: CaseKind, profiles: tuple[str, ...] = PROFILES) -> Case: ...


def decode(data: bytes, harness: CaseKind, profiles: tuple[str, ...] = PROFILES) -> Case:
    """Return the case that `data` is; what lies beyond `MAX_BYTES` is not looked at.

    `profiles` are the names that the third byte means.
    """
    if harness != "vm_entry" and harness != "capability_config":  # narrows
        return decode_in_world(data, harness)
    version, flags, profile, number = data[:HEADER_BYTES].ljust(HEADER_BYTES, b"\0")
    start = _numbered_start(harness, known_version(version), profile, number, profiles)
    records: tuple[Record, ...] = ()
    words = b""
    if flags & _KIND != TEXT:
        records, words = split(data, start.table)
    elif (found := _decode_text(data[HEADER_BYTES:MAX_BYTES], harness)) is not None:
        return found
    if isinstance(start.case, ConfigCase):
        return _decode_config(start, start.case, records, words)
    attempt = _before_records(start, words, flags & REPAIR != 0)
    if records:
        attempt = _edited(attempt, records)
    return EntryCase(attempt, start.case.base)


@lru_cache(maxsize=_MOST_BEFORE)
def _before_records(start: _Start, words: bytes, repaired: bool) -> Attempt:
    """Return what the records are applied to.

    A mutation mostly changes the records alone, so that two of three inputs find it here.
    """
    assert isinstance(start.case, EntryCase)
    attempt = start.case.attempt
    if words:
        attempt = _xored(start, attempt, words)
    return _repaired(attempt) if repaired else attempt


def encode(case: Case, profiles: tuple[str, ...] = PROFILES) -> bytes:
    """Return bytes that `decode` to an equal case; the note, which equality ignores, is lost."""
    if isinstance(case, WorldCase):
        return encode_in_world(case)
    header = _header(case, profiles)
    if header is None:
        return bytes((VERSION, TEXT, 0, 0)) + dump_text(case).encode()
    table = layout(case.harness)
    return header + b"".join(pack_record(change, table) for change in differences(case))


def base_words(
    profile: int, number: int, harness: SlotKind, profiles: tuple[str, ...]
) -> tuple[Profile, tuple[int, ...]]:
    """Return the profile that the third byte of a header means, and what the base has by slot."""
    start = _numbered_start(harness, VERSION, profile, number, profiles)
    return start.case.profile, start.words


@lru_cache(maxsize=_MOST_SPLIT)
def split(data: bytes, table: Layout) -> tuple[tuple[Record, ...], bytes]:
    """Return the records and the words of an input that is no text, and has these slots.

    A mutator asks about what has just been executed, or about one of a few that are mixed in.
    """
    kind, body = (data[1] & _KIND if len(data) > 1 else XOR), data[HEADER_BYTES:MAX_BYTES]
    if kind == SPARSE:
        return tuple(read_records(body, len(body), table)[0]), b""
    records: list[Record] = []
    if kind == BOTH and body:
        records, body = read_records(body[1:], body[0], table)
    return tuple(records), body[: table.words.size]


def _header(case: SlotCase, profiles: tuple[str, ...]) -> bytes | None:
    """Return the first bytes of a case that the format has numbers for, or None."""
    profile = named_profile(case)
    number = 0
    if isinstance(case, EntryCase):
        if case.base not in BASES:
            return None
        number = BASES.index(case.base)
    if profile not in profiles:
        return None
    return bytes((VERSION, SPARSE, profiles.index(profile), number))


def _decode_text(body: bytes, harness: SlotKind) -> Case | None:
    try:
        case = load_text(body, "").case
    except InputError:
        return None
    return case if case.harness == harness else None


@cache
def _numbered_start(
    harness: SlotKind, version: int, profile: int, number: int, profiles: tuple[str, ...]
) -> _Start:
    """Return the base that the last two bytes of a header mean."""
    name = profiles[profile % len(profiles)]
    # A profile that an installation lacks keeps its number all the same.
    name = name if name in profile_names() else profiles[0]
    if harness == "capability_config":
        return _start(harness, version, name, name)
    if number < len(BASES):
        return _start(harness, version, name, BASES[number])
    legal = base_names(load_profile(name))
    return _start(harness, version, name, legal[number % len(legal)])


@cache
def _start(harness: SlotKind, version: int, profile: str, name: str) -> _Start:
    table = layout(harness, version)
    processor = load_profile(profile)
    case: SlotCase
    if harness == "vm_entry":
        case = EntryCase(base(name, processor), name)
    else:
        case = ConfigCase(processor, name)
    words = tuple(word_of(case, slot) for slot in table.slots)
    areas = [slot.area for slot in table.slots]
    fields = next(at for at, area in enumerate([*areas, "end"]) if area != "vmcs")
    return _Start(case, table, words, tuple(slot.name for slot in table.slots), fields)


def _words(table: Layout, data: bytes) -> tuple[int, ...]:
    return table.words.unpack(data.ljust(table.words.size, b"\0"))


def _xored(start: _Start, attempt: Attempt, data: bytes) -> Attempt:
    """Return the base `attempt` with `data` exclusive-ored onto it, whatever is 0 left alone."""
    words = _words(start.table, data)
    # compress() and filter() pass over the zeros, which are most words, without any Python code.
    fields = words[: start.fields]
    edits = {
        name: old ^ word
        for name, old, word in zip(
            compress(start.names, fields),
            compress(start.words, fields),
            filter(None, fields),
            strict=True,
        )
    }
    others = words[start.fields :]
    if any(others):
        return build_attempt(attempt, _fitted(start, others), (), edits)
    if not edits:
        return attempt
    return Attempt(attempt.profile, attempt.vmcs.replace(edits), attempt.processor, attempt.memory)


def _fitted(start: _Start, words: tuple[int, ...]) -> dict[Slot, int]:
    """Return the slots behind the first fields that `words` change, with their new values."""
    first = start.fields
    return {
        slot: slot.fit(old ^ word)
        for slot, old, word in zip(
            start.table.slots[first:], start.words[first:], words, strict=True
        )
        if word
    }


def _edited(attempt: Attempt, records: Iterable[Record]) -> Attempt:
    """Return `attempt` after `records`: those of slots in their order, then those of memory."""
    # Nearly all are of VMCS fields, which always fill their words.
    before, fields = attempt.vmcs.__dict__, dict[str, int]()
    others: list[Record] = []
    for record in records:
        if isinstance(record, MemoryEdit) or record[0].area != "vmcs":
            others.append(record)
            continue
        slot, unset, ones, flip = record
        name = slot.name
        old = fields[name] if name in fields else before[name]
        fields[name] = ((old & ~unset | ones) ^ flip) & slot.mask
    words: dict[Slot, int] = {}
    memory = _apply(others, words, partial(entry_word, attempt)) if others else ()
    return build_attempt(attempt, words, memory, fields)


def _apply(
    records: Iterable[Record], words: dict[Slot, int], read: Callable[[Slot], int]
) -> list[MemoryEdit]:
    """Put what records leave in their slots into `words`; return the records of memory.

    `read` tells what a slot holds that is not in `words` yet.
    """
    memory: list[MemoryEdit] = []
    for record in records:
        if isinstance(record, MemoryEdit):
            memory.append(record)
            continue
        slot, unset, ones, flip = record
        old = words[slot] if slot in words else read(slot)
        words[slot] = slot.fit((old & ~unset | ones) ^ flip)
    return memory


def _decode_config(
    start: _Start, case: ConfigCase, records: Iterable[Record], data: bytes
) -> ConfigCase:
    words: dict[Slot, int] = {}
    if data:
        # No slot of this layout is a VMCS field.
        words = _fitted(start, _words(start.table, data))
    # A layout without memory has no records of memory either.
    _apply(records, words, partial(config_word, case))
    return build_config(case, words)


def _repaired(attempt: Attempt) -> Attempt:
    # Repairing is a large part of the package, and not every decoder wants it.
    from nvmxfuzz.inputs.repair import repair

    return repair(attempt)
