# SPDX-License-Identifier: GPL-2.0-only
"""The quality of the minimiser: a planted fault shrinks to what it needs, and to nothing more."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from nvmxfuzz.cpu.vm_entry import vm_entry
from nvmxfuzz.inputs.case import Case, EntryCase
from nvmxfuzz.inputs.difference import apply, differences
from nvmxfuzz.inputs.load import load_case
from nvmxfuzz.triage.minimise import minimise, size_of
from tests.quality.fault import noise
from tests.quality.planted import BUDGET, shrunk

VECTORS = Path(__file__).parents[2] / "corpus" / "vectors"
TRIES = 66
"""Three of each kind; `ci/benches/minimising.py` has a hundred."""

WANTED = 63
MOST_RUNS = 1000
"""What none of them may cost: a quarter of the budget."""


def test_planted_faults_shrink_to_their_minimum() -> None:
    results = [shrunk(number) for number in range(TRIES)]
    for fault in (each.planted for each in results):
        # Else this test would say little: what is needed is a small part of every case.
        assert fault.shows(fault.minimum), fault.kind
        assert fault.is_minimum(fault.minimum), fault.kind
        assert not fault.is_minimum(fault.case), fault.kind
    missed = Counter(each.planted.kind for each in results if not each.is_minimum)
    assert missed.total() <= TRIES - WANTED, missed
    assert max(each.runs for each in results) <= MOST_RUNS


def test_a_minimiser_that_does_nothing_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.quality.planted.minimise", lambda case, _shows, _budget: case)
    assert not any(shrunk(number).is_minimum for number in range(22))


@pytest.mark.parametrize(
    "rule",
    [
        *("guest.rflags.reserved", "execution.eptp.memory-type", "host.cr4.must-be-1"),
        *("guest.tr.base-canonical", "msr-load.slot.reserved", "entry.event.type"),
    ],
)
def test_a_broken_rule_shrinks_to_what_its_vector_has(rule: str) -> None:
    (file,) = VECTORS.glob(f"*/{rule}/broken.toml")
    vector = load_case(file.read_bytes(), rule)
    # Of noise that leaves each of these rules in force.
    noisy = noise(Random(2), "vm_entry")
    assert isinstance(vector, EntryCase)
    assert isinstance(noisy, EntryCase)

    def shows(case: Case) -> bool:
        assert isinstance(case, EntryCase)
        return rule in vm_entry(case.attempt).broken_names

    start = EntryCase(replace(noisy.attempt, profile=vector.profile), noisy.base)
    case = apply(start, differences(vector))
    assert shows(case)
    found = minimise(case, shows, BUDGET)
    assert size_of(found)[0] <= size_of(vector)[0]
