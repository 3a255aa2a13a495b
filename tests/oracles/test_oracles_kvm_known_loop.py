# SPDX-License-Identifier: GPL-2.0-only
"""Each change that is known of the closed loop still comes about, and is told of.

What needs the real KVM is skipped where it is not built, by name.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import cast

import pytest

from nvmxfuzz.cpu.vm_entry import vm_entry
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.load import load_vector
from nvmxfuzz.inputs.rebase import rebase
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.oracles.kvm.known_loop import ANY_MSR, ENTRIES, KnownChange, changes_of, unexplained
from nvmxfuzz.oracles.kvm.loop import Loop, OnceFollowed, loop_oracles
from nvmxfuzz.targets.base import Observation, not_representable
from nvmxfuzz.targets.passage import Passage
from nvmxfuzz.targets.registry import TARGETS
from nvmxfuzz.triage.vectors import mismatches

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "corpus" / "known"
VECTORS = sorted(path for path in FOLDER.rglob("*.toml") if path.parent.name.startswith("loop."))
IDS = [f"{path.parent.name}-{path.stem}" for path in VECTORS]
KERNELS = ("6.1", "6.12")
NAMES = [entry.name for entry in ENTRIES]


@cache
def loop(kernel: str) -> Loop:
    """Return KVM of a kernel on the rules, or skip the test by name."""
    entry = TARGETS[f"kvm-{kernel}+rules"]
    reason = entry.usable()
    if reason and kernel in os.environ.get("NVMXFUZZ_REQUIRE_KVM", "").split(","):
        pytest.fail(f"required by NVMXFUZZ_REQUIRE_KVM: {reason}")
    if reason:
        pytest.skip(f"{entry.name}: {reason}")
    return cast("Loop", entry.make())


@cache
def case_on(path: Path, kernel: str) -> EntryCase:
    """Return the case of a vector on the virtual processor of a kernel."""
    case = load_vector(path.read_bytes(), str(path.relative_to(ROOT))).case
    assert isinstance(case, EntryCase)
    processor = case.profile.name.split("-", 2)[2]
    moved = rebase(case, (f"kvm-{kernel}-{processor}",))
    assert isinstance(moved, EntryCase)
    return moved


@cache
def passages(path: Path, kernel: str) -> tuple[Passage, Passage]:
    """Return what a vector comes to, without a dry run and with one."""
    return OnceFollowed(loop(kernel)).both(case_on(path, kernel).attempt)


class Recorded:
    """Says again what was seen of a vector."""

    def __init__(self, path: Path, kernel: str) -> None:
        self.name = f"kvm-{kernel}+rules"
        self._passages = passages(path, kernel)

    def virtual(self, profile: Profile) -> Profile:
        """Return the virtual processor."""
        return profile

    def run(self, _: object) -> Observation:
        """Return what L1 sees."""
        return self._passages[0].observation

    def follow(self, _: object) -> Passage:
        """Return the passage without a dry run."""
        return self._passages[0]

    def follow_dry(self, _: object) -> Passage:
        """Return the passage with one."""
        return self._passages[1]


def found(path: Path, kernel: str, known: tuple[KnownChange, ...]) -> list[Finding]:
    """Return the findings on a vector, where so much is known."""
    always, others = loop_oracles(Recorded(path, kernel), known)
    case = case_on(path, kernel)
    return [
        finding
        for oracle in (*always, *others)
        if (finding := oracle.check(case, vm_entry)) is not None
    ]


@pytest.mark.parametrize("path", VECTORS, ids=IDS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_vector_is_explained_and_expects_what_comes(path: Path, kernel: str) -> None:
    assert mismatches(load_vector(path.read_bytes(), str(path.relative_to(ROOT)))) == ()
    assert found(path, kernel, changes_of(f"kvm-{kernel}")) == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_without_an_entry_its_oracles_fire_on_its_vectors(name: str, kernel: str) -> None:
    others = tuple(entry for entry in ENTRIES if entry.name != name)
    (entry,) = (entry for entry in ENTRIES if entry.name == name)
    fired = {
        finding.oracle
        for path in VECTORS
        if path.parent.name == name
        for finding in found(path, kernel, others)
    }
    assert fired == set(entry.oracles)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_each_change_of_an_entry_is_shown_by_a_vector_of_it(name: str, kernel: str) -> None:
    (entry,) = (entry for entry in ENTRIES if entry.name == name)
    for change in entry.changes:
        others = tuple(
            replace(each, changes=each.changes - {change}) if each is entry else each
            for each in ENTRIES
        )
        shown = any(
            found(path, kernel, others) for path in VECTORS if path.parent.name == entry.name
        )
        assert shown, change


def test_every_entry_has_a_vector_and_every_vector_an_entry() -> None:
    assert {path.parent.name for path in VECTORS} == set(NAMES)
    assert len(set(NAMES)) == len(NAMES)


def test_entries_are_told_well() -> None:
    pages = {path.stem for path in (ROOT / "docs" / "findings").glob("*.md")}
    for entry in ENTRIES:
        assert entry.name.startswith("loop.")
        assert entry.reason.endswith(".")
        assert entry.function
        assert entry.oracles
        assert not entry.page or entry.page in pages


def test_an_entry_covers_its_oracles_and_its_condition_alone() -> None:
    entry = KnownChange(
        "loop.x", "Why.", "f", ("one",), frozenset({"a", ANY_MSR}), lambda seen: not seen.asked
    )
    passage = Passage(not_representable("why"))
    changes = ["a", "b", "MSR 0x10", "vmcs12 a"]
    assert unexplained((entry,), "one", passage, changes) == ["b", "vmcs12 a"]
    assert unexplained((entry,), "other", passage, changes) == changes
    elsewhere = replace(entry, where=lambda seen: bool(seen.asked))
    assert unexplained((elsewhere,), "one", passage, changes) == changes


def test_entries_are_of_their_kernels() -> None:
    assert changes_of("kvm-6.12") == ENTRIES
