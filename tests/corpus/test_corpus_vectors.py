# SPDX-License-Identifier: GPL-2.0-only
"""Every vector holds, stands where its rule's section says, and no rule is without its vectors."""

from pathlib import Path

import pytest

from nvmxfuzz.cpu.judgement import VerdictName
from nvmxfuzz.cpu.rule import Rule
from nvmxfuzz.cpu.vm_entry import CHAPTER, vm_entry
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.expectation import Vector
from nvmxfuzz.inputs.load import load_vector
from nvmxfuzz.triage.vectors import mismatches

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "corpus" / "vectors"
WANTED: dict[str, VerdictName] = {"broken": "broken", "held": "held", "na": "n/a"}


def load(path: Path) -> Vector:
    return load_vector(path.read_bytes(), str(path.relative_to(ROOT)))


@pytest.mark.parametrize("section", sorted(path.name for path in VECTORS.iterdir()))
def test_every_vector_holds(section: str) -> None:
    files = sorted((VECTORS / section).rglob("*.toml"))
    assert files
    wrong = {str(path): found for path in files if (found := mismatches(load(path)))}
    assert not wrong


def test_every_vector_says_what_it_is_for() -> None:
    silent = [path for path in VECTORS.rglob("*.toml") if not load(path).note]
    assert not silent


def slug(section: str) -> str:
    """Return the folder of a section: where the vectors of its first rule stand."""
    (folder,) = VECTORS.glob(f"*/{CHAPTER.sections[section][0].name}")
    return folder.parent.name


def wanted(rule: Rule) -> set[str]:
    """Return the names of the vectors that a rule must have: n/a only where it can be."""
    return {"broken", "held", "na"} if rule.has_condition else {"broken", "held"}


@pytest.mark.parametrize("index", range(len(CHAPTER.rules)), ids=[r.name for r in CHAPTER.rules])
def test_every_rule_is_seen_each_way(index: int) -> None:
    rule = CHAPTER.rules[index]
    folder = VECTORS / slug(rule.section) / rule.name
    for name in wanted(rule):
        file = folder / f"{name}.toml"
        assert file.is_file(), f"write {file.relative_to(ROOT)}"
        case = load(file).case
        assert isinstance(case, EntryCase)
        assert vm_entry(case.attempt).verdict(index) == WANTED[name], name


def test_no_vector_is_of_a_rule_that_is_gone() -> None:
    folders = {path.name for path in VECTORS.glob("*/*")}
    kinds = ("capability-*", "migration", "session")
    others = {path.name for kind in kinds for path in VECTORS.glob(f"{kind}/*")}
    assert folders - others == set(CHAPTER.index)
