# SPDX-License-Identifier: GPL-2.0-only
"""Each known difference is still there, covers exactly its condition, and is told of."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from nvmxfuzz.arch.sections import SECTIONS
from nvmxfuzz.cpu.vm_entry import CHAPTER, vm_entry
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.difference import Edit, apply_to, differences
from nvmxfuzz.inputs.layout import layout
from nvmxfuzz.inputs.load import load_vector
from nvmxfuzz.inputs.words import entry_word
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.oracles.bochs.agreement import Comparison, compare, explains
from nvmxfuzz.oracles.bochs.known import BOCHS, DIFFERENCES, KNOWN, MISTAKES
from nvmxfuzz.oracles.bochs.known import Bochs as KnownBochs
from nvmxfuzz.oracles.corrected import Corrected
from nvmxfuzz.oracles.known import KnownDifference, always
from nvmxfuzz.targets.bochs import wheel
from nvmxfuzz.targets.bochs.target import Bochs
from nvmxfuzz.triage.vectors import mismatches

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "corpus" / "known"
VECTORS = sorted(path for path in FOLDER.rglob("*.toml") if path.parent.name.startswith("bochs."))
IDS = [f"{path.parent.name}-{path.stem}" for path in VECTORS]
FURTHER_BITS = 300
"""Bits of other slots that are flipped around each vector, one at a time."""

CONDITIONAL = [entry for entry in DIFFERENCES if entry.where is not always]

SLOTS = layout("vm_entry").by_name
CONTROLS = (
    "pin_based_vm_exec_control",
    "cpu_based_vm_exec_control",
    "secondary_vm_exec_control",
    "vm_exit_controls",
    "vm_entry_controls",
)
needs_bochs = pytest.mark.skipif(wheel.usable() != "", reason=wheel.usable())


@pytest.fixture(scope="module")
def bochs() -> Bochs:
    return Bochs()


def case_of(path: Path) -> EntryCase:
    case = load_vector(path.read_bytes(), str(path.relative_to(ROOT))).case
    assert isinstance(case, EntryCase)
    return case


def relation(bochs: Bochs, attempt: Attempt, table: Corrected = BOCHS) -> Comparison:
    """Compare an attempt; a difference that is known and not there is unexplained as well."""
    seen = bochs.run(attempt)
    found = compare(vm_entry(attempt), seen, attempt, table)
    if seen.outcome and not explains(table.judge(attempt), seen.outcome, seen.messages):
        return Comparison("unexplained", found.known, found.rules, found.site or "too broad")
    return found


def neighbours(case: EntryCase) -> Iterator[tuple[str, Attempt]]:
    """Yield states one edit away.

    Each bit is flipped of the control words and of the slots that make the case, and some of the
    others.
    """
    made_of = [change.slot for change in differences(case) if isinstance(change, Edit)]
    made_of += [name for name in CONTROLS if name not in made_of]
    source = Random(f"{case.note} {made_of}")
    bits = [(SLOTS[name], bit) for name in made_of for bit in range(SLOTS[name].width)]
    others = [slot for slot in SLOTS.values() if slot.name not in made_of]
    for _ in range(FURTHER_BITS):
        slot = source.choice(others)
        bits.append((slot, source.randrange(slot.width)))
    for slot, bit in bits:
        value = slot.fit(entry_word(case.attempt, slot) ^ 1 << bit)
        yield f"{slot.name} bit {bit}", apply_to(case.attempt, [Edit(slot.name, value)])


@needs_bochs
@pytest.mark.parametrize("path", VECTORS, ids=IDS)
def test_a_vector_still_shows_its_difference(path: Path, bochs: Bochs) -> None:
    vector = load_vector(path.read_bytes(), str(path.relative_to(ROOT)))
    assert mismatches(vector) == ()
    found = relation(bochs, case_of(path).attempt)
    assert (found.relation, found.known) == ("known", (path.parent.name,))


@needs_bochs
@pytest.mark.parametrize("path", VECTORS, ids=IDS)
def test_neighbours_agree_or_differ_as_is_known(path: Path, bochs: Bochs) -> None:
    """Around each vector every state is explained, and some have no difference any more."""
    agreed, wrong = 0, []
    for name, attempt in neighbours(case_of(path)):
        found = relation(bochs, attempt)
        if found.relation == "unexplained":
            wrong.append(f"{name}: {found.site}")
        agreed += found.relation == "agreed"
    assert not wrong
    assert agreed


@needs_bochs
@pytest.mark.parametrize("entry", CONDITIONAL, ids=[entry.name for entry in CONDITIONAL])
def test_the_neighbours_show_a_condition_that_is_too_wide(
    entry: KnownDifference, bochs: Bochs
) -> None:
    """Without its condition the entry covers states in which Bochs does as the rules say."""
    wide = replace(entry, where=always)
    others = tuple(wide if other is entry else other for other in DIFFERENCES)
    table = KnownBochs(others, MISTAKES)
    assert any(
        relation(bochs, attempt, table).relation == "unexplained"
        for path in sorted((FOLDER / entry.name).glob("*.toml"))
        for _, attempt in neighbours(case_of(path))
    )


def test_every_entry_has_a_vector_and_every_vector_an_entry() -> None:
    assert {path.parent.name for path in VECTORS} == {entry.name for entry in KNOWN}


def test_every_rule_that_bochs_does_not_check_has_a_vector() -> None:
    for entry in DIFFERENCES:
        broken: set[str] = set()
        for path in (FOLDER / entry.name).glob("*.toml"):
            broken.update(vm_entry(case_of(path).attempt).broken_names)
        assert broken >= set(entry.unchecked), entry.name


def test_entries_are_told_well() -> None:
    names = [entry.name for entry in KNOWN]
    assert len(set(names)) == len(names)
    for entry in KNOWN:
        assert entry.name.startswith("bochs.")
        assert entry.reason.endswith(".")
        assert entry.reference in SECTIONS
    for entry in DIFFERENCES:
        assert set(entry.unchecked) <= set(CHAPTER.index)
        assert entry.unchecked or entry.failure
        assert bool(entry.messages) == (entry.failure is not None)


def test_the_page_is_up_to_date() -> None:
    check = ROOT / "ci" / "checks" / "known_page.py"
    assert subprocess.run([sys.executable, check], check=False).returncode == 0
