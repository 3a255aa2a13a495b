#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Print how much of KVM's nested.c the corpus executes, by gcov, and whether the page says so.

The corpus is played part by part: VM entries, sessions, restores and migrations; random sessions
are told apart from it. docs/nested-coverage.md names what is missing: where it is wrong about
that, it is an error. It needs the objects that `nvmxfuzz build kvm --gcov` makes.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nvmxfuzz.cli.files import cases_below, read_file
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.load import load_case
from nvmxfuzz.targets.kvm_native.bench.corpus_runs import PARTS, random_sessions
from nvmxfuzz.targets.kvm_native.bench.gcov import Counts, counted, together
from nvmxfuzz.targets.kvm_native.build.objects import BuiltObject, find_object

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "nested-coverage.md"
KERNELS = ("6.1", "6.12")
SESSIONS = 4000
ROW = re.compile(r"^\| `(\w+)` \| (\d+) \| (\d+) \| ", re.MULTILINE)
"""Of the page: a function, and how many of its lines are missing in each kernel."""


def collect(kernel: str, part: str, sessions: int, seed: int) -> None:
    """Play one part; the counts come at the end of this process."""
    if part == "random":
        random_sessions(kernel, sessions, seed)
        return
    cases = [load_case(read_file(path), str(path)) for path in cases_below(ROOT / "corpus")]
    PARTS[part](kernel, cases)


def figures(name: str, counts: Counts) -> str:
    """Return how much was executed."""
    return f"  {name}: " + ", ".join(
        _share(what, tuple(values.values()))
        for what, values in (
            ("functions", counts.functions),
            ("lines", counts.lines),
            ("branches", counts.branches),
        )
    )


def _share(what: str, values: Sequence[int]) -> str:
    reached = sum(1 for value in values if value)
    return f"{what} {reached} of {len(values)} ({100 * reached / len(values):.1f} %)"


def named(page: str, kernel: str) -> Mapping[str, int]:
    """Return by function how many missing lines the page names."""
    number = 2 + KERNELS.index(kernel)
    return {row[1]: int(row[number]) for row in ROW.finditer(page)}


def unnamed(counts: Counts, page: Mapping[str, int]) -> Iterator[str]:
    """Yield what is missing and not named, and what is named and not missing."""
    missing = counts.missing()
    for function, lines in missing.items():
        if len(lines) > page.get(function, 0):
            said = f"the page names {page.get(function, 0)}"
            yield f"{function} lacks {len(lines)} lines, {said}: {', '.join(map(str, lines))}"
    for function, number in page.items():
        if len(missing.get(function, ())) < number:
            lacks = len(missing.get(function, ()))
            yield f"{function} lacks {lacks} lines, and the page names {number}"


def report(kernel: str, sessions: int, seed: int, *, lines: bool) -> bool:
    """Print the figures of a kernel; return whether the page names all that is missing."""
    built = find_object(kernel, "gcov")
    print(f"nested.c of Linux {kernel} ({built.version})", flush=True)
    found = []
    for part in PARTS:
        found.append(_played(built, part))
        print(figures(part, found[-1]), flush=True)
    total = together(found)
    print(figures("the corpus", total), flush=True)
    if sessions:
        chance = _played(built, "random", "--sessions", str(sessions), "--seed", str(seed))
        print(figures(f"{sessions} random sessions of seed {seed}", chance))
        print(figures("both", together((total, chance))))
    never = [name for name, count in sorted(total.functions.items()) if not count]
    print(f"  never entered: {', '.join(never) or 'none'}")
    if lines:
        for function, numbers in total.missing().items():
            print(f"  {function}: lines {', '.join(map(str, numbers))}")
    wrong = list(unnamed(total, named(PAGE.read_text(), kernel)))
    for sentence in wrong:
        print(f"  docs/nested-coverage.md: {sentence}")
    return not wrong


def _played(built: BuiltObject, part: str, *more: str) -> Counts:
    words = [sys.executable, __file__, "--kernels", built.kernel, "--collect", part, *more]
    return counted(built, words)


def main() -> int:
    """Report on the kernels that are built."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernels", default=",".join(KERNELS), help="which ones (default: both)")
    parser.add_argument("--sessions", type=int, default=SESSIONS, help="how many random ones")
    parser.add_argument("--seed", type=int, default=1, help="of the random sessions")
    parser.add_argument("--lines", action="store_true", help="print the lines that never ran")
    parser.add_argument("--collect", help=argparse.SUPPRESS)
    args = parser.parse_args()
    fine = True
    for kernel in args.kernels.split(","):
        if args.collect:
            collect(kernel, args.collect, args.sessions, args.seed)
            continue
        try:
            fine &= report(kernel, args.sessions, args.seed, lines=args.lines)
        except InputError as error:
            print(f"{kernel}: {error}")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
