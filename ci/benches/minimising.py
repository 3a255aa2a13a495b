#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Print how many planted faults, and broken rules, the minimiser shrinks to what they need."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import median
from time import process_time

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from nvmxfuzz.cpu.vm_entry import CHAPTER, vm_entry  # noqa: E402 # the path comes first
from nvmxfuzz.inputs.case import Case, EntryCase  # noqa: E402
from nvmxfuzz.inputs.difference import apply, differences  # noqa: E402
from nvmxfuzz.inputs.load import load_case  # noqa: E402
from nvmxfuzz.triage.minimise import minimise, size_of  # noqa: E402
from tests.quality.fault import noise  # noqa: E402
from tests.quality.planted import BUDGET, shrunk  # noqa: E402

TRIES = 100
AIM = 95


def planted_faults() -> int:
    """Shrink planted faults; return how many came to their minimum."""
    begin = process_time()
    results = [shrunk(number) for number in range(TRIES)]
    found = Counter(each.planted.kind for each in results if each.is_minimum)
    for kind, count in Counter(each.planted.kind for each in results).items():
        print(f"  {kind}: {found[kind]} of {count}")
    runs = [each.runs for each in results]
    print(
        f"planted faults at their minimum: {found.total()} of {TRIES} (aim {AIM}); executions "
        f"{sum(runs)}, median {median(runs):.0f}, most {max(runs)}; {process_time() - begin:.1f} s"
    )
    return found.total()


def broken_rules() -> None:
    """Hide the vector of every broken rule in a noisy case, and shrink that to the vector."""
    small = count = 0
    runs: list[int] = []
    for number, file in enumerate(sorted((ROOT / "corpus" / "vectors").glob("*/*/broken.toml"))):
        vector = load_case(file.read_bytes(), str(file))
        rule = file.parent.name
        if rule not in CHAPTER.index or not isinstance(vector, EntryCase):
            continue
        case = _hidden(number, rule, vector)
        if case is None:
            continue
        found, cost = _shrunk(rule, case)
        runs.append(cost)
        count += 1
        small += size_of(found)[0] <= size_of(vector)[0]
    print(
        f"broken rules with no more changes than the vector by hand: {small} of {count}; "
        f"executions {sum(runs)}, median {median(runs):.0f}, most {max(runs)}"
    )


def _hidden(number: int, rule: str, vector: EntryCase) -> Case | None:
    """Return a noisy case that breaks a rule as its vector does, None if noise prevents it."""
    for turn in range(20):
        noisy = noise(Random(100 * number + turn), "vm_entry")
        assert isinstance(noisy, EntryCase)
        start = EntryCase(replace(noisy.attempt, profile=vector.profile), noisy.base)
        case = apply(start, differences(vector))
        if _breaks(rule, case):
            return case
    return None


def _shrunk(rule: str, case: Case) -> tuple[Case, int]:
    runs = 0

    def shows(candidate: Case) -> bool:
        nonlocal runs
        runs += 1
        return _breaks(rule, candidate)

    return minimise(case, shows, BUDGET), runs


def _breaks(rule: str, case: Case) -> bool:
    assert isinstance(case, EntryCase)
    return rule in vm_entry(case.attempt).broken_names


def main() -> int:
    """Return 1 if too few planted faults came to their minimum."""
    enough = planted_faults() >= AIM
    broken_rules()
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main())
