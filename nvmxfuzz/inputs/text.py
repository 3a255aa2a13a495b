# SPDX-License-Identifier: GPL-2.0-only
"""A case as TOML: the difference against its base, so that the point of it is on the screen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs import toml_writer, values
from nvmxfuzz.inputs.bases import base, default_base
from nvmxfuzz.inputs.case import (
    CASE_KINDS,
    ZERO,
    Case,
    CaseKind,
    ConfigCase,
    EntryCase,
    MigrationCase,
    RestoreCase,
    SessionCase,
    SlotCase,
    SlotKind,
)
from nvmxfuzz.inputs.difference import Change, Edit, apply, differences
from nvmxfuzz.inputs.document import parse_toml
from nvmxfuzz.inputs.expectation import (
    ConfigExpectation,
    Vector,
    expectation_table,
    parse_expectation,
)
from nvmxfuzz.inputs.layout import Layout, Slot, layout
from nvmxfuzz.inputs.memory_edit import MemoryEdit
from nvmxfuzz.inputs.msr_text import msr_literal, read_msrs
from nvmxfuzz.inputs.profile_name import named_profile, read_profile
from nvmxfuzz.inputs.shown import parse_shown, shown_table
from nvmxfuzz.inputs.words import PROFILE_ATTRIBUTES
from nvmxfuzz.inputs.world_text import (
    migration_worlds,
    parse_migration,
    parse_restore,
    parse_session,
    write_restore,
    write_session,
)
from nvmxfuzz.machine.memory import UNBACKED
from nvmxfuzz.machine.outside import nearest, show
from nvmxfuzz.machine.profile import DEFAULT_PROFILE, load_profile

FORMAT: Final = 1
"""Version of the TOML form; a file that does not say its format has this one."""

_HEADER = ("format", "note", "harness", "profile", "base")
_TABLES: Final[Mapping[SlotKind, tuple[str, ...]]] = {
    "vm_entry": ("vmcs", "processor", "memory"),
    "capability_config": ("msrs",),
}
_UNBACKED_WORD = "unbacked"
_MAX_UNBACKED = 1 << 12


def load_text(data: bytes, origin: str) -> Vector:
    """Return the vector in the TOML file `data`; `origin` names the file in the InputError."""
    try:
        return parse_vector(parse_toml(data))
    except InputError as problem:
        raise InputError(f"{origin}: {problem}") from None


def parse_vector(document: Mapping[str, Any]) -> Vector:
    """Return the vector that a parsed TOML file states."""
    values.format_number(document, FORMAT)
    harness = _harness(document)
    case: Case
    if harness == "capability_restore":
        case = parse_restore(document)
    elif harness == "migration":
        case = parse_migration(document, _parse_entry)
    elif harness == "session":
        case = parse_session(document)
    else:
        case = replace(
            _slot_case(document, harness, (*_HEADER, "expect", "finding")),
            note=values.text(document, "note", ""),
        )
    expectation = shown = None
    if "expect" in document:
        expectation = parse_expectation(values.table(document, "expect"), harness)
    if "finding" in document:
        shown = parse_shown(values.table(document, "finding"))
    return Vector(case, expectation, shown)


def _parse_entry(table: Mapping[str, Any]) -> EntryCase:
    try:
        case = _slot_case(table, "vm_entry", ("profile", "base"))
    except InputError as problem:
        raise InputError(f"entry: {problem}") from None
    assert isinstance(case, EntryCase)
    return case


def _slot_case(document: Mapping[str, Any], harness: SlotKind, header: tuple[str, ...]) -> SlotCase:
    """Return the case that slots make, as a table states them beside the keys of `header`."""
    table = layout(harness)
    case_slots = tuple(slot.name for slot in table.slots if slot.area == "case")
    values.only_keys(document, (*header, *case_slots, *_TABLES[harness]), "this case")
    start = _start(document, harness)
    changes: list[Change] = [
        Edit(name, values.slot_value(table.by_name[name], document[name]))
        for name in case_slots
        if name in document
    ]
    for area in _TABLES[harness]:
        changes += _READERS[area](values.table(document, area), table)
    return apply(start, changes)


def dump_text(vector: Vector | Case) -> str:
    """Return the TOML file of a vector or of a case alone: canonical, ending in a newline."""
    if not isinstance(vector, Vector):
        vector = Vector(vector)
    case = vector.case
    document = toml_writer.Document()
    document.value("format", FORMAT)
    if case.note:
        document.value("note", case.note)
    if not isinstance(case, EntryCase):
        document.value("harness", case.harness)
    if isinstance(case, MigrationCase):
        document.value("order", case.order)
    elif isinstance(case, RestoreCase):
        write_restore(document, case)
    elif isinstance(case, SessionCase):
        write_session(document, case)
    else:
        _write_slot_case(document, case)
    if vector.expectation is not None:
        document.table("expect", expectation_table(vector.expectation))
        if isinstance(vector.expectation, ConfigExpectation) and vector.expectation.config:
            words = {name: hex(word) for name, word in vector.expectation.config.items()}
            document.literals("expect.config", words)
    if vector.shown is not None:
        document.table("finding", shown_table(vector.shown))
    if not isinstance(case, MigrationCase):
        return document.text()
    entry = toml_writer.Document("entry")
    _write_slot_case(entry, case.entry)
    return "\n".join((document.text(), migration_worlds(case), entry.text()))


def _write_slot_case(document: toml_writer.Document, case: SlotCase) -> None:
    profile, custom = _profile_parts(case)
    changes = differences(case)
    if custom and isinstance(case, ConfigCase):
        changes = tuple(change for change in changes if not _told_by_profile(change))
    if profile:
        document.value("profile", profile)
    if profile is None or isinstance(case, EntryCase):
        document.value("base", case.base)
    _write_changes(document, case, changes)
    if custom:
        document.table("profile", custom)


def _profile_parts(case: SlotCase) -> tuple[str | None, dict[str, Any]]:
    """Return the name of the profile, or None and the table that describes it."""
    name = named_profile(case)
    return name, {} if name else case.profile.to_mapping()


def _told_by_profile(change: Change) -> bool:
    """Tell whether a change of a config is in the table of its profile already."""
    return isinstance(change, Edit) and (
        change.slot in PROFILE_ATTRIBUTES or change.slot.startswith("ia32_")
    )


def _harness(document: Mapping[str, Any]) -> CaseKind:
    found = document.get("harness", CASE_KINDS[0])
    for harness in CASE_KINDS:
        if found == harness:
            return harness
    raise InputError(f"harness is {show(found)}; give one of {', '.join(CASE_KINDS)}")


def _start(document: Mapping[str, Any], harness: SlotKind) -> SlotCase:
    """Return the case without its edits."""
    profile = read_profile(document.get("profile", DEFAULT_PROFILE))
    if harness == "vm_entry":
        name = values.text(document, "base", default_base(profile))
        return EntryCase(base(name, profile), name)
    if isinstance(document.get("profile"), dict):
        return ConfigCase(profile, _config_base(document))
    if "base" in document:
        raise InputError("base is given beside the name of a profile; leave it out, they are one")
    return ConfigCase(profile, profile.name)


def _config_base(document: Mapping[str, Any]) -> str:
    name = values.text(document, "base", ZERO)
    if name != ZERO:
        load_profile(name)
    return name


def _read_slots(area: str, table: Mapping[str, Any], known: Layout) -> list[Change]:
    slots = {slot.name: slot for slot in known.slots if slot.area == area}
    changes: list[Change] = []
    for name, value in table.items():
        if name not in slots:
            raise InputError(f"{area} has no field {show(name)}{nearest(name, slots)}")
        changes.append(Edit(name, values.slot_value(slots[name], value)))
    return changes


def _read_vmcs(table: Mapping[str, Any], known: Layout) -> list[Change]:
    return _read_slots("vmcs", table, known)


def _read_processor(table: Mapping[str, Any], known: Layout) -> list[Change]:
    return _read_slots("processor", table, known)


def _read_memory(table: Mapping[str, Any], known: Layout) -> list[Change]:
    """Read named words and ranges of bytes; ranges come last, so they win."""
    named = {key: value for key, value in table.items() if not key[:1].isdigit()}
    changes = _read_slots("memory", named, known)
    ranges = [
        _read_range(values.address(key), value) for key, value in table.items() if key not in named
    ]
    if sum(len(edit.data) for edit in ranges if not edit.backed) > _MAX_UNBACKED:
        raise InputError(f"more than {_MAX_UNBACKED:#x} bytes are unbacked; no base has so many")
    return [*changes, *ranges]


def _read_range(at: int, value: object) -> MemoryEdit:
    word, _, size = value.partition(" ") if isinstance(value, str) else ("", "", "")
    if word != _UNBACKED_WORD:
        return MemoryEdit(at, values.contents(at, value))
    count = values.number(size, f"the size of what is unbacked at {at:#x}")
    if not 0 < count <= _MAX_UNBACKED:
        raise InputError(f"{count:#x} bytes are unbacked at {at:#x}; give 1 to {_MAX_UNBACKED:#x}")
    return MemoryEdit(at, values.within_memory(at, bytes([UNBACKED]) * count), backed=False)


_READERS: Final[Mapping[str, Callable[[Mapping[str, Any], Layout], Sequence[Change]]]] = {
    "vmcs": _read_vmcs,
    "processor": _read_processor,
    "memory": _read_memory,
    "msrs": read_msrs,
}


def _write_changes(
    document: toml_writer.Document, case: SlotCase, changes: tuple[Change, ...]
) -> None:
    by_name = layout(case.harness).by_name
    tables: dict[str, dict[str, str]] = {}
    for change in changes:
        if isinstance(change, MemoryEdit):
            tables.setdefault("memory", {})[f'"{change.address:#x}"'] = _range_text(change)
            continue
        slot = by_name[change.slot]
        if slot.area == "case":
            document.literal(slot.name, _slot_text(slot, change.value))
        elif slot.area == "msr":
            key, text = msr_literal(slot, case.profile)
            tables.setdefault("msrs", {})[key] = text
        else:
            tables.setdefault(slot.area, {})[slot.name] = _slot_text(slot, change.value)
    for name, literals in tables.items():
        document.literals(name, literals)


def _slot_text(slot: Slot, value: int) -> str:
    return toml_writer.quoted(slot.show(value)) if slot.choices else slot.show(value)


def _range_text(edit: MemoryEdit) -> str:
    shown = edit.data.hex() if edit.backed else f"{_UNBACKED_WORD} {len(edit.data)}"
    return toml_writer.quoted(shown)
