#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Print which lines and branches of the entry path of nested.c the corpus reaches, by gcov.

The entry path is nested_vmx_run() and every function of nested.c that it may come to. It needs the
object that `nvmxfuzz build kvm --gcov` makes. Lines that are not reached are told by their numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nvmxfuzz.cli.files import cases_below, read_file
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.load import load_case
from nvmxfuzz.targets.kvm_native.build.objects import find_object
from nvmxfuzz.targets.kvm_native.check_runs import CheckRuns
from nvmxfuzz.targets.kvm_native.checks_in_source import nested_source
from nvmxfuzz.targets.kvm_native.target import loader

ROOT = Path(__file__).resolve().parents[2]
UNIT = "arch-x86-kvm-vmx-hosted_nested"
SOURCE = "nested.c"
START = "nested_vmx_run"
SETTINGS: tuple[dict[str, int], ...] = (
    {},
    {"nested_early_check": 1},
    {"enable_shadow_vmcs": 0},
    {"ept": 0},
)
"""Parameters of the modules that the whole corpus is run with."""
CALL = re.compile(r"\b([a-z_]\w+)\(")


def collect(kernel: str) -> None:
    """Run the corpus with all settings, and the scenarios; the counts come at the end."""
    load = loader(kernel, "gcov")
    cases = [load_case(read_file(path), str(path)) for path in cases_below(ROOT / "corpus")]
    for parameters in SETTINGS:
        runs = CheckRuns(kernel, parameters, load)
        for case in cases:
            if isinstance(case, EntryCase):
                list(runs.of_case(case))
        runs.close()
    list(CheckRuns(kernel, None, load).of_scenarios())


def counted(kernel: str) -> dict[str, Any]:
    """Return what gcov says of nested.c after the corpus was run in a process of its own."""
    built = find_object(kernel, "gcov")
    with TemporaryDirectory() as folder:
        words = [sys.executable, __file__, "--kernel", kernel, "--collect"]
        subprocess.run(words, check=True, env={**os.environ, "GCOV_PREFIX": folder})
        (data,) = Path(folder).rglob(f"{UNIT}.gcda")
        notes = built.path.with_name("work") / f"{UNIT}.gcno"
        data.with_suffix(".gcno").write_bytes(notes.read_bytes())
        tool = ["gcov", "--json-format", "--stdout", "--branch-probabilities", str(data)]
        done = subprocess.run(tool, check=True, capture_output=True, text=True, cwd=folder)
    files = json.loads(done.stdout)["files"]
    return next(file for file in files if Path(file["file"]).name == SOURCE)


def on_entry_path(functions: list[dict[str, Any]], source: str) -> set[str]:
    """Return the functions of nested.c that nested_vmx_run() may come to, itself among them."""
    lines = source.splitlines()
    calls = {
        each["name"]: set(CALL.findall("\n".join(lines[each["start_line"] : each["end_line"]])))
        for each in functions
    }
    found: set[str] = set()
    waiting = [START]
    while waiting:
        name = waiting.pop()
        if name in calls and name not in found:
            found.add(name)
            waiting += sorted(calls[name])
    return found


def report(kernel: str) -> Iterator[str]:
    """Yield the figures, and what is missing by function."""
    found = counted(kernel)
    path = on_entry_path(found["functions"], nested_source(find_object(kernel, "gcov")))
    lines = [line for line in found["lines"] if line.get("function_name") in path]
    branches = [branch for line in lines for branch in line["branches"]]
    reached, taken = [line for line in lines if line["count"]], [b for b in branches if b["count"]]
    yield (
        f"kvm-{kernel}, entry path of nested.c, {len(path)} functions: "
        f"lines {len(reached)} of {len(lines)} ({100 * len(reached) / len(lines):.1f} %), "
        f"branches {len(taken)} of {len(branches)} ({100 * len(taken) / len(branches):.1f} %)"
    )
    for name in sorted(path):
        missing = [
            line["line_number"]
            for line in lines
            if line["function_name"] == name and not line["count"]
        ]
        if missing:
            yield f"  {name}: lines {', '.join(map(str, missing))}"


def main() -> int:
    """Report on a kernel."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernel", default="6.12", help="which one (default: 6.12)")
    parser.add_argument("--collect", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    try:
        if args.collect:
            collect(args.kernel)
        else:
            print("\n".join(report(args.kernel)))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
