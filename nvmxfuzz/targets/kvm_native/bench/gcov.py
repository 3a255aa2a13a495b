# SPDX-License-Identifier: GPL-2.0-only
"""How often each function, line and branch of KVM's nested.c was executed, as gcov counts it."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, TypeAlias

from nvmxfuzz.errors import InputError
from nvmxfuzz.targets.kvm_native.build.objects import BuiltObject

_UNIT: Final = "arch-x86-kvm-vmx-hosted_nested"
_SOURCE: Final = "nested.c"

Line: TypeAlias = tuple[str, int]
"""A function, and the number of a line of it."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Of nested.c: how often what was executed; 0 is never. A branch is a line and a number."""

    functions: Mapping[str, int]
    lines: Mapping[Line, int]
    branches: Mapping[tuple[Line, int], int]

    def missing(self) -> Mapping[str, tuple[int, ...]]:
        """Return the lines that never ran, by function in order of names."""
        found: dict[str, list[int]] = {}
        for (function, line), count in sorted(self.lines.items()):
            if not count:
                found.setdefault(function, []).append(line)
        return {function: tuple(lines) for function, lines in found.items()}


def together(parts: Iterable[Counts]) -> Counts:
    """Return the sums of several counts."""
    functions: Counter[str] = Counter()
    lines: Counter[Line] = Counter()
    branches: Counter[tuple[Line, int]] = Counter()
    for part in parts:
        functions.update(part.functions)
        lines.update(part.lines)
        branches.update(part.branches)
    return Counts(functions, lines, branches)


def counted(built: BuiltObject, command: Sequence[str]) -> Counts:
    """Run a command that plays something on an object; return what was executed of nested.c.

    InputError if the object does not count, or there is no gcov.
    """
    with TemporaryDirectory() as folder:
        subprocess.run(command, check=True, env={**os.environ, "GCOV_PREFIX": folder})
        data = next(Path(folder).rglob(f"{_UNIT}.gcda"), None)
        if data is None:
            raise InputError(
                f"{built.path} has counted nothing: run nvmxfuzz build kvm --kernel "
                f"{built.kernel} --gcov --force"
            )
        notes = built.path.with_name("work") / f"{_UNIT}.gcno"
        data.with_suffix(".gcno").write_bytes(notes.read_bytes())
        return counts_in(_gcov(data))


def _gcov(data: Path) -> str:
    tool = ["gcov", "--json-format", "--stdout", "--branch-probabilities", str(data)]
    try:
        done = subprocess.run(tool, check=True, capture_output=True, text=True, cwd=data.parent)
    except FileNotFoundError:
        raise InputError("there is no gcov here: install gcc") from None
    return done.stdout


def counts_in(text: str) -> Counts:
    """Return the counts of nested.c out of gcov's JSON."""
    file = next(each for each in json.loads(text)["files"] if Path(each["file"]).name == _SOURCE)
    functions = {each["name"]: each["execution_count"] for each in file["functions"]}
    lines: Counter[Line] = Counter()
    branches: Counter[tuple[Line, int]] = Counter()
    for each in file["lines"]:
        name = each.get("function_name") or _around(file["functions"], each["line_number"])
        if not name:
            # Where gcc has moved a part of a function that is inline everywhere.
            continue
        line = name, each["line_number"]
        lines[line] += each["count"]
        for number, branch in enumerate(each["branches"]):
            branches[line, number] += branch["count"]
    return Counts(functions, lines, branches)


def _around(functions: Iterable[Mapping[str, Any]], line: int) -> str:
    """Return the function that a line stands in where gcov says none; "" if there is none."""
    return next(
        (str(each["name"]) for each in functions if each["start_line"] <= line <= each["end_line"]),
        "",
    )
