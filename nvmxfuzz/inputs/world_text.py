# SPDX-License-Identifier: GPL-2.0-only
"""Cases in worlds as TOML.

A restore is one world and its steps, and so is a session. A migration has three tables: `source`
and `destination`, a world each, and `entry`, a VM entry as a file of its own would have it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs import toml_writer, values
from nvmxfuzz.inputs.case import (
    DEFAULT_KERNEL,
    ORDERS,
    EntryCase,
    MigrationCase,
    Order,
    RestoreCase,
    SessionCase,
)
from nvmxfuzz.inputs.difference import Edit
from nvmxfuzz.inputs.layout import Slot, layout, toggled
from nvmxfuzz.inputs.msr_text import msr_literal, read_msrs
from nvmxfuzz.inputs.session_text import parse_session_steps, step_literals
from nvmxfuzz.inputs.step_text import parse_features, parse_steps, step_table
from nvmxfuzz.inputs.world import World, world_on
from nvmxfuzz.inputs.world_words import edited_world, world_differences
from nvmxfuzz.machine.outside import show
from nvmxfuzz.machine.profile import DEFAULT_PROFILE

_CASE_SLOTS: Final = tuple(slot.name for slot in layout("world").slots if slot.area == "case")
_WORLD_KEYS: Final = ("profile", *_CASE_SLOTS, "toggled", "parameters", "msrs")
_COMMON: Final = ("format", "note", "harness", "expect", "finding")


def parse_restore(document: Mapping[str, Any]) -> RestoreCase:
    """Return the case that a parsed TOML file states."""
    world, steps, note = _parse_stepped(document)
    return RestoreCase(world, parse_steps(steps), note)


def parse_session(document: Mapping[str, Any]) -> SessionCase:
    """Return the case that a parsed TOML file states."""
    world, steps, note = _parse_stepped(document)
    return SessionCase(world, parse_session_steps(steps), note)


def _parse_stepped(document: Mapping[str, Any]) -> tuple[World, object, str]:
    values.only_keys(document, (*_COMMON, *_WORLD_KEYS, "steps"), "this case")
    note = values.text(document, "note", "")
    return _parse_world(document), document.get("steps", []), note


def parse_migration(
    document: Mapping[str, Any], parse_entry: Callable[[Mapping[str, Any]], EntryCase]
) -> MigrationCase:
    """Return the case that a parsed TOML file states."""
    values.only_keys(document, (*_COMMON, "order", "source", "destination", "entry"), "this case")
    source, destination = (_parse_place(document, name) for name in ("source", "destination"))
    entry = parse_entry(values.table(document, "entry"))
    note = values.text(document, "note", "")
    return MigrationCase(source, destination, entry, _order(document), note)


def _order(document: Mapping[str, Any]) -> Order:
    found = document.get("order", "listed")
    for order in ORDERS:
        if found == order:
            return order
    raise InputError(f"order is {show(found)}; give one of {', '.join(ORDERS)}")


def _parse_place(document: Mapping[str, Any], name: str) -> World:
    table = values.table(document, name)
    try:
        values.only_keys(table, _WORLD_KEYS, "this world")
        return _parse_world(table)
    except InputError as problem:
        raise InputError(f"{name}: {problem}") from None


def _parse_world(table: Mapping[str, Any]) -> World:
    known = layout("world")
    name = table.get("profile", DEFAULT_PROFILE)
    if not isinstance(name, str):
        raise InputError(f"profile is {show(name)}; give the name of one, and edit its MSRs")
    edits = [
        Edit(key, values.slot_value(known.by_name[key], table[key]))
        for key in _CASE_SLOTS
        if key in table
    ]
    edits += [Edit(toggled(each), 1) for each in parse_features(table.get("toggled", []))]
    edits += _parse_parameters(values.table(table, "parameters"), known.by_area["parameter"])
    edits += read_msrs(values.table(table, "msrs"), known)
    return edited_world(world_on(name, DEFAULT_KERNEL), edits)


def _parse_parameters(table: Mapping[str, Any], slots: Iterable[Slot]) -> list[Edit]:
    by_name = {slot.name: slot for slot in slots}
    values.only_keys(table, by_name, "parameters")
    return [Edit(key, values.slot_value(by_name[key], value)) for key, value in table.items()]


# ---------------------------------------------------------------------- writing


def write_world(document: toml_writer.Document, world: World) -> None:
    """Add a world as the difference against its profile."""
    by_name = layout("world").by_name
    document.value("profile", world.base)
    tables: dict[str, dict[str, str]] = {}
    for edit in world_differences(world):
        slot = by_name[edit.slot]
        if slot.area == "case":
            shown = slot.show(edit.value)
            document.literal(slot.name, toml_writer.quoted(shown) if slot.choices else shown)
        elif slot.area == "msr":
            key, literal = msr_literal(slot, world.profile)
            tables.setdefault("msrs", {})[key] = literal
        elif slot.area == "parameter":
            tables.setdefault("parameters", {})[slot.name] = slot.show(edit.value)
    if world.toggled:
        document.value("toggled", sorted(world.toggled))
    for name, literals in tables.items():
        document.literals(name, literals)


def write_restore(document: toml_writer.Document, case: RestoreCase) -> None:
    """Add what a restore consists of."""
    write_world(document, case.world)
    for step in case.steps:
        document.item("steps", step_table(step))


def write_session(document: toml_writer.Document, case: SessionCase) -> None:
    """Add what a session consists of."""
    write_world(document, case.world)
    for step in case.steps:
        document.item_literals("steps", step_literals(step))


def migration_worlds(case: MigrationCase) -> str:
    """Return the tables of the two worlds of a migration."""
    parts = []
    for name, world in (("source", case.source), ("destination", case.destination)):
        document = toml_writer.Document(name)
        write_world(document, world)
        parts.append(document.text())
    return "\n".join(parts)
