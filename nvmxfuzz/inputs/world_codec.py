# SPDX-License-Identifier: GPL-2.0-only
"""Cases in worlds as bytes: any bytes are some case.

Of a `capability_restore`, a `session` or a `migration` four bytes lead: version, flags (TEXT in
bits 1:0: TOML follows), the number of the profile, the order in which a migration writes MSRs. A
world is a byte that counts its records and the records, of the slots of worlds. In a restore and in
a session the steps follow the world, in a migration the profile and the world of the destination,
and then a VM entry with a header of its own.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import (
    DEFAULT_KERNEL,
    ORDERS,
    Case,
    EntryCase,
    MigrationCase,
    RestoreCase,
    SessionCase,
    WorldCase,
    WorldKind,
)
from nvmxfuzz.inputs.document import MAX_BYTES
from nvmxfuzz.inputs.layout import VERSION, Slot, known_version, layout
from nvmxfuzz.inputs.memory_edit import MemoryEdit
from nvmxfuzz.inputs.order import PROFILES
from nvmxfuzz.inputs.records import pack_record, read_records
from nvmxfuzz.inputs.session_codec import pack_session, read_session
from nvmxfuzz.inputs.step_codec import has_numbers, pack_steps, read_steps
from nvmxfuzz.inputs.world import World, world_on
from nvmxfuzz.inputs.world_words import build_world, world_differences, world_word
from nvmxfuzz.machine.profile import profile_names

TEXT: Final = 3
HEADER_BYTES: Final = 4
_MOST_RECORDS: Final = 0xFF


def decode_in_world(data: bytes, harness: WorldKind) -> WorldCase:
    """Return the case that `data` is; what lies beyond `MAX_BYTES` is not looked at."""
    header, body = data[:HEADER_BYTES].ljust(HEADER_BYTES, b"\0"), data[HEADER_BYTES:MAX_BYTES]
    version, flags, profile, order = header
    if flags & TEXT == TEXT:
        found = _decode_text(body)
        if found is not None and found.harness == harness:
            return found
        body = b""
    version = known_version(version)
    world, body = _read_world(profile, body, version)
    if harness == "capability_restore":
        return RestoreCase(world, read_steps(body))
    if harness == "session":
        return SessionCase(world, read_session(body))
    destination, body = _read_world(body[0] if body else profile, body[1:], version)
    return MigrationCase(world, destination, _entry(body), ORDERS[order % len(ORDERS)])


def encode_in_world(case: WorldCase) -> bytes:
    """Return bytes that `decode_in_world` makes an equal case of; the note is lost."""
    worlds = [case.source, case.destination] if isinstance(case, MigrationCase) else [case.world]
    numbered = not isinstance(case, RestoreCase) or has_numbers(case.steps)
    if not numbered or not all(world.base in PROFILES for world in worlds):
        return bytes((VERSION, TEXT, 0, 0)) + _text(case).encode()
    order = ORDERS.index(case.order) if isinstance(case, MigrationCase) else 0
    head = bytes((VERSION, 0, PROFILES.index(worlds[0].base), order)) + _pack_world(worlds[0])
    if isinstance(case, RestoreCase):
        return head + pack_steps(case.steps)
    if isinstance(case, SessionCase):
        return head + pack_session(case.steps)
    from nvmxfuzz.inputs.codec import encode

    destination = case.destination
    there = bytes([PROFILES.index(destination.base)]) + _pack_world(destination)
    return head + there + encode(case.entry)


def _text(case: Case) -> str:
    from nvmxfuzz.inputs.text import dump_text

    return dump_text(case)


def _decode_text(body: bytes) -> Case | None:
    from nvmxfuzz.inputs.text import load_text

    try:
        return load_text(body, "").case
    except InputError:
        return None


def _entry(body: bytes) -> EntryCase:
    # A case of this kind consists of one of the other; their codecs know one another.
    from nvmxfuzz.inputs.codec import decode

    return decode(body, "vm_entry")


@cache
def _start(profile: int) -> World:
    name = PROFILES[profile % len(PROFILES)]
    # A profile that an installation lacks keeps its number all the same.
    return world_on(name if name in profile_names() else PROFILES[0], DEFAULT_KERNEL)


def _read_world(profile: int, body: bytes, version: int) -> tuple[World, bytes]:
    """Return the world at the start of `body`, and what follows it."""
    start, table = _start(profile), layout("world", version)
    records, rest = read_records(body[1:], body[0] if body else 0, table)
    words: dict[Slot, int] = {}
    for record in records:
        assert not isinstance(record, MemoryEdit)
        slot, unset, ones, flip = record
        old = words[slot] if slot in words else world_word(start, slot)
        words[slot] = slot.fit((old & ~unset | ones) ^ flip)
    return build_world(start, words) if words else start, rest


def _pack_world(world: World) -> bytes:
    table = layout("world")
    edits = world_differences(world)
    assert len(edits) <= _MOST_RECORDS
    return bytes([len(edits)]) + b"".join(pack_record(edit, table) for edit in edits)
