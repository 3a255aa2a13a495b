# SPDX-License-Identifier: GPL-2.0-only
"""A case for a reader: each value with its name and meaning, beside that of the base."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nvmxfuzz.arch.bits import named_bits
from nvmxfuzz.arch.controls import Pin, Primary, Secondary, Tertiary, VmEntry, VmExit, VmExit2
from nvmxfuzz.arch.fields import FIELD_BY_NAME
from nvmxfuzz.arch.registers import Cr0, Cr4, DebugCtl, Efer, Rflags
from nvmxfuzz.inputs.case import Case, MigrationCase, RestoreCase, SessionCase
from nvmxfuzz.inputs.difference import Edit, differences, origin
from nvmxfuzz.inputs.layout import Slot, layout
from nvmxfuzz.inputs.session_text import step_script
from nvmxfuzz.inputs.step_text import step_lines
from nvmxfuzz.inputs.words import word_of
from nvmxfuzz.inputs.world import World
from nvmxfuzz.inputs.world_words import world_origin, world_word
from nvmxfuzz.machine.outside import printable

_MOST_DIGITS = 64
_WIDEST = 20

_BITS: dict[str, type] = {
    "pin_based_vm_exec_control": Pin,
    "cpu_based_vm_exec_control": Primary,
    "secondary_vm_exec_control": Secondary,
    "tertiary_vm_exec_control": Tertiary,
    "vm_exit_controls": VmExit,
    "secondary_vm_exit_controls": VmExit2,
    "vm_entry_controls": VmEntry,
    "guest_cr0": Cr0,
    "host_cr0": Cr0,
    "cr0": Cr0,
    "guest_cr4": Cr4,
    "host_cr4": Cr4,
    "cr4": Cr4,
    "guest_ia32_efer": Efer,
    "host_ia32_efer": Efer,
    "efer": Efer,
    "guest_rflags": Rflags,
    "rflags": Rflags,
    "guest_ia32_debugctl": DebugCtl,
}
"""The words whose changed bits are named."""


@dataclass(frozen=True, slots=True)
class Row:
    """One value of a case: where it stands, what it is, what the base has, and what it means."""

    area: str
    name: str
    value: str
    base: str
    meaning: str


def case_rows(case: Case, *, everything: bool) -> list[Row]:
    """Return a row for each value that differs from the base, or for every one."""
    if isinstance(case, RestoreCase):
        return [*_world_rows(case.world, "", everything), *_step_rows(case)]
    if isinstance(case, SessionCase):
        return [*_world_rows(case.world, "", everything), *_script_rows(case)]
    if isinstance(case, MigrationCase):
        return [
            *_world_rows(case.source, "source ", everything),
            *_world_rows(case.destination, "destination ", everything),
            Row("case", "order", case.order, "listed", "order in which MSRs are written"),
            *case_rows(case.entry, everything=everything),
        ]
    start = origin(case)
    rows = []
    for slot in layout(case.harness).slots:
        value, before = word_of(case, slot), word_of(start, slot)
        if everything or value != before:
            meaning = _meaning(slot) + _changed_bits(slot, before, value)
            rows.append(Row(slot.area, slot.name, slot.show(value), slot.show(before), meaning))
    for change in differences(case):
        if not isinstance(change, Edit):
            value_text = change.data.hex() if change.backed else "unbacked"
            rows.append(Row("memory", f"{change.address:#x}", value_text, "", "bytes of memory"))
    return rows


def _world_rows(world: World, place: str, everything: bool) -> Iterator[Row]:
    start = world_origin(world)
    for slot in layout("world").slots:
        value, before = world_word(world, slot), world_word(start, slot)
        if everything or value != before:
            shown, plain = slot.show(value), slot.show(before)
            yield Row(f"{place}{slot.area}", slot.name, shown, plain, slot.meaning)


def _step_rows(case: RestoreCase) -> Iterator[Row]:
    for number, step in enumerate(case.steps, 1):
        word, *details = step_lines(step)
        for detail in details or [""]:
            yield Row("step", f"{number} {word}", "", "", detail)


def _script_rows(case: SessionCase) -> Iterator[Row]:
    for number, step in enumerate(case.steps, 1):
        word, operands = step_script(step)
        yield Row("step", f"{number:2} {word}", "", "", operands)


def to_json(case: Case, rows: Sequence[Row]) -> dict[str, object]:
    """Return the form that `show --json` prints."""
    return {
        "harness": case.harness,
        "profile": case.profile.name,
        "base": case.base,
        "note": case.note,
        "fields": [
            {
                "area": row.area,
                "name": row.name,
                "value": row.value,
                "base": row.base,
                "meaning": row.meaning,
            }
            for row in rows
        ],
    }


def to_text(case: Case, rows: Sequence[Row]) -> str:
    """Return the rows as a table, a line each."""
    lines = [f"{case.harness}: profile {printable(case.profile.name)}, base {printable(case.base)}"]
    lines += [printable(line) for line in case.note.split("\n") if case.note]
    if not rows:
        lines.append("  as the base")
    names = max((len(row.name) for row in rows), default=0)
    values = min(max((len(row.value) for row in rows), default=0), _WIDEST)
    bases = max((len(row.base) for row in rows), default=0)
    for row in rows:
        line = f"  {row.area:9}  {row.name:{names}}  "
        if row.value:
            line += f"{_cut(row.value):>{values}}  (base {row.base:>{bases}})  "
        lines.append((line + row.meaning).rstrip())
    return "\n".join(lines)


def _cut(value: str) -> str:
    """Return a value, of many bytes of memory the first ones and how many there are."""
    if len(value) <= _MOST_DIGITS:
        return value
    return f"{value[:_MOST_DIGITS]}... {len(value) // 2} bytes"


def _meaning(slot: Slot) -> str:
    if slot.area != "vmcs":
        return slot.meaning
    field = FIELD_BY_NAME[slot.name]
    return f"{field.sdm_name} ({field.encoding:#06x})"


def _changed_bits(slot: Slot, before: int, value: int) -> str:
    """Return the names of the bits that were set (+) or cleared (-), lowest first."""
    table = _BITS.get(slot.name)
    if table is None or before == value:
        return ""
    changed = [
        ("+" if value & bit else "-") + bit.sdm_name
        for bit in named_bits(table).values()
        if (before ^ value) & bit
    ]
    return ": " + ", ".join(changed) if changed else ""
