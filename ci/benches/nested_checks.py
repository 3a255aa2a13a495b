#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Print which consistency checks of nested.c the corpus makes fail on the real KVM, and by what."""

from __future__ import annotations

import argparse
from pathlib import Path

from nvmxfuzz.cli.files import cases_below, read_file
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.load import load_case
from nvmxfuzz.targets.kvm_native.build.objects import usable
from nvmxfuzz.targets.kvm_native.check_runs import UNREACHABLE, CheckRuns, places_of

ROOT = Path(__file__).resolve().parents[2]
KERNELS = ("6.1", "6.12")


def fired(runs: CheckRuns) -> dict[str, list[str]]:
    """Return by check what makes it fail: vectors of the corpus, and scenarios."""
    found: dict[str, list[str]] = {}
    for path in cases_below(ROOT / "corpus"):
        case = load_case(read_file(path), str(path))
        if isinstance(case, EntryCase):
            for place in dict.fromkeys(runs.of_case(case)):
                found.setdefault(place, []).append(str(path.relative_to(ROOT / "corpus")))
    for place, scenario in runs.of_scenarios():
        found.setdefault(place, []).append(f"scenario {scenario}")
    return found


def report(kernel: str, listing: bool) -> None:
    """Print the figures of a kernel, and what nothing makes fail."""
    places, found = places_of(kernel), fired(CheckRuns(kernel))
    count = sum(place in found for place in places)
    print(f"kvm-{kernel}: {count} of {len(places)} checks of nested.c have failed")
    for place in places:
        if place not in found:
            print(f"  {place}: not seen, {UNREACHABLE.get(place, 'and nothing says why')}")
        elif listing:
            print(f"  {place}: {len(found[place])}, the first is {found[place][0]}")


def main() -> None:
    """Report on each kernel that is built."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", action="store_true", help="print each check and a case for it")
    args = parser.parse_args()
    for kernel in KERNELS:
        reason = usable(kernel)
        if reason:
            print(f"kvm-{kernel}: skipped, {reason}")
        else:
            report(kernel, args.list)


if __name__ == "__main__":
    main()
