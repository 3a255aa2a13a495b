# SPDX-License-Identifier: GPL-2.0-only
"""Checks of single values from outside; each failure is one sentence that names the culprit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.layout import Slot
from nvmxfuzz.inputs.memory_edit import ADDRESS_BITS
from nvmxfuzz.machine.outside import nearest, show, whole_number

MAX_NOTE = 4096


def only_keys(table: Mapping[str, Any], allowed: Iterable[str], what: str) -> None:
    """Refuse a key of `table` that is not `allowed`."""
    names = tuple(allowed)
    for key in table:
        if key not in names:
            raise InputError(
                f"{what} has no key {show(key)}{nearest(key, names)}; "
                f"its keys are {', '.join(names)}"
            )


def table(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the table `key`, empty where there is none."""
    found = document.get(key, {})
    if not isinstance(found, dict):
        raise InputError(f"{key} is {show(found)}; give a table (in JSON an object)")
    return found


def text(document: Mapping[str, Any], key: str, default: str) -> str:
    """Return a text of bounded length."""
    found = document.get(key, default)
    if not isinstance(found, str):
        raise InputError(f"{key} is {show(found)}; give a text")
    if len(found) > MAX_NOTE:
        raise InputError(f"{key} has more than {MAX_NOTE} characters; shorten it")
    return found


def truth(document: Mapping[str, Any], key: str) -> bool:
    """Return true or false, false where there is no such key."""
    found = document.get(key, False)
    if not isinstance(found, bool):
        raise InputError(f"{key} is {show(found)}; give true or false")
    return found


def format_number(document: Mapping[str, Any], newest: int) -> None:
    """Refuse a document of a later format, or one that does not say a number."""
    found = document.get("format", newest)
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise InputError(f"format is {show(found)}; give the number {newest}")
    if found > newest:
        raise InputError(
            f"format {show(found)} is newer than the newest known one, {newest}; update nvmxfuzz"
        )


def number(value: object, what: str) -> int:
    """Return an integer, given as one or as a text such as "0x8000" or "12"."""
    found = whole_number(value)
    if found is None:
        raise InputError(f"{what} is {show(value)}; give a number such as 0x8000")
    return found


def fitting(value: int, width: int, what: str) -> int:
    """Return `value` if it is an unsigned number of `width` bits."""
    if value < 0 or value.bit_length() > width:
        raise InputError(
            f"{what} is {show(value)}; it has {width} bits, give 0 to {(1 << width) - 1:#x}"
        )
    return value


def slot_value(slot: Slot, value: object, *, texts: bool = False) -> int:
    """Return what `value` stands for in `slot`; with `texts` numbers may be written as texts."""
    if slot.choices:
        if value not in slot.choices:
            raise InputError(f"{slot.name} is {show(value)}; give one of {', '.join(slot.choices)}")
        return slot.choices.index(str(value))
    if slot.boolean:
        if not isinstance(value, bool):
            raise InputError(f"{slot.name} is {show(value)}; give true or false")
        return int(value)
    if isinstance(value, str) and not texts:
        raise InputError(f"{slot.name} is the text {show(value)}; give a number such as 0x8000")
    return fitting(number(value, slot.name), slot.width, slot.name)


def address(key: str) -> int:
    """Return the physical address that a key of the table `memory` says."""
    found = number(key, "an address in memory")
    if found < 0 or found.bit_length() > ADDRESS_BITS:
        raise InputError(
            f"the address {show(found)} in memory is no physical address; "
            f"they have {ADDRESS_BITS} bits"
        )
    return found


def contents(at: int, value: object) -> bytes:
    """Return the bytes that hex digits say; blanks between bytes are allowed."""
    if not isinstance(value, str):
        raise InputError(f"memory at {at:#x} is {show(value)}; give a text of hex digits")
    try:
        found = bytes.fromhex(value)
    except ValueError:
        raise InputError(
            f"memory at {at:#x} is {show(value)}; give pairs of hex digits, such as '00ff'"
        ) from None
    return within_memory(at, found)


def within_memory(at: int, found: bytes) -> bytes:
    """Return `found` if all of it lies below the end of physical memory."""
    if at + len(found) > 1 << ADDRESS_BITS:
        raise InputError(f"memory at {at:#x} goes beyond {ADDRESS_BITS} address bits; shorten it")
    return found


def names(table: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Return the list of texts under `key`, an empty one where there is none."""
    found = table.get(key, [])
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise InputError(f"{key} is {show(found)}; give a list of names")
    return tuple(found)
