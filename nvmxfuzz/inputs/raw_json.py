# SPDX-License-Identifier: GPL-2.0-only
"""The raw JSON form of a VM entry, for programs: no base, every value by itself.

docs/raw-format.md describes it with its defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from nvmxfuzz.arch.fields import FIELD_BY_ENCODING, FIELD_BY_NAME, full_encoding, is_high
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs import values
from nvmxfuzz.inputs.case import ZERO, EntryCase
from nvmxfuzz.inputs.document import parse_json
from nvmxfuzz.inputs.layout import Slot, layout
from nvmxfuzz.inputs.memory_edit import MemoryEdit, edited
from nvmxfuzz.inputs.profile_name import named_profile, read_profile
from nvmxfuzz.inputs.words import build_attempt, entry_word
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.memory import Memory
from nvmxfuzz.machine.outside import nearest, show
from nvmxfuzz.machine.profile import DEFAULT_PROFILE
from nvmxfuzz.machine.vmcs import Vmcs

FORMAT: Final = 1

_KEYS: Final = (
    "format",
    "note",
    "profile",
    "processor",
    "instruction",
    "launch_state",
    "vmcs",
    "memory",
)
_LOW = 0xFFFF_FFFF


def load_raw(data: bytes, origin: str) -> EntryCase:
    """Return the case in the raw JSON `data`; `origin` names the file in the InputError."""
    try:
        return parse_raw(parse_json(data))
    except InputError as problem:
        raise InputError(f"{origin}: {problem}") from None


def parse_raw(document: Mapping[str, Any]) -> EntryCase:
    """Return the case that a parsed JSON object states."""
    values.format_number(document, FORMAT)
    values.only_keys(document, _KEYS, "this case")
    if "vmcs" not in document:
        raise InputError("the key 'vmcs' is missing; give an object of VMCS fields by encoding")
    words = _case_words(document) | _processor_words(values.table(document, "processor"))
    empty = Attempt(
        profile=read_profile(document.get("profile", DEFAULT_PROFILE)),
        vmcs=Vmcs(_fields(values.table(document, "vmcs"))),
        memory=_memory(values.table(document, "memory")),
    )
    return EntryCase(build_attempt(empty, words, ()), ZERO, values.text(document, "note", ""))


def dump_raw(case: EntryCase) -> dict[str, Any]:
    """Return the JSON object of a case; what it leaves out has its default."""
    attempt = case.attempt
    fields = attempt.vmcs.items()
    document: dict[str, Any] = {"format": FORMAT, "profile": _profile(case)}
    if case.note:
        document["note"] = case.note
    document["processor"] = {
        slot.name: _json_value(slot, entry_word(attempt, slot)) for slot in _slots("processor")
    }
    document["instruction"] = attempt.instruction
    document["launch_state"] = attempt.launch_state
    document["vmcs"] = {
        f"{FIELD_BY_NAME[name].encoding:#06x}": hex(value)
        for name, value in fields.items()
        if value
    }
    document["memory"] = {f"{at:#x}": data.hex() for at, data in attempt.memory.regions}
    return document


def _slots(area: str) -> list[Slot]:
    return [slot for slot in layout("vm_entry").slots if slot.area == area]


def _json_value(slot: Slot, value: int) -> str | bool | int:
    if slot.boolean:
        return bool(value)
    return hex(value) if slot.width == 64 else value


def _profile(case: EntryCase) -> str | dict[str, Any]:
    name = named_profile(case)
    if name is not None:
        return name
    table = case.profile.to_mapping()
    # JSON readers elsewhere may hold numbers as doubles, which 64 bits do not fit.
    for key, mask in table.items():
        if key.endswith("_mask") and isinstance(mask, int):
            table[key] = hex(mask)
    return table | {"msrs": {f"{at:#x}": hex(word) for at, word in case.profile.msrs.items()}}


def _case_words(document: Mapping[str, Any]) -> dict[Slot, int]:
    return {
        slot: values.slot_value(slot, document[slot.name])
        for slot in _slots("case")
        if slot.name in document
    }


def _processor_words(table: Mapping[str, Any]) -> dict[Slot, int]:
    slots = {slot.name: slot for slot in _slots("processor")}
    values.only_keys(table, slots, "processor")
    return {
        slots[name]: values.slot_value(slots[name], value, texts=True)
        for name, value in table.items()
    }


def _fields(table: Mapping[str, Any]) -> dict[str, int]:
    """Return fields by name; the upper half of a field wins over the whole of it."""
    whole: dict[str, int] = {}
    upper: dict[str, int] = {}
    for key, value in table.items():
        name, high = _field(key)
        target = upper if high else whole
        if name in target:
            raise InputError(f"the VMCS field {name} is given twice; give it once")
        width = 32 if high else FIELD_BY_NAME[name].width
        target[name] = values.fitting(values.number(value, key), width, f"{name} ({key})")
    for name, half in upper.items():
        whole[name] = half << 32 | whole.get(name, 0) & _LOW
    return whole


def _field(key: str) -> tuple[str, bool]:
    """Return the name of the field that a key means, and whether its upper half alone."""
    if not key[:1].isdigit():
        if key.lower() not in FIELD_BY_NAME:
            near = nearest(key.lower(), FIELD_BY_NAME)
            raise InputError(f"{show(key)} is no VMCS field{near}")
        return key.lower(), False
    encoding = values.number(key, "the encoding of a VMCS field")
    field = FIELD_BY_ENCODING.get(full_encoding(encoding))
    high = is_high(encoding)
    if field is None or (high and not field.has_high):
        raise InputError(f"no VMCS field has the encoding {show(encoding)}")
    return field.name, high


def _memory(table: Mapping[str, Any]) -> Memory:
    """Return the memory that the table says; where ranges overlap, the later one wins."""
    ranges = [
        MemoryEdit(at, values.contents(at, value))
        for at, value in ((values.address(key), value) for key, value in table.items())
    ]
    return edited(Memory(), ranges) if ranges else Memory()
