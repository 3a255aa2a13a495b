# SPDX-License-Identifier: GPL-2.0-only
"""Each known difference of KVM is still there, covers exactly its condition, and is told of.

What needs the real KVM is skipped where it is not built, by name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random
from typing import TypeAlias, cast

import pytest

from nvmxfuzz.arch.sections import SECTIONS
from nvmxfuzz.cpu.judgement import Judgement
from nvmxfuzz.cpu.vm_entry import CHAPTER, vm_entry
from nvmxfuzz.inputs.bases import base, base_names
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.difference import Edit, apply_to, differences
from nvmxfuzz.inputs.layout import layout
from nvmxfuzz.inputs.load import load_vector
from nvmxfuzz.inputs.rebase import rebase
from nvmxfuzz.inputs.words import entry_word
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import ENTERED
from nvmxfuzz.machine.profile import load_profile, profile_names
from nvmxfuzz.oracles.known import always
from nvmxfuzz.oracles.kvm.entry import compare, compare_merged, harm
from nvmxfuzz.oracles.kvm.known import BY_DESIGN, DIFFERENCES, entries_of, tables_of
from nvmxfuzz.oracles.kvm.known_mistakes import MISTAKES
from nvmxfuzz.oracles.kvm.known_where import L1_MEMORY
from nvmxfuzz.oracles.kvm.l1 import unmet
from nvmxfuzz.oracles.kvm.tables import KvmDifference, KvmTables, tables_from
from nvmxfuzz.oracles.kvm.witness import Kvm, Once, on_virtual
from nvmxfuzz.targets.base import Observation
from nvmxfuzz.targets.kvm_native.vm import RAM
from nvmxfuzz.targets.registry import TARGETS
from nvmxfuzz.triage.vectors import mismatches

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "corpus" / "known"
VECTORS = sorted(path for path in FOLDER.rglob("*.toml") if path.parent.name.startswith("kvm."))
IDS = [f"{path.parent.name}-{path.stem}" for path in VECTORS]
KVMS = ("kvm-6.1", "kvm-6.12")
FURTHER_BITS = 50
"""Bits of other slots that are flipped around each vector, one at a time."""
SLOTS = layout("vm_entry").by_name
CONDITIONAL = [entry for entry in DIFFERENCES if entry.where is not always]


@cache
def kvm(name: str) -> Kvm:
    """Return a KVM, or skip the test by name."""
    reason = TARGETS[name].usable()
    if reason and name.removeprefix("kvm-") in os.environ.get("NVMXFUZZ_REQUIRE_KVM", "").split(
        ","
    ):
        pytest.fail(f"required by NVMXFUZZ_REQUIRE_KVM: {reason}")
    if reason:
        pytest.skip(f"{name}: {reason}")
    return cast("Kvm", TARGETS[name].make())


@dataclass(frozen=True, slots=True)
class Seen:
    """What KVM did with an attempt on its virtual processor, and what the rules say of it."""

    label: str
    attempt: Attempt
    judgement: Judgement
    ran: Observation
    end: Observation

    @property
    def harm(self) -> tuple[str, ...]:
        """What KVM did not get over."""
        return (*harm(self.ran), *harm(self.end))

    def exactly(self, tables: KvmTables) -> str:
        """Return what tables say otherwise, "" if KVM does just what they say."""
        if self.ran.status == "not-representable":
            return ""
        entered = self.ran.outcome in (ENTERED, None)
        named = bool(tables.fatal_names(self.attempt, self.harm))
        if self.harm or (entered and named):
            return "" if named and self.harm else f"{self.label}: fatal, or said to be"
        software = tables.software.judge(self.attempt).permitted
        if self.ran.outcome not in software:
            return f"{self.label}: software ends with {self.ran.outcome}, not {software}"
        end = tables.end.judge(self.attempt).permitted
        if self.ran.outcome == ENTERED and self.end.outcome not in end:
            return f"{self.label}: the end is {self.end.outcome}, not {end}"
        return ""


def look(label: str, attempt: Attempt, name: str) -> Seen:
    once = Once(kvm(name))
    virtual = on_virtual(attempt, once)
    return Seen(label, virtual, vm_entry(virtual), once.run(attempt), once.on_hardware(attempt))


def kvm_of(path: Path) -> str:
    """Return the KVM that a vector is about: that of its profile."""
    return "-".join(case_of(path).profile.name.split("-")[:2])


@cache
def case_of(path: Path) -> EntryCase:
    case = load_vector(path.read_bytes(), str(path.relative_to(ROOT))).case
    assert isinstance(case, EntryCase)
    return case


def flips(case: EntryCase) -> Iterator[tuple[str, Attempt]]:
    """Yield states one bit away: each bit of the slots that make the case, some of the others."""
    made_of = [change.slot for change in differences(case) if isinstance(change, Edit)]
    source = Random(f"{case.note} {made_of}")
    bits = [(SLOTS[name], bit) for name in made_of for bit in range(SLOTS[name].width)]
    others = [slot for slot in SLOTS.values() if slot.name not in made_of]
    for _ in range(FURTHER_BITS):
        slot = source.choice(others)
        bits.append((slot, source.randrange(slot.width)))
    for slot, bit in bits:
        value = slot.fit(entry_word(case.attempt, slot) ^ 1 << bit)
        yield f"{slot.name} bit {bit}", apply_to(case.attempt, [Edit(slot.name, value)])


Neighbours: TypeAlias = tuple[Seen, ...]


@cache
def neighbours(path: Path) -> Neighbours:
    """Return a vector and what is one bit away, run on its KVM."""
    case = case_of(path)
    states = [("itself", case.attempt), *flips(case)]
    return tuple(look(label, attempt, kvm_of(path)) for label, attempt in states)


@cache
def of_the_rules(name: str) -> tuple[Seen, ...]:
    """Return the vectors of all rules, on the virtual processor of a KVM."""
    found: list[Seen] = []
    for path in sorted((ROOT / "corpus" / "vectors").rglob("*.toml")):
        case = load_vector(path.read_bytes(), str(path)).case
        if isinstance(case, EntryCase):
            moved = rebase(case, (f"{name}-skylake-x",))
            assert isinstance(moved, EntryCase)
            found.append(look(str(path.relative_to(ROOT)), moved.attempt, name))
    return tuple(found)


@pytest.mark.parametrize("path", VECTORS, ids=IDS)
def test_a_vector_still_shows_its_difference(path: Path) -> None:
    vector = load_vector(path.read_bytes(), str(path.relative_to(ROOT)))
    assert mismatches(vector) == ()
    name = kvm_of(path)
    once, attempt = Once(kvm(name)), case_of(path).attempt
    judgement = vm_entry(on_virtual(attempt, once))
    found = compare(judgement, attempt, once)
    merged = compare_merged(judgement, attempt, once)
    seen = [once.run(attempt), *filter(None, [once.ended(attempt)])]
    done = [text for each in seen for text in harm(each)]
    fatal = tables_of(name).fatal_names(on_virtual(attempt, once), done)
    assert path.parent.name in (*found.known, *merged.known, *fatal)
    assert found.relation in ("none" if fatal else "known", "known", "agreed")
    assert bool(done) == bool(fatal)


@pytest.mark.parametrize("path", VECTORS, ids=IDS)
def test_what_is_known_excuses_no_other_harm(path: Path) -> None:
    attempt = case_of(path).attempt
    tables = tables_of(kvm_of(path))
    for harmed in ("SIGSEGV in nested_vmx_run+0x1", "heap damage: overrun", "WARN lib/list.c:1"):
        assert tables.fatal_names(attempt, (harmed,)) == ()


@pytest.mark.parametrize("path", VECTORS, ids=IDS)
def test_neighbours_do_just_what_is_known(path: Path) -> None:
    tables = tables_of(kvm_of(path))
    assert [wrong for seen in neighbours(path) if (wrong := seen.exactly(tables))] == []


@pytest.mark.parametrize("entry", CONDITIONAL, ids=[entry.name for entry in CONDITIONAL])
def test_a_condition_that_is_too_wide_is_noticed(entry: KvmDifference) -> None:
    """Without its condition an entry covers states in which KVM does as the rules say."""
    wide = replace(entry, where=always)
    for path in sorted((FOLDER / entry.name).glob("*.toml")):
        known = entries_of(kvm_of(path))
        tables = tables_from(wide if other is entry else other for other in known)
        states = (*neighbours(path), *of_the_rules(kvm_of(path)))
        if any(seen.exactly(tables) for seen in states):
            return
    pytest.fail("nothing shows it")


@pytest.mark.parametrize("entry", DIFFERENCES, ids=[entry.name for entry in DIFFERENCES])
def test_without_an_entry_its_vectors_are_not_explained(entry: KvmDifference) -> None:
    for path in sorted((FOLDER / entry.name).glob("*.toml")):
        known = entries_of(kvm_of(path))
        tables = tables_from(other for other in known if other is not entry)
        assert any(seen.exactly(tables) for seen in neighbours(path))


@pytest.mark.parametrize("name", KVMS)
def test_vectors_of_the_rules_are_explained(name: str) -> None:
    tables = tables_of(name)
    assert [wrong for seen in of_the_rules(name) if (wrong := seen.exactly(tables))] == []


@pytest.mark.parametrize("name", KVMS)
def test_kvm_lets_pass_what_it_never_checks(name: str) -> None:
    left: set[str] = set()
    for seen in of_the_rules(name):
        if seen.ran.outcome == ENTERED:
            left.update(seen.judgement.broken_names)
    unchecked = {rule for entry in BY_DESIGN if entry.where is always for rule in entry.unchecked}
    assert unchecked - left == NOT_SHOWN


NOT_SHOWN = {"msr-load.spec-ctrl.reserved"}
"""Rules that need what the virtual processor does not have: here IA32_SPEC_CTRL."""


@pytest.mark.parametrize("name", [each for each in profile_names() if each.startswith("kvm-6")])
def test_l1_of_every_base_can_be(name: str) -> None:
    profile = load_profile(name)
    for kind in base_names(profile):
        assert unmet(base(kind, profile)) == ""


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"cr0": 0}, "#UD"),
        ({"rflags": 0x2_0002}, "#UD"),
        ({"cs_l": False}, "#UD"),
        ({"cr0": 0x5_0033}, "CR0"),
        ({"cr0": 0xA005_0033}, "CR0"),
        ({"cr4": 0x20}, "CR4"),
        ({"efer": 0x901}, "EFER"),
        ({"efer": 0xF01}, "EFER"),
        ({"cr4": 0x2000}, "CR4"),
        ({"cr3": 1 << 60}, "CR3"),
        ({"rflags": 0xA}, "RFLAGS"),
    ],
)
def test_no_l1_is_like_that(values: dict[str, int | bool], reason: str) -> None:
    attempt = base("guest-64", load_profile("kvm-6.12-skylake-x"))
    processor = replace(attempt.processor, **values)  # type: ignore[arg-type] # by name
    assert reason in unmet(replace(attempt, processor=processor))


def test_every_entry_has_a_vector_and_every_vector_an_entry() -> None:
    assert {path.parent.name for path in VECTORS} == {entry.name for entry in DIFFERENCES}
    for path in VECTORS:
        assert any(entry.name == path.parent.name for entry in entries_of(kvm_of(path)))


def test_entries_are_told_well() -> None:
    names = [entry.name for entry in DIFFERENCES]
    assert len(set(names)) == len(names)
    for entry in DIFFERENCES:
        assert entry.name.startswith("kvm.")
        assert entry.reason.endswith(".")
        assert entry.reference in SECTIONS
        assert entry.function
        assert set(entry.unchecked) <= set(CHAPTER.index)


def test_every_mistake_has_a_page() -> None:
    pages = {path.stem for path in (ROOT / "docs" / "findings").glob("*.md")} - {"README"}
    assert pages >= {entry.page for entry in MISTAKES}
    index = (ROOT / "docs" / "findings" / "README.md").read_text()
    for entry in MISTAKES:
        assert f"({entry.page}.md)" in index
        assert entry.name in (ROOT / "docs" / "findings" / f"{entry.page}.md").read_text()


def test_the_memory_of_l1_is_that_of_the_target() -> None:
    assert L1_MEMORY == RAM


def test_no_model_has_the_processor_that_takes_any_spec_ctrl() -> None:
    every, modelled = (
        {entry.name for entry in entries_of(f"kvm-{what}6.12")} for what in ("", "model-")
    )
    assert every - modelled == {"kvm.msr-load.spec-ctrl"}
    model = kvm("kvm-model-6.12")
    taken = case_of(FOLDER / "kvm.msr-load.spec-ctrl" / "bit-63.toml").attempt
    later = replace(taken, vmcs=taken.vmcs.replace({"guest_gdtr_limit": 0x8000_007F}))
    for attempt, relation in ((taken, "agreed"), (later, "known")):
        judgement = vm_entry(on_virtual(attempt, model))
        assert compare(judgement, attempt, model).relation == relation
